//! The same stories on an Arm CCA machine: release, denial by name of the check, platform keys, init-data.

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::InitData;
use cc_tests::machine::{Machine, Realm};
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::denial::ask_as;
use crate::operator::guestctl;
use crate::{RESOURCE, REST_PATH, SECRET, assert_refused, assert_released, stack};

fn options() -> Options {
    Options { machine: Machine::cca(), ..Options::default() }
}

/// A CCA machine with a change to its realm.
fn machine(change: impl FnOnce(&mut Realm)) -> Machine {
    let mut machine = Machine::cca();
    change(&mut machine.realm);
    machine
}

fn faulty(fault: &str) -> Machine {
    Machine { fault: fault.to_owned(), ..Machine::cca() }
}

#[test]
fn many_secrets_are_released_after_one_token() {
    let Some(stack) = stack(options()) else { return };
    for _ in 0..5 {
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_released(&answer, "honest");
    }
    assert_eq!(stack.quotes().unwrap(), 1);
}

#[test]
fn tampered_realms_and_platforms_are_denied_with_the_reason() {
    let Some(mut stack) = stack(options()) else { return };
    let cases = [
        (
            "other code",
            machine(|realm| realm.initial_measurement = "66".repeat(64)),
            "KBS_DENIED_POLICY",
            "cca_realm_initial_measurement",
        ),
        (
            "other monitor",
            machine(|realm| realm.rmm = "66".repeat(32)),
            "KBS_DENIED_POLICY",
            "cca_platform_sw_components",
        ),
        (
            "debugged",
            machine(|realm| realm.lifecycle = 0x4001),
            "KBS_DENIED_POLICY",
            "cca-platform-lifecycle",
        ),
        ("flipped bit", faulty("flip-bit"), "KBS_DENIED_ATTESTATION", "cca.realm_signature"),
        ("another realm's key", faulty("foreign-realm"), "KBS_DENIED_ATTESTATION", "cca.realm_key"),
        ("unknown platform", faulty("unknown-platform"), "KBS_DENIED_ATTESTATION", "cca.platform_key"),
    ];
    for (title, machine, expected_code, reason) in cases {
        let answer = ask_as(&mut stack, &machine);
        // With the reason comes what we sent.
        assert_refused(
            &answer,
            title,
            403,
            expected_code,
            &[reason, &machine.realm.initial_measurement[..16]],
        );
    }
    let answer = ask_as(&mut stack, &Machine::cca());
    assert_released(&answer, "honest");
}

#[test]
fn tokens_over_another_challenge_are_never_sent() {
    let Some(mut stack) = stack(options()) else { return };
    for fault in ["wrong-report-data", "stale", "short", "empty", "huge"] {
        let answer = ask_as(&mut stack, &faulty(fault));
        assert_eq!(answer.status, 500, "{fault}: our platform is to blame: {}", answer.text());
    }
    let log = stack.part(Part::Kbs).unwrap().log();
    assert!(!log.contains("attest: "), "the key broker saw none of it:\n{log}");
}

#[test]
fn a_key_broker_without_platform_keys_refuses_at_once() {
    if !emulator_runs_here() {
        return;
    }
    let mut stack = Stack::prepare(options()).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    // Another platform's key.
    let other = Stack::prepare(options()).map(|mut other| other.start_part(Part::Emulator).map(|()| other));
    let other = other.unwrap().unwrap();
    std::fs::copy(other.roots(), stack.roots()).unwrap();
    for part in [Part::Kbs, Part::Agent, Part::Hub, Part::Rest] {
        stack.start_part(part).unwrap();
    }
    stack.put_resource(RESOURCE, SECRET).unwrap();
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("cca.platform_key"), "{}", answer.text());
}

#[test]
fn init_data_is_compared_by_the_relying_party_whole() {
    if !emulator_runs_here() {
        return;
    }
    let document = "version = \"0.1.0\"\nalgorithm = \"sha512\"\n[data]\n\"aa.toml\" = '''\n[log]\nlevel = \"info\"\n'''\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("initdata.toml");
    std::fs::write(&path, document).unwrap();
    let launched_with = |digest: &[u8]| Options {
        machine: machine(|realm| realm.personalization = hex::encode(digest)),
        agent_arguments: vec!["--initdata-toml".to_owned(), path.display().to_string()],
        ..options()
    };
    let own = InitData::parse(document).unwrap().digest();
    let other = HashAlgorithm::Sha512.digest(b"another document");
    for (digest, status) in [(own, 200), (other, 403)] {
        let stack = Stack::start(launched_with(&digest)).unwrap_or_else(|e| panic!("{e:#}"));
        stack.put_resource(RESOURCE, SECRET).unwrap();
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.text().contains("cca.init_data"), status == 403, "{}", answer.text());
    }
}

#[test]
fn the_operators_tool_shows_a_realm() {
    let Some(stack) = stack(options()) else { return };
    let (status, out, error) = guestctl(&stack, &["evidence", "--report-data", &"ab".repeat(48)]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains(&Machine::cca().realm.initial_measurement), "{out}");
    let (status, out, error) = guestctl(&stack, &["doctor"]);
    assert_eq!(status, Some(0), "{out}{error}");
    assert!(out.contains("cca"), "{out}");
}
