//! Agreement with recorded quotes, reports and event logs of Intel's TEEs.
//!
//! The vectors live outside the repository. Without them each test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use cc_evidence::ccel::{self, Events, replay, type_name};
use cc_evidence::dcap::{EnclaveReport, Header, SignatureData, qe_report_data};
use cc_evidence::tdx::{Quote, TdReport, TdxEvidence, assemble};
use cc_evidence::{HashAlgorithm, sgx, summary};
use cc_vectors::read;
use serde_json::{Value, json};

fn facts(folder: &str) -> Value {
    serde_json::from_slice(&read(folder, "facts.json").unwrap()).unwrap()
}

fn enclave_facts(enclave: &EnclaveReport) -> Value {
    json!({
        "cpu_svn": hex::encode(enclave.cpu_svn), "attributes": hex::encode(enclave.attributes),
        "mr_enclave": hex::encode(enclave.mr_enclave), "mr_signer": hex::encode(enclave.mr_signer),
        "config_id": hex::encode(enclave.config_id), "isv_prod_id": enclave.isv_prod_id,
        "isv_svn": enclave.isv_svn, "report_data": hex::encode(enclave.report_data),
    })
}

fn header_facts(header: &Header, signature: &SignatureData, trailing: usize) -> Value {
    json!({
        "version": header.version, "att_key_type": header.key_type,
        "tee_type": format!("{:#x}", header.tee_type), "qe_vendor_id": hex::encode(header.vendor_id),
        "user_data": hex::encode(header.user_data), "trailing_bytes": trailing,
        "qe_auth_len": signature.qe_auth_data.len(), "qe_report": enclave_facts(&signature.qe_report),
        "qe_report_binds_ak":
            qe_report_data(&signature.attestation_key, &signature.qe_auth_data) == signature.qe_report.report_data,
    })
}

fn tdx_facts(quote: &Quote) -> Value {
    let body = &quote.body;
    let mut facts = header_facts(&quote.header, &quote.signature, quote.trailing);
    let [rtmr0, rtmr1, rtmr2, rtmr3] = body.rtmr.map(hex::encode);
    facts["body"] = json!({
        "tee_tcb_svn": hex::encode(body.tee_tcb_svn), "mr_seam": hex::encode(body.mr_seam),
        "mrsigner_seam": hex::encode(body.mrsigner_seam),
        "seam_attributes": hex::encode(body.seam_attributes.to_le_bytes()),
        "td_attributes": hex::encode(body.td_attributes.0.to_le_bytes()),
        "xfam": hex::encode(body.xfam.to_le_bytes()), "mr_td": hex::encode(body.mr_td),
        "mr_config_id": hex::encode(body.mr_config_id), "mr_owner": hex::encode(body.mr_owner),
        "mr_owner_config": hex::encode(body.mr_owner_config),
        "rtmr0": rtmr0, "rtmr1": rtmr1, "rtmr2": rtmr2, "rtmr3": rtmr3,
        "report_data": hex::encode(body.report_data),
    });
    if let Some(added) = body.tdx15 {
        facts["body"]["tee_tcb_svn2"] = json!(hex::encode(added.tee_tcb_svn2));
        facts["body"]["mr_servicetd"] = json!(hex::encode(added.mr_servicetd));
    }
    facts
}

/// Every member that we tell is told in the same way, and nothing of the body is left out.
fn assert_agrees(ours: &Value, facts: &Value, name: &str) {
    for (member, value) in ours.as_object().unwrap() {
        assert_eq!(value, &facts[member], "{name}: {member}");
    }
}

const QUOTES: [(&str, bool); 3] =
    [("tdx-quote-v4", true), ("tdx-quote-v4-padded", false), ("tdx-quote-v5-tdx15", false)];

#[test]
fn recorded_quotes_agree_with_their_facts() {
    for (folder, debug) in QUOTES {
        let Some(bytes) = read(folder, "quote.bin") else { return };
        let facts = facts(folder);
        let quote = Quote::parse(&bytes).unwrap();
        assert_agrees(&tdx_facts(&quote), &facts, folder);
        assert_eq!(quote.body.td_attributes.debug(), debug, "{folder}");
        let used = bytes.len() - quote.trailing;
        assert_eq!(facts["sig_data_len"], used - quote.signed().len() - 4, "{folder}");
        assert_eq!(assemble(quote.signed(), &quote.signature).unwrap(), bytes[..used], "{folder}");
        let lines =
            summary::summarize("tdx", &TdxEvidence { quote: bytes, cc_eventlog: None }.to_json().unwrap());
        assert!(lines.contains(&("mrtd".to_owned(), hex::encode(quote.body.mr_td))), "{lines:?}");
        assert_eq!(lines.iter().any(|(name, _)| name == "warning"), debug);
    }
}

#[test]
fn the_recorded_enclave_quote_agrees_with_its_facts() {
    const FOLDER: &str = "sgx-quote-v3";
    let Some(bytes) = read(FOLDER, "quote.bin") else { return };
    let quote = sgx::Quote::parse(&bytes).unwrap();
    let mut ours = header_facts(&quote.header, &quote.signature, quote.trailing);
    ours["body"] = enclave_facts(&quote.body);
    assert_agrees(&ours, &facts(FOLDER), FOLDER);
    assert_eq!(quote.signed(), &bytes[..432]);
    for len in 0..bytes.len() {
        assert!(sgx::Quote::parse(&bytes[..len]).is_err(), "{len} bytes");
    }
    assert!(Quote::parse(&bytes).is_err(), "an enclave is no trust domain");
}

#[test]
fn every_cut_of_recorded_quotes_is_refused() {
    for (folder, _) in QUOTES {
        let Some(bytes) = read(folder, "quote.bin") else { return };
        let used = bytes.len() - Quote::parse(&bytes).unwrap().trailing;
        for len in 0..used {
            assert!(Quote::parse(&bytes[..len]).is_err(), "{folder}: {len} bytes");
        }
        for len in used..=bytes.len() {
            assert_eq!(Quote::parse(&bytes[..len]).unwrap().trailing, len - used, "{folder}: {len} bytes");
        }
        assert!(sgx::Quote::parse(&bytes).is_err(), "a trust domain is no enclave");
    }
}

#[test]
fn every_flipped_bit_of_recorded_quotes_shows() {
    for (folder, _) in QUOTES {
        let Some(bytes) = read(folder, "quote.bin") else { return };
        let original = Quote::parse(&bytes).unwrap();
        for bit in 0..(bytes.len() - original.trailing) * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Quote::parse(&changed).map_or(true, |quote| quote != original), "{folder}: bit {bit}");
        }
    }
}

#[test]
fn the_recorded_report_agrees_with_its_facts() {
    const FOLDER: &str = "tdx-tdreport";
    let Some(bytes) = read(FOLDER, "tdreport.bin") else { return };
    let report = TdReport::parse(&bytes).unwrap();
    let (module, domain) = (&report.tcb_info, &report.td_info);
    let ours = json!({
        "type": bytes[0], "subtype": report.subtype, "version": report.version,
        "cpusvn": hex::encode(report.cpu_svn), "tee_tcb_info_hash": hex::encode(report.tee_tcb_info_hash),
        "tee_info_hash": hex::encode(report.tee_info_hash), "report_data": hex::encode(report.report_data),
        "mac": hex::encode(report.mac), "tee_tcb_info_valid": hex::encode(module.valid.to_le_bytes()),
        "tee_tcb_svn": hex::encode(module.tee_tcb_svn), "mrseam": hex::encode(module.mr_seam),
        "tdinfo": {
            "attributes": hex::encode(domain.attributes.0.to_le_bytes()),
            "xfam": hex::encode(domain.xfam.to_le_bytes()), "mrtd": hex::encode(domain.mr_td),
            "mrconfigid": hex::encode(domain.mr_config_id), "mrowner": hex::encode(domain.mr_owner),
            "mrownerconfig": hex::encode(domain.mr_owner_config), "rtmr": domain.rtmr.map(hex::encode),
        },
        "tdinfo_hash_ok": report.td_info_intact(), "tcbinfo_hash_ok": report.tcb_info_intact(),
    });
    assert_eq!(ours, facts(FOLDER));
}

#[test]
fn recorded_logs_replay_to_their_facts() {
    let logs = [
        ("ccel-aael-alibaba", "eventlog.bin", HashAlgorithm::Sha384),
        ("ccel-csv-sm3", "ccel.bin", HashAlgorithm::Sm3),
        ("ccel-gcp", "ccel.bin", HashAlgorithm::Sha384),
        ("ccel-gke", "ccel.bin", HashAlgorithm::Sha384),
        ("ccel-grub", "ccel.bin", HashAlgorithm::Sha384),
        ("ccel-ovmf", "ccel.bin", HashAlgorithm::Sha384),
        ("ccel-tdshim", "ccel-trimmed.bin", HashAlgorithm::Sha384),
    ];
    for (folder, file, algorithm) in logs {
        let Some(log) = read(folder, file) else { return };
        let facts = facts(folder);
        let mut types: BTreeMap<&str, u32> = BTreeMap::new();
        let mut events = Events::new(&log).unwrap();
        for event in events.by_ref() {
            *types.entry(type_name(event.unwrap().event_type).unwrap()).or_default() += 1;
        }
        assert_eq!(json!(types), facts["types"], "{folder}");
        assert_eq!(json!(types.values().sum::<u32>()), facts["events"], "{folder}");
        assert_eq!(json!(events.offset()), facts["end_offset"], "{folder}");
        let expected = facts["replay"].as_object().unwrap();
        let registers = replay(&log, algorithm).unwrap();
        for (index, value) in (1..).zip(registers.run_time()) {
            match expected.get(&format!("{algorithm}:{index}")) {
                Some(register) => assert_eq!(register, &json!(hex::encode(value)), "{folder}: {index}"),
                None => assert!(value.iter().all(|byte| *byte == 0), "{folder}: {index}"),
            }
        }
        let cut = ccel::assemble(Some(&log), None).unwrap().unwrap();
        assert_eq!(cut.len(), events.offset() + 8, "{folder}");
        assert_eq!(replay(&cut, algorithm).unwrap(), registers, "{folder}");
    }
}

#[test]
fn a_recorded_log_is_put_together_from_its_parts() {
    const FOLDER: &str = "ccel-aael-alibaba";
    let Some(log) = read(FOLDER, "eventlog.bin") else { return };
    let facts = facts(FOLDER);
    let mut events = Events::new(&log).unwrap();
    let agent: usize = facts["aael"].as_array().unwrap().len();
    let firmware = usize::try_from(facts["events"].as_u64().unwrap()).unwrap() - agent;
    let _ = events.by_ref().take(firmware).count();
    let (ccel, aael) = log.split_at(events.offset());
    let padded = [ccel, &[0; 64]].concat();
    let aael = &aael[..aael.len() - 8];
    assert_eq!(ccel::assemble(Some(&padded), Some(aael)).unwrap().unwrap(), log);
    for (event, expected) in events.zip(facts["aael"].as_array().unwrap()) {
        let event = event.unwrap();
        assert_eq!((json!(event.register), event.event_type), (expected[0].clone(), ccel::EV_EVENT_TAG));
        assert_eq!(&event.data[8..], expected[1].as_str().unwrap().as_bytes());
    }
}
