//! Bytes from a TPM, or from who claims to be one: quote, signature, public area and evidence, parsed and written.
#![no_main]

use cc_evidence::tpm::{Attest, Public, Signature, TpmEvidence};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attest) = Attest::parse(bytes) {
        assert_eq!(attest.to_bytes().expect("parts that were read have an encoding"), bytes);
        let _: usize = attest.selection.iter().map(|bank| bank.pcrs().len()).sum();
    }
    if let Ok(signature) = Signature::parse(bytes) {
        assert_eq!(signature.to_bytes().expect("parts that were read have an encoding"), bytes);
    }
    if let Ok(public) = Public::parse(bytes) {
        assert_eq!(public.to_bytes().expect("parts that were read have an encoding"), bytes);
        let _ = (public.name(), public.rsa_spki_der());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Ok(evidence) = TpmEvidence::from_json(text) {
            let written = evidence.to_json().expect("what was read can be written");
            assert_eq!(TpmEvidence::from_json(&written), Ok(evidence));
        }
        let _ = cc_verify::tpm::registered_key(text);
    }
    let _ = cc_verify::tpm::AttestationKey::from_spki(bytes);
});
