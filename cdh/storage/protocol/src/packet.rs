//! One message as bytes: a head, a text in JSON, and behind it a secret that is in no text.
//!
//! ```text
//! "CDS" version(1)   length of the text, 32 bits little endian   text   secret (the rest)
//! ```

use cc_crypto::Secret;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use crate::StorageError;

/// Most bytes of a message. A socket of Linux takes that much at once by default (net.core.wmem_default).
pub const MAX_LEN: usize = 128 << 10;
/// Name and version.
const MAGIC: [u8; 4] = *b"CDS\x01";
const HEAD: usize = 8;

/// A message: what is asked or answered, and a secret that belongs to it.
#[derive(Debug)]
pub struct Packet<T> {
    /// What is asked or answered.
    pub body: T,
    /// The secret, if there is one.
    pub secret: Option<Secret>,
}

impl<T: Serialize> Packet<T> {
    /// The bytes of the message, at most [`MAX_LEN`]; wiped when dropped.
    ///
    /// # Errors
    /// `STORAGE_PROTOCOL` if it would be longer.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StorageError> {
        let text = serde_json::to_vec(&self.body)
            .map_err(|error| StorageError::Protocol { why: format!("it cannot be written: {error}") })?;
        let secret = self.secret.as_ref().map(Secret::expose).unwrap_or_default();
        let length = HEAD + text.len() + secret.len();
        let too_long = || StorageError::Protocol {
            why: format!("a message would have {length} bytes, more than {MAX_LEN}"),
        };
        if length > MAX_LEN {
            return Err(too_long());
        }
        let text_length = u32::try_from(text.len()).map_err(|_| too_long())?;
        // The room is there from the start, so that no copy of the secret is left behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&text_length.to_le_bytes());
        bytes.extend_from_slice(&text);
        bytes.extend_from_slice(secret);
        Ok(bytes)
    }
}

impl<T: DeserializeOwned> Packet<T> {
    /// Reads a message. An empty secret is none.
    ///
    /// # Errors
    /// `STORAGE_PROTOCOL` for bytes that are no message of this version.
    pub fn parse(bytes: &[u8]) -> Result<Self, StorageError> {
        let malformed = |why: &str| StorageError::Protocol { why: why.to_owned() };
        if bytes.len() > MAX_LEN {
            return Err(malformed("a message is too long"));
        }
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| malformed("a message has another version"))?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(|| malformed("a message is cut"))?;
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (text, secret) =
            rest.split_at_checked(length).ok_or_else(|| malformed("a message is cut in its text"))?;
        let body = serde_json::from_slice(text)
            .map_err(|error| StorageError::Protocol { why: format!("a message cannot be read: {error}") })?;
        let secret = (!secret.is_empty()).then(|| Secret::new(secret.to_vec()));
        Ok(Self { body, secret })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Answer, Request};

    fn release(path: &str) -> Request {
        Request::RemoveBundle { path: path.to_owned() }
    }

    #[test]
    fn another_version_a_cut_and_a_long_message_are_refused() {
        let packet = Packet { body: release("/run/b"), secret: Some(Secret::new(b"key".to_vec())) };
        let good = packet.encode().unwrap();
        assert_eq!(Packet::<Request>::parse(&good).unwrap().secret.unwrap().expose(), b"key");
        for cut in 0..good.len() - 3 {
            assert!(Packet::<Request>::parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        let mut other = good.to_vec();
        other[3] = 2;
        assert!(Packet::<Request>::parse(&other).is_err());
        let long = Packet { body: release(&"x".repeat(MAX_LEN)), secret: None };
        assert_eq!(long.encode().unwrap_err().code(), "STORAGE_PROTOCOL");
    }

    #[test]
    fn texts_are_read_strictly() {
        for text in [
            r#"{"remove_bundle":{"path":"/a","more":1}}"#,
            r#"{"remove_bundle":{"path":"/a","path":"/b"}}"#,
            r#"{"remove_bundle":{"path":"/a"},"connect":null}"#,
            r#"{"remove_bundle":{}}"#,
            r#"{"unheard_of":{}}"#,
            "[]",
            "",
        ] {
            let length = u32::try_from(text.len()).unwrap().to_le_bytes();
            let bytes = [&MAGIC[..], &length, text.as_bytes()].concat();
            assert!(Packet::<Request>::parse(&bytes).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), headed in any::<bool>()) {
            let bytes = if headed { [&MAGIC[..], &bytes].concat() } else { bytes };
            let _ = Packet::<Request>::parse(&bytes);
            let _ = Packet::<Answer>::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read(path in ".{0,200}", secret in proptest::collection::vec(any::<u8>(), 0..100)) {
            let packet = Packet { body: release(&path), secret: Some(Secret::new(secret.clone())) };
            let read = Packet::<Request>::parse(&packet.encode().unwrap()).unwrap();
            prop_assert_eq!(read.body, packet.body);
            prop_assert_eq!(read.secret.map(Secret::into_exposed).unwrap_or_default(), secret);
        }
    }
}
