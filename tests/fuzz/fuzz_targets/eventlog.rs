//! Bytes of an event log: walked, cut, replayed and told as claims; and as the data of one record.
#![no_main]

use cc_evidence::HashAlgorithm;
use cc_evidence::ccel::{EV_EVENT_TAG, Events, assemble, replay, replay_pcrs};
use cc_verify::tdx::{Numbering, event_claims};
use libfuzzer_sys::fuzz_target;

/// A log's first record, which declares SHA-384.
const FIRST: &[u8] = b"\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0\
                       Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0";
/// Types of records whose data is read: of the boot loader, of an image, of an action, tagged, of no action.
const KINDS: [u32; 5] = [0xD, 0x8000_0003, 0x8000_0007, EV_EVENT_TAG, 3];

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if let Some((kind, data)) = bytes.split_first() {
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let log = [
            FIRST,
            &[1, 0, 0, 0],
            &kind.to_le_bytes(),
            &[1, 0, 0, 0, 0x0C, 0],
            &[7; 48],
            &(data.len() as u32).to_le_bytes(),
            data,
        ];
        assert!(read(&log.concat()), "the record is whole");
    }
});

/// Whether the log can be read to its end.
fn read(bytes: &[u8]) -> bool {
    let _ = assemble(None, Some(bytes));
    let Ok(mut events) = Events::new(bytes) else { return false };
    let readable = events.by_ref().all(|event| event.is_ok());
    assert!(events.offset() <= bytes.len());
    let cut = assemble(Some(bytes), None);
    assert_eq!(cut.is_ok(), readable);
    for numbering in [Numbering::RunTime, Numbering::Pcr] {
        assert_eq!(event_claims(bytes, numbering).is_ok(), readable);
    }
    for algorithm in HashAlgorithm::ALL {
        if let Ok(Some(cut)) = &cut {
            assert_eq!(replay(cut, algorithm).ok(), replay(bytes, algorithm).ok());
            assert_eq!(replay_pcrs(cut, algorithm).ok(), replay_pcrs(bytes, algorithm).ok());
        }
    }
    readable
}
