//! The public key of a TEE as a JWK (RFC 7517, RFC 7518 section 6), in the exact members of the KBS
//! protocol of Trustee.
//!
//! The JWK is hashed into the evidence and hashed again by the server, so a member more or less breaks the
//! binding: exactly the members below are read, everything else is refused.
//!
//! | kind | members |
//! |---|---|
//! | EC | `kty` = `EC`, `crv` = `P-256` or `P-521`, `alg` = `ECDH-ES+A256KW`, `x`, `y` (32 or 66 bytes) |
//! | RSA | `kty` = `RSA`, `alg` = `RSA-OAEP-256`, `n`, `e` (big-endian, no leading zero bytes) |

use std::fmt;

use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::RsaPublicKeyComponents;
use serde_json::{Map, Value, json};

use crate::ecdh::{self, Curve, Point};
use crate::error::quoted;
use crate::{Error, KeyAlgorithm, base64url, unique_json};

/// Name of the RSA key algorithm.
pub(crate) const RSA_ALG: &str = "RSA-OAEP-256";
/// Longest JWK text read, in bytes: an RSA modulus of 8192 bits takes 1.4 KiB.
const MAX_JWK_LEN: usize = 8 * 1024;
const WHAT: &str = "JWK";

/// A checked public key: known kind, exact members, EC point on its curve, RSA modulus of 2048 to 8192 bits.
#[derive(Clone)]
pub struct PublicJwk(pub(crate) Kind);

#[derive(Clone)]
pub(crate) enum Kind {
    Ec(Point),
    Rsa { key: PublicEncryptingKey, n: Vec<u8>, e: Vec<u8> },
}

impl PublicJwk {
    /// Reads a JWK from its JSON text of at most 8 KiB. Repeated member names are refused.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Malformed`] or [`Error::Unsupported`], each naming the member.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > MAX_JWK_LEN {
            return Err(Error::TooLarge { what: WHAT, found: text.len(), limit: MAX_JWK_LEN });
        }
        Self::from_json(&unique_json::parse(WHAT, text)?)
    }

    /// Reads a JWK that is already a JSON value.
    ///
    /// # Errors
    /// [`Error::Malformed`] or [`Error::Unsupported`], each naming the member.
    pub fn from_json(jwk: &Value) -> Result<Self, Error> {
        let members = jwk.as_object().ok_or_else(|| Error::malformed(WHAT, "not an object"))?;
        match text(members, "kty")? {
            "EC" => Self::ec(members),
            "RSA" => Self::rsa(members),
            other => Err(Error::Unsupported { what: "kty", found: quoted(other), expected: "EC or RSA" }),
        }
    }

    /// The JWK with exactly the members of its kind.
    ///
    /// # Errors
    /// [`Error::Library`] if the point cannot be written.
    pub fn to_json(&self) -> Result<Value, Error> {
        Ok(match &self.0 {
            Kind::Ec(point) => {
                let (x, y) = point.coordinates()?;
                json!({
                    "kty": "EC", "crv": point.curve.name(), "alg": ecdh::ALG,
                    "x": base64url::encode(x), "y": base64url::encode(y),
                })
            }
            Kind::Rsa { n, e, .. } => json!({
                "kty": "RSA", "alg": RSA_ALG, "n": base64url::encode(n), "e": base64url::encode(e),
            }),
        })
    }

    /// The kind of key.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        match &self.0 {
            Kind::Ec(point) => point.curve.into(),
            Kind::Rsa { .. } => KeyAlgorithm::RsaOaep256,
        }
    }

    /// The RSA key with modulus `n` and exponent `e`, big-endian without leading zero bytes.
    pub(crate) fn from_rsa_parts(n: Vec<u8>, e: Vec<u8>) -> Result<Self, Error> {
        let bad = |why: &'static str| Error::malformed("RSA public key", why);
        let key: PublicEncryptingKey = RsaPublicKeyComponents { n: &n, e: &e }
            .try_into()
            .map_err(|_| bad("the modulus is not 2048 to 8192 bits, or a number has leading zero bytes"))?;
        OaepPublicEncryptingKey::new(key.clone()).map_err(|_| bad("not usable for OAEP"))?;
        Ok(Self(Kind::Rsa { key, n, e }))
    }

    fn ec(members: &Map<String, Value>) -> Result<Self, Error> {
        exactly(members, &["kty", "crv", "alg", "x", "y"])?;
        algorithm(members, ecdh::ALG)?;
        point(members).map(|p| Self(Kind::Ec(p)))
    }

    fn rsa(members: &Map<String, Value>) -> Result<Self, Error> {
        exactly(members, &["kty", "alg", "n", "e"])?;
        algorithm(members, RSA_ALG)?;
        let n = base64url::decode("JWK member n", text(members, "n")?)?;
        let e = base64url::decode("JWK member e", text(members, "e")?)?;
        Self::from_rsa_parts(n, e)
    }
}

impl fmt::Debug for PublicJwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicJwk({})", self.algorithm())
    }
}

/// The point named by the members `crv`, `x` and `y`.
pub(crate) fn point(members: &Map<String, Value>) -> Result<Point, Error> {
    let name = text(members, "crv")?;
    let curve = Curve::named(name).ok_or_else(|| Error::Unsupported {
        what: "crv",
        found: quoted(name),
        expected: "P-256 or P-521",
    })?;
    let x = base64url::decode("JWK member x", text(members, "x")?)?;
    let y = base64url::decode("JWK member y", text(members, "y")?)?;
    Point::new(curve, &x, &y)
}

/// The string member `name`.
pub(crate) fn text<'a>(members: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, Error> {
    members
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| Error::malformed(WHAT, format!("member {name} is missing or not a string")))
}

fn algorithm(members: &Map<String, Value>, expected: &'static str) -> Result<(), Error> {
    let found = text(members, "alg")?;
    if found == expected {
        return Ok(());
    }
    Err(Error::Unsupported { what: "alg", found: quoted(found), expected })
}

fn exactly(members: &Map<String, Value>, names: &[&str]) -> Result<(), Error> {
    match members.keys().find(|k| !names.contains(&k.as_str())) {
        Some(extra) => Err(Error::malformed(WHAT, format!("unknown member {}", quoted(extra)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::PublicJwk;
    use crate::{KeyAlgorithm, TeeKeyPair};

    #[test]
    fn what_we_write_is_read_back() {
        for algorithm in KeyAlgorithm::ALL {
            let jwk = TeeKeyPair::generate(algorithm).unwrap().public_jwk();
            let key = PublicJwk::parse(jwk.to_string().as_bytes()).unwrap();
            assert_eq!(key.algorithm(), algorithm);
            assert_eq!(key.to_json().unwrap(), jwk);
            assert_eq!(format!("{key:?}"), format!("PublicJwk({algorithm})"));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let ec = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap().public_jwk();
        let rsa = TeeKeyPair::generate(KeyAlgorithm::RsaOaep256).unwrap().public_jwk();
        let changed = |base: &Value, name: &str, value: Value| {
            let mut jwk = base.clone();
            jwk[name] = value;
            jwk
        };
        let x = ec["x"].as_str().unwrap();
        let cases = [
            ("no object", json!([])),
            ("empty", json!({})),
            ("unknown kty", changed(&ec, "kty", json!("OKP"))),
            ("kty of the other kind", changed(&ec, "kty", json!("RSA"))),
            ("unknown crv", changed(&ec, "crv", json!("P-384"))),
            ("crv of the other length", changed(&ec, "crv", json!("P-521"))),
            ("alg missing", {
                let mut j = ec.clone();
                j.as_object_mut().unwrap().remove("alg");
                j
            }),
            ("alg of the other kind", changed(&ec, "alg", json!("RSA-OAEP-256"))),
            ("alg deprecated", changed(&rsa, "alg", json!("RSA1_5"))),
            ("extra member", changed(&ec, "kid", json!("1"))),
            ("private member", changed(&ec, "d", json!("AA"))),
            ("x padded", changed(&ec, "x", json!(format!("{x}=")))),
            ("x a number", changed(&ec, "x", json!(1))),
            ("x short", changed(&ec, "x", json!(&x[..x.len() - 4]))),
            ("x is not on the curve", changed(&ec, "x", ec["y"].clone())),
            ("n small", changed(&rsa, "n", json!("gQ"))),
            ("n empty", changed(&rsa, "n", json!(""))),
            ("n with a zero byte", changed(&rsa, "n", json!(format!("AAAA{}", rsa["n"].as_str().unwrap())))),
            ("n huge", changed(&rsa, "n", json!("_".repeat(4096)))),
        ];
        for (what, jwk) in cases {
            assert!(PublicJwk::from_json(&jwk).is_err(), "{what}");
        }
        let twice = ec.to_string().replacen('{', &format!("{{\"x\":\"{x}\","), 1);
        assert!(PublicJwk::parse(twice.as_bytes()).is_err());
        assert!(PublicJwk::parse(&vec![b' '; 1 << 20]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = PublicJwk::parse(&bytes);
        }
    }
}
