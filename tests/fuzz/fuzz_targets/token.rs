//! Attestation tokens from a KBS.
#![no_main]

use cc_evidence::token;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(claims) = token::decode(text) else { return };
    assert!(claims.payload.is_object());
    let _ = (claims.life(), claims.valid_at(0), claims.valid_at(u64::MAX));
});
