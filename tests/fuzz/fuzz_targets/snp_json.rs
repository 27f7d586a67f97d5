//! SNP evidence JSON from a client: what is accepted must survive a round trip.
#![no_main]

use cc_evidence::snp::SnpEvidence;
use cc_fuzz::unreadable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let read = SnpEvidence::from_json(text);
    assert_eq!(unreadable("snp", text), read.is_err());
    let Ok(evidence) = read else { return };
    // The bytes form may carry reserved bytes that the field form refuses to write.
    let Ok(written) = evidence.to_json() else { return };
    assert_eq!(SnpEvidence::from_json(&written).as_ref(), Ok(&evidence));
});
