//! `EdDSA` signatures by Ed25519 (RFC 8032, RFC 8037) with a private key in PKCS#8 PEM (RFC 8410).
//!
//! The signatures under an administrator's tokens for the key broker. Only signing: nothing here verifies.

use std::fmt;

use aws_lc_rs::signature::Ed25519KeyPair;

use crate::{Error, der, pem};

/// Name of the algorithm in a JOSE header.
pub const ALG: &str = "EdDSA";
const LABEL: &str = "PRIVATE KEY";

/// A private key that signs. Neither cloned nor printed.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Reads the PEM text of a PKCS#8 private key, with or without its public half, as `openssl genpkey -algorithm ed25519`
    /// writes it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Malformed`] for a text that is no PEM, [`Error::Unsupported`] for another kind of PEM,
    /// [`Error::InvalidKey`] for a key that is not of Ed25519.
    pub fn from_pem(text: &str) -> Result<Self, Error> {
        let (label, pkcs8) = pem::decode(text)?;
        if label != LABEL {
            let found = crate::error::quoted(label);
            return Err(Error::Unsupported { what: "PEM label", found, expected: LABEL });
        }
        der::one_sequence(pkcs8.expose())?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8.expose())
            .map(Self)
            .map_err(|_| Error::InvalidKey { why: "not an Ed25519 private key in PKCS#8" })
    }

    /// Signs `message`: 64 bytes.
    ///
    /// # Errors
    /// [`Error::Library`] if the library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.0.try_sign(message).map_err(|_| Error::Library { doing: "signing" })?;
        Ok(signature.as_ref().to_vec())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(Ed25519)")
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::SigningKey;

    /// The private key of RFC 8410 section 10.3, in both of its forms, with the public key of section 10.1.
    const SHORT: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    #[test]
    fn the_published_key_signs() {
        let key = SigningKey::from_pem(SHORT).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, hex::decode(PUBLIC).unwrap());
        public.verify(b"message", &key.sign(b"message").unwrap()).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(Ed25519)");
    }

    #[test]
    fn other_keys_are_refused() {
        let p256 = crate::TeeKeyPair::generate(crate::KeyAlgorithm::EcdhP256).unwrap().private_pem().unwrap();
        let p256 = std::str::from_utf8(p256.expose()).unwrap().to_owned();
        let cut = SHORT.replace("VhC", "VhC\nAAAA");
        for bad in ["", "MC4CAQ==", &p256, &cut, &SHORT.replace("PRIVATE KEY", "PUBLIC KEY")] {
            assert!(SigningKey::from_pem(bad).is_err(), "{bad}");
        }
    }
}
