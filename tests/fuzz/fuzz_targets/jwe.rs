//! A JWE as a KBS sends it: parsing, and opening whatever parses, must not panic.
#![no_main]

use std::sync::LazyLock;

use cc_crypto::{Jwe, KeyAlgorithm, TeeKeyPair};
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<Vec<TeeKeyPair>> = LazyLock::new(|| {
    KeyAlgorithm::ALL.into_iter().map(|a| TeeKeyPair::generate(a).expect("a key pair")).collect()
});

fuzz_target!(|data: &[u8]| {
    if let Ok(jwe) = Jwe::parse(data) {
        for key in KEYS.iter() {
            // The keys are new in every run: no input can have been made for them.
            assert!(key.open(&jwe).is_err());
        }
    }
});
