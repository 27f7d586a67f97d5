//! Attestation tokens from a KBS: any text, and any bytes as the payload of one.
#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use cc_evidence::token::{self, Claims};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(claims) =
        std::str::from_utf8(bytes).map_err(|_| ()).and_then(|t| token::decode(t).map_err(|_| ()))
    {
        check(&claims);
    }
    // Behind the base64, which random bytes hardly get through.
    if let Ok(claims) = token::decode(&format!("e30.{}.AA", BASE64_URL_SAFE_NO_PAD.encode(bytes))) {
        check(&claims);
        assert_eq!(serde_json::from_slice::<Value>(bytes).ok(), Some(claims.payload));
    }
});

fn check(claims: &Claims) {
    assert!(claims.payload.is_object());
    assert_eq!(claims.exp, claims.payload.get("exp").and_then(Value::as_u64));
    if let (Some(iat), Some(exp)) = (claims.iat, claims.exp) {
        assert_eq!(claims.life().is_some(), iat <= exp);
        assert!(!claims.valid_at(exp.saturating_add(1)) || exp == u64::MAX);
    }
    let _ = format!("{claims:?}");
}
