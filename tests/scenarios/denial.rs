//! Tampered machines: each is refused, and the reason reaches the application's log and the officer's eyes.

use cc_tests::curl;
use cc_tests::machine::{Machine, POLICY_DEBUG};
use cc_tests::stack::{Options, Part, Stack};

use crate::{REST_PATH, assert_refused, assert_released, stack};

/// Replaces the machine by another one, whose data hub has no session yet, and asks for the secret.
pub(crate) fn ask_as(stack: &mut Stack, machine: &Machine) -> curl::Answer {
    stack.stop_part(Part::Hub).unwrap();
    stack.set_machine(machine).unwrap();
    stack.start_part(Part::Hub).unwrap();
    curl::curl(&["-H", "Accept: application/json"], &format!("{}{REST_PATH}", stack.rest_url())).unwrap()
}

#[test]
fn tampered_machines_are_denied_with_the_reason() {
    let Some(mut stack) = stack(Options::default()) else { return };
    let honest = Machine::default();
    let cases = [
        (
            "other code",
            Machine { measurement: "66".repeat(48), ..honest.clone() },
            "KBS_DENIED_POLICY",
            "measurement",
        ),
        (
            "debug",
            Machine { policy: honest.policy | POLICY_DEBUG, ..honest.clone() },
            "KBS_DENIED_POLICY",
            "debug",
        ),
        (
            "flipped bit",
            Machine { fault: "flip-bit".to_owned(), ..honest.clone() },
            "KBS_DENIED_ATTESTATION",
            "snp.signature",
        ),
        ("VMPL 1", Machine { vmpl: 1, ..honest.clone() }, "KBS_DENIED_ATTESTATION", "snp.vmpl"),
        (
            "expired VCEK",
            Machine { fault: "expired-vcek".to_owned(), ..honest.clone() },
            "KBS_DENIED_ATTESTATION",
            "snp.",
        ),
        (
            "wrong TCB in the VCEK",
            Machine { fault: "wrong-tcb-extension".to_owned(), ..honest.clone() },
            "KBS_DENIED_ATTESTATION",
            "snp.tcb",
        ),
        (
            "another chip's VCEK",
            Machine { fault: "wrong-chip-id".to_owned(), ..honest.clone() },
            "KBS_DENIED_ATTESTATION",
            "snp.chip_id",
        ),
    ];
    for (title, machine, expected_code, reason) in cases {
        let answer = ask_as(&mut stack, &machine);
        // With the reason comes what we sent.
        assert_refused(&answer, title, 403, expected_code, &[reason, &machine.measurement[..16]]);
    }
    let answer = ask_as(&mut stack, &honest);
    assert_released(&answer, "honest");
}

#[test]
fn evidence_over_other_report_data_is_never_sent() {
    let Some(mut stack) = stack(Options::default()) else { return };
    for fault in ["wrong-report-data", "short", "empty"] {
        let answer = ask_as(&mut stack, &Machine { fault: fault.to_owned(), ..Machine::default() });
        assert_eq!(answer.status, 500, "{fault}: our platform is to blame: {}", answer.text());
    }
    let log = stack.part(Part::Kbs).unwrap().log();
    assert!(!log.contains("report_data"), "the key broker saw none of it:\n{log}");
}

#[test]
fn without_reference_values_nothing_is_released() {
    let options = Options { no_reference_values: true, ..Options::default() };
    let Some(stack) = stack(options) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert!(answer.text().contains("KBS_DENIED_POLICY"), "{}", answer.text());
}

#[test]
fn a_denial_is_final_and_costs_one_quote() {
    let machine = Machine { fault: "flip-bit".to_owned(), ..Machine::default() };
    let Some(stack) = stack(Options { machine, ..Options::default() }) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(stack.quotes().unwrap(), 1, "it was tried once");
}
