//! The same stories on an Intel TDX machine: release, denial by name of the check, init-data, event log.

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::{InitData, fit};
use cc_tests::eventlog::EventLog;
use cc_tests::machine::{ATTRIBUTES_DEBUG, Machine, Td};
use cc_tests::process::command;
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::denial::ask_as;
use crate::operator::guestctl;
use crate::{RESOURCE, REST_PATH, SECRET, assert_refused, assert_released, code, stack};

fn options() -> Options {
    Options { machine: Machine::tdx(), ..Options::default() }
}

/// A TDX machine with a change to its trust domain.
fn machine(change: impl FnOnce(&mut Td)) -> Machine {
    let mut machine = Machine::tdx();
    change(&mut machine.td);
    machine
}

fn faulty(fault: &str) -> Machine {
    Machine { fault: fault.to_owned(), ..Machine::tdx() }
}

#[test]
fn many_secrets_are_released_after_one_quote() {
    let machine = machine(|td| td.padding = 70);
    let Some(stack) = stack(Options { machine, ..options() }) else { return };
    for _ in 0..5 {
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_released(&answer, "honest");
    }
    assert_eq!(stack.quotes().unwrap(), 1);
}

#[test]
fn tampered_trust_domains_are_denied_with_the_reason() {
    let Some(mut stack) = stack(options()) else { return };
    let cases = [
        ("other code", machine(|td| td.mrtd = "66".repeat(48)), "KBS_DENIED_POLICY", "mr_td"),
        ("other kernel", machine(|td| td.rtmr1 = "66".repeat(48)), "KBS_DENIED_POLICY", "rtmr_1"),
        ("other features", machine(|td| td.xfam = "ff".repeat(8)), "KBS_DENIED_POLICY", "xfam"),
        (
            "debug",
            machine(|td| ATTRIBUTES_DEBUG.clone_into(&mut td.attributes)),
            "KBS_DENIED_POLICY",
            "debug",
        ),
        ("old firmware", faulty("out-of-date-tcb"), "KBS_DENIED_POLICY", "OutOfDate"),
        ("revoked firmware", faulty("revoked-tcb"), "KBS_DENIED_ATTESTATION", "tdx.tcb_revoked"),
        ("revoked platform", faulty("revoked-pck"), "KBS_DENIED_ATTESTATION", "tdx.pck_revoked"),
        ("flipped bit", faulty("flip-bit"), "KBS_DENIED_ATTESTATION", "tdx.signature"),
        ("expired PCK", faulty("expired-pck"), "KBS_DENIED_ATTESTATION", "tdx.pck_validity"),
    ];
    for (title, machine, expected_code, reason) in cases {
        let answer = ask_as(&mut stack, &machine);
        // With the reason comes what we sent.
        assert_refused(&answer, title, 403, expected_code, &[reason, &machine.td.mrtd[..16]]);
    }
    let answer = ask_as(&mut stack, &Machine::tdx());
    assert_released(&answer, "honest");
}

#[test]
fn quotes_over_other_report_data_are_never_sent() {
    let Some(mut stack) = stack(options()) else { return };
    for fault in ["wrong-report-data", "stale", "short", "empty", "huge"] {
        let answer = ask_as(&mut stack, &faulty(fault));
        assert_eq!(answer.status, 500, "{fault}: our platform is to blame: {}", answer.text());
    }
    let log = stack.part(Part::Kbs).unwrap().log();
    assert!(!log.contains("attest: "), "the key broker saw none of it:\n{log}");
    let answer = ask_as(&mut stack, &faulty("host-timeout"));
    assert_eq!(code(&answer.body), "TSM_HOST_TIMEOUT", "{}", answer.text());
}

#[test]
fn a_machine_that_nobody_can_rate_is_not_trusted() {
    let Some(stack) = stack(Options { no_collateral: true, ..options() }) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("tcb_status"), "{}", answer.text());
}

#[test]
fn init_data_must_be_what_the_domain_was_launched_with() {
    if !emulator_runs_here() {
        return;
    }
    let document = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = '''\n[log]\nlevel = \"info\"\n'''\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initdata.toml");
    std::fs::write(&path, document).unwrap();
    let launched_with = |digest: &[u8]| Options {
        machine: machine(|td| td.mrconfigid = hex::encode(fit(digest, 48))),
        agent_arguments: vec!["--initdata-toml".to_owned(), path.display().to_string()],
        ..options()
    };

    let digest = InitData::parse(document).unwrap().digest();
    let stack = Stack::start(launched_with(&digest)).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource(RESOURCE, SECRET).unwrap();
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_released(&answer, "honest");
    drop(stack);

    let other = HashAlgorithm::Sha384.digest(b"another document");
    let mut stack = Stack::prepare(launched_with(&other)).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let mut agent = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
    assert!(agent.log().contains("init-data mismatch"), "{}", agent.log());
    assert!(!stack.agent_socket().exists());
}

#[test]
fn an_event_log_is_believed_only_if_it_leads_to_the_registers() {
    let log = EventLog::of_a_boot();
    let registers = Machine::tdx_after(&log);
    let with_log =
        Options { machine: registers.clone(), firmware_log: Some(log.area()), ..Options::default() };
    let Some(mut stack) = stack(with_log) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_released(&answer, "honest");

    // A record says something else than was measured; a record is left out.
    let area = log.area();
    let digest = HashAlgorithm::Sha384.digest(b"Exit Boot Services Invocation");
    let at = area.windows(48).position(|part| part == digest).unwrap();
    let mut altered = area.clone();
    altered[at] ^= 1;
    let mut shortened = area;
    // Index, type and count of the record with its algorithm stand before the digest.
    shortened.truncate(at - 14);
    shortened.extend([0xFF; 64]);
    for (title, area) in [("altered", altered), ("shortened", shortened)] {
        stack.set_firmware_log(&area).unwrap();
        let answer = ask_as(&mut stack, &registers);
        assert_eq!(answer.status, 403, "{title}: {}", answer.text());
        assert_eq!(code(&answer.body), "KBS_DENIED_ATTESTATION", "{title}: {}", answer.text());
        assert!(answer.text().contains("tdx.eventlog"), "{title}: {}", answer.text());
    }
}

#[test]
fn the_operators_tool_shows_a_trust_domain() {
    let Some(stack) = stack(options()) else { return };
    let (status, out, error) = guestctl(&stack, &["evidence", "--report-data", &"ab".repeat(48)]);
    assert_eq!(status, Some(0), "{error}");
    let td = Machine::tdx().td;
    for shown in [&td.mrtd, &td.rtmr1, &td.rtmr2] {
        assert!(out.contains(shown), "{shown} is missing in {out}");
    }
    let (status, out, error) = guestctl(&stack, &["token"]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("affirming"), "{out}");
    let (status, out, error) = guestctl(&stack, &["doctor"]);
    assert_eq!(status, Some(0), "{out}{error}");
    assert!(out.contains("tdx") && out.contains("it would use PCR 17 (sha384, register 4"), "{out}");
}

/// Logs of real machines are longer than made ones: evidence and token go all the way.
#[test]
fn recorded_logs_of_real_firmware_are_accepted() {
    for name in ["ccel-gcp", "ccel-gke", "ccel-grub", "ccel-ovmf"] {
        let Some(folder) = cc_vectors::folder(name) else { return };
        let log = std::fs::read(folder.join("ccel.bin")).unwrap();
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("facts.json")).unwrap()).unwrap();
        let register = |number: usize| {
            let value = facts["replay"][format!("sha384:{}", number + 1)].as_str();
            value.map_or_else(|| "00".repeat(48), str::to_owned)
        };
        let machine = machine(|td| {
            (td.rtmr0, td.rtmr1, td.rtmr2, td.rtmr3) = (register(0), register(1), register(2), register(3));
        });
        let with_log = Options { machine, firmware_log: Some(log), ..Options::default() };
        let Some(stack) = stack(with_log) else { return };
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{name}: {}", answer.text());
        let token = stack.rest_get("/aa/token?token_type=kbs").unwrap();
        assert_eq!(token.status, 200, "{name}: {}", token.text());
    }
}

#[test]
fn an_independent_program_agrees_on_quote_and_collateral() {
    let machine = machine(|td| td.padding = 39);
    let Some(stack) = stack(Options { machine, ..options() }) else { return };
    let out = command("/usr/bin/python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/independent/check_tdx.py"))
        .arg("--tsm-report-dir")
        .arg(stack.tsm_report())
        .arg("--roots")
        .arg(stack.roots())
        .arg("--collateral")
        .arg(stack.collateral())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}");
    for part in
        ["quote: version 4", "enclave: report signed", "chain:", "collateral: both", "collateral: platform"]
    {
        let checked = |line: &str| line.starts_with("ok: ") && line.contains(part);
        assert!(text.lines().any(checked), "nothing about the {part} was checked:\n{text}");
    }
}
