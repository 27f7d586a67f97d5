//! Compact JSON Web Signatures (RFC 7515 §7.1), as far as both kinds of token here share them.
//!
//! Not the signature algorithms: `token` signs with ES256 and `admin` with EdDSA, and each checks its own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Longest token that is looked at, in bytes. Init-data and evidence claims make attestation tokens large.
const LIMIT: usize = 256 * 1024;

/// A token taken apart; nothing of it has been verified.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    /// The protected header.
    pub(crate) header: Value,
    /// The claims.
    pub(crate) payload: Value,
    /// The ASCII text under the signature.
    pub(crate) signed: &'a str,
    /// The signature bytes.
    pub(crate) signature: Vec<u8>,
}

/// Takes `token` apart; `None` when it is not three parts of base64url, the first two JSON objects.
pub(crate) fn split(token: &str) -> Option<Unverified<'_>> {
    if token.len() > LIMIT {
        return None;
    }
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, payload) = signed.split_once('.')?;
    Some(Unverified {
        header: object(header)?,
        payload: object(payload)?,
        signed,
        signature: decode(signature)?,
    })
}

/// The text to sign: header and claims, each base64url, joined by a dot.
pub(crate) fn signing_input(header: &Value, payload: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(payload))
}

/// The finished token: `signed`, a dot, and the `signature` in base64url.
pub(crate) fn finish(signed: &str, signature: &[u8]) -> String {
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn object(part: &str) -> Option<Value> {
    serde_json::from_slice::<Value>(&decode(part)?).ok().filter(Value::is_object)
}

fn decode(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_joined_comes_apart() {
        let signed = signing_input(&json!({"alg":"x"}), &json!({"a":1}));
        let token = finish(&signed, b"sig");
        let parts = split(&token).unwrap();
        assert_eq!((parts.header, parts.payload), (json!({"alg":"x"}), json!({"a":1})));
        assert_eq!((parts.signed, parts.signature.as_slice()), (signed.as_str(), b"sig".as_slice()));
    }

    #[test]
    fn other_shapes_are_refused() {
        for token in
            ["", ".", "..", "e30.e30", "e30.e30.c2ln.x", "W10.e30.c2ln", "e30=.e30.c2ln", "e30.e30.*"]
        {
            assert!(split(token).is_none(), "{token}");
        }
        assert!(split("e30.e30.").is_some_and(|parts| parts.signature.is_empty()));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,200}") {
            let _ = split(&text);
        }
    }
}
