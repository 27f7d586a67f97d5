//! The attestation agent and the platform it found.

use cc_daemon::address::Address;
use cc_evidence::initdata::InitData;
use cc_protos::{
    attestation_agent::GetTeeTypeRequest,
    guest_services::{AgentStatus, AgentStatusRequest, GetInitDataRequest, GetInitDataResponse, Measurement},
};
use tonic::Code;

use super::{Finding, PATIENCE, configuration, confinement};
use crate::connect::Agent;

/// Checks the agent at `address`.
pub(super) async fn check(address: &Address) -> Vec<Finding> {
    let agent = Agent::at(address);
    match agent.info(PATIENCE).get_status(AgentStatusRequest {}).await {
        Ok(answer) => {
            let mut findings = judge(&answer.into_inner());
            findings.push(match agent.info(PATIENCE).get_init_data(GetInitDataRequest {}).await {
                Ok(answer) => init_data(&answer.into_inner()),
                Err(status) => {
                    Finding::from_failure("init-data", &agent.failed("asking for the init-data", &status))
                }
            });
            findings
        }
        Err(status) if status.code() == Code::Unimplemented => check_without_status(&agent).await,
        Err(status) => {
            vec![Finding::from_failure("attestation agent", &agent.failed("asking for its state", &status))]
        }
    }
}

/// An agent of another make still tells its TEE.
async fn check_without_status(agent: &Agent<'_>) -> Vec<Finding> {
    let what = "attestation agent";
    match agent.service().get_tee_type(GetTeeTypeRequest {}).await {
        Ok(answer) => vec![
            Finding::warn(
                what,
                "answers, but cannot tell its state",
                "it is of another make or release; replace it to see its configuration here",
            ),
            platform(&answer.into_inner().tee, &[], &[]),
        ],
        Err(status) => vec![Finding::from_failure(what, &agent.failed("asking for the TEE", &status))],
    }
}

fn judge(status: &AgentStatus) -> Vec<Finding> {
    let access = if status.strict {
        "strict: only callers named in the configuration get evidence and tokens"
    } else {
        "compatible: every process that reaches the socket gets evidence and tokens"
    };
    let mut findings = vec![
        Finding::ok(
            "attestation agent",
            format!("version {}, evidence collected {} times", status.version, status.evidence_collected),
        ),
        platform(&status.tee, &status.additional_tees, &status.probes),
        Finding::ok("agent access", access),
        configuration("agent configuration", status.config.as_ref()),
    ];
    // An older agent does not tell.
    findings.extend(status.measurement.as_ref().map(measurement));
    findings.extend(confinement("agent confinement", status.confinement.as_ref()));
    findings
}

/// Whether events are measured while the machine runs, and into what. That registers are there does not say that software
/// may extend them: the agent finds that out when the configuration asks for it.
fn measurement(told: &Measurement) -> Finding {
    let what = "runtime measurement";
    let place = match told.registers {
        true => format!(
            "PCR {} ({}, register {} of the log), log {}",
            told.pcr, told.algorithm, told.register, told.log
        ),
        false => "no registers on this platform".to_owned(),
    };
    match told.state.as_str() {
        "on" => Finding::ok(what, format!("on: events go to {place}")),
        "off" if told.registers => Finding::ok(what, format!("off ({}); it would use {place}", told.why)),
        "off" => Finding::ok(what, format!("off ({}); {place}", told.why)),
        _ => Finding::warn(
            what,
            format!("asked for and not possible: {}", told.why),
            "events are answered with NOT_SUPPORTED: remove eventlog_config.enable_eventlog, or change what is in the way",
        ),
    }
}

/// Whether the machine was launched with init-data, and what is in it: names and lengths, because entries may hold
/// credentials.
fn init_data(answer: &GetInitDataResponse) -> Finding {
    let what = "init-data";
    if !answer.present {
        return Finding::ok(what, "none was given to the agent");
    }
    let entries = match InitData::parse(&answer.toml) {
        Ok(document) => {
            let entries = document.data().iter().map(|(name, text)| format!("{name} ({} bytes)", text.len()));
            format!("with {}", entries.collect::<Vec<_>>().join(", "))
        }
        Err(_) => "of which the agent has the digest alone".to_owned(),
    };
    let digest = hex::encode(&answer.digest);
    let digest = format!("{} {digest}", answer.algorithm);
    if answer.hardware_checked {
        Finding::ok(what, format!("the hardware holds its digest: {}, {entries}", digest.trim_start()))
    } else {
        Finding::warn(
            what,
            format!("nothing on this machine vouches for it: {}, {entries}", digest.trim_start()),
            "see the agent's log: the platform has no field for init-data, or cannot be asked without the host",
        )
    }
}

fn platform(tee: &str, additional: &[String], probes: &[String]) -> Finding {
    let sample = |name: &str| matches!(name, "sample" | "sampledevice");
    if let Some(name) =
        std::iter::once(tee).chain(additional.iter().map(String::as_str)).find(|name| sample(name))
    {
        return Finding::fail(
            "platform",
            format!(
                "the {name} TEE proves nothing: anyone can write its evidence, so no secret of worth may depend on it"
            ),
            "remove sample from the agent's configuration and run on a confidential machine",
        );
    }
    if tee.is_empty() {
        let tried = if probes.is_empty() { "nothing".to_owned() } else { probes.join("; ") };
        return Finding::fail(
            "platform",
            format!("no TEE found; tried: {tried}"),
            "start the virtual machine with SEV-SNP, and load the kernel's guest driver",
        );
    }
    let devices =
        if additional.is_empty() { String::new() } else { format!(" with {}", additional.join(", ")) };
    Finding::ok("platform", format!("{tee}{devices}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Mark;

    #[test]
    fn init_data_is_told_by_digest_names_and_lengths() {
        let answer = |hardware_checked| GetInitDataResponse {
            present: true,
            toml: "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"auth.json\" = \"hunter2\"\n".into(),
            digest: vec![0xab; 32],
            algorithm: "sha256".into(),
            hardware_checked,
        };
        assert_eq!(init_data(&GetInitDataResponse::default()).mark, Mark::Ok);
        for (checked, mark) in [(true, Mark::Ok), (false, Mark::Warn)] {
            let finding = init_data(&answer(checked));
            assert_eq!(finding.mark, mark);
            assert!(finding.detail.contains("auth.json (7 bytes)") && finding.detail.contains("sha256 abab"));
            assert!(!finding.detail.contains("hunter2"), "{finding:?}");
        }
        let digest_alone =
            GetInitDataResponse { toml: String::new(), algorithm: String::new(), ..answer(true) };
        assert!(init_data(&digest_alone).detail.contains("digest: abab"));
    }

    #[test]
    fn runtime_measurement_is_told_with_its_register() {
        let told = |state: &str, why: &str, registers| Measurement {
            state: state.into(),
            why: why.into(),
            registers,
            pcr: 17,
            register: 4,
            algorithm: "sha384".into(),
            log: "/run/attestation-agent/eventlog".into(),
        };
        for (told, mark, parts) in [
            (told("on", "", true), Mark::Ok, ["on: events go to PCR 17", "sha384, register 4", "log /run/"]),
            (told("off", "not asked", true), Mark::Ok, ["off (not asked)", "would use PCR 17", "log /run/"]),
            (told("off", "not asked", false), Mark::Ok, ["off (not asked)", "no registers", ""]),
            (told("unsupported", "old kernel", true), Mark::Warn, ["not possible", "old kernel", ""]),
        ] {
            let finding = measurement(&told);
            assert_eq!(finding.mark, mark, "{finding:?}");
            assert!(parts.iter().all(|part| finding.detail.contains(part)), "{finding:?}");
        }
        let told_by = |measurement| judge(&AgentStatus { measurement, ..AgentStatus::default() }).len();
        assert_eq!(
            told_by(None) + 1,
            told_by(Some(told("on", "", true))),
            "an older agent is silent about it"
        );
    }

    #[test]
    fn the_sample_tee_always_fails() {
        assert_eq!(platform("sample", &[], &[]).mark, Mark::Fail);
        assert_eq!(platform("snp", &["sampledevice".into()], &[]).mark, Mark::Fail);
        assert!(platform("sample", &[], &[]).detail.contains("proves nothing"));
    }

    #[test]
    fn real_platforms_pass_and_none_fails_with_what_was_tried() {
        assert_eq!(platform("snp", &[], &[]).detail, "snp");
        assert_eq!(platform("tdx", &["nvidia".into()], &[]).detail, "tdx with nvidia");
        let none = platform("", &[], &["snp: no /dev/sev-guest".into()]);
        assert_eq!(none.mark, Mark::Fail);
        assert!(none.detail.contains("/dev/sev-guest"));
    }
}
