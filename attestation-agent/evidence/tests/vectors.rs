//! Agreement with recorded evidence and with vectors made for this project.
//!
//! The vectors live outside the repository. Without them each test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use cc_evidence::cbor;
use cc_evidence::csv::CsvEvidence;
use cc_evidence::initdata::{Field, InitData, carrier};
use cc_evidence::snp::{CertKind, REPORT_LEN, Report, SnpEvidence, Tcb};
use cc_evidence::{HashAlgorithm, binding, summary};
use cc_vectors::read;
use serde_json::{Value, json};

fn read_json(folder: &str, file: &str) -> Option<Value> {
    Some(serde_json::from_slice(&read(folder, file)?).expect(file))
}

fn read_text(folder: &str, file: &str) -> Option<String> {
    Some(String::from_utf8(read(folder, file)?).expect(file))
}

/// What our parser says, in the shape of the recorded facts.
fn facts_of(report: &Report) -> Value {
    let tcb = |t: &Tcb| {
        json!({ "raw": hex::encode(t.raw), "bootloader": t.bootloader, "tee": t.tee, "snp": t.snp,
                "microcode": t.microcode })
    };
    json!({
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": format!("{:#x}", report.policy.0),
        "policy_abi": format!("{}.{}", report.policy.abi_major(), report.policy.abi_minor()),
        "policy_smt": report.policy.smt_allowed(),
        "policy_migrate_ma": report.policy.migration_agent_allowed(),
        "policy_debug": report.policy.debug_allowed(),
        "policy_single_socket": report.policy.single_socket(),
        "family_id": hex::encode(report.family_id),
        "image_id": hex::encode(report.image_id),
        "vmpl": report.vmpl,
        "sig_algo": report.sig_algo,
        "current_tcb": tcb(&report.current_tcb),
        "platform_info": format!("{:#x}", report.platform_info.0),
        "key_info": format!("{:#x}", report.key_info.0),
        "author_key_en": u8::from(report.key_info.author_key_enabled()),
        "mask_chip_key": u8::from(report.mask_chip_key()),
        "signing_key": report.signing_key().to_string(),
        "report_data": hex::encode(report.report_data),
        "measurement": hex::encode(report.measurement),
        "host_data": hex::encode(report.host_data),
        "id_key_digest": hex::encode(report.id_key_digest),
        "author_key_digest": hex::encode(report.author_key_digest),
        "report_id": hex::encode(report.report_id),
        "report_id_ma": hex::encode(report.report_id_ma),
        "reported_tcb": tcb(&report.reported_tcb),
        "cpuid": report.cpuid.map(|cpu| cpu.to_string()),
        "chip_id": hex::encode(report.chip_id),
        "committed_tcb": tcb(&report.committed_tcb),
        "current_version": report.current_firmware.to_string(),
        "committed_version": report.committed_firmware.to_string(),
        "launch_tcb": tcb(&report.launch_tcb),
        "launch_mit_vector": report.launch_mit_vector,
        "current_mit_vector": report.current_mit_vector,
    })
}

/// Every recorded report: its facts and its bytes.
fn recorded_reports() -> Vec<(String, Value, Vec<u8>)> {
    let mut found = Vec::new();
    for (folder, file) in [
        ("snp-milan-v2-vcek", "report.bin"),
        ("snp-milan-v3-vlek", "report.bin"),
        ("snp-genoa-v3-json", "report-reconstructed.bin"),
    ] {
        if let (Some(facts), Some(raw)) = (read_json(folder, "facts.json"), read(folder, file)) {
            found.push((folder.to_owned(), facts["report"].clone(), raw));
        }
    }
    if let Some(facts) = read_json("az-snp-vtpm", "facts.json") {
        for (name, facts) in facts.as_object().unwrap() {
            let Some(snp) = facts.get("snp") else { continue };
            if let Some(hcl) = azure_hcl_report(name) {
                // The hardware report stands at 0x20 of the HCL report.
                found.push((format!("az {name}"), snp.clone(), hcl[0x20..0x20 + REPORT_LEN].to_vec()));
            }
        }
    }
    found
}

fn azure_hcl_report(name: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    let folder = cc_vectors::folder("az-snp-vtpm")?;
    let Ok(text) = std::fs::read(folder.join(format!("{name}.json"))) else {
        return std::fs::read(folder.join(format!("{name}.bin"))).ok();
    };
    let evidence: Value = serde_json::from_slice(&text).unwrap();
    match (&evidence["hcl_report"], &evidence["report"]) {
        (Value::String(b64), _) => Some(base64::prelude::BASE64_URL_SAFE.decode(b64).unwrap()),
        (_, Value::Array(bytes)) => {
            Some(bytes.iter().map(|b| u8::try_from(b.as_u64().unwrap()).unwrap()).collect())
        }
        _ => panic!("{name} has no HCL report"),
    }
}

#[test]
fn recorded_reports_agree_with_their_facts() {
    let reports = recorded_reports();
    if cc_vectors::folder("az-snp-vtpm").is_some() {
        assert!(reports.len() >= 7, "only {} reports", reports.len());
    }
    for (name, expected, raw) in reports {
        let report = Report::parse(&raw).unwrap();
        let actual = facts_of(&report);
        for (member, value) in expected.as_object().unwrap() {
            assert_eq!(&actual[member], value, "{name}: {member}");
        }
        assert_eq!(report.fields().encode().as_slice(), raw, "{name}: rebuilt bytes");
    }
}

#[test]
fn every_cut_and_flipped_bit_of_recorded_reports_shows() {
    for (name, _, raw) in recorded_reports() {
        let original = Report::parse(&raw).unwrap();
        for len in 0..raw.len() {
            assert!(Report::parse(&raw[..len]).is_err(), "{name}: {len} bytes");
        }
        for bit in 0..raw.len() * 8 {
            let mut changed = raw.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Report::parse(&changed).is_err() || Report::parse(&changed).unwrap() != original);
        }
    }
}

#[test]
fn upstream_evidence_json_round_trips() {
    const FOLDER: &str = "snp-genoa-v3-json";
    let Some(text) = read_text(FOLDER, "evidence.json") else { return };
    let evidence = SnpEvidence::from_json(&text).unwrap();
    assert_eq!(evidence.report.raw().as_slice(), read(FOLDER, "report-reconstructed.bin").unwrap());
    assert_eq!(evidence.certs.len(), 1);
    assert_eq!(evidence.certs[0].kind, CertKind::Vcek);
    assert_eq!(evidence.certs[0].data, read(FOLDER, "vcek.der").unwrap());
    assert_eq!(evidence.to_json().unwrap(), text.trim_end(), "byte for byte");
    let lines = summary::summarize("snp", &text);
    let measurement = hex::encode(evidence.report.measurement);
    assert!(lines.contains(&("measurement".to_owned(), measurement)), "{lines:?}");
    assert!(!lines.iter().any(|(name, _)| name == "warning"), "{lines:?}");
}

#[test]
fn recorded_reports_survive_json() {
    for (name, _, raw) in recorded_reports() {
        let evidence = SnpEvidence { report: Report::parse(&raw).unwrap(), certs: vec![] };
        assert_eq!(SnpEvidence::from_json(&evidence.to_json().unwrap()).unwrap(), evidence, "{name}");
    }
}

#[test]
fn init_data_digests_and_fields() {
    const FOLDER: &str = "initdata-generated";
    let Some(facts) = read_json(FOLDER, "facts.json") else { return };
    for (file, facts) in facts.as_object().unwrap() {
        let body = read_text(FOLDER, file).unwrap();
        let document = InitData::parse(&body).unwrap();
        assert_eq!(facts["bytes"], json!(body.len()), "{file}");
        assert_eq!(document.data()["note.txt"], "made for tests\u{e9}");
        let digest = document.digest();
        assert_eq!(facts["digest"], json!(hex::encode(&digest)), "{file}");
        for field in Field::ALL {
            // A row is missing where the field takes no digest of this length.
            let expected = field.expected(&digest).ok().map(hex::encode);
            assert_eq!(facts.get(field.key()), expected.map(Value::from).as_ref(), "{file} {field:?}");
        }
        let image = carrier::to_device(&body).unwrap();
        assert_eq!(carrier::from_device(&image).unwrap().as_deref(), Some(body.as_str()), "{file}");
    }
}

#[test]
fn binding_digests_of_generated_keys() {
    for file in ["ecdh-es-a256kw-p-256.json", "ecdh-es-a256kw-p-521.json", "rsa-oaep-256.json"] {
        let Some(vector) = read_json("jwe-generated", file) else { return };
        let (key, facts) = (&vector["tee_pubkey"], &vector["runtime_data"]);
        let nonce = facts["nonce"].as_str().unwrap();
        for (hash, expected) in facts["primary_digest"].as_object().unwrap() {
            let hash: HashAlgorithm = hash.parse().unwrap();
            let digest = binding::primary_report_data(nonce, key, "", hash).unwrap();
            assert_eq!(expected, &json!(hex::encode(digest)), "{file} {hash}");
        }
        for (hash, expected) in facts["device_digest"].as_object().unwrap() {
            let hash: HashAlgorithm = hash.parse().unwrap();
            let digest = binding::device_report_data(nonce, key, hash).unwrap();
            assert_eq!(expected, &json!(hex::encode(digest)), "{file} {hash}");
        }
    }
}

#[test]
fn recorded_csv_evidence_is_read() {
    let Some(text) = read_text("csv-report", "evidence.json") else { return };
    let evidence = CsvEvidence::from_json(&text).unwrap();
    let report = &evidence.report;
    assert_eq!(report.serial(), Some("KPA64911240507"));
    assert_eq!(report.serial_number, evidence.serial_number.as_slice());
    // The platform's key signed, with SM2: the hidden fields are read in the right place.
    assert_eq!((report.signer_usage, report.signature_algorithm, report.policy), (0x1002, 4, 0x45));
    assert_eq!(
        hex::encode(report.measurement),
        "ae2a2cf1f41a485fa37bf9ae92f678783c59fbc79de7b5d237743d58f5538034"
    );
    assert_eq!(report.report_data, [0; 64]);
    // Its log is what an agent sends without a firmware's: the record that announces it, and the end.
    let log = evidence.cc_eventlog.unwrap();
    assert_eq!((log.len(), &log[69..]), (77, &[0xFF; 8][..]));
    assert!(cc_evidence::ccel::replay(&log, HashAlgorithm::Sm3).is_ok());
    // The root's certificate, a format of Hygon's own that nothing here reads further: version 1, certified by itself.
    let root = read("csv-report", "hrk.cert").unwrap();
    assert_eq!((root.len(), &root[..4], &root[4..20]), (832, &[1, 0, 0, 0][..], &root[20..36]));
}

/// Reference integrity manifests are not read by anything here; their outer form is.
#[test]
fn recorded_manifests_have_their_outer_form() {
    let Some(corim) = read("rvps-provenance", "unsigned-example-corim.cbor") else { return };
    // Tag 501 is an unsigned CoRIM, a map.
    assert!(
        matches!(cbor::Value::parse(&corim), Ok(cbor::Value::Tag(501, map)) if matches!(*map, cbor::Value::Map(_)))
    );
    for length in 0..corim.len() {
        assert!(cbor::Value::parse(&corim[..length]).is_err(), "{length}");
    }
}
