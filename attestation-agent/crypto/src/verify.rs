//! Signatures over documents, verified with a public key in PEM or DER form (RFC 5280 section 4.1.2.7, RFC 7468 section 13).
//!
//! The algorithm follows from the key alone, never from the document: ECDSA on P-256, P-384 and P-521 with the signature
//! in ASN.1 (RFC 3279 section 2.2.3), RSA PKCS#1 v1.5 from 2048 to 8192 bits with SHA-256 (RFC 8017 section 8.2), Ed25519
//! (RFC 8032). ECDSA keys sign with SHA-256, as tools around images do on every curve, or with the hash of the curve's
//! size. It signs nothing; what is signed, and by whose key, is the caller's matter.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA256_ASN1,
    ECDSA_P521_SHA512_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};

use crate::error::quoted;
use crate::{Error, der, pem};

const WHAT: &str = "public key";
/// Longest key read, in bytes of DER; RSA of 8192 bits takes 1.1 KiB.
const MAX_LEN: usize = 4 * 1024;

/// Kind of a [`PublicKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A point on NIST P-256.
    P256,
    /// A point on NIST P-384.
    P384,
    /// A point on NIST P-521.
    P521,
    /// An RSA modulus.
    Rsa,
    /// A point on edwards25519.
    Ed25519,
}

impl KeyKind {
    /// Its name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "ECDSA P-256",
            Self::P384 => "ECDSA P-384",
            Self::P521 => "ECDSA P-521",
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    fn algorithms(self) -> &'static [&'static dyn VerificationAlgorithm] {
        match self {
            Self::P256 => &[&ECDSA_P256_SHA256_ASN1],
            Self::P384 => &[&ECDSA_P384_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1],
            Self::P521 => &[&ECDSA_P521_SHA256_ASN1, &ECDSA_P521_SHA512_ASN1],
            Self::Rsa => &[&RSA_PKCS1_2048_8192_SHA256],
            Self::Ed25519 => &[&ED25519],
        }
    }
}

/// A public key that verifies signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    spki: Vec<u8>,
    kind: KeyKind,
}

impl PublicKey {
    /// Reads one PEM block `PUBLIC KEY`, with nothing but white space around it.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Unsupported`] or [`Error::TooLarge`].
    pub fn from_pem(text: &[u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(text).map_err(|_| Error::malformed(WHAT, "not text"))?;
        let (label, der) = pem::decode(text).map_err(|error| match error {
            Error::Malformed { why, .. } => Error::Malformed { what: WHAT, why },
            other => other,
        })?;
        if label != "PUBLIC KEY" {
            return Err(Error::Unsupported {
                what: "PEM label",
                found: quoted(label),
                expected: "PUBLIC KEY",
            });
        }
        Self::from_spki(der.expose())
    }

    /// Reads a `SubjectPublicKeyInfo` in DER.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Unsupported`], or [`Error::TooLarge`] above 4 KiB.
    pub fn from_spki(spki: &[u8]) -> Result<Self, Error> {
        if spki.len() > MAX_LEN {
            return Err(Error::TooLarge { what: WHAT, found: spki.len(), limit: MAX_LEN });
        }
        let key = Self { kind: kind(spki)?, spki: spki.to_vec() };
        for algorithm in key.kind.algorithms() {
            ParsedPublicKey::new(*algorithm, &key.spki).map_err(|_| {
                Error::malformed(WHAT, format!("no {} key of an accepted size", key.kind.as_str()))
            })?;
        }
        Ok(key)
    }

    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Its `SubjectPublicKeyInfo` in DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// Checks that `signature` was made over `message` with the private half of this key.
    ///
    /// # Errors
    /// [`Error::Unauthentic`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        let fits = |algorithm: &&'static dyn VerificationAlgorithm| {
            ParsedPublicKey::new(*algorithm, &self.spki)
                .is_ok_and(|key| key.verify_sig(message, signature).is_ok())
        };
        if self.kind.algorithms().iter().any(fits) {
            Ok(())
        } else {
            Err(Error::Unauthentic { what: "signature" })
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kind.as_str())
    }
}

fn kind(spki: &[u8]) -> Result<KeyKind, Error> {
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
    const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    const NULL: &[u8] = &[0x05, 0x00];
    let unsupported = || Error::Unsupported {
        what: "kind of public key",
        found: "another".to_owned(),
        expected: "ECDSA on P-256, P-384 or P-521, RSA, or Ed25519",
    };
    match der::public_key_algorithm(spki)? {
        (EC, P256) => Ok(KeyKind::P256),
        (EC, P384) => Ok(KeyKind::P384),
        (EC, P521) => Ok(KeyKind::P521),
        (RSA, NULL) => Ok(KeyKind::Rsa),
        (ED25519, []) => Ok(KeyKind::Ed25519),
        _ => Err(unsupported()),
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
        EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
    };
    use proptest::prelude::*;

    use super::*;

    fn pem_of(spki: &[u8]) -> Vec<u8> {
        pem::encode("PUBLIC KEY", spki).unwrap().expose().to_vec()
    }

    #[test]
    fn every_kind_verifies_what_it_signed_and_nothing_else() {
        let random = SystemRandom::new();
        let mut made: Vec<(KeyKind, Vec<u8>, Vec<u8>)> = Vec::new();
        for (kind, algorithm) in [
            (KeyKind::P256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            (KeyKind::P384, &ECDSA_P384_SHA384_ASN1_SIGNING),
            (KeyKind::P521, &ECDSA_P521_SHA512_ASN1_SIGNING),
        ] {
            let pair = EcdsaKeyPair::generate(algorithm).unwrap();
            let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
            made.push((kind, spki, pair.sign(&random, b"m").unwrap().as_ref().to_vec()));
        }
        let pair = Ed25519KeyPair::generate().unwrap();
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        made.push((KeyKind::Ed25519, spki, pair.sign(b"m").as_ref().to_vec()));
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PSS_SHA256, &random, b"m", &mut signature).unwrap();
        assert!(PublicKey::from_spki(&spki).unwrap().verify(b"m", &signature).is_err());
        pair.sign(&RSA_PKCS1_SHA256, &random, b"m", &mut signature).unwrap();
        made.push((KeyKind::Rsa, spki, signature));

        let stranger = PublicKey::from_spki(&made[0].1).unwrap();
        for (i, (kind, spki, signature)) in made.iter().enumerate() {
            let key = PublicKey::from_pem(&pem_of(spki)).unwrap();
            assert_eq!((key.kind(), key.spki()), (*kind, spki.as_slice()));
            key.verify(b"m", signature).unwrap();
            assert_eq!(key.verify(b"M", signature).unwrap_err().code(), "CRYPTO_UNAUTHENTIC");
            assert!(key.verify(b"m", &signature[1..]).is_err());
            assert_eq!(stranger.verify(b"m", signature).is_ok(), i == 0);
        }
    }

    /// Made by `openssl dgst -sha256 -sign` over "m".
    #[test]
    fn a_larger_curve_signs_with_the_short_hash_too() {
        let spki = "3076301006072a8648ce3d020106052b8104002203620004b4a3f03b98a3fddd0c967fcad6f744691637639fb3b9aa0b88c94f\
                    ef8959df2722f90f59dc1345b6f32e57ffb4cbb411987d8be6b9a6c9a8c51b0b30fe4d0819b02f5da961dbc33444d47c85e6\
                    624a1eac61f4f1368d7ee0b7172164404d9222";
        let signature = "3065023061d2b480afb8200ebc4c09d9d3ec121419ec22841b8db8aecd8e7f00cf14e60f9cb2fd07bfeb7eed3063f7d605\
                         0a0a75023100881b03328d13022a1e73baa7500c8c2ab763c7e8023ae2f169750ad4d2f11efb0f30b103fc50950cf9ef\
                         d41c8270d08f";
        let key = PublicKey::from_spki(&hex::decode(spki).unwrap()).unwrap();
        key.verify(b"m", &hex::decode(signature).unwrap()).unwrap();
        assert!(key.verify(b"n", &hex::decode(signature).unwrap()).is_err());
    }

    #[test]
    fn other_keys_are_refused() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
        let longer = [spki.as_slice(), &[0]].concat();
        assert!(PublicKey::from_spki(&longer).is_err());
        let mut off_curve = spki.clone();
        *off_curve.last_mut().unwrap() ^= 1;
        assert_eq!(PublicKey::from_spki(&off_curve).unwrap_err().code(), "CRYPTO_MALFORMED");
        let mut other_curve = spki.clone();
        *other_curve.iter_mut().rfind(|b| **b == 0x07).unwrap() = 0x0a;
        assert!(PublicKey::from_spki(&other_curve).is_err());
        let private = pem::encode("PRIVATE KEY", &spki).unwrap();
        assert_eq!(PublicKey::from_pem(private.expose()).unwrap_err().code(), "CRYPTO_UNSUPPORTED");
        let twice = [pem_of(&spki), pem_of(&spki)].concat();
        assert!(PublicKey::from_pem(&twice).is_err());
        assert!(PublicKey::from_spki(&vec![0x30; 5000]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = PublicKey::from_pem(&bytes);
            let _ = PublicKey::from_spki(&bytes);
        }
    }
}
