//! What a piece of evidence says, as lines for people.
//!
//! For logs after a denial, and for `guestctl inspect`. It NEVER fails and verifies nothing: it shows
//! what the evidence claims, or that it cannot be read.

use crate::sample;
use crate::snp::{Report, SnpEvidence};

/// Name and value pairs that describe `evidence_json` of the TEE with the wire name `tee`.
///
/// For `snp` the launch measurement, TCB, policy, host data and so on; for `sample` and `sampledevice`
/// the version number. One line with the reason when the evidence cannot be read, none for other TEEs.
#[must_use]
pub fn summarize(tee: &str, evidence_json: &str) -> Vec<(String, String)> {
    let lines = match tee {
        "snp" => SnpEvidence::from_json(evidence_json).map(|evidence| snp(&evidence)),
        "sample" | "sampledevice" => sample::parse(evidence_json)
            .map(|evidence| vec![("svn", evidence.svn), ("report data", hex::encode(evidence.report_data))]),
        _ => return Vec::new(),
    };
    lines
        .unwrap_or_else(|error| vec![("unreadable", error.to_string())])
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Lines that [`essentials`] leaves out: they identify the chip or the request, or repeat another line.
const DETAILS: [&str; 8] = [
    "report version",
    "report data",
    "guest svn",
    "current tcb",
    "firmware",
    "chip id",
    "signing key",
    "certificates",
];

/// The lines of [`summarize`] that a policy decides by: what stands beside a denial.
#[must_use]
pub fn essentials(tee: &str, evidence_json: &str) -> Vec<(String, String)> {
    let mut lines = summarize(tee, evidence_json);
    lines.retain(|(name, _)| !DETAILS.contains(&name.as_str()));
    lines
}

fn snp(evidence: &SnpEvidence) -> Vec<(&'static str, String)> {
    let report: &Report = &evidence.report;
    let processor = match (report.product(), report.cpuid) {
        (Some(product), Some(cpuid)) => format!("{product} ({cpuid})"),
        (None, Some(cpuid)) => format!("unknown ({cpuid})"),
        (_, None) => "not in the report".to_owned(),
    };
    let certificates = if evidence.certs.is_empty() {
        "none".to_owned()
    } else {
        evidence.certs.iter().map(|cert| cert.kind.to_string()).collect::<Vec<_>>().join(", ")
    };
    let mut lines = vec![
        ("report version", report.version.to_string()),
        ("processor", processor),
        ("measurement", hex::encode(report.measurement)),
        ("report data", hex::encode(report.report_data)),
        ("host data", hex::encode(report.host_data)),
        ("policy", report.policy.to_string()),
        ("vmpl", report.vmpl.to_string()),
        ("guest svn", report.guest_svn.to_string()),
        ("reported tcb", report.reported_tcb.to_string()),
        ("current tcb", report.current_tcb.to_string()),
        ("firmware", report.current_firmware.to_string()),
        ("chip id", hex::encode(report.chip_id)),
        ("signing key", report.signing_key().to_string()),
        ("certificates", certificates),
    ];
    lines.extend(report.warnings().into_iter().map(|warning| ("warning", warning)));
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sample_evidence() {
        let lines = summarize("sample", &sample::evidence_json(&[1, 2]));
        assert_eq!(lines, [("svn".into(), "1".into()), ("report data".into(), "0102".into())]);
    }

    #[test]
    fn unreadable_evidence_says_so() {
        for tee in ["snp", "sample", "sampledevice"] {
            let lines = summarize(tee, "{}");
            assert_eq!(lines.len(), 1);
            assert_eq!(lines[0].0, "unreadable");
        }
        assert_eq!(summarize("tdx", "{}"), []);
    }

    proptest! {
        #[test]
        fn random_text_never_panics(tee in "snp|sample|[a-z]*", text: String) {
            let _ = summarize(&tee, &text);
        }
    }
}
