//! Recorded evidence under AMD's roots. Skipped without the vectors, which live outside the repository.

use cc_evidence::Tee;
use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence};
use cc_vectors::read;
use cc_verify::appraisal::{ReferenceValues, Status, appraise};
use cc_verify::snp::{self, Expectation, LeafKind};
use cc_verify::{Rejection, TrustRoots};
use serde_json::{Value, json};

/// 2025-07-01: the VLEK and all other recorded certificates are valid.
const SUMMER_2025: u64 = 1_751_328_000;
/// 2025-12-11, one day after the VLEK's end.
const AFTER_VLEK: u64 = 1_765_411_200;

/// A recorded report with its leaf certificate.
fn recorded(folder: &str, kind: CertKind, leaf: &str) -> Option<SnpEvidence> {
    let report = Report::parse(&read(folder, "report.bin")?).unwrap();
    Some(SnpEvidence { report, certs: vec![CertEntry { kind, data: read(folder, leaf)? }] })
}

fn genoa() -> Option<SnpEvidence> {
    let text = String::from_utf8(read("snp-genoa-v3-json", "evidence.json")?).unwrap();
    Some(SnpEvidence::from_json(&text).unwrap())
}

/// The verdict when the report data is what was recorded.
fn judge(evidence: &SnpEvidence, now: u64) -> Result<snp::SnpClaims, Rejection> {
    let report_data = evidence.report.report_data;
    let x =
        Expectation { report_data: &report_data, init_data_digest: Some(&[0; 48]), now, extra_certs: &[] };
    snp::verify(evidence, &TrustRoots::vendor(), &x)
}

#[test]
fn genoa_evidence_verifies_while_its_certificate_does() {
    let Some(evidence) = genoa() else { return };
    let claims = serde_json::to_value(judge(&evidence, SUMMER_2025).unwrap()).unwrap();
    let expected = json!({
        "measurement": hex::encode(evidence.report.measurement),
        "report_data": hex::encode(evidence.report.report_data),
        "init_data": "0".repeat(64),
        "chip_id": hex::encode(evidence.report.chip_id),
        "policy_abi_major": 0, "policy_abi_minor": 0, "policy_smt_allowed": true,
        "policy_migrate_ma": false, "policy_debug_allowed": false, "policy_single_socket": false,
        "reported_tcb_bootloader": 10, "reported_tcb_tee": 0, "reported_tcb_snp": 23,
        "reported_tcb_microcode": 25, "platform_tsme_enabled": false, "platform_smt_enabled": true,
    });
    assert_eq!(claims, expected);
    // The certificate runs from 2025-05-27 17:57:03 to 2032-05-27 17:57:03.
    let start = 1_748_368_623;
    assert_eq!(judge(&evidence, start - 1).unwrap_err().check(), "snp.vcek_validity");
    assert!(judge(&evidence, start).is_ok());
    assert_eq!(judge(&evidence, 2_000_000_000).unwrap_err().check(), "snp.vcek_validity");
}

#[test]
fn genoa_appraisal() {
    let Some(evidence) = genoa() else { return };
    let claims = serde_json::to_value(judge(&evidence, SUMMER_2025).unwrap()).unwrap();
    let numbers = |references: &ReferenceValues| {
        let appraisal = appraise(Tee::Snp, &claims, references);
        let vector = appraisal.vector;
        ((vector.executables, vector.hardware, vector.configuration), appraisal.status())
    };
    assert_eq!(numbers(&ReferenceValues::default()), ((33, 97, 3), Status::Contraindicated));
    let mut references = ReferenceValues::default();
    references.extend(&json!({
        "snp_launch_measurement": [hex::encode(evidence.report.measurement)], "snp_bootloader": [10],
        "snp_microcode": [25], "snp_snp_svn": [23], "snp_tee_svn": [0], "snp_smt_enabled": true,
        "snp_tsme_enabled": false, "snp_guest_abi_major": 0, "snp_guest_abi_minor": 0,
        "snp_single_socket": false, "snp_smt_allowed": true,
    }));
    assert_eq!(numbers(&references), ((3, 2, 2), Status::Affirming));
}

#[test]
fn genoa_evidence_under_other_expectations() {
    let Some(evidence) = genoa() else { return };
    let x = Expectation { report_data: &[1], init_data_digest: None, now: SUMMER_2025, extra_certs: &[] };
    let verdict = snp::verify(&evidence, &TrustRoots::vendor(), &x);
    assert_eq!(verdict.unwrap_err().check(), "snp.report_data");
    let report_data = evidence.report.report_data;
    let x = Expectation { report_data: &report_data, init_data_digest: Some(&[1; 32]), ..x };
    let verdict = snp::verify(&evidence, &TrustRoots::vendor(), &x);
    assert_eq!(verdict.unwrap_err().check(), "snp.init_data");
    let bare = SnpEvidence { certs: vec![], ..evidence };
    let rejection = judge(&bare, SUMMER_2025).unwrap_err();
    assert_eq!(rejection.check(), "snp.no_leaf_certificate");
    assert!(rejection.hint().contains("offline store"));
}

#[test]
fn milan_version_2_is_refused_by_rule_though_its_signature_verifies() {
    let Some(evidence) = recorded("snp-milan-v2-vcek", CertKind::Vcek, "vcek.der") else { return };
    assert_eq!(snp::verify_signature(&evidence.report, &evidence.certs[0].data), Ok(()));
    let chain = snp::verify_chain(&evidence.certs, &TrustRoots::vendor(), SUMMER_2025).unwrap();
    assert_eq!((chain.kind, chain.test_root), (LeafKind::Vcek, false));
    assert_eq!(judge(&evidence, SUMMER_2025).unwrap_err(), Rejection::Version { found: 2 });
}

#[test]
fn vlek_evidence_is_refused_for_its_vmpl_and_later_for_its_dates() {
    let Some(evidence) = recorded("snp-milan-v3-vlek", CertKind::Vlek, "vlek.der") else { return };
    assert_eq!(snp::verify_signature(&evidence.report, &evidence.certs[0].data), Ok(()));
    let chain = snp::verify_chain(&evidence.certs, &TrustRoots::vendor(), SUMMER_2025).unwrap();
    assert_eq!(chain.csp_id.as_deref(), Some("CN=cc-us-east-2.amazonaws.com"));
    assert_eq!(judge(&evidence, SUMMER_2025).unwrap_err(), Rejection::Vmpl { found: 1 });
    assert_eq!(judge(&evidence, AFTER_VLEK).unwrap_err().check(), "snp.vlek_validity");
}

#[test]
fn both_encodings_of_the_chip_identifier_are_read() {
    for file in ["vcek-hwid-raw-encoding.der", "vcek-hwid-octet-string-encoding.der"] {
        let Some(evidence) = recorded("snp-milan-v2-vcek", CertKind::Vcek, file) else { return };
        // AMD's key did not sign these two; that they are read at all shows in the check that fails.
        let rejection = snp::verify_chain(&evidence.certs, &TrustRoots::vendor(), SUMMER_2025).unwrap_err();
        assert_eq!(rejection.check(), "snp.chain", "{file}");
        assert_eq!(
            snp::verify_signature(&evidence.report, &evidence.certs[0].data).unwrap_err().check(),
            "snp.signature",
            "{file}"
        );
    }
}

#[test]
fn flipped_bits_and_wrong_certificates_are_refused() {
    let Some(evidence) = genoa() else { return };
    for byte in (0..0x330).step_by(5) {
        let mut raw = *evidence.report.raw();
        raw[byte] ^= 0x10;
        let Ok(report) = Report::parse(&raw) else { continue };
        let changed = SnpEvidence { report, certs: evidence.certs.clone() };
        assert!(judge(&changed, SUMMER_2025).is_err(), "byte {byte:#x}");
    }
    for byte in 0..evidence.certs[0].data.len() {
        let mut changed = evidence.clone();
        changed.certs[0].data[byte] ^= 0x04;
        assert!(judge(&changed, SUMMER_2025).is_err(), "certificate byte {byte}");
    }
    let Some(data) = read("snp-milan-v2-vcek", "vcek.der") else { return };
    let swapped = SnpEvidence { certs: vec![CertEntry { kind: CertKind::Vcek, data }], ..evidence };
    assert_eq!(judge(&swapped, SUMMER_2025).unwrap_err().check(), "snp.signature");
}

#[test]
fn certificates_of_azure_machines_chain_to_amd() {
    let Some(text) = read("az-snp-vtpm", "evidence-v0.json") else { return };
    let evidence: Value = serde_json::from_slice(&text).unwrap();
    let hcl: Vec<u8> = serde_json::from_value(evidence["report"].clone()).unwrap();
    let report = Report::parse(&hcl[0x20..0x20 + 1184]).unwrap();
    let leaf = evidence["vcek"].as_str().unwrap().as_bytes().to_vec();
    let evidence = SnpEvidence { report, certs: vec![CertEntry { kind: CertKind::Vcek, data: leaf }] };
    assert!(judge(&evidence, SUMMER_2025).is_ok());
}
