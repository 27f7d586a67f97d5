//! Bytes of an event log: walked, cut, replayed and told as claims.
#![no_main]

use cc_evidence::HashAlgorithm;
use cc_evidence::ccel::{Events, assemble, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = assemble(None, Some(bytes));
    let Ok(mut events) = Events::new(bytes) else { return };
    let readable = events.by_ref().all(|event| event.is_ok());
    assert!(events.offset() <= bytes.len());
    let cut = assemble(Some(bytes), None);
    assert_eq!(cut.is_ok(), readable);
    assert_eq!(cc_verify::tdx::event_claims(bytes).is_ok(), readable);
    for algorithm in HashAlgorithm::ALL {
        let registers = replay(bytes, algorithm);
        if let (Ok(registers), Ok(Some(cut))) = (registers, &cut) {
            assert_eq!(replay(cut, algorithm), Ok(registers));
        }
    }
});
