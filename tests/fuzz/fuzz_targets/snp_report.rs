//! Bytes from a TSM provider as an SNP report: parsed, rebuilt, parsed again.
#![no_main]

use cc_evidence::snp::Report;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = Report::parse(bytes) else { return };
    assert_eq!(report.raw().as_slice(), bytes);
    let _ = (report.warnings(), report.product(), report.signature.to_fixed());
    // Rebuilding drops reserved bytes only; after that nothing may change any more.
    let rebuilt = report.fields().encode();
    let again = Report::parse(&rebuilt).expect("an encoded report is a report");
    assert_eq!(again.fields().encode(), rebuilt);
});
