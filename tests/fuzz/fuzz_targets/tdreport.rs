//! Bytes from a TDX guest device or an HCL report as a TDREPORT.
#![no_main]

use cc_evidence::tdx::{REPORT_LEN, TdReport};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = TdReport::parse(bytes) else { return };
    assert_eq!(bytes.len(), REPORT_LEN);
    assert_eq!(report.td_info.mr_td, bytes[0x210..0x240]);
    assert_eq!(report.report_data, bytes[0x80..0xC0]);
});
