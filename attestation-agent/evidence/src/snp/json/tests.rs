//! The evidence JSON: shape, bounds, rebuilt bytes.

use base64::prelude::BASE64_URL_SAFE;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::REPORT_LEN;
use super::*;

/// A report of the given version and family with recognizable content and zero reserved bytes.
fn report(version: u32, family: u8) -> Report {
    let mut raw: Vec<u8> = (0u8..251).cycle().take(REPORT_LEN).collect();
    raw[..4].copy_from_slice(&version.to_le_bytes());
    raw[0x188] = family;
    Report::parse(&Report::parse(&raw).unwrap().fields().encode()).unwrap()
}

fn evidence(version: u32, family: u8) -> SnpEvidence {
    let certs = vec![
        CertEntry { kind: CertKind::Vcek, data: vec![0x30, 0x82] },
        CertEntry { kind: CertKind::from_guid([7; 16]), data: vec![] },
    ];
    SnpEvidence { report: report(version, family), certs }
}

fn value(version: u32, family: u8) -> Value {
    serde_json::from_str(&evidence(version, family).to_json().unwrap()).unwrap()
}

fn refusal(value: &Value) -> String {
    let error = SnpEvidence::from_json(&value.to_string()).unwrap_err();
    assert_eq!(error.code(), "EVIDENCE_JSON_INVALID", "{error}");
    error.to_string()
}

#[test]
fn round_trip_for_every_layout() {
    for (version, family) in [(2, 0), (3, 0x19), (3, 0x1A), (4, 0x19), (5, 0x19), (5, 0x1A), (6, 0x1A)] {
        let evidence = evidence(version, family);
        let text = evidence.to_json().unwrap();
        let again = SnpEvidence::from_json(&text).unwrap();
        assert_eq!(again, evidence, "version {version} family {family:#x}");
        assert_eq!(again.report.raw(), evidence.report.raw());
        assert_eq!(again.to_json().unwrap(), text);
    }
}

#[test]
fn null_rules() {
    let v3 = value(3, 0x19);
    assert_eq!(v3["attestation_report"]["reported_tcb"]["fmc"], Value::Null);
    assert_eq!(v3["attestation_report"].get("launch_mit_vector"), None);
    assert!(value(5, 0x1A)["attestation_report"]["launch_mit_vector"].is_u64());
    assert!(value(5, 0x1A)["attestation_report"]["reported_tcb"]["fmc"].is_u64());
    assert_eq!(value(2, 0)["attestation_report"]["cpuid_fam_id"], Value::Null);
    let bare = SnpEvidence { report: report(3, 0x19), certs: vec![] }.to_json().unwrap();
    assert!(bare.ends_with(r#","cert_chain":null}"#), "{bare}");

    let mut explicit = v3;
    explicit["attestation_report"]["launch_mit_vector"] = Value::Null;
    explicit["attestation_report"]["current_mit_vector"] = Value::Null;
    explicit["cert_chain"] = json!([]);
    let parsed = SnpEvidence::from_json(&explicit.to_string()).unwrap();
    assert_eq!(parsed, SnpEvidence { report: report(3, 0x19), certs: vec![] });
    explicit.as_object_mut().unwrap().remove("cert_chain");
    assert_eq!(SnpEvidence::from_json(&explicit.to_string()), Ok(parsed));
}

#[test]
fn certificate_types() {
    let types = [
        (json!("ARK"), Some(CertKind::Ark)),
        (json!("ASK"), Some(CertKind::Ask)),
        (json!("VCEK"), Some(CertKind::Vcek)),
        (json!("VLEK"), Some(CertKind::Vlek)),
        (json!("CRL"), Some(CertKind::Crl)),
        (json!("Empty"), None),
        (json!({ "OTHER": "07070707-0707-0707-0707-070707070707" }), Some(CertKind::Other([7; 16]))),
    ];
    for (cert_type, kind) in types {
        let mut wire = value(3, 0x19);
        wire["cert_chain"] = json!([{ "cert_type": cert_type, "data": [1] }]);
        let parsed = SnpEvidence::from_json(&wire.to_string()).unwrap();
        assert_eq!(parsed.certs.first().map(|cert| cert.kind), kind);
        if kind.is_some() {
            let written: Value = serde_json::from_str(&parsed.to_json().unwrap()).unwrap();
            assert_eq!(written["cert_chain"][0]["cert_type"], cert_type);
        }
    }
    for bad in [json!("vcek"), json!({ "OTHER": "nonsense" }), json!(1), Value::Null] {
        let mut wire = value(3, 0x19);
        wire["cert_chain"] = json!([{ "cert_type": bad, "data": [1] }]);
        refusal(&wire);
    }
}

#[test]
fn bytes_form() {
    let original = report(3, 0x19);
    let unpadded = BASE64_URL_SAFE_NO_PAD.encode(original.raw());
    let padded = BASE64_URL_SAFE.encode(original.raw());
    for text in [unpadded, padded] {
        let parsed = SnpEvidence::from_json(&json!({ "report": text }).to_string()).unwrap();
        assert_eq!(parsed, SnpEvidence { report: original.clone(), certs: vec![] });
    }
    refusal(&json!({ "report": "*" }));
    let short = json!({ "report": BASE64_URL_SAFE_NO_PAD.encode(&original.raw()[1..]) }).to_string();
    assert_eq!(SnpEvidence::from_json(&short).unwrap_err().code(), "EVIDENCE_TRUNCATED");
    let mut both = value(3, 0x19);
    both["report"] = json!("");
    assert!(refusal(&both).contains("two reports"));
    assert!(refusal(&json!({})).contains("missing"));
}

#[test]
fn arrays_have_exact_lengths() {
    for member in ["family_id", "report_data", "measurement", "host_data", "chip_id", "report_id_ma"] {
        for delta in [-1isize, 1] {
            let mut wire = value(3, 0x19);
            let array = wire["attestation_report"][member].as_array_mut().unwrap();
            array.resize(array.len().saturating_add_signed(delta), json!(0));
            assert!(refusal(&wire).contains("exactly"), "{member} {delta}");
        }
    }
    let mut wire = value(3, 0x19);
    wire["attestation_report"]["measurement"][5] = json!(256);
    refusal(&wire);
}

#[test]
fn values_without_a_place_in_the_report_are_refused() {
    type Change = fn(&mut Value);
    let changes: [(u32, u8, Change); 7] = [
        (3, 0x19, |r| r["reported_tcb"]["fmc"] = json!(1)),
        (3, 0x1A, |r| r["reported_tcb"]["fmc"] = Value::Null),
        (3, 0x19, |r| r["cpuid_step"] = Value::Null),
        (2, 0x00, |r| {
            (r["cpuid_fam_id"], r["cpuid_mod_id"], r["cpuid_step"]) = (json!(25), json!(1), json!(1));
        }),
        (3, 0x19, |r| r["launch_mit_vector"] = json!(1)),
        (5, 0x19, |r| r["current_mit_vector"] = Value::Null),
        (3, 0x19, |r| {
            (r["cpuid_fam_id"], r["cpuid_mod_id"], r["cpuid_step"]) = (Value::Null, Value::Null, Value::Null);
        }),
    ];
    for (index, (version, family, change)) in changes.into_iter().enumerate() {
        let mut wire = value(version, family);
        change(&mut wire["attestation_report"]);
        let why = refusal(&wire);
        assert!(why.contains("CPUID") || why.contains("fmc"), "change {index}: {why}");
    }
}

#[test]
fn repeated_members_are_refused() {
    let text = evidence(3, 0x19).to_json().unwrap();
    let twice = text.replacen("\"vmpl\":", "\"vmpl\":0,\"vmpl\":", 1);
    assert_ne!(text, twice);
    assert!(SnpEvidence::from_json(&twice).unwrap_err().to_string().contains("duplicate"));
}

#[test]
fn reserved_bytes_cannot_travel_silently() {
    for offset in [0x4C, 0x18B, 0x1EB, 0x208, 0x330, 0x182] {
        let mut raw = *report(3, 0x19).raw();
        raw[offset] = 1;
        let evidence = SnpEvidence { report: Report::parse(&raw).unwrap(), certs: vec![] };
        let error = evidence.to_json().unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_FIELD_INVALID");
        assert!(error.to_string().contains(&format!("{offset:#x}")), "{error}");
    }
}

#[test]
fn size_and_count_are_limited() {
    let long = " ".repeat(MAX_JSON_LEN + 1);
    assert_eq!(SnpEvidence::from_json(&long).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    let mut wire = value(3, 0x19);
    wire["cert_chain"] = json!(vec![json!({ "cert_type": "Empty", "data": [] }); MAX_ENTRIES + 1]);
    assert_eq!(SnpEvidence::from_json(&wire.to_string()).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
}

proptest! {
    #[test]
    fn random_text_never_panics(text: String) {
        let _ = SnpEvidence::from_json(&text);
    }

    #[test]
    fn cut_text_is_an_error(cut in 0usize..4000) {
        let text = evidence(3, 0x19).to_json().unwrap();
        prop_assume!(cut < text.len());
        prop_assert!(SnpEvidence::from_json(&text[..cut]).is_err());
    }
}
