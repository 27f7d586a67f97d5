//! Events of the agent: three texts from a workload, the data of a record from a log, the note from a file.
#![no_main]

use cc_evidence::HashAlgorithm;
use cc_evidence::aael::{DEFAULT_PCR, Event, Fields, WriteAhead};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut texts = text.splitn(3, '|');
        let [domain, operation, content] = std::array::from_fn(|_| texts.next().unwrap_or_default());
        if let Ok(event) = Event::new(domain, operation, content) {
            // No text moves into another field, and none ends a line.
            let data = event.data();
            assert_eq!(Fields::of_data(&data), Some(Fields { domain, operation, content }));
            assert!(event.text().lines().count() <= 1);
            assert!(event.record(2, HashAlgorithm::Sha384).ends_with(&data));
        }
    }
    if let Some(Fields { domain, operation, content }) = Fields::of_data(bytes) {
        assert_eq!(format!("{domain} {operation} {content}").as_bytes(), &bytes[8..]);
    }
    for hash in HashAlgorithm::ALL {
        let Ok(note) = WriteAhead::parse(bytes, hash) else { continue };
        assert_eq!(note.expected.len(), hash.digest_len());
        let written = note.encode();
        // The default register is not written down, and a NUL within a text would be taken for the end of it.
        assert!(bytes.starts_with(&written) || note.pcr != Some(DEFAULT_PCR));
        if !note.event.text().contains('\0') {
            let again = WriteAhead::parse(&written, hash).expect("what was written is read");
            assert_eq!(again.encode(), written);
            assert_eq!((again.offset, again.event), (note.offset, note.event));
        }
    }
});
