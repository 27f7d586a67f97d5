//! Hygon CSV evidence from a file: a report, and the same report inside of JSON.
#![no_main]

use cc_evidence::csv::{BUFFER_LEN, CsvEvidence, Report};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = CsvEvidence::from_json(text);
    }
    let Ok(report) = Report::parse(bytes) else { return };
    assert_eq!(bytes.len(), BUFFER_LEN);
    let key = &bytes[188..192];
    assert!(
        report
            .report_data
            .iter()
            .zip(&bytes[64..])
            .zip(key)
            .all(|((shown, hidden), key)| *shown == hidden ^ key)
    );
    let _ = report.serial();
    let evidence = json!({
        "attestation_report": { "magic": vec![0; 16], "data": bytes },
        "serial_number": [1],
        "cc_eventlog": "AAAA",
    });
    let read = CsvEvidence::from_json(&evidence.to_string()).expect("the shape is right");
    assert_eq!(read.report, report);
});
