//! The cipher of encrypted image layers, `AES_256_CTR_HMAC_SHA256`, as a stream.
//!
//! AES-256 in counter mode (NIST SP 800-38A section 6.5) with a 128-bit big-endian counter that starts at the nonce, and
//! HMAC-SHA-256 (RFC 2104) over the cipher text under the same key: the only cipher of ocicrypt's block cipher
//! package. Plain bytes come out before the code can be compared, at the end of the stream: whoever takes them must
//! throw away what was made of them unless [`LayerOpener::finish`] agrees. It knows no annotations and no digests.

use std::fmt;

use aws_lc_rs::{
    cipher::{AES_256, DecryptionContext, StreamingDecryptingKey, UnboundCipherKey},
    hmac,
    iv::FixedLength,
};
use subtle::ConstantTimeEq;

use crate::{Error, Secret};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;
/// Bytes of the first counter block.
pub const NONCE_LEN: usize = 16;
/// Bytes of the message authentication code.
pub const MAC_LEN: usize = 32;
/// Bytes by which a buffer for plain bytes has to be longer than the cipher text.
pub const SLACK: usize = 15;

/// A layer being decrypted.
pub struct LayerOpener {
    cipher: StreamingDecryptingKey,
    mac: hmac::Context,
    expected: [u8; MAC_LEN],
}

impl LayerOpener {
    /// Starts decrypting with `key` (32 bytes); `mac` is the code that the cipher text has to have.
    ///
    /// # Errors
    /// [`Error::InvalidKey`] for another length of key, [`Error::Library`] if the library refuses.
    pub fn new(key: &Secret, nonce: [u8; NONCE_LEN], mac: [u8; MAC_LEN]) -> Result<Self, Error> {
        if key.len() != KEY_LEN {
            return Err(Error::InvalidKey { why: "the key of an image layer has 32 bytes" });
        }
        let context = DecryptionContext::Iv128(FixedLength::from(nonce));
        let cipher = UnboundCipherKey::new(&AES_256, key.expose())
            .and_then(|key| StreamingDecryptingKey::ctr(key, context))
            .map_err(|_| LIBRARY)?;
        let mac_key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        Ok(Self { cipher, mac: hmac::Context::with_key(&mac_key), expected: mac })
    }

    /// Takes the next bytes of cipher text and writes as many plain ones to the beginning of `plain`, which must be longer
    /// by [`SLACK`].
    ///
    /// # Errors
    /// [`Error::Library`] if `plain` is too short.
    pub fn update(&mut self, cipher_text: &[u8], plain: &mut [u8]) -> Result<(), Error> {
        self.mac.update(cipher_text);
        let written = self.cipher.update(cipher_text, plain).map_err(|_| LIBRARY)?.written().len();
        if written == cipher_text.len() { Ok(()) } else { Err(LIBRARY) }
    }

    /// Compares the code of all cipher text taken, in time that does not depend on where it differs.
    ///
    /// # Errors
    /// [`Error::Unauthentic`] if it is another one: wrong key, or altered cipher text.
    pub fn finish(self) -> Result<(), Error> {
        let tag = self.mac.sign();
        if bool::from(tag.as_ref().ct_eq(&self.expected)) {
            Ok(())
        } else {
            Err(Error::Unauthentic { what: "cipher text of the layer" })
        }
    }
}

impl fmt::Debug for LayerOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayerOpener")
    }
}

const LIBRARY: Error = Error::Library { doing: "decrypting a layer" };

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By Python's `cryptography` and `hmac`: key 0…31, nonce of 15 bytes ff and one fe, so that the counter wraps.
    const CIPHER_TEXT: &str = "108ccc76d07b26fd98948dbbeaec4668c9ea8d6538c215b473e5680f38fc778cdeb073df523dfab5c7d3f813a94b04a0937156cf24ddbf848684fe423c";
    const MAC: &str = "bd45cea8f4c3da76cff4d308e095bd17285af1da691503862bfa481a83c2366c";

    fn key() -> Secret {
        Secret::new((0..32).collect())
    }

    fn nonce() -> [u8; NONCE_LEN] {
        let mut nonce = [0xff; NONCE_LEN];
        nonce[NONCE_LEN - 1] = 0xfe;
        nonce
    }

    fn open(key: &Secret, pieces: &[&[u8]], mac: [u8; MAC_LEN]) -> (Vec<u8>, Result<(), Error>) {
        let mut opener = LayerOpener::new(key, nonce(), mac).unwrap();
        let mut all = Vec::new();
        for piece in pieces {
            let mut plain = vec![0; piece.len() + SLACK];
            opener.update(piece, &mut plain).unwrap();
            all.extend_from_slice(&plain[..piece.len()]);
        }
        (all, opener.finish())
    }

    #[test]
    fn what_python_encrypted_opens_across_the_counters_end() {
        let text = hex::decode(CIPHER_TEXT).unwrap();
        let mac: [u8; MAC_LEN] = hex::decode(MAC).unwrap().try_into().unwrap();
        for cut in 0..text.len() {
            let (plain, verdict) = open(&key(), &[&text[..cut], &text[cut..]], mac);
            assert_eq!(plain, b"sixteen bytes a, sixteen bytes b, sixteen bytes c, and a rest");
            verdict.unwrap();
        }
    }

    #[test]
    fn altered_text_code_or_key_is_told() {
        let text = hex::decode(CIPHER_TEXT).unwrap();
        let mac: [u8; MAC_LEN] = hex::decode(MAC).unwrap().try_into().unwrap();
        let unauthentic = Err(Error::Unauthentic { what: "cipher text of the layer" });
        for at in 0..text.len() {
            let mut bad = text.clone();
            bad[at] ^= 1;
            assert_eq!(open(&key(), &[&bad], mac).1, unauthentic);
        }
        for at in 0..MAC_LEN {
            let mut bad = mac;
            bad[at] ^= 0x80;
            assert_eq!(open(&key(), &[&text], bad).1, unauthentic);
        }
        assert_eq!(open(&Secret::new(vec![7; 32]), &[&text], mac).1, unauthentic);
        assert_eq!(open(&key(), &[&text[1..]], mac).1, unauthentic);
        assert_eq!(open(&key(), &[], mac).1, unauthentic);
        for length in [0, 16, 31, 33] {
            let key = Secret::new(vec![0; length]);
            assert_eq!(LayerOpener::new(&key, nonce(), mac).unwrap_err().code(), "CRYPTO_INVALID_KEY");
        }
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_give_the_same(text in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(0..60usize, 0..12)) {
            let (whole, _) = open(&key(), &[&text], [0; MAC_LEN]);
            let mut rest = text.as_slice();
            let mut pieces = Vec::new();
            for cut in cuts {
                let (piece, others) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = others;
            }
            pieces.push(rest);
            prop_assert_eq!(open(&key(), &pieces, [0; MAC_LEN]).0, whole);
        }
    }
}
