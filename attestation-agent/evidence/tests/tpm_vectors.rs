//! Agreement with recorded evidence of a TPM.
//!
//! The vectors live outside the repository. Without them the test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use cc_evidence::tpm::{Attest, GENERATED, QUOTE, Signature, TpmEvidence, digest_of_values};
use cc_evidence::{HashAlgorithm, summary};
use serde_json::{Value, json};

#[test]
fn recorded_evidence_says_what_is_known_of_it() {
    let Some(folder) = cc_vectors::folder("tpm-quote") else { return };
    let text = std::fs::read_to_string(folder.join("evidence.json")).unwrap();
    let facts: Value = serde_json::from_slice(&std::fs::read(folder.join("facts.json")).unwrap()).unwrap();
    let evidence = TpmEvidence::from_json(&text).unwrap();
    let attest = Attest::parse(&evidence.message).unwrap();
    assert_eq!(attest.to_bytes().unwrap(), evidence.message);
    let selection: Vec<Value> = attest
        .selection
        .iter()
        .map(|bank| json!({ "alg": format!("{:#x}", bank.hash), "pcrs": bank.pcrs() }))
        .collect();
    let found = json!({
        "magic": format!("{GENERATED:08x}"), "type": format!("{QUOTE:#x}"),
        "qualified_signer": hex::encode(&attest.qualified_signer), "extra_data": hex::encode(&attest.extra_data),
        "clock": attest.clock.clock, "reset_count": attest.clock.reset_count,
        "restart_count": attest.clock.restart_count, "safe": u8::from(attest.clock.safe),
        "firmware_version": format!("{:016x}", attest.firmware_version), "pcr_select": selection,
        "pcr_digest": hex::encode(&attest.pcr_digest), "trailing": 0,
    });
    assert_eq!(found, facts["tpm"]);
    let signature = Signature::parse(&evidence.signature).unwrap();
    assert_eq!(signature.to_bytes().unwrap(), evidence.signature);
    assert_eq!(facts["sig_alg"], format!("{:#x}", signature.scheme()));
    assert_eq!(facts["hash_alg"], format!("{:#x}", signature.hash()));
    assert_eq!(facts["pcr_count"], evidence.pcrs.len());
    assert_eq!(facts["pcr00"], hex::encode(evidence.pcrs[0]));
    assert_eq!(facts["pcr08"], hex::encode(evidence.pcrs[8]));
    let values: Vec<Vec<u8>> = evidence.pcrs.iter().map(|value| value.to_vec()).collect();
    assert_eq!(facts["pcr_digest_ok"], attest.pcr_digest == digest_of_values(HashAlgorithm::Sha256, &values));
    let again = TpmEvidence::from_json(&evidence.to_json().unwrap()).unwrap();
    assert_eq!(again, evidence);
    assert!(summary::summarize("tpm", &text).iter().any(|(name, _)| name == "ak sha256"));
}
