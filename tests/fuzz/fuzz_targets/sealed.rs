//! Sealed secrets, packets of image keys, and the key-provider protocol; payloads also behind the base64.
#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_sealed::{AnnotationPacket, Payload, SealedSecret, key_provider, unverified};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(sealed) = SealedSecret::parse(bytes) {
        assert!(!sealed.kid().is_empty());
    }
    let _ = unverified(bytes);
    let payload = Payload::parse(bytes);
    let sealed = format!("sealed.e30.{}.AA", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    assert_eq!(unverified(sealed.as_bytes()).ok(), payload.as_ref().ok().cloned());
    if let Ok(payload) = payload {
        assert_eq!(Payload::parse(payload.to_json().as_bytes()), Ok(payload));
    }
    if let Ok(packet) = AnnotationPacket::parse(bytes) {
        assert_eq!(AnnotationPacket::parse(packet.to_json().as_bytes()), Ok(packet));
    }

    if let Ok(annotation) = key_provider::parse_unwrap(bytes) {
        let request = key_provider::unwrap_request(&annotation);
        assert_eq!(key_provider::parse_unwrap(&request), Ok(annotation));
    }
    let _ = key_provider::parse_wrap(bytes, "attestation-agent");
    if let Ok(options) = key_provider::parse_unwrapped(bytes) {
        let answer = key_provider::unwrapped(&options);
        let again = key_provider::parse_unwrapped(&answer).expect("what was written is read");
        assert_eq!(again.expose(), options.expose());
    }
});
