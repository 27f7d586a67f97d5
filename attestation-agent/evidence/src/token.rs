//! The payload of an attestation token: a JWS in compact form (RFC 7515) with JWT times (RFC 7519).
//!
//! A client needs the times only, to know when to ask for a new one. It is NOT a verifier: the
//! signature is not looked at, so nothing here may be used to grant access. Tokens are bearer secrets:
//! errors and `Debug` never show any part of one.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::Error;

/// Longest token that is read, in bytes.
pub const MAX_LEN: usize = 256 * 1024;

/// The unverified claims of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    /// Issued at, seconds since 1970.
    pub iat: Option<u64>,
    /// Expires at, seconds since 1970.
    pub exp: Option<u64>,
    /// Not valid before, seconds since 1970.
    pub nbf: Option<u64>,
    /// The whole payload, a JSON object.
    pub payload: Value,
}

impl Claims {
    /// Whether the token may be used at `now` (seconds since 1970): `nbf` reached and `exp` not yet.
    /// An absent claim passes.
    #[must_use]
    pub fn valid_at(&self, now: u64) -> bool {
        self.exp.is_none_or(|exp| now <= exp) && self.nbf.is_none_or(|nbf| nbf <= now)
    }

    /// For how many devices of `class` (`gpu`, `switch`) the relying party vouches: all that the token speaks of, or none if
    /// it does not affirm every one of them. By the attestation result's member `ear.status` of submodules that are named
    /// by class and number.
    #[must_use]
    pub fn affirmed(&self, class: &str) -> usize {
        let submodules = self.payload.get("submods").and_then(Value::as_object);
        let verdicts: Vec<bool> = submodules
            .into_iter()
            .flatten()
            .filter_map(|(name, module)| {
                let number = name.strip_prefix(class)?;
                let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
                numbered.then(|| module.get("ear.status").is_some_and(|status| status == "affirming"))
            })
            .collect();
        if verdicts.iter().all(|affirmed| *affirmed) { verdicts.len() } else { 0 }
    }

    /// The life that the issuer gave the token, `exp` − `iat` in seconds. It does not depend on the
    /// clock of this machine, which the host controls. `None` when a claim is absent or `exp` is
    /// before `iat`.
    #[must_use]
    pub fn life(&self) -> Option<u64> {
        self.exp?.checked_sub(self.iat?)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("iat", &self.iat)
            .field("exp", &self.exp)
            .field("nbf", &self.nbf)
            .finish_non_exhaustive()
    }
}

/// Reads the payload of `token` without checking its signature.
///
/// # Errors
/// [`Error::TooLarge`] above [`MAX_LEN`]; [`Error::Token`] when it has not three parts, the payload is
/// not an unpadded base64url JSON object, or a time is not a whole number of seconds.
pub fn decode(token: &str) -> Result<Claims, Error> {
    if token.len() > MAX_LEN {
        return Err(Error::TooLarge { what: "the attestation token", size: token.len(), limit: MAX_LEN });
    }
    let malformed = |why| Error::Token { why };
    let mut parts = token.split('.');
    let (Some(_header), Some(payload), Some(_signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("it has not three parts"));
    };
    let bytes =
        BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| malformed("its payload is not base64url"))?;
    let payload: Value = serde_json::from_slice(&bytes).map_err(|_| malformed("its payload is not JSON"))?;
    let object = payload.as_object().ok_or_else(|| malformed("its payload is not a JSON object"))?;
    let seconds = |name: &str, why| match object.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| malformed(why)),
    };
    Ok(Claims {
        iat: seconds("iat", "iat is not a whole number of seconds")?,
        exp: seconds("exp", "exp is not a whole number of seconds")?,
        nbf: seconds("nbf", "nbf is not a whole number of seconds")?,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn reads_times_and_payload() {
        let claims = decode(&token(r#"{"iat":100,"exp":400,"iss":"as"}"#)).unwrap();
        assert_eq!((claims.iat, claims.exp, claims.nbf), (Some(100), Some(400), None));
        assert_eq!(claims.payload["iss"], json!("as"));
        assert_eq!(claims.life(), Some(300));
    }

    #[test]
    fn a_class_is_affirmed_when_every_device_of_it_is() {
        let affirmed = |submods: Value| {
            let payload = json!({ "submods": submods }).to_string();
            decode(&token(&payload)).unwrap().affirmed("gpu")
        };
        let status = |status: &str| json!({ "ear.status": status });
        assert_eq!(affirmed(json!({ "cpu0": status("warning"), "gpu0": status("affirming") })), 1);
        assert_eq!(affirmed(json!({ "gpu0": status("affirming"), "gpu10": status("affirming") })), 2);
        for refused in [
            json!({}),
            json!([]),
            json!({ "cpu0": status("affirming") }),
            json!({ "gpu0": status("affirming"), "gpu1": status("warning") }),
            json!({ "gpu0": status("none") }),
            json!({ "gpu0": {} }),
            json!({ "gpu": status("affirming"), "gpux": status("affirming") }),
        ] {
            assert_eq!(affirmed(refused.clone()), 0, "{refused}");
        }
        assert_eq!(decode(&token("{}")).unwrap().affirmed("gpu"), 0);
    }

    #[test]
    fn validity_is_inclusive_at_both_ends() {
        let claims = decode(&token(r#"{"nbf":100,"exp":200}"#)).unwrap();
        let verdicts: Vec<_> = [99, 100, 200, 201].into_iter().map(|now| claims.valid_at(now)).collect();
        assert_eq!(verdicts, [false, true, true, false]);
        let open = decode(&token("{}")).unwrap();
        assert!(open.valid_at(0) && open.valid_at(u64::MAX));
        assert_eq!(open.life(), None);
        assert_eq!(decode(&token(r#"{"iat":5,"exp":4}"#)).unwrap().life(), None);
    }

    #[test]
    fn malformed_tokens_are_refused() {
        let padded = format!("e30.{}=.c2ln", BASE64_URL_SAFE_NO_PAD.encode("{} "));
        let table = [
            ("", "three parts"),
            ("a.b", "three parts"),
            ("a.b.c.d", "three parts"),
            ("a.*.c", "base64url"),
            (padded.as_str(), "base64url"),
            (&token("nonsense"), "not JSON"),
            (&token("[]"), "JSON object"),
            (&token(r#"{"exp":"1"}"#), "exp is not"),
            (&token(r#"{"exp":null}"#), "exp is not"),
            (&token(r#"{"nbf":-1}"#), "nbf is not"),
            (&token(r#"{"iat":1.5}"#), "iat is not"),
        ];
        for (text, expected) in table {
            let error = decode(text).unwrap_err();
            assert_eq!(error.code(), "TOKEN_MALFORMED");
            assert!(error.to_string().contains(expected), "{text:?}: {error}");
        }
        assert_eq!(decode(&"a".repeat(MAX_LEN + 1)).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    #[test]
    fn debug_hides_the_payload() {
        let claims = decode(&token(r#"{"exp":7,"secret":"hunter2"}"#)).unwrap();
        assert!(!format!("{claims:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn random_payloads_never_panic(payload: Vec<u8>) {
            let _ = decode(&format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload)));
        }

        #[test]
        fn random_text_never_panics(text: String) {
            let _ = decode(&text);
        }
    }
}
