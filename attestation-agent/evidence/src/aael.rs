//! The agent's own event log (AAEL): what an event may say, how it stands in the log, what extends the register.
//!
//! A record is a `TCG_PCR_EVENT2` of the TCG PC Client Platform Firmware Profile with one digest, of the type
//! `EV_EVENT_TAG`: tag, length, and the text `<domain> <operation> <content>`. The digest is that of the whole tagged
//! data and is what extends the register, so that here, other than in most records of firmware, the text IS what was
//! measured. Record and text are those of the Confidential Containers guest components and of Trustee's verifiers. The
//! log as a whole is joined and read in [`crate::ccel`]; nothing is written to a file here.

use crate::ccel::EV_EVENT_TAG;
use crate::read::Reader;
use crate::{Error, HashAlgorithm};

mod write_ahead;

pub use write_ahead::{DEFAULT_PCR, WriteAhead};

/// Tag of the agent's records, the letters `AAEL` as a number.
pub const TAG: u32 = 0x4141_454C;

/// Longest text of an event, in bytes.
pub const MAX_TEXT_LEN: usize = 16 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    text: String,
}

impl Event {
    /// An event that `domain` has done `operation` on or with `content`.
    ///
    /// Readers find the three texts by the first two spaces and events by their lines, so a domain or operation with
    /// white space would move text from one field to the next, and a control character could end a line. Spaces in
    /// `content` are fine.
    ///
    /// # Errors
    /// [`Error::Invalid`] for such a text, [`Error::TooLarge`] for more than [`MAX_TEXT_LEN`] bytes together.
    pub fn new(domain: &str, operation: &str, content: &str) -> Result<Self, Error> {
        for (field, text, spaces) in [
            ("event.domain", domain, false),
            ("event.operation", operation, false),
            ("event.content", content, true),
        ] {
            check(field, text, spaces)?;
        }
        let text = format!("{domain} {operation} {content}");
        if text.len() > MAX_TEXT_LEN {
            return Err(Error::TooLarge {
                what: "the text of an event",
                size: text.len(),
                limit: MAX_TEXT_LEN,
            });
        }
        Ok(Self { text })
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tagged data, which is what a digest is made of.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        [&TAG.to_le_bytes(), len(&self.text).as_slice(), self.text.as_bytes()].concat()
    }

    /// What extends the register.
    #[must_use]
    pub fn digest(&self, hash: HashAlgorithm) -> Vec<u8> {
        hash.digest(&self.data())
    }

    /// The record for the log of a register whose number there is `register`.
    #[must_use]
    pub fn record(&self, register: u32, hash: HashAlgorithm) -> Vec<u8> {
        let data = self.data();
        [
            register.to_le_bytes().as_slice(),
            &EV_EVENT_TAG.to_le_bytes(),
            &1_u32.to_le_bytes(),
            &hash.tcg_id().to_le_bytes(),
            &self.digest(hash),
            &len(&data),
            &data,
        ]
        .concat()
    }
}

/// The three texts of an event, as readers find them in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Who names the operation, for example `github.com/confidential-containers`.
    pub domain: &'a str,
    /// What was done, for example `PullImage`.
    pub operation: &'a str,
    /// With what.
    pub content: &'a str,
}

impl<'a> Fields<'a> {
    /// Reads the data of a record; `None` if it is not the agent's, or not well formed.
    #[must_use]
    pub fn of_data(data: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(data);
        let tag = r.u32_le("aael.tag").ok()?;
        let len = usize::try_from(r.u32_le("aael.length").ok()?).ok()?;
        let text = std::str::from_utf8(r.take(len, "aael.text").ok()?).ok()?;
        if tag != TAG || r.left() != 0 {
            return None;
        }
        let mut words = text.splitn(3, ' ');
        Some(Self { domain: words.next()?, operation: words.next()?, content: words.next()? })
    }
}

fn check(field: &'static str, text: &str, spaces: bool) -> Result<(), Error> {
    let forbidden = |c: &char| c.is_control() || (!spaces && c.is_whitespace());
    match text.char_indices().find(|(_, c)| forbidden(c)) {
        None => Ok(()),
        Some((at, c)) => {
            let kind = if c.is_control() { "a control character" } else { "white space" };
            Err(Error::Invalid { field, why: format!("{kind} (U+{:04X}) at byte {at}", u32::from(c)) })
        }
    }
}

/// A length as four bytes. Texts are far below 4 GiB; one that is not could not be read back and is not written.
fn len(bytes: impl AsRef<[u8]>) -> [u8; 4] {
    u32::try_from(bytes.as_ref().len()).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ccel::{Events, assemble, replay};

    #[test]
    fn the_bytes_are_those_of_the_wire() {
        let event = Event::new("domain", "operation", "content").unwrap();
        let data = "4c45414118000000646f6d61696e206f7065726174696f6e20636f6e74656e74";
        assert_eq!(hex::encode(event.data()), data);
        for (hash, digest) in [
            (HashAlgorithm::Sha256, "46df8dacf00a07d34a83cdf56d7978697790787cf2ba1432ef7c38f22cd96351"),
            (
                HashAlgorithm::Sha384,
                "dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440\
                 fb00f3aa0609db7e49cd8d793f670d02",
            ),
            (
                HashAlgorithm::Sha512,
                "b708d222ca8bd44dfe6ba0c4ca2cbb72379276fba8091025217064be45a813e5\
                 d6124ccf073219edb617d1faf007d55061465bdf34b7437dbdc9a7405bd4e9c0",
            ),
        ] {
            assert_eq!(hex::encode(event.digest(hash)), digest, "{hash}");
        }
        let record = hex::encode(event.record(4, HashAlgorithm::Sha384));
        let digest = hex::encode(event.digest(HashAlgorithm::Sha384));
        assert_eq!(record, format!("0400000006000000010000000c00{digest}20000000{data}"));
        assert_eq!(record.len() / 2, 98);
    }

    #[test]
    fn what_would_be_read_back_as_something_else_is_refused() {
        for (domain, operation, content, field) in [
            ("a b", "c", "d", "event.domain"),
            ("a\u{a0}b", "c", "d", "event.domain"),
            ("a", "c\t", "d", "event.operation"),
            ("a", "c\u{85}", "d", "event.operation"),
            ("a", "c", "d\n", "event.content"),
            ("a", "c", "\0", "event.content"),
            ("a", "c", "\u{7f}", "event.content"),
        ] {
            match Event::new(domain, operation, content) {
                Err(Error::Invalid { field: found, why }) => {
                    assert_eq!(found, field);
                    assert!(why.contains("U+"), "{why}");
                }
                other => panic!("{domain:?} {operation:?} {content:?}: {other:?}"),
            }
        }
        let image = r#"{"image":"a b", "digest":"sha256:00"}"#;
        let pull = Event::new("github.com/confidential-containers", "PullImage", image).unwrap();
        assert_eq!(Fields::of_data(&pull.data()).unwrap().content, image);
        assert!(Event::new("", "", "").is_ok(), "empty fields are unusual and unambiguous");
    }

    #[test]
    fn the_length_is_bounded() {
        let fits = "x".repeat(MAX_TEXT_LEN - 4);
        assert_eq!(Event::new("a", "b", &fits).unwrap().text().len(), MAX_TEXT_LEN);
        let error = Event::new("a", "b", &(fits + "x")).unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_TOO_LARGE");
    }

    #[test]
    fn data_of_other_records_is_not_the_agents() {
        let data = Event::new("a", "b", "c").unwrap().data();
        assert!(Fields::of_data(&data).is_some());
        for len in 0..data.len() {
            assert_eq!(Fields::of_data(&data[..len]), None, "{len} bytes");
        }
        for changed in [(0, 0), (4, 4), (4, 6), (12, 0xFF), (9, b'-')] {
            let mut data = data.clone();
            data[changed.0] = changed.1;
            assert_eq!(Fields::of_data(&data), None, "{changed:?}");
        }
        assert_eq!(Fields::of_data(&[data, vec![0]].concat()), None, "something behind it");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            domain in "[^\\s\\p{Cc}]{0,20}", operation in "[^\\s\\p{Cc}]{0,20}", content in "\\P{Cc}{0,60}",
            register in 1..5_u32,
        ) {
            let event = Event::new(&domain, &operation, &content).unwrap();
            let log = assemble(None, Some(&event.record(register, HashAlgorithm::Sha384))).unwrap().unwrap();
            let found: Vec<_> = Events::new(&log).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(found.len(), 1);
            prop_assert_eq!(found[0].register, register);
            let fields = Fields::of_data(found[0].data).unwrap();
            prop_assert_eq!(fields, Fields { domain: &domain, operation: &operation, content: &content });
            let digest = event.digest(HashAlgorithm::Sha384);
            let extended = HashAlgorithm::Sha384.digest(&[&[0; 48], digest.as_slice()].concat());
            let registers = replay(&log, HashAlgorithm::Sha384).unwrap();
            let at = usize::try_from(register).unwrap() - 1;
            prop_assert_eq!(registers.run_time().nth(at), Some(extended.as_slice()));
        }

        #[test]
        fn any_texts_are_taken_or_refused(domain: String, operation: String, content: String) {
            if let Ok(event) = Event::new(&domain, &operation, &content) {
                let data = event.data();
                let fields = Fields::of_data(&data).unwrap();
                prop_assert_eq!((fields.domain, fields.operation, fields.content), (&*domain, &*operation, &*content));
            }
        }

        #[test]
        fn random_data_never_panics(data: Vec<u8>) {
            let _ = Fields::of_data(&data);
        }
    }
}
