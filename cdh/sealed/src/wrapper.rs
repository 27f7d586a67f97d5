//! The sealed secret as a text: `sealed.<header>.<payload>.<signature>`.
//!
//! A compact JWS (RFC 7515 section 7.1) behind the prefix `sealed.`, signed with `ES256` by the key that `kid` names. The
//! payload of a [`SealedSecret`] cannot be reached before its signature was checked. Where the key comes from, and whether
//! a key of that name may sign at all, is the caller's business: the secret itself proves neither.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_crypto::es256::{ALG, SIGNATURE_LEN, SigningKey, VerifyingKey};
use serde_json::json;

use crate::error::quoted;
use crate::json::{self, Members};
use crate::{Payload, SealedError};

/// What every sealed secret begins with.
pub const PREFIX: &str = "sealed.";
/// Longest text read, in bytes. Kubernetes keeps at most 1 MiB in one secret.
pub const MAX_SEALED_LEN: usize = 1024 * 1024;
const MAX_HEADER_LEN: usize = 4096;
/// Longest key name, in bytes.
const MAX_KID_LEN: usize = 1024;
const WHAT: &str = "sealed secret";
const HEADER: &str = "sealed-secret header";

/// A well-formed sealed secret whose signature was not checked yet.
#[derive(Debug)]
pub struct SealedSecret {
    kid: String,
    /// `<header>.<payload>`, what the signature covers.
    signed: String,
    payload: Vec<u8>,
    signature: [u8; SIGNATURE_LEN],
}

/// A payload whose signature was checked.
#[derive(Debug)]
pub struct VerifiedPayload(Payload);

impl VerifiedPayload {
    /// The payload itself.
    #[must_use]
    pub fn into_payload(self) -> Payload {
        self.0
    }
}

impl SealedSecret {
    /// Reads the text of a sealed secret, at most [`MAX_SEALED_LEN`] bytes. White space at its end is passed over: secrets
    /// mounted as files often end with a line feed.
    ///
    /// # Errors
    /// [`SealedError::TooLarge`], [`SealedError::Malformed`]; [`SealedError::Unsupported`] for another algorithm.
    pub fn parse(text: &[u8]) -> Result<Self, SealedError> {
        let (signed, header, payload, signature) = split(text)?;
        let kid = kid(&decode(HEADER, header)?)?;
        let payload = decode(WHAT, payload)?;
        let signature = decode(WHAT, signature)?;
        let found = signature.len();
        let signature = signature.try_into().map_err(|_| {
            SealedError::malformed(
                WHAT,
                format!("the signature has {found} bytes, {ALG} has {SIGNATURE_LEN}"),
            )
        })?;
        Ok(Self { kid, signed: signed.to_owned(), payload, signature })
    }

    /// The name of the key that is said to have signed.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Checks the signature with `key` and reads the payload.
    ///
    /// # Errors
    /// [`SealedError::Signature`], then as [`Payload::parse`].
    pub fn verify(self, key: &VerifyingKey) -> Result<VerifiedPayload, SealedError> {
        key.verify(self.signed.as_bytes(), &self.signature)
            .map_err(|_| SealedError::Signature { kid: quoted(&self.kid) })?;
        Payload::parse(&self.payload).map(VerifiedPayload)
    }
}

/// The payload of `text` without a look at header and signature, for installations that switched verification off.
///
/// # Errors
/// [`SealedError::TooLarge`], [`SealedError::Malformed`], then as [`Payload::parse`].
pub fn unverified(text: &[u8]) -> Result<Payload, SealedError> {
    let (_, _, payload, _) = split(text)?;
    Payload::parse(&decode(WHAT, payload)?)
}

/// The text of a sealed secret that holds `payload`, signed by `key`, which is called `kid`.
///
/// # Errors
/// [`SealedError::Crypto`] without random numbers; [`SealedError::TooLarge`] if nobody would read it.
pub fn seal(payload: &Payload, kid: &str, key: &SigningKey) -> Result<String, SealedError> {
    let header = URL_SAFE_NO_PAD.encode(json!({"alg": ALG, "kid": kid}).to_string());
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload.to_json()));
    let signature = key.sign(signed.as_bytes()).map_err(SealedError::crypto("signing a sealed secret"))?;
    let text = format!("{PREFIX}{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
    SealedSecret::parse(text.as_bytes())?;
    Ok(text)
}

/// `<header>.<payload>`, and the three parts on their own.
fn split(text: &[u8]) -> Result<(&str, &str, &str, &str), SealedError> {
    let text = text.trim_ascii_end();
    if text.len() > MAX_SEALED_LEN {
        return Err(SealedError::TooLarge { what: WHAT, found: text.len(), limit: MAX_SEALED_LEN });
    }
    let text = std::str::from_utf8(text).map_err(|_| SealedError::malformed(WHAT, "not a text"))?;
    let jws = text
        .strip_prefix(PREFIX)
        .ok_or_else(|| SealedError::malformed(WHAT, format!("it does not begin with {PREFIX:?}")))?;
    let parts: Vec<&str> = jws.splitn(5, '.').collect();
    let &[header, payload, signature] = parts.as_slice() else {
        let why = "it must have exactly a header, a payload and a signature, parted by dots";
        return Err(SealedError::malformed(WHAT, why));
    };
    let signed = jws.get(..header.len() + 1 + payload.len()).unwrap_or_default();
    Ok((signed, header, payload, signature))
}

fn decode(what: &'static str, part: &str) -> Result<Vec<u8>, SealedError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| SealedError::malformed(what, "not base64url without padding"))
}

/// The key name in a header that asks for nothing but an `ES256` signature by it.
fn kid(header: &[u8]) -> Result<String, SealedError> {
    let members = json::object(HEADER, header, MAX_HEADER_LEN)?;
    // Anything more (`crit`, `jwk`, `b64`, …) would change what the signature means or where its key comes from.
    if let Some(name) = members.keys().find(|name| !matches!(name.as_str(), "alg" | "kid" | "typ")) {
        return Err(SealedError::Unsupported {
            what: "header member",
            found: quoted(name),
            expected: "alg and kid",
        });
    }
    let members = Members { what: HEADER, members: &members };
    let alg = members.text("alg")?;
    if alg != ALG {
        return Err(SealedError::Unsupported { what: "alg", found: quoted(alg), expected: ALG });
    }
    let kid = members.text("kid")?;
    if kid.is_empty() || kid.len() > MAX_KID_LEN || kid.chars().any(char::is_control) {
        return Err(SealedError::malformed(HEADER, "kid is empty, too long, or has control characters"));
    }
    Ok(kid.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::Vault;

    fn payload() -> Payload {
        Payload::Vault(Vault {
            provider: "kbs".to_owned(),
            name: "kbs:///default/a/b".to_owned(),
            provider_settings: Map::new(),
            annotations: Map::new(),
        })
    }

    fn keys() -> (SigningKey, VerifyingKey) {
        let key = SigningKey::generate().unwrap();
        let public = VerifyingKey::from_jwk(key.public_jwk("k").unwrap().to_string().as_bytes()).unwrap();
        (key, public)
    }

    /// The text with another header, signed again by the same key.
    fn with_header(header: &Value, key: &SigningKey) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(payload().to_json())
        );
        format!("{PREFIX}{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()))
    }

    #[test]
    fn what_is_sealed_opens_with_its_key_and_no_other() {
        let (key, public) = keys();
        let text = seal(&payload(), "kbs:///default/signing/key", &key).unwrap();
        for end in ["", "\n", "\r\n  "] {
            let sealed = SealedSecret::parse(format!("{text}{end}").as_bytes()).unwrap();
            assert_eq!(sealed.kid(), "kbs:///default/signing/key");
            assert_eq!(sealed.verify(&public).unwrap().into_payload(), payload());
        }
        let error = SealedSecret::parse(text.as_bytes()).unwrap().verify(&keys().1).unwrap_err();
        assert_eq!((error.code(), error.blame()), ("SEALED_SIGNATURE", cc_evidence::blame::Blame::Denied));
        assert_eq!(unverified(text.as_bytes()).unwrap(), payload());
    }

    #[test]
    fn alg_none_and_other_algorithms_are_refused() {
        let (key, _) = keys();
        for alg in ["none", "None", "HS256", "ES384", "RS256", "es256", ""] {
            let text = with_header(&json!({"alg": alg, "kid": "k"}), &key);
            assert_eq!(
                SealedSecret::parse(text.as_bytes()).unwrap_err().code(),
                "SEALED_UNSUPPORTED",
                "{alg}"
            );
        }
    }

    #[test]
    fn headers_that_say_more_are_refused() {
        let (key, _) = keys();
        for header in [
            json!({"alg": "ES256"}),
            json!({"alg": "ES256", "kid": ""}),
            json!({"alg": "ES256", "kid": 1}),
            json!({"alg": "ES256", "kid": "a\nb"}),
            json!({"alg": "ES256", "kid": "k", "crit": ["b64"], "b64": false}),
            json!({"alg": "ES256", "kid": "k", "jwk": {"kty": "EC"}}),
            json!({"alg": "ES256", "kid": "k", "x5u": "https://x"}),
            json!(["ES256"]),
        ] {
            assert!(SealedSecret::parse(with_header(&header, &key).as_bytes()).is_err(), "{header}");
        }
    }

    #[test]
    fn a_trailing_dot_two_signatures_and_other_shapes_are_refused() {
        let (key, _) = keys();
        let text = seal(&payload(), "k", &key).unwrap();
        let signature = text.rsplit('.').next().unwrap();
        let jws = text.strip_prefix(PREFIX).unwrap();
        for bad in [
            format!("{text}."),
            format!("{text}.{signature}"),
            format!(".{text}"),
            jws.to_owned(),
            format!("{PREFIX}{text}"),
            format!("{text}="),
            format!(" {text}"),
            text.replacen('.', "..", 1),
            text.rsplit_once('.').unwrap().0.to_owned(),
            text.get(..text.len() - 4).unwrap().to_owned(),
            "sealed.".to_owned(),
            "sealed...".to_owned(),
            json!({"payload": "", "signatures": []}).to_string(),
            String::new(),
        ] {
            assert!(SealedSecret::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn ten_megabytes_are_refused_by_length() {
        let error = SealedSecret::parse(&vec![b'a'; 10 * 1024 * 1024]).unwrap_err();
        assert_eq!(error.code(), "SEALED_TOO_LARGE");
    }

    #[test]
    fn old_secrets_with_a_made_up_header_open_only_unverified() {
        let text =
            format!("sealed.fakejwsheader.{}.fakesignature", URL_SAFE_NO_PAD.encode(payload().to_json()));
        assert!(SealedSecret::parse(text.as_bytes()).is_err());
        assert_eq!(unverified(text.as_bytes()).unwrap(), payload());
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let (key, public) = keys();
            let mut text = seal(&payload(), "k", &key).unwrap().into_bytes();
            let at = at.index(text.len());
            prop_assume!(text[at] != to && !(at + 1 == text.len() && to.is_ascii_whitespace()));
            text[at] = to;
            prop_assert!(SealedSecret::parse(&text).and_then(|sealed| sealed.verify(&public)).is_err());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SealedSecret::parse(&bytes);
            let _ = SealedSecret::parse(&[PREFIX.as_bytes(), &bytes].concat());
            let _ = unverified(&bytes);
        }
    }
}
