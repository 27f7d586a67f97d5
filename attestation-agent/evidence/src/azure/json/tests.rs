//! The evidence JSON: versions, bounds, refusals.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn evidence(tee: Tee) -> AzureEvidence {
    AzureEvidence {
        version: EvidenceVersion::V2,
        tee,
        quote: TpmQuote { signature: vec![0xAB; 256], message: vec![1, 2], pcrs: [[9; 32]; PCR_COUNT] },
        hcl_report: vec![0xFF; 4],
        endorsement: vec![0xFE; 4],
    }
}

fn value(tee: Tee) -> Value {
    serde_json::from_str(&evidence(tee).to_json().unwrap()).unwrap()
}

/// A change to a document, and what its refusal says.
type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);

fn numbers(bytes: &[u8]) -> Value {
    json!(bytes)
}

#[test]
fn version_2_is_written_in_the_order_of_the_wire() {
    let text = evidence(Tee::AzSnpVtpm).to_json().unwrap();
    let pcrs = vec![format!("\"{}\"", "09".repeat(32)); 24].join(",");
    let expected = format!(
        r#"{{"version":2,"tpm_quote":{{"signature":"{}","message":"0102","pcrs":[{pcrs}]}},"hcl_report":"_____w==","vcek":"_v7-_g=="}}"#,
        "ab".repeat(256)
    );
    assert_eq!(text, expected);
    assert!(evidence(Tee::AzTdxVtpm).to_json().unwrap().ends_with(r#","td_quote":"_v7-_g=="}"#));
}

#[test]
fn three_versions_are_read() {
    for tee in [Tee::AzSnpVtpm, Tee::AzTdxVtpm] {
        assert_eq!(AzureEvidence::from_json(tee, &value(tee).to_string()), Ok(evidence(tee)));
        let mut first = value(tee);
        first["version"] = json!(1);
        let read = AzureEvidence::from_json(tee, &first.to_string()).unwrap();
        assert_eq!(read, AzureEvidence { version: EvidenceVersion::V1, ..evidence(tee) });
    }
    let quote = json!({"signature": numbers(&[0xAB; 256]), "message": [1, 2], "pcrs": vec![vec![9; 32]; 24]});
    let snp = json!({"quote": quote, "report": [255, 255, 255, 255], "vcek": "-----BEGIN"});
    let read = AzureEvidence::from_json(Tee::AzSnpVtpm, &snp.to_string()).unwrap();
    assert_eq!((read.version, read.endorsement.as_slice()), (EvidenceVersion::V0, &b"-----BEGIN"[..]));
    let tdx =
        json!({"tpm_quote": quote, "hcl_report": [255, 255, 255, 255], "td_quote": [254, 254, 254, 254]});
    let read = AzureEvidence::from_json(Tee::AzTdxVtpm, &tdx.to_string()).unwrap();
    assert_eq!(read, AzureEvidence { version: EvidenceVersion::V0, ..evidence(Tee::AzTdxVtpm) });
    // Read as version 0, it is written as version 2.
    assert_eq!(read.to_json(), evidence(Tee::AzTdxVtpm).to_json());
}

#[test]
fn other_shapes_are_refused() {
    let table: [Case<'_>; 15] = [
        (&|v| v["version"] = json!(3), "version 3 is neither"),
        (&|v| v["version"] = json!(0), "version 0 is neither"),
        (&|v| v["version"] = json!("2"), "invalid type"),
        (&|v| v["version"] = Value::Null, "members that version 0 of"),
        (&|v| v["extra"] = json!(1), "unknown field"),
        (&|v| v["tpm_quote"]["extra"] = json!(1), "unknown field"),
        (&|v| v["td_quote"] = json!("AAAA"), "members that version 2 of az-snp-vtpm has not"),
        (&|v| v["quote"] = v["tpm_quote"].clone(), "members that version 2"),
        (&|v| v["vcek"] = json!([1]), "must be a text"),
        (&|v| v["vcek"] = json!("_v7-_g"), "vcek or td_quote is broken"),
        (&|v| v["hcl_report"] = json!("/////w=="), "HCL report is broken"),
        (&|v| v["tpm_quote"]["message"] = json!("0"), "message is broken"),
        (&|v| v["tpm_quote"]["pcrs"][3] = json!("00"), "a register has 1 bytes"),
        (&|v| v["tpm_quote"]["pcrs"] = json!([]), "0 registers"),
        (&|v| v["hcl_report"] = Value::Null, "no HCL report"),
    ];
    for (change, expected) in table {
        let mut changed = value(Tee::AzSnpVtpm);
        change(&mut changed);
        let error = AzureEvidence::from_json(Tee::AzSnpVtpm, &changed.to_string()).unwrap_err();
        assert_eq!(error.code(), "EVIDENCE_JSON_INVALID", "{error}");
        assert!(error.to_string().contains(expected), "{error} lacks {expected:?}");
    }
    let text = value(Tee::AzSnpVtpm).to_string();
    assert!(AzureEvidence::from_json(Tee::AzTdxVtpm, &text).is_err(), "of the other hardware");
    assert!(AzureEvidence::from_json(Tee::Snp, &text).is_err(), "of no Azure machine");
    let twice = text.replacen('{', "{\"version\":2,", 1);
    assert!(AzureEvidence::from_json(Tee::AzSnpVtpm, &twice).unwrap_err().to_string().contains("duplicate"));
}

#[test]
fn sizes_are_bounded_both_ways() {
    let base = evidence(Tee::AzSnpVtpm);
    let quote = |change: &dyn Fn(&mut TpmQuote)| {
        let mut quote = base.quote.clone();
        change(&mut quote);
        AzureEvidence { quote, ..base.clone() }
    };
    for large in [
        quote(&|q| q.signature = vec![0; MAX_SIGNATURE_LEN + 1]),
        quote(&|q| q.message = vec![0; MAX_MESSAGE_LEN + 1]),
        AzureEvidence { hcl_report: vec![0; MAX_HCL_LEN + 1], ..base.clone() },
        AzureEvidence { endorsement: vec![0; MAX_ENDORSEMENT_LEN + 1], ..base.clone() },
    ] {
        assert_eq!(large.to_json().unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }
    let mut long = value(Tee::AzSnpVtpm);
    long["hcl_report"] = json!(BASE64_URL_SAFE.encode(vec![0; MAX_HCL_LEN + 1]));
    let error = AzureEvidence::from_json(Tee::AzSnpVtpm, &long.to_string()).unwrap_err();
    assert_eq!(error.code(), "EVIDENCE_TOO_LARGE");
    let largest = AzureEvidence { endorsement: vec![255; MAX_ENDORSEMENT_LEN], tee: Tee::AzTdxVtpm, ..base };
    assert_eq!(AzureEvidence::from_json(Tee::AzTdxVtpm, &largest.to_json().unwrap()), Ok(largest));
    assert!(AzureEvidence::from_json(Tee::AzSnpVtpm, &" ".repeat(MAX_JSON_LEN + 1)).is_err());
}

proptest! {
    #[test]
    fn random_text_never_panics(text in "\\PC{0,200}", azure: bool) {
        let _ = AzureEvidence::from_json(if azure { Tee::AzSnpVtpm } else { Tee::AzTdxVtpm }, &text);
    }

    #[test]
    fn round_trip(
        tdx: bool,
        signature in proptest::collection::vec(any::<u8>(), 0..300),
        hcl_report in proptest::collection::vec(any::<u8>(), 0..300),
        endorsement: Vec<u8>,
        register: [u8; 32],
    ) {
        let tee = if tdx { Tee::AzTdxVtpm } else { Tee::AzSnpVtpm };
        let quote = TpmQuote { signature, message: vec![3; 100], pcrs: [register; PCR_COUNT] };
        let evidence = AzureEvidence { quote, hcl_report, endorsement, ..evidence(tee) };
        prop_assert_eq!(AzureEvidence::from_json(tee, &evidence.to_json().unwrap()), Ok(evidence));
    }
}
