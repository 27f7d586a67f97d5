//! `guestctl doctor`: is this machine ready to receive secrets, and if not, what to do next.
//!
//! It asks the daemons what they know of themselves and tries what a workload would try. It changes nothing, fetches
//! no secret and starts no attestation. Each check is one [`Finding`]; checks that depend on a daemon that does not
//! answer are left out, the failed line stands for them.

mod agent;
mod hub;
mod rest;
mod socket;
mod volumes;

use std::{net::SocketAddr, time::Duration};

use cc_daemon::address::Address;
use cc_daemon::sandbox::OwnFilter;
use cc_protos::guest_services::{ConfigSource, Confinement};
use serde_json::{Value, json};

use crate::{
    connect::{AGENT, HUB, REST},
    failure::Failure,
    output::Console,
    table::{Mark, Table},
};

/// Patience with a daemon that only has to tell its state.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the operator gives.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each line is ok, warn or FAIL, with the next step below it. Exits with 1 when a line says FAIL, and always on the
sample TEE, which proves nothing.

Example:
  guestctl doctor
  guestctl doctor --rest off --json")]
pub(crate) struct Args {
    /// Address of the attestation agent
    #[arg(long, value_name = "ADDR", default_value = AGENT)]
    aa: Address,
    /// Address of the confidential data hub
    #[arg(long, value_name = "ADDR", default_value = HUB)]
    cdh: Address,
    /// Address of the REST server (IP:PORT), or off where there is none by intention
    #[arg(long, value_name = "ADDR", default_value = REST, value_parser = parse_rest)]
    rest: RestDoor,
}

/// Whether this machine is meant to have a REST server, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RestDoor {
    Off,
    At(SocketAddr),
}

/// One line of the diagnosis.
#[derive(Debug)]
struct Finding {
    mark: Mark,
    /// What was looked at.
    what: String,
    /// What was found.
    detail: String,
    /// What to do about it; empty where nothing is to be done.
    next: String,
}

impl Finding {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, what: what.into(), detail: detail.into(), next: String::new() }
    }

    fn warn(what: impl Into<String>, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { mark: Mark::Warn, what: what.into(), detail: detail.into(), next: next.into() }
    }

    fn fail(what: impl Into<String>, detail: impl Into<String>, next: impl Into<String>) -> Self {
        Self { mark: Mark::Fail, what: what.into(), detail: detail.into(), next: next.into() }
    }

    /// A call that failed, with the code and the next step that came with the failure.
    fn from_failure(what: impl Into<String>, failure: &Failure) -> Self {
        let detail = match failure {
            // `what` tells already what was being done.
            Failure::Reply { fault, .. } => fault.to_string(),
            other => format!("{other} [{}]", other.code()),
        };
        Self::fail(what, detail, failure.hint())
    }

    fn json(&self) -> Value {
        json!({"status": self.mark.word(), "what": self.what, "detail": self.detail, "next": self.next})
    }
}

/// Makes all checks and shows them.
pub(crate) async fn run(args: &Args, json: bool, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut findings = Vec::new();
    findings.extend(socket::check("agent socket", &args.aa));
    findings.extend(agent::check(&args.aa).await);
    findings.extend(socket::check("hub socket", &args.cdh));
    findings.extend(hub::check(&args.cdh).await);
    findings.extend(volumes::check(&args.cdh).await);
    if let RestDoor::At(address) = args.rest {
        findings.extend(rest::check(address).await);
    }
    let count = |mark| findings.iter().filter(|finding| finding.mark == mark).count();
    let (failed, warnings) = (count(Mark::Fail), count(Mark::Warn));
    if json {
        let all: Vec<Value> = findings.iter().map(Finding::json).collect();
        console.json(&json!({"ok": failed == 0, "failed": failed, "warnings": warnings, "checks": all}))?;
    } else {
        show(&findings, warnings, console)?;
    }
    if failed > 0 { Err(Failure::Checks { failed, all: findings.len() }) } else { Ok(()) }
}

fn show(findings: &[Finding], warnings: usize, console: &mut Console<'_>) -> Result<(), Failure> {
    let mut table = Table::new();
    for finding in findings {
        let mut value = finding.detail.clone();
        if !finding.next.is_empty() {
            value.push_str(&format!("\nnext: {}", finding.next));
        }
        table.verdict(finding.mark, &finding.what, value);
    }
    console.table(&table)?;
    let failed = findings.iter().any(|finding| finding.mark == Mark::Fail);
    match (failed, warnings) {
        (true, _) => Ok(()),
        (false, 0) => console.text("\nall checks passed\n"),
        (false, 1) => console.text("\nall checks passed, with 1 warning\n"),
        (false, _) => console.text(&format!("\nall checks passed, with {warnings} warnings\n")),
    }
}

/// Where a daemon's configuration came from, and whether the host could have written it.
fn configuration(what: &str, source: Option<&ConfigSource>) -> Finding {
    let Some(source) = source else {
        return Finding::warn(what, "the daemon does not say where it came from", "update the daemon");
    };
    let place = if source.path.is_empty() { "built-in defaults" } else { &source.path };
    let unknown = source.unknown_keys.join(", ");
    match (source.provenance.as_str(), unknown.is_empty()) {
        ("measured" | "image" | "default", true) => {
            Finding::ok(what, format!("{place} ({})", source.provenance))
        }
        ("measured" | "image" | "default", false) => Finding::warn(
            what,
            format!("{place} ({}); nobody reads the keys: {unknown}", source.provenance),
            "correct or remove these keys; --check-config of the daemon makes them errors",
        ),
        (_, no_unknown) => {
            let keys = if no_unknown { String::new() } else { format!("; nobody reads the keys: {unknown}") };
            Finding::warn(
                what,
                format!("{place} ({}): whoever runs the host can change it{keys}", source.provenance),
                "put it into the init-data document or below a dm-verity root",
            )
        }
    }
}

/// What confines a daemon. Older daemons do not tell.
fn confinement(what: &str, told: Option<&Confinement>) -> Option<Finding> {
    let Confinement { system_call_filters, no_new_privileges, capabilities, landlock, label, own_filter } =
        told?;
    let filtered = match system_call_filters {
        0 => "not filtered".to_owned(),
        filters => format!("filtered ({filters})"),
    };
    let own = if own_filter.is_empty() { String::new() } else { format!(", own filter: {own_filter}") };
    let gained = if *no_new_privileges { "never gained" } else { "may be gained" };
    let label = if label.is_empty() { "none" } else { label };
    let count = capabilities.count_ones();
    let detail = format!(
        "system calls: {filtered}{own}, privileges: {gained}, capabilities: {count} (mask {capabilities:#x}), Landlock: {landlock}, label: {label}"
    );
    if own_filter == &OwnFilter::Off.to_string() {
        return Some(Finding::warn(what, detail, "start it without --seccomp off, which is for debugging"));
    }
    Some(match *system_call_filters > 0 && *no_new_privileges {
        true => Finding::ok(what, detail),
        false => Finding::warn(
            what,
            detail,
            "run it as the unit or container that is shipped, or on a kernel that lets it set its own filter",
        ),
    })
}

fn parse_rest(text: &str) -> Result<RestDoor, String> {
    if text == "off" {
        return Ok(RestDoor::Off);
    }
    match text.parse() {
        Ok(Address::Tcp(address)) => Ok(RestDoor::At(address)),
        Ok(Address::Unix(_)) => Err("the REST server has no Unix socket".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_is_judged_by_who_can_write_it() {
        let source = |provenance: &str, keys: &[&str]| ConfigSource {
            path: if provenance == "default" { String::new() } else { "/etc/cdh.toml".into() },
            provenance: provenance.into(),
            unknown_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        };
        for (provenance, keys, mark, part) in [
            ("measured", &[][..], Mark::Ok, "/etc/cdh.toml (measured)"),
            ("image", &[], Mark::Ok, "(image)"),
            ("default", &[], Mark::Ok, "built-in defaults (default)"),
            ("unmeasured", &[], Mark::Warn, "host can change it"),
            ("unmeasured", &["kbc.ulr"], Mark::Warn, "kbc.ulr"),
            ("measured", &["kbc.ulr"], Mark::Warn, "kbc.ulr"),
            ("", &[], Mark::Warn, "host can change it"),
        ] {
            let finding = configuration("configuration", Some(&source(provenance, keys)));
            assert_eq!(finding.mark, mark, "{finding:?}");
            assert!(finding.detail.contains(part), "{finding:?}");
            assert_eq!(finding.next.is_empty(), mark == Mark::Ok, "{finding:?}");
        }
        assert_eq!(configuration("configuration", None).mark, Mark::Warn);
    }

    #[test]
    fn confinement_is_told_and_its_lack_is_a_warning() {
        let told = |system_call_filters, no_new_privileges, own_filter: &str| Confinement {
            system_call_filters,
            no_new_privileges,
            capabilities: 0x3,
            landlock: "partly".into(),
            label: String::new(),
            own_filter: own_filter.into(),
        };
        for (told, mark, parts) in [
            (
                told(2, true, ""),
                Mark::Ok,
                ["filtered (2), privileges: never", "2 (mask 0x3), Landlock: partly, label: none"],
            ),
            (told(1, true, "set"), Mark::Ok, ["filtered (1), own filter: set", "never gained"]),
            (told(0, true, "refused (EPERM)"), Mark::Warn, ["not filtered, own filter: refused", "never"]),
            (told(2, false, ""), Mark::Warn, ["filtered (2)", "may be gained"]),
            (told(2, true, "switched off"), Mark::Warn, ["own filter: switched off", "never gained"]),
        ] {
            let finding = confinement("agent confinement", Some(&told)).unwrap();
            assert_eq!(finding.mark, mark, "{finding:?}");
            assert!(parts.iter().all(|part| finding.detail.contains(part)), "{finding:?}");
            assert_eq!(finding.next.is_empty(), mark == Mark::Ok, "{finding:?}");
        }
        assert!(confinement("agent confinement", None).is_none());
    }

    #[test]
    fn the_rest_door_is_an_address_or_off() {
        assert_eq!(parse_rest("off"), Ok(RestDoor::Off));
        let at = RestDoor::At(SocketAddr::from(([127, 0, 0, 1], 8006)));
        assert_eq!(parse_rest("127.0.0.1:8006"), Ok(at));
        assert_eq!(parse_rest("http://127.0.0.1:8006/"), Ok(at));
        for text in ["localhost", "unix:///run/rest.sock", "10.0.0.1:8006", ""] {
            assert!(parse_rest(text).is_err(), "{text}");
        }
    }
}
