//! The key pair that evidence vouches for.
//!
//! A new pair is made for every handshake with the KBS. The private half opens resources and leaves the
//! type in one way only, [`TeeKeyPair::private_pem`], for callers that speak the older interface where the
//! agent hands out key and token together.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::PrivateKey;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{
    KeyPair as RsaKeyPair, KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey,
};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::ecdh::{self, Curve, Point};
use crate::error::quoted;
use crate::jwe::{ContentKey, Recipient};
use crate::jwk::{Kind, PublicJwk};
use crate::{Error, Jwe, Secret, der, pem};

const PKCS8_LABEL: &str = "PRIVATE KEY";
const PKCS1_LABEL: &str = "RSA PRIVATE KEY";

/// Kind of TEE key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// `ECDH-ES+A256KW` on P-256.
    #[default]
    #[serde(rename = "ECDH-ES+A256KW-P256")]
    EcdhP256,
    /// `ECDH-ES+A256KW` on P-521.
    #[serde(rename = "ECDH-ES+A256KW-P521")]
    EcdhP521,
    /// `RSA-OAEP-256` with a modulus of 2048 bits.
    #[serde(rename = "RSA-OAEP-256")]
    RsaOaep256,
}

impl KeyAlgorithm {
    /// Every kind, the default first.
    pub const ALL: [Self; 3] = [Self::EcdhP256, Self::EcdhP521, Self::RsaOaep256];

    /// Its name in configuration files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdhP256 => "ECDH-ES+A256KW-P256",
            Self::EcdhP521 => "ECDH-ES+A256KW-P521",
            Self::RsaOaep256 => "RSA-OAEP-256",
        }
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|a| a.as_str() == s).ok_or_else(|| Error::Unsupported {
            what: "key algorithm",
            found: quoted(s),
            expected: "ECDH-ES+A256KW-P256, ECDH-ES+A256KW-P521 or RSA-OAEP-256",
        })
    }
}

impl From<Curve> for KeyAlgorithm {
    fn from(curve: Curve) -> Self {
        match curve {
            Curve::P256 => Self::EcdhP256,
            Curve::P521 => Self::EcdhP521,
        }
    }
}

/// A TEE key pair. Neither cloned nor printed.
pub struct TeeKeyPair {
    private: Private,
    public: PublicJwk,
    jwk: Value,
}

enum Private {
    Ec(PrivateKey),
    Rsa(PrivateDecryptingKey),
}

impl TeeKeyPair {
    /// Makes a new key pair. RSA takes some tenths of a second of CPU time: call it on a blocking thread.
    ///
    /// # Errors
    /// [`Error::Library`] if key generation fails.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, Error> {
        let failed = |_| Error::Library { doing: "generating a key pair" };
        match algorithm {
            KeyAlgorithm::EcdhP256 | KeyAlgorithm::EcdhP521 => {
                let curve = if algorithm == KeyAlgorithm::EcdhP256 { Curve::P256 } else { Curve::P521 };
                Self::from_ec(curve, PrivateKey::generate(curve.agreement()).map_err(failed)?)
            }
            KeyAlgorithm::RsaOaep256 => {
                Self::from_rsa(PrivateDecryptingKey::generate(KeySize::Rsa2048).map_err(failed)?)
            }
        }
    }

    /// The public half as a JWK, with exactly the members the protocol hashes (see [`PublicJwk`]).
    #[must_use]
    pub fn public_jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// The kind of key.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.public.algorithm()
    }

    /// Decrypts `jwe`.
    ///
    /// # Errors
    /// [`Error::OtherKey`] if it is addressed to another kind of key, [`Error::CannotOpen`] if this key does
    /// not open it or it was altered. Which of its parts was at fault is not told.
    pub fn open(&self, jwe: &Jwe) -> Result<Secret, Error> {
        jwe.decrypt(&self.content_key(jwe.recipient())?)
    }

    /// The private half: EC as PKCS#8 (`PRIVATE KEY`), RSA as PKCS#1 (`RSA PRIVATE KEY`), PEM text.
    ///
    /// # Errors
    /// [`Error::Library`] if the key cannot be written.
    pub fn private_pem(&self) -> Result<Secret, Error> {
        let failed = |_| Error::Library { doing: "writing a private key" };
        match &self.private {
            Private::Ec(key) => {
                let pkcs8: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
                pem::encode(PKCS8_LABEL, pkcs8.as_ref())
            }
            Private::Rsa(key) => {
                let pkcs8: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
                pem::encode(PKCS1_LABEL, der::pkcs1_of_pkcs8(pkcs8.as_ref())?)
            }
        }
    }

    /// Reads what [`TeeKeyPair::private_pem`] writes, and RSA keys in PKCS#8 too.
    ///
    /// # Errors
    /// [`Error::Malformed`] for text that is no PEM key, [`Error::InvalidKey`] for a key of another kind.
    pub fn from_private_pem(text: &str) -> Result<Self, Error> {
        let (label, der) = pem::decode(text)?;
        let der = der.expose();
        match label {
            PKCS8_LABEL => {
                for curve in [Curve::P256, Curve::P521] {
                    if let Ok(key) = PrivateKey::from_private_key_der(curve.agreement(), der) {
                        return Self::from_ec(curve, key);
                    }
                }
                PrivateDecryptingKey::from_pkcs8(der)
                    .map_err(|_| Error::InvalidKey {
                        why: "neither EC P-256, EC P-521 nor RSA of 2048 bits and more",
                    })
                    .and_then(Self::from_rsa)
            }
            PKCS1_LABEL => {
                let invalid = Error::InvalidKey { why: "not an RSA key of 2048 bits and more" };
                let signer = RsaKeyPair::from_der(der).map_err(|_| invalid.clone())?;
                let pkcs8: Pkcs8V1Der<'_> =
                    signer.as_der().map_err(|_| Error::Library { doing: "converting a private key" })?;
                PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).map_err(|_| invalid).and_then(Self::from_rsa)
            }
            _ => Err(Error::InvalidKey { why: "the PEM label is neither PRIVATE KEY nor RSA PRIVATE KEY" }),
        }
    }

    fn from_ec(curve: Curve, key: PrivateKey) -> Result<Self, Error> {
        let public = PublicJwk(Kind::Ec(Point::of(curve, &key)?));
        Self::new(Private::Ec(key), public)
    }

    fn from_rsa(key: PrivateDecryptingKey) -> Result<Self, Error> {
        let spki = key.public_key().as_der().map_err(|_| Error::Library { doing: "writing a public key" })?;
        let (n, e) = der::rsa_public_parts(spki.as_ref())?;
        Self::new(Private::Rsa(key), PublicJwk::from_rsa_parts(n, e)?)
    }

    fn new(private: Private, public: PublicJwk) -> Result<Self, Error> {
        let jwk = public.to_json()?;
        Ok(Self { private, public, jwk })
    }

    fn content_key(&self, recipient: &Recipient) -> Result<ContentKey, Error> {
        match (&self.private, &self.public.0, recipient) {
            (Private::Ec(key), Kind::Ec(ours), Recipient::Ecdh { ephemeral, wrapped })
                if ours.curve == ephemeral.curve =>
            {
                ecdh::unwrap(&ecdh::agree(key, ephemeral)?, wrapped)
            }
            (Private::Rsa(key), _, Recipient::Rsa { wrapped }) => unwrap_rsa(key, wrapped),
            _ => Err(Error::OtherKey { found: recipient.name(), ours: self.algorithm().as_str() }),
        }
    }
}

impl fmt::Debug for TeeKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TeeKeyPair({})", self.algorithm())
    }
}

/// RSAES-OAEP with SHA-256 for hash and mask (RFC 8017 section 7.1.2), empty label.
fn unwrap_rsa(key: &PrivateDecryptingKey, wrapped: &[u8]) -> Result<ContentKey, Error> {
    if wrapped.len() != key.key_size_bytes() {
        return Err(Error::malformed(
            "encrypted_key",
            format!("{} bytes, the RSA modulus has {}", wrapped.len(), key.key_size_bytes()),
        ));
    }
    let key =
        OaepPrivateDecryptingKey::new(key.clone()).map_err(|_| Error::Library { doing: "preparing RSA" })?;
    let mut out = Zeroizing::new(vec![0; key.min_output_size()]);
    let plain =
        key.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, &mut out, None).map_err(|_| Error::CannotOpen)?;
    let mut content_key = ContentKey::default();
    if plain.len() != content_key.len() {
        return Err(Error::CannotOpen);
    }
    content_key.copy_from_slice(plain);
    Ok(content_key)
}

#[cfg(test)]
mod tests {
    use super::{KeyAlgorithm, TeeKeyPair};
    use crate::{Error, Jwe, jwe};

    #[test]
    fn algorithm_names() {
        for a in KeyAlgorithm::ALL {
            assert_eq!(a.to_string().parse::<KeyAlgorithm>().unwrap(), a);
            assert_eq!(serde_json::from_value::<KeyAlgorithm>(a.as_str().into()).unwrap(), a);
        }
        assert_eq!(KeyAlgorithm::default(), KeyAlgorithm::EcdhP256);
        for bad in ["", "RSA1_5", "ecdh-es+a256kw-p256", "ECDH-ES+A256KW"] {
            assert!(bad.parse::<KeyAlgorithm>().is_err(), "{bad}");
        }
    }

    #[test]
    fn private_pem_round_trip_opens_what_the_original_opens() {
        for algorithm in KeyAlgorithm::ALL {
            let pair = TeeKeyPair::generate(algorithm).unwrap();
            let pem = pair.private_pem().unwrap();
            let text = std::str::from_utf8(pem.expose()).unwrap();
            let label = if algorithm == KeyAlgorithm::RsaOaep256 { "RSA PRIVATE KEY" } else { "PRIVATE KEY" };
            assert!(text.starts_with(&format!("-----BEGIN {label}-----\n")));
            let again = TeeKeyPair::from_private_pem(text).unwrap();
            assert_eq!(again.public_jwk(), pair.public_jwk());
            let sealed = jwe::seal(&pair.public_jwk(), b"secret").unwrap();
            assert_eq!(again.open(&Jwe::parse(&sealed).unwrap()).unwrap().expose(), b"secret");
            assert_eq!(format!("{pair:?}"), format!("TeeKeyPair({algorithm})"));
        }
    }

    #[test]
    fn other_keys_do_not_open() {
        let pairs: Vec<_> = KeyAlgorithm::ALL.into_iter().map(|a| TeeKeyPair::generate(a).unwrap()).collect();
        for to in &pairs {
            let sealed = Jwe::parse(&jwe::seal(&to.public_jwk(), b"x").unwrap()).unwrap();
            for with in &pairs {
                let opened = with.open(&sealed);
                if with.algorithm() == to.algorithm() {
                    assert_eq!(opened.unwrap().expose(), b"x");
                    let stranger = TeeKeyPair::generate(to.algorithm()).unwrap();
                    assert_eq!(stranger.open(&sealed).unwrap_err(), Error::CannotOpen);
                } else {
                    assert!(matches!(opened, Err(Error::OtherKey { .. })), "{opened:?}");
                }
            }
        }
    }

    #[test]
    fn foreign_private_keys_are_refused() {
        for bad in [
            "",
            "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----",
            "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----",
        ] {
            assert!(TeeKeyPair::from_private_pem(bad).is_err(), "{bad}");
        }
    }
}
