//! `ES256` signatures (RFC 7518 section 3.4) with keys in JWK form (RFC 7517): P-256, SHA-256, 64 bytes `r ‖ s`.
//!
//! The signatures of sealed secrets. No other algorithm is read or written, and nothing here knows what is signed.

use std::fmt;

use aws_lc_rs::encoding::AsBigEndian;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::error::quoted;
use crate::{Error, Secret, base64url, jwk, unique_json};

/// Name of the algorithm in a JOSE header.
pub const ALG: &str = "ES256";
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;
/// Longest JWK text read, in bytes; one with all its members takes 300.
const MAX_JWK_LEN: usize = 8 * 1024;
const WHAT: &str = "signing key";

/// A public key that verifies; a point on P-256.
#[derive(Clone)]
pub struct VerifyingKey {
    /// SEC 1, uncompressed.
    point: Vec<u8>,
}

impl VerifyingKey {
    /// Reads a JWK from its JSON text of at most 8 KiB: `kty` `EC`, `crv` `P-256`, `x`, `y`. A private JWK will do; `alg`
    /// and `use` may be absent, but must not say another purpose.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`] or [`Error::Unsupported`], each naming the member.
    pub fn from_jwk(text: &[u8]) -> Result<Self, Error> {
        Self::from_members(&members(text)?)
    }

    fn from_members(members: &Map<String, Value>) -> Result<Self, Error> {
        for (name, expected) in [("kty", "EC"), ("crv", "P-256"), ("alg", ALG), ("use", "sig")] {
            if matches!(name, "alg" | "use") && !members.contains_key(name) {
                continue;
            }
            let found = jwk::text(members, name)?;
            if found != expected {
                return Err(Error::Unsupported { what: name, found: quoted(found), expected });
            }
        }
        let (x, y) = jwk::point(members)?.coordinates().map(|(x, y)| (x.to_vec(), y.to_vec()))?;
        Ok(Self { point: [&[4], x.as_slice(), y.as_slice()].concat() })
    }

    /// Checks that `signature` (64 bytes) was made over `message` by the private half of this key.
    ///
    /// # Errors
    /// [`Error::Unauthentic`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point)
            .verify(message, signature)
            .map_err(|_| Error::Unauthentic { what: "ES256 signature" })
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(P-256)")
    }
}

/// A private key that signs. Neither cloned nor printed.
pub struct SigningKey(EcdsaKeyPair);

impl SigningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`Error::Library`] without random numbers.
    pub fn generate() -> Result<Self, Error> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map(Self)
            .map_err(|_| Error::Library { doing: "generating a signing key" })
    }

    /// Reads a private JWK from its JSON text of at most 8 KiB: the members of a public one, and `d` that fits them.
    ///
    /// # Errors
    /// As [`VerifyingKey::from_jwk`], and [`Error::InvalidKey`] if `d` belongs to another point.
    pub fn from_jwk(text: &[u8]) -> Result<Self, Error> {
        let members = members(text)?;
        let public = VerifyingKey::from_members(&members)?;
        let private =
            Zeroizing::new(base64url::decode_array::<32>("JWK member d", jwk::text(&members, "d")?)?);
        EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            private.as_slice(),
            &public.point,
        )
        .map(Self)
        .map_err(|_| Error::InvalidKey { why: "the private part does not belong to the public one" })
    }

    /// The public half as a JWK for a key called `kid`.
    ///
    /// # Errors
    /// [`Error::Library`] if the point cannot be written.
    pub fn public_jwk(&self, kid: &str) -> Result<Value, Error> {
        let (x, y) = match self.0.public_key().as_ref() {
            [4, xy @ ..] if xy.len() == 64 => xy.split_at(32),
            _ => return Err(Error::Library { doing: "writing a public key" }),
        };
        Ok(json!({
            "kty": "EC", "crv": "P-256", "alg": ALG, "use": "sig", "kid": kid,
            "x": base64url::encode(x), "y": base64url::encode(y),
        }))
    }

    /// The whole key as the text of a JWK, pretty-printed.
    ///
    /// # Errors
    /// [`Error::Library`] if it cannot be written.
    pub fn private_jwk(&self, kid: &str) -> Result<Secret, Error> {
        let failed = Error::Library { doing: "writing a private key" };
        let d = self.0.private_key().as_be_bytes().map_err(|_| failed.clone())?;
        let mut jwk = self.public_jwk(kid)?;
        if let Some(members) = jwk.as_object_mut() {
            members.insert("d".to_owned(), Value::String(base64url::encode(d.as_ref())));
        }
        let text = serde_json::to_vec_pretty(&jwk).map(Secret::new).map_err(|_| failed);
        if let Some(Value::String(d)) = jwk.get_mut("d") {
            zeroize::Zeroize::zeroize(d);
        }
        text
    }

    /// Signs `message`.
    ///
    /// # Errors
    /// [`Error::Library`] without random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN], Error> {
        let failed = Error::Library { doing: "signing" };
        let signature = self.0.sign(&SystemRandom::new(), message).map_err(|_| failed.clone())?;
        signature.as_ref().try_into().map_err(|_| failed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(P-256)")
    }
}

fn members(text: &[u8]) -> Result<Map<String, Value>, Error> {
    if text.len() > MAX_JWK_LEN {
        return Err(Error::TooLarge { what: WHAT, found: text.len(), limit: MAX_JWK_LEN });
    }
    match unique_json::parse(WHAT, text)? {
        Value::Object(members) => Ok(members),
        _ => Err(Error::malformed(WHAT, "not an object")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{SigningKey, VerifyingKey};

    /// RFC 7515 appendix A.3.
    #[test]
    fn the_published_example_verifies() {
        let jwk = json!({
            "kty": "EC", "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
        });
        let key = VerifyingKey::from_jwk(jwk.to_string().as_bytes()).unwrap();
        let message = b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature =
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let signature = crate::base64url::decode("t", signature).unwrap();
        key.verify(message, &signature).unwrap();
        assert_eq!(key.verify(b"other", &signature).unwrap_err().code(), "CRYPTO_UNAUTHENTIC");
        assert!(key.verify(message, &signature[..63]).is_err());
        let ours = SigningKey::from_jwk(jwk.to_string().as_bytes()).unwrap();
        key.verify(message, &ours.sign(message).unwrap()).unwrap();
    }

    #[test]
    fn a_key_survives_its_text_form() {
        let key = SigningKey::generate().unwrap();
        let private = key.private_jwk("k").unwrap();
        let again = SigningKey::from_jwk(private.expose()).unwrap();
        let public = key.public_jwk("k").unwrap();
        assert_eq!(public["kid"], "k");
        assert!(public.get("d").is_none());
        let verifying = VerifyingKey::from_jwk(public.to_string().as_bytes()).unwrap();
        verifying.verify(b"m", &again.sign(b"m").unwrap()).unwrap();
        assert_eq!(format!("{key:?} {verifying:?}"), "SigningKey(P-256) VerifyingKey(P-256)");
    }

    #[test]
    fn other_keys_are_refused() {
        let key = SigningKey::generate().unwrap();
        let good: Value = serde_json::from_slice(key.private_jwk("k").unwrap().expose()).unwrap();
        let other = SigningKey::generate().unwrap().public_jwk("k").unwrap();
        let changed = |name: &str, value: Value| {
            let mut jwk = good.clone();
            jwk[name] = value;
            jwk.to_string()
        };
        for (what, jwk) in [
            ("kty", changed("kty", json!("RSA"))),
            ("crv", changed("crv", json!("P-521"))),
            ("alg", changed("alg", json!("none"))),
            ("use", changed("use", json!("enc"))),
            ("x of another key", changed("x", other["x"].clone())),
            ("no text", "[]".to_owned()),
            ("twice", good.to_string().replacen('{', "{\"crv\":\"P-256\",", 1)),
        ] {
            assert!(VerifyingKey::from_jwk(jwk.as_bytes()).is_err(), "{what}");
        }
        let mut foreign = other;
        foreign["d"] = good["d"].clone();
        assert_eq!(
            SigningKey::from_jwk(foreign.to_string().as_bytes()).unwrap_err().code(),
            "CRYPTO_INVALID_KEY"
        );
        assert!(SigningKey::from_jwk(key.public_jwk("k").unwrap().to_string().as_bytes()).is_err());
        assert!(VerifyingKey::from_jwk(&[b' '; 9000]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = VerifyingKey::from_jwk(&bytes);
            let _ = SigningKey::from_jwk(&bytes);
        }
    }
}
