//! Hygon CSV evidence from a file.
#![no_main]

use cc_evidence::csv::{CsvEvidence, Report};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Report::parse(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = CsvEvidence::from_json(text);
    }
});
