//! A public TEE key: what parses prints as the same members and can be sealed to.
#![no_main]

use cc_crypto::{PublicJwk, jwe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(key) = PublicJwk::parse(data) {
        let printed = key.to_json().expect("a JWK");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(data).expect("JSON"), printed);
        // RSA numbers of the right size may still be no key.
        let _ = jwe::seal(&printed, b"x");
    }
});
