//! A JWE as a KBS sends it, or as image tools wrap keys: parsing, and opening whatever parses, must not panic.
#![no_main]

use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_crypto::{Jwe, KeyAlgorithm, TeeKeyPair, jwe::RecipientKey};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

static KEYS: LazyLock<Vec<TeeKeyPair>> = LazyLock::new(|| {
    KeyAlgorithm::ALL.into_iter().map(|a| TeeKeyPair::generate(a).expect("a key pair")).collect()
});

static FILES: LazyLock<Vec<RecipientKey>> = LazyLock::new(|| {
    let pem = |pair: &TeeKeyPair| pair.private_pem().expect("a private key");
    let read = |pair| RecipientKey::from_pem(std::str::from_utf8(pem(pair).expose()).expect("text"));
    KEYS.iter().map(read).collect::<Result<_, _>>().expect("a key of a file")
});

fuzz_target!(|data: &[u8]| {
    open(data);
    // The bytes as protected header, behind the base64 that random bytes hardly get through; with a wrapped key as
    // long as AES key wrap makes it, or as an RSA modulus is.
    let b64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    for wrapped in [40, 256] {
        let document = json!({
            "protected": b64(data),
            "encrypted_key": b64(&vec![0x5A; wrapped]),
            "iv": b64(&[0; 12]),
            "ciphertext": b64(&[1; 20]),
            "tag": b64(&[0; 16]),
        });
        open(document.to_string().as_bytes());
        let mut general = document;
        general["recipients"] = json!([{"encrypted_key": general["encrypted_key"]}]);
        open(general.to_string().as_bytes());
    }
});

fn open(document: &[u8]) {
    for key in FILES.iter() {
        assert!(key.open(document).is_err());
    }
    if let Ok(jwe) = Jwe::parse(document) {
        for key in KEYS.iter() {
            // The keys are new in every run: no input can have been made for them.
            assert!(key.open(&jwe).is_err());
        }
    }
}
