//! The two content ciphers of sealed secrets and image keys: `A256GCM` and `A256CTR`.
//!
//! `A256GCM` is AES-256 in Galois/Counter Mode (NIST SP 800-38D) with a 12-byte initialization vector, no additional
//! data, and the 16-byte tag behind the ciphertext. `A256CTR` is AES-256 in counter mode (NIST SP 800-38A section 6.5)
//! with a 16-byte initial counter block; it detects no change, and is there only because old secrets and images use it. Whole
//! messages in memory: this is not the cipher of image layers.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_256, DecryptingKey, DecryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use crate::error::quoted;
use crate::{Error, Secret};

/// Bytes of a key of either cipher.
pub const KEY_LEN: usize = 32;
const TAG_LEN: usize = 16;

/// A content cipher with 32-byte keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentCipher {
    /// `A256GCM`.
    A256Gcm,
    /// `A256CTR`: no integrity.
    A256Ctr,
}

impl ContentCipher {
    /// Its name in documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A256Gcm => "A256GCM",
            Self::A256Ctr => "A256CTR",
        }
    }

    /// Bytes of its initialization vector.
    #[must_use]
    pub fn iv_len(self) -> usize {
        match self {
            Self::A256Gcm => 12,
            Self::A256Ctr => 16,
        }
    }

    /// Encrypts `plaintext` under `key` (32 bytes): a random initialization vector, and the ciphertext (with `A256GCM` the
    /// 16-byte tag behind it).
    ///
    /// # Errors
    /// [`Error::InvalidKey`] for another length of key, [`Error::Library`] without random numbers.
    pub fn seal(self, key: &Secret, plaintext: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
        match self {
            Self::A256Gcm => seal(key, plaintext).map(|(iv, data)| (iv.to_vec(), data)),
            Self::A256Ctr => {
                let mut iv = vec![0; self.iv_len()];
                rand::fill(&mut iv).map_err(|_| LIBRARY)?;
                // Counter mode encrypts as it decrypts: both add the same key stream.
                let data = self.open(key, &iv, plaintext)?.into_exposed();
                Ok((iv, data))
            }
        }
    }

    /// Decrypts `data` (with `A256GCM`: ciphertext and 16-byte tag) by `key` (32 bytes) and `iv`.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] and [`Error::Malformed`] for wrong lengths, [`Error::Unauthentic`] if the tag does not fit.
    pub fn open(self, key: &Secret, iv: &[u8], data: &[u8]) -> Result<Secret, Error> {
        if key.len() != KEY_LEN {
            return Err(Error::InvalidKey { why: "a key of A256GCM and A256CTR has 32 bytes" });
        }
        if iv.len() != self.iv_len() {
            let why = format!("{} bytes, {self} takes {}", iv.len(), self.iv_len());
            return Err(Error::malformed("initialization vector", why));
        }
        let mut buffer = Zeroizing::new(data.to_vec());
        match self {
            Self::A256Gcm => {
                if data.len() < TAG_LEN {
                    return Err(Error::malformed("ciphertext", "shorter than its 16-byte tag"));
                }
                let nonce = Nonce::try_assume_unique_for_key(iv).map_err(|_| LIBRARY)?;
                gcm(key)?
                    .open_in_place(nonce, Aad::empty(), buffer.as_mut_slice())
                    .map_err(|_| Error::Unauthentic { what: "A256GCM ciphertext" })?;
                buffer.truncate(data.len() - TAG_LEN);
            }
            Self::A256Ctr => {
                let context = DecryptionContext::Iv128(FixedLength::try_from(iv).map_err(|_| LIBRARY)?);
                UnboundCipherKey::new(&AES_256, key.expose())
                    .and_then(DecryptingKey::ctr)
                    .and_then(|key| key.decrypt(buffer.as_mut_slice(), context).map(|_| ()))
                    .map_err(|_| LIBRARY)?;
            }
        }
        Ok(Secret::new(std::mem::take(&mut *buffer)))
    }
}

impl fmt::Display for ContentCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ContentCipher {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        [Self::A256Gcm, Self::A256Ctr].into_iter().find(|c| c.as_str() == s).ok_or_else(|| {
            Error::Unsupported { what: "wrap_type", found: quoted(s), expected: "A256GCM or A256CTR" }
        })
    }
}

const LIBRARY: Error = Error::Library { doing: "encrypting or decrypting" };

/// Encrypts `plaintext` with `A256GCM` under `key` (32 bytes): a random 12-byte initialization vector, and ciphertext ‖ tag.
///
/// # Errors
/// [`Error::InvalidKey`] for another length of key, [`Error::Library`] without random numbers.
pub fn seal(key: &Secret, plaintext: &[u8]) -> Result<([u8; 12], Vec<u8>), Error> {
    if key.len() != KEY_LEN {
        return Err(Error::InvalidKey { why: "a key of A256GCM has 32 bytes" });
    }
    let mut iv = [0; 12];
    rand::fill(&mut iv).map_err(|_| LIBRARY)?;
    // Room for the tag from the start: growing would leave a copy of the plaintext behind.
    let mut buffer = Vec::with_capacity(plaintext.len() + TAG_LEN);
    buffer.extend_from_slice(plaintext);
    gcm(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(iv), Aad::empty(), &mut buffer)
        .map_err(|_| LIBRARY)?;
    Ok((iv, buffer))
}

/// A new random key for either cipher, 32 bytes.
///
/// # Errors
/// [`Error::Library`] without random numbers.
pub fn random_key() -> Result<Secret, Error> {
    let mut key = Zeroizing::new(vec![0; KEY_LEN]);
    rand::fill(key.as_mut_slice()).map_err(|_| LIBRARY)?;
    Ok(Secret::new(std::mem::take(&mut *key)))
}

fn gcm(key: &Secret) -> Result<LessSafeKey, Error> {
    UnboundKey::new(&AES_256_GCM, key.expose()).map(LessSafeKey::new).map_err(|_| LIBRARY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(hex: &str) -> Secret {
        Secret::new(hex::decode(hex).unwrap())
    }

    /// Test case 14 of the GCM submission to NIST (McGrew, Viega; appendix B).
    #[test]
    fn gcm_agrees_with_the_published_case() {
        let key = secret(&"00".repeat(32));
        let data = hex::decode("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919").unwrap();
        let plain = ContentCipher::A256Gcm.open(&key, &[0; 12], &data).unwrap();
        assert_eq!(plain.expose(), [0; 16]);
    }

    /// NIST SP 800-38A, F.5.6, first two blocks.
    #[test]
    fn ctr_agrees_with_the_published_case() {
        let key = secret("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = hex::decode("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").unwrap();
        let data = hex::decode("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5").unwrap();
        let plain = ContentCipher::A256Ctr.open(&key, &iv, &data).unwrap();
        let expected = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
        assert_eq!(hex::encode(plain.expose()), expected);
    }

    #[test]
    fn wrong_lengths_and_names_are_refused() {
        let key = random_key().unwrap();
        for (cipher, iv) in [(ContentCipher::A256Gcm, 16), (ContentCipher::A256Ctr, 12)] {
            assert_eq!(cipher.open(&key, &vec![0; iv], &[0; 40]).unwrap_err().code(), "CRYPTO_MALFORMED");
        }
        let short = secret("00");
        assert_eq!(
            ContentCipher::A256Gcm.open(&short, &[0; 12], &[0; 40]).unwrap_err().code(),
            "CRYPTO_INVALID_KEY"
        );
        assert_eq!(seal(&short, b"x").unwrap_err().code(), "CRYPTO_INVALID_KEY");
        assert!(ContentCipher::A256Gcm.open(&key, &[0; 12], &[0; 15]).is_err());
        for name in ["a256gcm", "A128GCM", ""] {
            assert!(name.parse::<ContentCipher>().is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_a_changed_bit_is_seen(
            plain in proptest::collection::vec(any::<u8>(), 0..200),
            bit in any::<prop::sample::Index>(),
        ) {
            let key = random_key().unwrap();
            let (iv, mut data) = seal(&key, &plain).unwrap();
            let opened = ContentCipher::A256Gcm.open(&key, &iv, &data).unwrap();
            prop_assert_eq!(opened.expose(), plain.as_slice());
            let bit = bit.index(data.len() * 8);
            data[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(ContentCipher::A256Gcm.open(&key, &iv, &data).unwrap_err().code(), "CRYPTO_UNAUTHENTIC");
            for cipher in [ContentCipher::A256Gcm, ContentCipher::A256Ctr] {
                let (iv, data) = cipher.seal(&key, &plain).unwrap();
                let opened = cipher.open(&key, &iv, &data).unwrap();
                prop_assert_eq!(opened.expose(), plain.as_slice());
                prop_assert_ne!(cipher.seal(&key, &plain).unwrap().0, iv);
            }
        }
    }
}
