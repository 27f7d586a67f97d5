//! Sigstore bundles and trusted roots. A bundle that nobody signed for this digest must not verify.
#![no_main]

use std::sync::LazyLock;

use image_rs::policy::sigstore::{Artifact, Names, Signer, TrustRoot};
use libfuzzer_sys::fuzz_target;

static ROOT: LazyLock<TrustRoot> = LazyLock::new(|| TrustRoot::public_good().expect("it is built in"));

fuzz_target!(|bytes: &[u8]| {
    let signer = Signer::Identity {
        subject: Names::Beginning("https://"),
        issuer: "https://token.actions.githubusercontent.com",
    };
    assert!(ROOT.verify(bytes, Artifact::Sha256([7; 32]), signer).is_err());
    let _ = TrustRoot::from_json(bytes);
});
