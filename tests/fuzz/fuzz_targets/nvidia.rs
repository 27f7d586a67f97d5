//! Bytes from a driver or a guest as an NVIDIA report, and text as evidence: parsed, written, parsed again.
#![no_main]

use cc_evidence::nvidia::{NvidiaEvidence, Report};
use cc_evidence::summary;
use cc_fuzz::unreadable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = unreadable("nvidia", text);
        let _ = summary::additional_essentials(text);
        if let Ok(evidence) = NvidiaEvidence::from_json(text) {
            let written = evidence.to_json().expect("what was read can be written");
            assert_eq!(NvidiaEvidence::from_json(&written), Ok(evidence));
        }
    }
    let Ok(report) = Report::parse(bytes) else { return };
    assert_eq!([report.signed(), report.signature()].concat(), bytes[..bytes.len() - report.trailing()]);
    // Nothing of the signed part is dropped by reading it.
    assert_eq!(report.encode().expect("parts that were read have short lengths"), report.signed());
    for record in report.opaque.records() {
        assert!(record.display().is_ascii());
    }
});
