//! What the agent notes before it extends a register, so that after a crash it knows what it was doing.
//!
//! The form is that of the Confidential Containers guest components: offset of the record in the log as eight big-endian
//! bytes, the value that the register will have, the event's text up to the end. Such a note does not name the register,
//! because the existing agent looks at one only. Ours appends a NUL and the PCR number in decimal where it is
//! not [`DEFAULT_PCR`]; no text of an event has a NUL.

use super::Event;
use crate::read::Reader;
use crate::{Error, HashAlgorithm};

/// The register that a note without a number is about, unless the configuration names another.
pub const DEFAULT_PCR: u32 = 17;

/// One event that is about to be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteAhead {
    /// Where in the log its record goes, in bytes from the start.
    pub offset: u64,
    /// What the register holds when it has been extended.
    pub expected: Vec<u8>,
    /// The event.
    pub event: Event,
    /// The register, as PCR number; `None` in notes that do not name it.
    pub pcr: Option<u32>,
}

impl WriteAhead {
    /// Longest note that is read, in bytes; agents of the existing stack bound the text by their message size alone.
    pub const MAX_LEN: usize = 4 * 1024 * 1024;

    /// The bytes of the note.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.offset.to_be_bytes().to_vec();
        bytes.extend(&self.expected);
        bytes.extend(self.event.text.as_bytes());
        if let Some(pcr) = self.pcr.filter(|pcr| *pcr != DEFAULT_PCR) {
            bytes.extend(format!("\0{pcr}").as_bytes());
        }
        bytes
    }

    /// Reads a note about a register of algorithm `hash`. The text was accepted when the note was written, perhaps by
    /// another agent with other rules, and is not judged again.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::TooLarge`]; [`Error::Invalid`] for a text that is not UTF-8.
    pub fn parse(bytes: &[u8], hash: HashAlgorithm) -> Result<Self, Error> {
        if bytes.len() > Self::MAX_LEN {
            return Err(Error::TooLarge {
                what: "a note before an event",
                size: bytes.len(),
                limit: Self::MAX_LEN,
            });
        }
        let mut r = Reader::new(bytes);
        let offset = u64::from_be_bytes(*r.array("write_ahead.offset")?);
        let expected = r.take(hash.digest_len(), "write_ahead.expected")?.to_vec();
        let left = r.left();
        let text = std::str::from_utf8(r.take(left, "write_ahead.text")?).map_err(|e| Error::Invalid {
            field: "write_ahead.text",
            why: format!("no UTF-8 at byte {}", e.valid_up_to()),
        })?;
        let (text, pcr) = match text.rsplit_once('\0').map(|(text, pcr)| (text, decimal(pcr))) {
            Some((text, Some(pcr))) => (text, Some(pcr)),
            _ => (text, None),
        };
        Ok(Self { offset, expected, event: Event { text: text.to_owned() }, pcr })
    }
}

/// A number in the one form in which it is written.
fn decimal(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(pcr: Option<u32>) -> WriteAhead {
        let event = Event::new("a", "b", "c d").unwrap();
        WriteAhead { offset: 0x0102, expected: vec![0xAB; 48], event, pcr }
    }

    #[test]
    fn the_form_is_that_of_the_existing_agent() {
        let plain = [&[0, 0, 0, 0, 0, 0, 1, 2][..], &[0xAB; 48], b"a b c d"].concat();
        assert_eq!(note(None).encode(), plain);
        assert_eq!(note(Some(DEFAULT_PCR)).encode(), plain, "the existing agent reads it too");
        assert_eq!(WriteAhead::parse(&plain, HashAlgorithm::Sha384), Ok(note(None)));
        let other = [plain.as_slice(), b"\x0016"].concat();
        assert_eq!(note(Some(16)).encode(), other);
        assert_eq!(WriteAhead::parse(&other, HashAlgorithm::Sha384), Ok(note(Some(16))));
    }

    #[test]
    fn short_and_broken_notes_are_refused() {
        let bytes = note(Some(1)).encode();
        for len in 0..56 {
            let error = WriteAhead::parse(&bytes[..len], HashAlgorithm::Sha384).unwrap_err();
            assert_eq!(error.code(), "EVIDENCE_TRUNCATED", "{len} bytes");
        }
        let foreign = [&bytes[..56], b"a\xFFb"].concat();
        assert_eq!(
            WriteAhead::parse(&foreign, HashAlgorithm::Sha384).unwrap_err().code(),
            "EVIDENCE_FIELD_INVALID"
        );
        let long = vec![b'x'; WriteAhead::MAX_LEN + 1];
        assert_eq!(WriteAhead::parse(&long, HashAlgorithm::Sha384).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
        for text in ["a b\x00", "a b\x00017", "a b\x00+7", "a b\x00x", "a b\x0099999999999"] {
            let bytes = [&bytes[..56], text.as_bytes()].concat();
            let read = WriteAhead::parse(&bytes, HashAlgorithm::Sha384).unwrap();
            assert_eq!((read.pcr, read.event.text()), (None, text), "no number of ours");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            offset: u64, expected in prop::collection::vec(any::<u8>(), 32), content in "\\P{Cc}{0,60}",
            pcr in prop::option::of(0..100_u32),
        ) {
            let event = Event::new("a", "b", &content).unwrap();
            let note = WriteAhead { offset, expected, event, pcr };
            let read = WriteAhead::parse(&note.encode(), HashAlgorithm::Sha256).unwrap();
            let named = pcr.filter(|pcr| *pcr != DEFAULT_PCR);
            prop_assert_eq!(read, WriteAhead { pcr: named, ..note });
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            for hash in HashAlgorithm::ALL {
                let _ = WriteAhead::parse(&bytes, hash);
            }
        }
    }
}
