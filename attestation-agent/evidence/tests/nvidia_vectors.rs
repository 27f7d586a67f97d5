//! Agreement with recorded reports of H100 GPUs.
//!
//! The vectors live outside the repository. Without them each test says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use cc_evidence::nvidia::{Architecture, Device, NvidiaEvidence, Report};
use cc_evidence::summary;
use serde_json::{Value, json};

fn read(file: &str) -> Option<Vec<u8>> {
    cc_vectors::read("nvidia-hopper", file)
}

const REPORTS: [&str; 2] = ["report1", "report2"];

fn report(name: &str) -> Option<Vec<u8>> {
    let text = String::from_utf8(read(&format!("{name}.hex"))?).unwrap();
    Some(hex::decode(text.trim()).unwrap())
}

fn facts() -> Value {
    serde_json::from_slice(&read("facts.json").unwrap()).unwrap()
}

#[test]
fn every_field_of_the_recorded_reports_is_read() {
    for name in REPORTS {
        let Some(bytes) = report(name) else { return };
        let (facts, report) = (&facts()[name], Report::parse(&bytes).unwrap());
        assert_eq!(facts["nonce"], hex::encode(report.nonce), "{name}");
        assert_eq!(facts["slot"], report.slot);
        assert_eq!(facts["resp_param1"], format!("{:#x}", report.param1));
        assert_eq!(facts["resp_param2"], format!("{:#x}", report.param2));
        assert_eq!(facts["blocks"], report.measurements.len());
        assert_eq!(facts["responder_nonce"], hex::encode(report.responder_nonce));
        assert_eq!(facts["opaque_len"], report.opaque.encode().unwrap().len());
        assert_eq!(facts["signature"], hex::encode(report.signature()));
        assert_eq!(facts["signed_len"], report.signed().len());
        assert_eq!(facts["total"], bytes.len() - report.trailing());
        assert_eq!(facts["file_len"], bytes.len());
        let measurements: Vec<Value> = report
            .measurements
            .iter()
            .map(|m| json!({"index": m.index, "spec": 1, "type": m.kind, "value": hex::encode(&m.value)}))
            .collect();
        assert_eq!(facts["measurements"], json!(measurements), "{name}");

        let opaque = facts["opaque"].as_object().unwrap();
        assert_eq!(opaque.len(), report.opaque.records().len(), "{name}");
        for record in report.opaque.records() {
            // Two names are older ones of the script that wrote the facts.
            let key = match record.kind().name().unwrap() {
                "measurement_count" => "msrscnt",
                "cpr_info" => "cprinfo",
                "project_sku_mod" => continue,
                other => other,
            };
            assert_eq!(opaque[key], record.display(), "{name}: {key}");
        }
        assert_eq!(report.encode().unwrap(), report.signed(), "written as it was read");
    }
}

#[test]
fn the_summary_names_what_an_officer_decides_by() {
    let Some(report) = report("report2") else { return };
    let device = Device {
        architecture: Architecture::Hopper,
        uuid: "GPU-1".to_owned(),
        report,
        certificate_chain: Vec::new(),
    };
    let text = NvidiaEvidence { devices: vec![device] }.to_json().unwrap();
    let lines = summary::essentials("nvidia", &text);
    let shown: Vec<_> =
        lines.iter().map(|(name, value)| (name.as_str(), &value[..8.min(value.len())])).collect();
    assert_eq!(
        shown,
        [
            ("gpu", "HOPPER G"),
            ("gpu driver", "580.95.0"),
            ("gpu vbios", "96.00.74"),
            ("gpu firmware id", "f1ae7d00")
        ]
    );
}

#[test]
fn truncations_of_a_recorded_report_are_refused_at_every_length() {
    let Some(bytes) = report("report1") else { return };
    for len in 0..bytes.len() {
        assert!(Report::parse(&bytes[..len]).is_err(), "{len}");
    }
}
