//! Recorded evidence of Azure machines, compared with what another program extracted from it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests fail loudly"
)]

use std::path::Path;

use cc_evidence::azure::{AzureEvidence, Hardware, HclReport, TpmQuote};
use cc_evidence::{HashAlgorithm, Tee};
use serde_json::{Value, json};

const FOLDERS: [(&str, Tee); 2] = [("az-snp-vtpm", Tee::AzSnpVtpm), ("az-tdx-vtpm", Tee::AzTdxVtpm)];

/// Every recorded evidence: folder, name in `facts.json`.
const EVIDENCES: [(&str, Tee, &str); 6] = [
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v0"),
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v1"),
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-v2"),
    ("az-snp-vtpm", Tee::AzSnpVtpm, "evidence-genoa"),
    ("az-tdx-vtpm", Tee::AzTdxVtpm, "evidence-v0"),
    ("az-tdx-vtpm", Tee::AzTdxVtpm, "evidence-v1"),
];

fn facts(vectors: &Path, folder: &str) -> Value {
    serde_json::from_slice(&std::fs::read(vectors.join(folder).join("facts.json")).unwrap()).unwrap()
}

fn evidence(vectors: &Path, folder: &str, tee: Tee, name: &str) -> AzureEvidence {
    let text = std::fs::read_to_string(vectors.join(folder).join(format!("{name}.json"))).unwrap();
    AzureEvidence::from_json(tee, &text).unwrap()
}

/// What the facts say of an HCL report.
fn hcl_facts(bytes: &[u8]) -> Value {
    let hcl = HclReport::parse(bytes).unwrap();
    let json = hcl.runtime_json();
    let report_type = match hcl.hardware() {
        Hardware::Snp(_) => 2,
        Hardware::Tdx(_) => 4,
    };
    assert_eq!(hcl.hash, HashAlgorithm::Sha256);
    assert!(hcl.binds_runtime_data());
    json!({
        "magic": "HCLA",
        "header_version": hcl.version,
        "report_size": 1216 + 20 + json.len(),
        "request_type": hcl.request_type,
        "status": hcl.status,
        "igvm_data_size": 20 + json.len(),
        "igvm_version": hcl.block_version,
        "report_type": report_type,
        "hash_type": 1,
        "variable_data_size": json.len(),
        "variable_data_sha256": hex::encode(HashAlgorithm::Sha256.digest(json.as_bytes())),
        "runtime_keys": hcl.runtime().key_names,
        "runtime_top_level": ["keys", "vm-configuration", "user-data"],
        "user_data": hex::encode_upper(hcl.runtime().user_data.as_ref().unwrap()),
        "vm_configuration": hcl.runtime().vm_configuration,
        "total_len": bytes.len(),
    })
}

#[test]
fn every_evidence_says_what_the_facts_say() {
    let Some(vectors) = cc_vectors::folder("") else { return };
    for (folder, tee, name) in EVIDENCES {
        let facts = &facts(&vectors, folder)[name];
        let evidence = evidence(&vectors, folder, tee, name);
        assert_eq!(json!(evidence.version.number()), facts["json_version"], "{folder}/{name}");
        assert_eq!(hcl_facts(&evidence.hcl_report), facts["hcl"], "{folder}/{name}");
        let hcl = HclReport::parse(&evidence.hcl_report).unwrap();
        assert_eq!((hcl.tee(), json!(hcl.runtime().ak.modulus.len() * 8)), (tee, facts["ak_bits"].clone()));
        for (number, name) in [(0, "pcr00"), (8, "pcr08"), (11, "pcr11")] {
            assert_eq!(json!(hex::encode(evidence.quote.pcrs[number])), facts[name], "{folder}");
        }
        match hcl.hardware() {
            Hardware::Snp(report) => {
                assert_eq!(json!(hex::encode(report.measurement)), facts["snp"]["measurement"]);
                assert_eq!(json!(hex::encode(report.report_data)), facts["snp"]["report_data"]);
                assert_eq!(json!(hex::encode(report.chip_id)), facts["snp"]["chip_id"]);
                assert_eq!(json!(report.guest_svn), facts["snp"]["guest_svn"]);
            }
            Hardware::Tdx(report) => {
                let expected = &facts["tdreport"];
                assert_eq!(json!(hex::encode(report.report_data)), expected["report_data"]);
                assert_eq!(json!(hex::encode(report.td_info.mr_td)), expected["tdinfo"]["mrtd"]);
                assert_eq!(json!(hex::encode(report.mac)), expected["mac"]);
                assert_eq!(json!(report.td_info_intact()), expected["tdinfo_hash_ok"]);
                assert_eq!(hcl.hardware_bytes().len(), 1024);
            }
        }
        // Nothing is lost on the way to the version that is written.
        let again = AzureEvidence::from_json(tee, &evidence.to_json().unwrap()).unwrap();
        assert_eq!(again, AzureEvidence { version: again.version, ..evidence });
    }
}

#[test]
fn version_2_is_written_as_it_was_recorded() {
    let Some(vectors) = cc_vectors::folder("") else { return };
    let text = std::fs::read_to_string(vectors.join("az-snp-vtpm/evidence-v2.json")).unwrap();
    let evidence = AzureEvidence::from_json(Tee::AzSnpVtpm, &text).unwrap();
    // The recording is indented; no text in it has spaces.
    let compact: String = text.split_ascii_whitespace().collect();
    assert!(evidence.to_json().unwrap() == compact);
}

#[test]
fn both_versions_of_a_machine_say_the_same() {
    let Some(vectors) = cc_vectors::folder("") else { return };
    let old = evidence(&vectors, "az-tdx-vtpm", Tee::AzTdxVtpm, "evidence-v0");
    let new = evidence(&vectors, "az-tdx-vtpm", Tee::AzTdxVtpm, "evidence-v1");
    assert_eq!(old, AzureEvidence { version: old.version, ..new.clone() });
    assert_eq!(std::fs::read(vectors.join("az-tdx-vtpm/td-quote.bin")).unwrap(), new.endorsement);
}

#[test]
fn loose_hcl_reports() {
    let Some(vectors) = cc_vectors::folder("") else { return };
    for (folder, tee) in FOLDERS {
        let bytes = std::fs::read(vectors.join(folder).join("hcl-report.bin")).unwrap();
        assert_eq!(hcl_facts(&bytes), facts(&vectors, folder)["hcl-report.bin"], "{folder}");
        let hcl = HclReport::parse(&bytes).unwrap();
        assert_eq!(hcl.tee(), tee);
        let used = 1216 + 20 + hcl.runtime_json().len();
        for length in (0..used).step_by(7) {
            assert!(HclReport::parse(&bytes[..length]).is_err(), "{folder}: {length} bytes");
        }
        // A flipped bit in the runtime data is found by its hash, if it leaves a document at all.
        for at in (0x4D4..used).step_by(5) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(
                !HclReport::parse(&changed).is_ok_and(|hcl| hcl.binds_runtime_data()),
                "{folder}: byte {at}"
            );
        }
    }
}

#[test]
fn loose_quotes_are_the_same_in_all_their_forms() {
    let Some(vectors) = cc_vectors::folder("") else { return };
    for (folder, tee) in FOLDERS {
        let read = |file: &str| std::fs::read(vectors.join(folder).join(file)).unwrap();
        let quote: Value = serde_json::from_slice(&read("tpm-quote-v1.json")).unwrap();
        let whole = json!({"version": 1, "tpm_quote": quote, "hcl_report": "", "vcek": ""}).to_string();
        let whole = if tee == Tee::AzTdxVtpm { whole.replace("vcek", "td_quote") } else { whole };
        let TpmQuote { signature, message, pcrs } = AzureEvidence::from_json(tee, &whole).unwrap().quote;
        // Lengths of eight bytes before the two texts and before the list.
        let expected = [
            &256u64.to_le_bytes()[..],
            &signature,
            &122u64.to_le_bytes(),
            &message,
            &24u64.to_le_bytes(),
            pcrs.as_flattened(),
        ]
        .concat();
        assert_eq!(read("quote-bincode.bin"), expected, "{folder}");
    }
}

#[test]
fn summaries_name_what_a_policy_decides_by() {
    let Some(vectors) = cc_vectors::folder("") else { return };
    for (folder, tee, name) in EVIDENCES {
        let facts = &facts(&vectors, folder)[name];
        let text = std::fs::read_to_string(vectors.join(folder).join(format!("{name}.json"))).unwrap();
        let lines = cc_evidence::summary::essentials(tee.as_str(), &text);
        let value = |name: &str| lines.iter().find(|(line, _)| line == name).map(|(_, value)| json!(value));
        let (measured, expected) = match tee {
            Tee::AzSnpVtpm => ("measurement", &facts["snp"]["measurement"]),
            _ => ("mrtd", &facts["td_quote"]["body"]["mr_td"]),
        };
        assert_eq!(value(measured).as_ref(), Some(expected), "{lines:?}");
        assert_eq!(value("pcr00").as_ref(), Some(&facts["pcr00"]));
        assert_eq!(value("pcr23"), None, "registers of zeros say nothing");
        assert_eq!(value("host data"), None);
    }
}
