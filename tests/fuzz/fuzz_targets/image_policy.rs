//! Policies for images, lookaside files, and what signatures and attestations say.
#![no_main]

use image_rs::policy::{Lookaside, Policy, payload, provenance};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = Policy::parse(bytes) {
        assert_eq!(error.code(), "IMAGE_POLICY_INVALID");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Lookaside::parse([("first", text)]);
    }
    let both = [payload::Kind::Atomic, payload::Kind::Cosign]
        .map(|kind| payload::Payload::parse(kind, bytes).is_ok());
    assert_ne!(both, [true, true]);
    if provenance::subjects(bytes).is_ok() {
        assert!(provenance::predicate_type(bytes).is_ok());
    }
});
