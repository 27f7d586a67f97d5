//! Certificate tables from a host: what is accepted can be written and read again.
#![no_main]

use cc_evidence::snp::cert_table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(entries) = cert_table::parse(bytes) else { return };
    // Overlapping entries may add up to more than a table holds.
    let Ok(written) = cert_table::encode(&entries) else { return };
    assert_eq!(cert_table::parse(&written), Ok(entries));
});
