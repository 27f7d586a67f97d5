//! Bytes of a TPM's index as an HCL report, and text from a client as evidence of an Azure machine.
#![no_main]

use cc_evidence::Tee;
use cc_evidence::azure::{AzureEvidence, EvidenceVersion, HclReport};
use cc_fuzz::unreadable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(hcl) = HclReport::parse(bytes) {
        assert!(bytes[32..].starts_with(hcl.hardware_bytes()));
        assert!(bytes[0x4D4..].starts_with(hcl.runtime_json().as_bytes()));
        let _ = hcl.binds_runtime_data();
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for tee in [Tee::AzSnpVtpm, Tee::AzTdxVtpm] {
        let _ = unreadable(tee.as_str(), text);
        let Ok(evidence) = AzureEvidence::from_json(tee, text) else { continue };
        let written = evidence.to_json().expect("what was read has lengths that can be written");
        let expected = AzureEvidence { version: EvidenceVersion::V2, ..evidence };
        // The certificate of version 0 is text, later it is bytes: both are kept as they are.
        assert_eq!(AzureEvidence::from_json(tee, &written), Ok(expected));
    }
});
