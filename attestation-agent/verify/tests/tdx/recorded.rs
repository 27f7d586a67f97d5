//! Recorded quotes of real machines, under Intel's root.

use cc_evidence::tdx::{Quote, TdxEvidence};
use cc_evidence::{ccel, sgx};
use cc_vectors::read;
use cc_verify::TrustRoots;
use cc_verify::tdx::{
    Collateral, Expectation, Numbering, event_claims, verify, verify_quote, verify_signature,
};
use serde_json::{Value, json};

/// 2025-11-10, when the recorded collateral was valid.
const IN_TIME: u64 = 1_762_732_800;

fn text(folder: &str, file: &str) -> String {
    String::from_utf8(read(folder, file).unwrap()).unwrap()
}

fn facts(folder: &str) -> Value {
    serde_json::from_slice(&read(folder, "facts.json").unwrap()).unwrap()
}

const QUOTES: [&str; 3] = ["tdx-quote-v4", "tdx-quote-v4-padded", "tdx-quote-v5-tdx15"];

#[test]
fn recorded_quotes_are_signed_under_intels_root() {
    for folder in QUOTES {
        let Some(bytes) = read(folder, "quote.bin") else { return };
        let facts = facts(folder);
        let quote = Quote::parse(&bytes).unwrap();
        let chain = verify_quote(&quote, &TrustRoots::vendor(), IN_TIME).unwrap();
        assert!(!chain.test_root());
        let pck = chain.pck();
        assert_eq!(facts["fmspc"], hex::encode(pck.fmspc), "{folder}");
        assert_eq!(facts["pceid"], hex::encode(pck.pce_id));
        assert_eq!(facts["ppid"], hex::encode(pck.ppid));
        assert_eq!(facts["pcesvn"], pck.pce_svn);
        assert_eq!(facts["sgx_tcb_comp_svns"], json!(pck.components));
        assert_eq!(facts["platform_instance_id"], hex::encode(pck.platform_instance_id.unwrap()));
        let names = chain.names();
        for (index, cert) in facts["pck_chain"].as_array().unwrap().iter().enumerate() {
            assert!(cert["subject"].as_str().unwrap().ends_with(&format!("CN={}", names[index])));
        }
        // One second before the certificate begins.
        let early = verify_quote(&quote, &TrustRoots::vendor(), 1_600_000_000).unwrap_err();
        assert_eq!(early.check(), "tdx.pck_validity");
    }
}

#[test]
fn the_recorded_sgx_quote_is_signed_under_intels_root() {
    let Some(bytes) = read("sgx-quote-v3", "quote.bin") else { return };
    let quote = sgx::Quote::parse(&bytes).unwrap();
    let verdict = |quote: &sgx::Quote| {
        verify_signature(&quote.signature, quote.signed(), &TrustRoots::vendor(), IN_TIME)
    };
    assert_eq!(hex::encode(verdict(&quote).unwrap().pck().fmspc), "00606a000000");
    for bit in (0..432 * 8).step_by(5) {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let refused = sgx::Quote::parse(&changed).map_or(true, |quote| verdict(&quote).is_err());
        assert!(refused, "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_that_is_signed_is_refused() {
    // One quote completely; the others, of the same structure, at every 13th bit.
    for (folder, step) in QUOTES.into_iter().zip([1, 13, 13]) {
        let Some(bytes) = read(folder, "quote.bin") else { return };
        let facts = facts(folder);
        let quote = Quote::parse(&bytes).unwrap();
        let signed = quote.signed().len();
        // Both signatures, both keys, QE report, auth data: all up to the PEM chain.
        let end = signed + 4 + 128 + 6 + 384 + 64 + 2 + 32 + 6;
        assert_eq!(facts["sig_data_len"], bytes.len() - quote.trailing - signed - 4);
        let roots = TrustRoots::vendor();
        for bit in (0..end * 8).step_by(step) {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let refused =
                Quote::parse(&changed).map_or(true, |quote| verify_quote(&quote, &roots, IN_TIME).is_err());
            assert!(refused, "{folder}: bit {bit}");
        }
    }
}

#[test]
fn every_flipped_byte_of_the_chain_is_refused_or_means_the_same() {
    let Some(bytes) = read("tdx-quote-v4", "quote.bin") else { return };
    let quote = Quote::parse(&bytes).unwrap();
    let roots = TrustRoots::vendor();
    let good = verify_quote(&quote, &roots, IN_TIME).unwrap();
    let chain = quote.signature.pck_chain.clone();
    for (index, byte) in chain.iter().enumerate() {
        let mut changed = quote.clone();
        changed.signature.pck_chain[index] ^= 1;
        // A line break may become another white space; no letter may change.
        if let Ok(report) = verify_quote(&changed, &roots, IN_TIME) {
            assert!(!byte.is_ascii_graphic(), "byte {index}");
            assert_eq!(report.pck(), good.pck());
        }
    }
}

fn padded() -> Option<(TdxEvidence, Collateral, Value)> {
    const FOLDER: &str = "tdx-quote-v4-padded";
    let quote = read(FOLDER, "quote.bin")?;
    let collateral = Collateral::parse(
        &text(FOLDER, "tcbInfo.json"),
        &text(FOLDER, "qeIdentity.json"),
        &text(FOLDER, "tcb-signing-chain.pem"),
    )
    .unwrap();
    Some((TdxEvidence { quote, cc_eventlog: None }, collateral, facts(FOLDER)))
}

#[test]
fn the_padded_quote_verifies_offline_as_out_of_date() {
    let Some((evidence, collateral, facts)) = padded() else { return };
    let report_data = hex::decode(&facts["body"]["report_data"].as_str().unwrap()[..96]).unwrap();
    let init_data = hex::decode(facts["body"]["mr_config_id"].as_str().unwrap()).unwrap();
    let x = Expectation { report_data: &report_data, init_data_digest: Some(&init_data), now: IN_TIME };
    let claims = verify(&evidence, &TrustRoots::vendor(), Some(&collateral), &x).unwrap();
    assert_eq!((claims.tcb_status, claims.tcb_status_current), ("OutOfDate", "OutOfDate"));
    assert_eq!(claims.collateral_expiration_status, Some("0"));
    assert_eq!(claims.tcb_date.as_deref(), Some("2018-01-04T00:00:00Z"));
    assert_eq!(claims.tcb_eval_num, Some(17));
    assert_eq!(claims.latest_issue_date.as_deref(), Some("2025-10-28T06:45:09Z"));
    assert_eq!(claims.earliest_expiration_date.as_deref(), Some("2025-11-26T13:07:17Z"));
    assert!(!claims.test_root);
    let at = |now| verify(&evidence, &TrustRoots::vendor(), Some(&collateral), &Expectation { now, ..x });
    // 2025-11-27: the TCB info has expired. 2025-10-27: the QE identity does not exist yet.
    assert_eq!(at(1_764_201_600).unwrap().collateral_expiration_status, Some("1"));
    assert_eq!(at(1_761_580_800).unwrap_err().check(), "tdx.collateral");
    let other = Expectation { report_data: &[1; 48], ..x };
    let rejection = verify(&evidence, &TrustRoots::vendor(), Some(&collateral), &other).unwrap_err();
    assert_eq!(rejection.check(), "tdx.report_data");
}

#[test]
fn recorded_collateral_rates_its_own_platform_only() {
    let Some((_, collateral, _)) = padded() else { return };
    let quote = read("tdx-quote-v4", "quote.bin").unwrap();
    let evidence = TdxEvidence { quote, cc_eventlog: None };
    let facts = facts("tdx-quote-v4");
    let report_data = hex::decode(facts["body"]["report_data"].as_str().unwrap()).unwrap();
    let x = Expectation { report_data: &report_data, init_data_digest: None, now: IN_TIME };
    let rejection = verify(&evidence, &TrustRoots::vendor(), Some(&collateral), &x).unwrap_err();
    assert_eq!(rejection.check(), "tdx.collateral");
    assert!(rejection.to_string().contains("50806f000000"), "{rejection}");
}

#[test]
fn every_changed_byte_of_recorded_collateral_is_refused() {
    const FOLDER: &str = "tdx-quote-v4-padded";
    let Some((evidence, _, facts)) = padded() else { return };
    let report_data = hex::decode(facts["body"]["report_data"].as_str().unwrap()).unwrap();
    let x = Expectation { report_data: &report_data, init_data_digest: None, now: IN_TIME };
    let (info, identity) = (text(FOLDER, "tcbInfo.json"), text(FOLDER, "qeIdentity.json"));
    let chain = text(FOLDER, "tcb-signing-chain.pem");
    let accepted = |info: &str, identity: &str| {
        Collateral::parse(info, identity, &chain)
            .and_then(|collateral| verify(&evidence, &TrustRoots::vendor(), Some(&collateral), &x))
            .is_ok()
    };
    let change = |text: &str, index: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[index] ^= 1;
        String::from_utf8(bytes).unwrap()
    };
    for index in (0..identity.trim_end().len()).step_by(3) {
        assert!(!accepted(&info, &change(&identity, index)), "QE identity, byte {index}");
    }
    for index in (0..info.trim_end().len()).step_by(11) {
        assert!(!accepted(&change(&info, index), &identity), "TCB info, byte {index}");
    }
}

/// Every member of `expected` is in `ours` with the same value.
fn assert_covers(expected: &Value, ours: &Value, path: &str) {
    match expected {
        Value::Object(members) => {
            for (name, value) in members {
                assert_covers(value, &ours[name], &format!("{path}/{name}"));
            }
        }
        other => assert_eq!(other, ours, "{path}"),
    }
}

#[test]
fn claims_are_those_of_trustee() {
    const FOLDER: &str = "tdx-quote-v4";
    let Some(quote) = read(FOLDER, "quote.bin") else { return };
    let mut expected: Value = serde_json::from_str(&text(FOLDER, "upstream-expected-claims.json")).unwrap();
    let report_data = hex::decode(expected["report_data"].as_str().unwrap()).unwrap();
    let x = Expectation { report_data: &report_data, init_data_digest: None, now: IN_TIME };
    let evidence = TdxEvidence { quote, cc_eventlog: None };
    let claims = verify(&evidence, &TrustRoots::vendor(), None, &x).unwrap();
    assert_eq!(claims.tcb_status, "Unverified");
    // That log is from another machine than the quote.
    let events = expected.as_object_mut().unwrap().remove("uefi_event_logs").unwrap();
    assert_covers(&expected, &serde_json::to_value(claims).unwrap(), "");
    let log = read("ccel-tdshim", "ccel-trimmed.bin").unwrap();
    assert_events(&events, &log, "claims");
    let with_log = TdxEvidence { cc_eventlog: Some(log), ..evidence };
    let rejection = verify(&with_log, &TrustRoots::vendor(), None, &x).unwrap_err();
    assert_eq!(rejection.check(), "tdx.eventlog");
}

/// Our records against Trustee's; details of the types that are told here.
fn assert_events(expected: &Value, log: &[u8], name: &str) {
    const DETAILED: [&str; 4] =
        ["EV_EVENT_TAG", "EV_IPL", "EV_EFI_ACTION", "EV_EFI_BOOT_SERVICES_APPLICATION"];
    let ours = serde_json::to_value(event_claims(log, Numbering::RunTime).unwrap()).unwrap();
    let (expected, ours) = (expected.as_array().unwrap(), ours.as_array().unwrap());
    assert_eq!(expected.len(), ours.len(), "{name}");
    for (index, (theirs, ours)) in expected.iter().zip(ours).enumerate() {
        for member in ["index", "type_name", "event", "digests", "digest_matches_event"] {
            assert_eq!(theirs[member], ours[member], "{name}: record {index}, {member}");
        }
        if DETAILED.contains(&theirs["type_name"].as_str().unwrap()) {
            assert_eq!(theirs["details"], ours["details"], "{name}: record {index}");
        }
    }
}

#[test]
fn recorded_logs_are_told_as_trustee_tells_them() {
    let logs = [
        ("ccel-aael-alibaba", "eventlog.bin"),
        ("ccel-gke", "ccel.bin"),
        ("ccel-grub", "ccel.bin"),
        ("ccel-ovmf", "ccel.bin"),
        ("ccel-tdshim", "ccel-trimmed.bin"),
    ];
    for (folder, file) in logs {
        let Some(log) = read(folder, file) else { return };
        let expected: Value = serde_json::from_str(&text(folder, "upstream-expected.json")).unwrap();
        assert_events(&expected["uefi_event_logs"], &log, folder);
        let cut = ccel::assemble(Some(&log), None).unwrap().unwrap();
        assert_events(&expected["uefi_event_logs"], &cut, folder);
    }
}
