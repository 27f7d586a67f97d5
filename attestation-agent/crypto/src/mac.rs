//! Message authentication under a key that is derived from a secret: HMAC-SHA-256 (RFC 2104) and HKDF-SHA-256 (RFC 5869).
//!
//! The derivation has no salt and names its purpose, so that one secret serves several purposes and none of them tells
//! of another. It does not stretch: whoever sees a tag can try guesses of a weak secret at the speed of the hash.
//!
//! HMAC-SHA-1 is here for a service that takes nothing else, and for nothing of our own.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};

use crate::{Error, Secret};

/// Bytes of a tag.
pub const TAG_LEN: usize = 32;

/// A key of HMAC-SHA-256.
pub struct MacKey(hmac::Key);

impl MacKey {
    /// The 32-byte key that HKDF-SHA-256 derives from `secret` (input keying material) for `purpose` (info), without salt.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] for an empty secret, [`Error::Library`] if the library refuses.
    pub fn derive(secret: &Secret, purpose: &str) -> Result<Self, Error> {
        if secret.is_empty() {
            return Err(Error::InvalidKey { why: "nothing can be derived from an empty secret" });
        }
        let salted = hkdf::Salt::none(hkdf::HKDF_SHA256).extract(secret.expose());
        let info = [purpose.as_bytes()];
        let key = salted.expand(&info, hmac::HMAC_SHA256).map_err(|_| LIBRARY)?;
        Ok(Self(hmac::Key::from(key)))
    }

    /// The tag of `message`.
    #[must_use]
    pub fn tag(&self, message: &[u8]) -> [u8; TAG_LEN] {
        let tag = hmac::sign(&self.0, message);
        let mut bytes = [0; TAG_LEN];
        // A tag of HMAC-SHA-256 has 32 bytes; the zip keeps this free of panics.
        bytes.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// Compares `tag` with that of `message`, in time that does not depend on where they differ. `what` is what carries
    /// the tag.
    ///
    /// # Errors
    /// [`Error::Unauthentic`] if they differ.
    pub fn verify(&self, what: &'static str, message: &[u8], tag: &[u8; TAG_LEN]) -> Result<(), Error> {
        hmac::verify(&self.0, message, tag).map_err(|_| Error::Unauthentic { what })
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey")
    }
}

/// The tag of `message` by HMAC-SHA-1 (RFC 2202) under `key`.
///
/// Collisions of SHA-1 do not touch it; it is for protocols that prescribe it.
#[must_use]
pub fn hmac_sha1(key: &Secret, message: &[u8]) -> [u8; 20] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key.expose()), message);
    let mut bytes = [0; 20];
    bytes.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    bytes
}

const LIBRARY: Error = Error::Library { doing: "deriving a key" };

#[cfg(test)]
mod tests {
    use super::*;

    /// By Python's `hmac` and `hashlib`: extract with 32 zero bytes, expand with "purpose", tag of "message".
    #[test]
    fn key_and_tag_agree_with_python() {
        let key = MacKey::derive(&Secret::new(b"secret".to_vec()), "purpose").unwrap();
        let expected = "1bebac60a535439ca925509087f97e4bc16ad5cf774d206db37abbd3f558c6be";
        let tag = key.tag(b"message");
        assert_eq!(hex::encode(tag), expected);
        assert_eq!(key.verify("t", b"message", &tag), Ok(()));
    }

    #[test]
    fn another_message_secret_or_purpose_does_not_verify() {
        let key = |secret: &[u8], purpose| MacKey::derive(&Secret::new(secret.to_vec()), purpose).unwrap();
        let tag = key(b"a", "p").tag(b"m");
        for (key, message) in [(key(b"b", "p"), b"m"), (key(b"a", "q"), b"m"), (key(b"a", "p"), b"n")] {
            assert_eq!(key.verify("t", message, &tag), Err(Error::Unauthentic { what: "t" }));
        }
        assert!(MacKey::derive(&Secret::new(Vec::new()), "p").is_err());
    }
}
