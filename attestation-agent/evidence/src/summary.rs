//! What a piece of evidence says, as lines for people.
//!
//! For logs after a denial, and for `guestctl inspect`. It NEVER fails and verifies nothing: it shows
//! what the evidence claims, or that it cannot be read.

use crate::HashAlgorithm;
use crate::additional::AdditionalEvidence;
use crate::azure::{AzureEvidence, Hardware, HclReport};
use crate::cca::{CcaEvidence, Token};
use crate::nvidia::{self, NvidiaEvidence};
use crate::snp::{Report, SnpEvidence};
use crate::tdx::{Quote, TdxEvidence};
use crate::tpm::{Attest, TpmEvidence};
use crate::{Tee, sample};

/// Name and value pairs that describe `evidence_json` of the TEE with the wire name `tee`.
///
/// For `snp` the launch measurement, TCB, policy, host data and so on; for `tdx` the measurements,
/// registers and attributes; for `az-snp-vtpm` and `az-tdx-vtpm` the same of the machine around the TPM and the TPM's
/// registers that are not zero; for `nvidia` architecture, versions and firmware of every device; for
/// `cca` the measurements of realm and platform; for `sample` and `sampledevice` the version number. One line with the reason when the evidence cannot be read, none for other TEEs.
#[must_use]
pub fn summarize(tee: &str, evidence_json: &str) -> Vec<(String, String)> {
    let lines = match tee {
        "snp" => SnpEvidence::from_json(evidence_json).map(|evidence| snp(&evidence)),
        "tdx" => TdxEvidence::from_json(evidence_json).and_then(|evidence| tdx(&evidence)),
        "tpm" => TpmEvidence::from_json(evidence_json).and_then(|evidence| tpm(&evidence)),
        "az-snp-vtpm" => azure(Tee::AzSnpVtpm, evidence_json),
        "az-tdx-vtpm" => azure(Tee::AzTdxVtpm, evidence_json),
        "nvidia" => NvidiaEvidence::from_json(evidence_json).map(|evidence| gpus(&evidence)),
        "cca" => CcaEvidence::from_json(evidence_json).and_then(|evidence| cca(&evidence)),
        "sample" | "sampledevice" => sample::parse(evidence_json)
            .map(|evidence| vec![("svn", evidence.svn), ("report data", hex::encode(evidence.report_data))]),
        _ => return Vec::new(),
    };
    lines
        .unwrap_or_else(|error| vec![("unreadable", error.to_string())])
        .into_iter()
        .map(|(name, value)| (name.to_owned(), printable(&value)))
        .collect()
}

/// `text` as one line that says what it holds: texts inside of evidence are its maker's, and must neither move a
/// terminal's cursor nor end a line nor turn the direction of writing.
fn printable(text: &str) -> String {
    let moves = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if moves(c) { line.extend(c.escape_unicode()) } else { line.push(c) }
    }
    line
}

/// Lines that [`essentials`] leaves out: they identify the chip or the request, or repeat another line.
const DETAILS: [&str; 13] = [
    "report version",
    "report data",
    "guest svn",
    "current tcb",
    "firmware",
    "chip id",
    "signing key",
    "certificates",
    "user data",
    "gpu nonce",
    "tpm firmware",
    "resets",
    "clock",
];

/// The lines of [`summarize`] that a policy decides by: what stands beside a denial.
#[must_use]
pub fn essentials(tee: &str, evidence_json: &str) -> Vec<(String, String)> {
    let mut lines = summarize(tee, evidence_json);
    lines.retain(|(name, _)| !DETAILS.contains(&name.as_str()));
    lines
}

/// The lines of [`essentials`] for each member of `additional_evidence`, the text that a guest sends of its devices;
/// none when it is empty, one with the reason when it is no JSON object or names a member twice.
#[must_use]
pub fn additional_essentials(additional_evidence: &str) -> Vec<(String, String)> {
    match AdditionalEvidence::parse(additional_evidence) {
        Ok(members) => members.iter().flat_map(|(tee, evidence)| essentials(tee, evidence)).collect(),
        Err(error) => vec![("device evidence".to_owned(), format!("unreadable: {error}"))],
    }
}

fn gpus(evidence: &NvidiaEvidence) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for device in &evidence.devices {
        lines.push(("gpu", format!("{} {}", device.architecture.as_str(), device.uuid)));
        match nvidia::Report::parse(&device.report) {
            Ok(report) => {
                let known =
                    |version: Option<String>| version.unwrap_or_else(|| "not in the report".to_owned());
                lines.push(("gpu driver", known(report.opaque.driver_version())));
                lines.push(("gpu vbios", known(report.opaque.vbios_version())));
                lines.push(("gpu firmware id", known(report.opaque.fwid().map(hex::encode))));
                lines.push(("gpu nonce", hex::encode(report.nonce)));
            }
            Err(error) => lines.push(("gpu report", format!("unreadable: {error}"))),
        }
    }
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

fn tdx(evidence: &TdxEvidence) -> Result<Vec<(&'static str, String)>, crate::Error> {
    let quote = Quote::parse(&evidence.quote)?;
    let body = &quote.body;
    let [rtmr0, rtmr1, rtmr2, rtmr3] = body.rtmr.map(hex::encode);
    let log = evidence.cc_eventlog.as_ref();
    let mut lines = vec![
        ("quote version", quote.header.version.to_string()),
        ("mrtd", hex::encode(body.mr_td)),
        ("rtmr0", rtmr0),
        ("rtmr1", rtmr1),
        ("rtmr2", rtmr2),
        ("rtmr3", rtmr3),
        ("report data", hex::encode(body.report_data)),
        ("mrconfigid", hex::encode(body.mr_config_id)),
        ("td attributes", body.td_attributes.to_string()),
        ("xfam", format!("{:#018x}", body.xfam)),
        ("tee tcb svn", hex::encode(body.tee_tcb_svn)),
        ("mrseam", hex::encode(body.mr_seam)),
        ("event log", log.map_or_else(|| "none".to_owned(), |log| format!("{} bytes", log.len()))),
    ];
    if body.td_attributes.under_observation() {
        lines.push(("warning", "the domain can be debugged or profiled by its host".to_owned()));
    }
    Ok(lines)
}

/// The hardware's report, then what the TPM adds to it.
fn azure(tee: Tee, evidence_json: &str) -> Result<Vec<(&'static str, String)>, crate::Error> {
    let evidence = AzureEvidence::from_json(tee, evidence_json)?;
    let hcl = HclReport::parse(&evidence.hcl_report)?;
    let mut lines = match hcl.hardware() {
        Hardware::Snp(report) => snp(&SnpEvidence { report: (**report).clone(), certs: Vec::new() }),
        Hardware::Tdx(_) => tdx(&TdxEvidence { quote: evidence.endorsement, cc_eventlog: None })?,
    };
    // Neither is in this evidence; the init-data is in PCR 8.
    lines.retain(|(name, _)| !["certificates", "event log", "host data", "mrconfigid"].contains(name));
    lines.push(("evidence version", evidence.version.number().to_string()));
    if let Some(user_data) = &hcl.runtime().user_data {
        lines.push(("user data", hex::encode(user_data)));
    }
    let registers = PCR_NAMES.into_iter().zip(evidence.quote.pcrs).filter(|(_, value)| *value != [0; 32]);
    lines.extend(registers.map(|(name, value)| (name, hex::encode(value))));
    Ok(lines)
}

/// Names of a TPM's registers.
const PCR_NAMES: [&str; 24] = [
    "pcr00", "pcr01", "pcr02", "pcr03", "pcr04", "pcr05", "pcr06", "pcr07", "pcr08", "pcr09", "pcr10",
    "pcr11", "pcr12", "pcr13", "pcr14", "pcr15", "pcr16", "pcr17", "pcr18", "pcr19", "pcr20", "pcr21",
    "pcr22", "pcr23",
];

fn cca(evidence: &CcaEvidence) -> Result<Vec<(&'static str, String)>, crate::Error> {
    let token = Token::parse(&evidence.token)?;
    let (platform, realm) = (&token.platform.claims, &token.realm.claims);
    let [rem0, rem1, rem2, rem3] = realm.extensible_measurements.each_ref().map(hex::encode);
    let state = if platform.is_secured() { "secured" } else { "not secured" };
    let mut lines = vec![
        ("realm initial measurement", hex::encode(&realm.initial_measurement)),
        ("realm extensible measurement 0", rem0),
        ("realm extensible measurement 1", rem1),
        ("realm extensible measurement 2", rem2),
        ("realm extensible measurement 3", rem3),
        ("report data", hex::encode(realm.challenge)),
        ("personalization value", hex::encode(realm.personalization)),
        ("platform profile", platform.profile.clone()),
        ("platform implementation", hex::encode(platform.implementation_id)),
        ("platform instance", hex::encode(platform.instance_id)),
        ("platform lifecycle", format!("{:#x} ({state})", platform.lifecycle)),
        ("platform configuration", hex::encode(&platform.config)),
    ];
    for component in &platform.software_components {
        let name = component.kind.as_deref().unwrap_or("without name");
        lines.push(("platform component", format!("{name} {}", hex::encode(&component.measurement))));
    }
    if !platform.is_secured() {
        lines.push(("warning", "the platform can be debugged or is not in service".to_owned()));
    }
    Ok(lines)
}

/// PCRs that were never extended are left out: a quote has 24, and most of them are zero.
fn tpm(evidence: &TpmEvidence) -> Result<Vec<(&'static str, String)>, crate::Error> {
    let attest = Attest::parse(&evidence.message)?;
    let clock = attest.clock;
    let mut lines = vec![
        ("ak sha256", hex::encode(HashAlgorithm::Sha256.digest(&evidence.ak_public))),
        ("report data", hex::encode(&attest.extra_data)),
        ("tpm firmware", format!("{:016x}", attest.firmware_version)),
        ("resets", format!("{}, restarts {}", clock.reset_count, clock.restart_count)),
        ("clock", format!("{} ms{}", clock.clock, if clock.safe { "" } else { ", not safe" })),
    ];
    // Those of the processor's late launch begin with ones.
    let untouched = |value: &[u8; 32]| *value == [0; 32] || *value == [0xFF; 32];
    let extended = PCR_NAMES.into_iter().zip(&evidence.pcrs).filter(|(_, value)| !untouched(value));
    lines.extend(extended.map(|(name, value)| (name, hex::encode(value))));
    Ok(lines)
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
        for tee in ["snp", "tdx", "az-snp-vtpm", "az-tdx-vtpm", "nvidia", "sample", "sampledevice"] {
            let lines = summarize(tee, "{}");
            assert_eq!(lines.len(), 1);
            assert_eq!(lines[0].0, "unreadable");
        }
        assert_eq!(summarize("csv", "{}"), []);
    }

    #[test]
    fn every_device_has_its_lines() {
        let device = r#"{"arch":"HOPPER","uuid":"GPU-1","evidence":"EeAB/w==","certificate":""}"#;
        let text =
            format!(r#"{{"nvidia":{{"device_evidence_list":[{device},{device}]}},"sampledevice":{{}}}}"#);
        let lines = additional_essentials(&text);
        let names: Vec<_> = lines.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["gpu", "gpu report", "gpu", "gpu report", "unreadable"]);
        assert_eq!(lines[0].1, "HOPPER GPU-1");
        assert_eq!(additional_essentials(""), []);
        for unreadable in ["[]", r#"{"sampledevice":{},"sampledevice":{}}"#] {
            assert!(additional_essentials(unreadable)[0].1.contains("unreadable"), "{unreadable}");
        }
    }

    #[test]
    fn texts_of_the_evidence_cannot_steer_a_terminal() {
        let evidence = serde_json::json!({ "svn": "1\u{1b}[2J\n2\u{202e}3", "report_data": "" }).to_string();
        assert_eq!(summarize("sample", &evidence)[0].1, "1\\u{1b}[2J\\u{a}2\\u{202e}3");
        let unknown = summarize("az-snp-vtpm", "{\"\\u001b[2J\": 1}");
        assert!(!unknown[0].1.contains('\u{1b}') && unknown[0].1.contains("\\u{1b}[2J"), "{unknown:?}");
    }

    proptest! {
        #[test]
        fn random_text_never_panics(tee in "snp|tdx|cca|az-snp-vtpm|nvidia|sample|[a-z]*", text: String) {
            for (_, value) in summarize(&tee, &text) {
                prop_assert!(!value.contains(char::is_control));
            }
        }
    }
}
