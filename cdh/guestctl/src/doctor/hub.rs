//! The confidential data hub and, through it, the key broker service.

use std::time::Duration;

use cc_daemon::address::Address;
use cc_protos::guest_services::{
    BrokerProbe, CredentialState, Denial, HubStatus, HubStatusRequest, ProbeKbsRequest, ProbeKbsResponse,
};
use tonic::Code;

use super::{Finding, PATIENCE, configuration, confinement};
use crate::{connect::Hub, inspect::Moment};

/// Patience with the key broker, which may be far away.
const BROKER_PATIENCE: Duration = Duration::from_secs(20);

/// Checks the hub at `address` and the key broker behind it.
pub(super) async fn check(address: &Address) -> Vec<Finding> {
    let what = "confidential data hub";
    let hub = Hub::at(address);
    let status = match hub.info(PATIENCE).get_status(HubStatusRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => {
            return vec![Finding::warn(
                what,
                "answers, but cannot tell its state",
                "it is of another make or release; try guestctl get to see whether it works",
            )];
        }
        Err(status) => {
            return vec![Finding::from_failure(what, &hub.failed("asking for its state", &status))];
        }
    };
    let mut findings = vec![
        Finding::ok(what, format!("version {}, resources from {}", status.version, status.kbc)),
        configuration("hub configuration", status.config.as_ref()),
    ];
    findings.push(access(&status));
    findings.extend(confinement("hub confinement", status.confinement.as_ref()));
    findings.extend(status.credentials.iter().map(credential));
    if status.kbs_url.is_empty() {
        findings.push(Finding::ok("key broker", "none configured"));
    } else {
        match hub.info(BROKER_PATIENCE).probe_kbs(ProbeKbsRequest {}).await {
            Ok(answer) => findings.extend(brokers(&status.kbs_url, &answer.into_inner())),
            Err(status) => findings
                .push(Finding::from_failure("key broker", &hub.failed("asking the key broker", &status))),
        }
        findings.push(session(&status));
    }
    findings
}

/// How far the hub tells its callers apart, and what it does with those it does not know.
fn access(status: &HubStatus) -> Finding {
    let what = "access to secrets";
    let others = if status.strict { "gets nothing" } else { "gets what no rule claims" };
    if status.callers_by_unit {
        return Finding::ok(
            what,
            format!("callers are told apart by user, unit and container; whoever no rule allows {others}"),
        );
    }
    Finding::warn(
        what,
        format!("callers are told apart by user alone; whoever no rule allows {others}"),
        "run the hub as a systemd unit, or its container with --pid=host and --cgroupns=host",
    )
}

/// A credential is `pending`, `written`, `waiting: CODE` during an outage, or stopped by an error with a code.
fn credential(credential: &CredentialState) -> Finding {
    let what = "credential";
    let CredentialState { path, resource_uri, state } = credential;
    let detail = format!("{path} from {resource_uri}: {state}");
    match state.as_str() {
        "written" => Finding::ok(what, detail),
        "pending" => Finding::warn(what, detail, "it is fetched at the hub's start; ask again in a minute"),
        state if state.starts_with("waiting: ") => {
            Finding::warn(what, detail, "it is tried again until the key broker answers; check the way to it")
        }
        "FILE_HOOK_FAILED" => Finding::warn(
            what,
            detail,
            "the file is up to date, but its on_change fails; it is tried again, and the hub's log says why",
        ),
        "FILE_FOLDER_REFUSED" => Finding::fail(
            what,
            detail,
            "the folder is on a disk, on a tmpfs that may be swapped (swapon --show; mount it with noswap, or a ramfs), or \
             everybody's to write; the hub's log says which",
        ),
        state if state.starts_with("FILE_") => {
            Finding::fail(what, detail, "the hub's log says what is wrong with the file's place")
        }
        _ => Finding::fail(what, detail, format!("guestctl get {resource_uri} says why")),
    }
}

/// The broker at `url`, or all of them where several stand in for each other. One that is missing among several is no
/// failure yet.
fn brokers(url: &str, probe: &ProbeKbsResponse) -> Vec<Finding> {
    if probe.brokers.len() < 2 {
        return vec![broker(url, probe)];
    }
    let finding = |broker: &BrokerProbe| {
        let BrokerProbe { url, reachable, code, message, hint } = broker;
        match (reachable, probe.reachable) {
            (true, _) => Finding::ok(
                "key broker",
                format!("{url} answers, protocol version {}", probe.protocol_version),
            ),
            (false, true) => {
                Finding::warn("key broker", format!("{url}: {message} [{code}]; another one stands in"), hint)
            }
            (false, false) => Finding::fail("key broker", format!("{url}: {message} [{code}]"), hint),
        }
    };
    probe.brokers.iter().map(finding).collect()
}

fn broker(url: &str, probe: &ProbeKbsResponse) -> Finding {
    let what = "key broker";
    if probe.reachable {
        return Finding::ok(what, format!("{url} answers, protocol version {}", probe.protocol_version));
    }
    Finding::fail(what, format!("{url}: {} [{}]", probe.message, probe.code), &probe.hint)
}

/// Whether the hub is attested, and what it was last refused.
fn session(status: &HubStatus) -> Finding {
    let what = "session";
    let handshakes = status.handshakes;
    match (&status.last_denial, status.attested) {
        (None, true) => Finding::ok(
            what,
            format!(
                "attested, token valid for {} s more, {handshakes} handshakes",
                status.token_seconds_left
            ),
        ),
        (None, false) => {
            Finding::ok(what, format!("not attested now, {handshakes} handshakes; the next request attests"))
        }
        (Some(denial), true) => Finding::warn(
            what,
            format!("attested, but last refused: {}", describe(denial)),
            "compare the policy of the key broker with what this machine sent: guestctl token, guestctl evidence",
        ),
        (Some(denial), false) => Finding::fail(
            what,
            format!("not attested, last refused: {}", describe(denial)),
            "compare the reference values and the policy of the key broker with guestctl evidence",
        ),
    }
}

fn describe(denial: &Denial) -> String {
    format!("{} [{}] at {}", denial.message, denial.code, Moment(denial.unix_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Mark;

    #[test]
    fn a_denial_is_shown_with_its_code_and_fails_only_without_a_session() {
        let denial = Denial { code: "KBS_DENIED_POLICY".into(), message: "no".into(), unix_seconds: 0 };
        let status = |attested, denied: bool| HubStatus {
            attested,
            last_denial: denied.then(|| denial.clone()),
            ..HubStatus::default()
        };
        for (attested, denied, mark) in [
            (true, false, Mark::Ok),
            (false, false, Mark::Ok),
            (true, true, Mark::Warn),
            (false, true, Mark::Fail),
        ] {
            let finding = session(&status(attested, denied));
            assert_eq!(finding.mark, mark, "{finding:?}");
            assert_eq!(finding.detail.contains("no [KBS_DENIED_POLICY] at 1970-01-01T00:00:00Z"), denied);
        }
    }

    /// As in a container that sees neither processes nor control groups of the machine.
    #[test]
    fn a_hub_that_knows_no_units_is_warned_of() {
        for (callers_by_unit, mark, words) in [(true, Mark::Ok, "unit"), (false, Mark::Warn, "by user alone")]
        {
            let finding = access(&HubStatus { callers_by_unit, ..HubStatus::default() });
            assert_eq!(finding.mark, mark, "{finding:?}");
            assert!(finding.detail.contains(words), "{finding:?}");
            assert_eq!(finding.next.contains("--pid=host"), !callers_by_unit);
        }
    }

    #[test]
    fn credentials_are_judged_by_their_state() {
        for (state, mark) in
            [("written", Mark::Ok), ("pending", Mark::Warn), ("KBS_DENIED_POLICY", Mark::Fail)]
        {
            let finding = credential(&CredentialState {
                path: "/run/x".into(),
                resource_uri: "kbs:///a/b/c".into(),
                state: state.into(),
            });
            assert_eq!(finding.mark, mark);
            assert_eq!(finding.detail, format!("/run/x from kbs:///a/b/c: {state}"));
        }
    }

    #[test]
    fn the_broker_s_failure_keeps_code_and_hint() {
        let probe = ProbeKbsResponse {
            reachable: false,
            code: "KBS_UNREACHABLE".into(),
            message: "connection refused".into(),
            hint: "check the URL".into(),
            ..ProbeKbsResponse::default()
        };
        let finding = broker("https://kbs", &probe);
        assert_eq!((finding.mark, finding.next.as_str()), (Mark::Fail, "check the URL"));
        assert_eq!(finding.detail, "https://kbs: connection refused [KBS_UNREACHABLE]");
    }
}
