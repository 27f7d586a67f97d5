//! Machines whose kernel has no configfs-tsm: evidence through `/dev/sev-guest`, and a TDREPORT with the host's quote
//! service, under the real agent.

use cc_tests::machine::Machine;
use cc_tests::stack::Options;

use crate::denial::ask_as;
use crate::{REST_PATH, SECRET, code, stack};

fn options(machine: Machine) -> Options {
    Options { machine, devices_only: true, ..Options::default() }
}

#[test]
fn secrets_are_released_through_drivers_devices() {
    for (machine, device) in [(Machine::default(), "dev/sev-guest"), (Machine::tdx(), "dev/tdx_guest")] {
        let Some(stack) = stack(options(machine)) else { return };
        for _ in 0..3 {
            let answer = stack.rest_get(REST_PATH).unwrap();
            assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{device}: {}", answer.text());
        }
        assert_eq!(stack.quotes().unwrap(), 1, "{device}");
    }
}

/// What a machine that answers badly gets, and that it is served when it answers well again.
fn refused(stack: &mut cc_tests::stack::Stack, honest: &Machine, faults: &[(&str, u16, &str)]) {
    for (fault, status, expected) in faults {
        let machine = Machine { fault: (*fault).to_owned(), ..honest.clone() };
        let answer = ask_as(stack, &machine);
        assert_eq!(
            (answer.status, code(&answer.body).as_str()),
            (*status, *expected),
            "{fault}: {}",
            answer.text()
        );
    }
    let answer = ask_as(stack, honest);
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}

#[test]
fn what_sev_guest_answers_badly_is_never_sent() {
    let mut options = options(Machine::default());
    options.agent_config = "quote_time_limit_seconds = 2\n".to_owned();
    let Some(mut stack) = stack(options) else { return };
    let faults = [
        ("wrong-report-data", 500, "EVIDENCE_MISMATCH"),
        ("stale", 500, "EVIDENCE_MISMATCH"),
        ("short", 500, "EVIDENCE_MALFORMED"),
        ("firmware-error", 500, "SNP_REQUEST_FAILED"),
        ("key-lost", 500, "SNP_KEY_LOST"),
        ("busy", 500, "TSM_TIMEOUT"),
        ("flip-bit", 403, "KBS_DENIED_ATTESTATION"),
        // Without certificates this key broker has no way to know the chip's.
        ("large-table", 403, "KBS_DENIED_ATTESTATION"),
    ];
    refused(&mut stack, &Machine::default(), &faults);
}

#[test]
fn what_the_quote_service_answers_badly_is_never_sent() {
    let mut options = options(Machine::tdx());
    options.agent_config = "quote_time_limit_seconds = 2\n".to_owned();
    let Some(mut stack) = stack(options) else { return };
    let faults = [
        ("wrong-report-data", 500, "EVIDENCE_MISMATCH"),
        ("stale", 500, "EVIDENCE_MISMATCH"),
        ("other-domain", 500, "EVIDENCE_MISMATCH"),
        ("short", 500, "EVIDENCE_MALFORMED"),
        ("huge", 500, "EVIDENCE_MALFORMED"),
        ("host-timeout", 500, "TDX_QUOTE_REFUSED"),
        ("hang", 500, "TSM_TIMEOUT"),
        ("flip-bit", 500, "EVIDENCE_MISMATCH"),
        ("revoked-tcb", 403, "KBS_DENIED_ATTESTATION"),
    ];
    refused(&mut stack, &Machine::tdx(), &faults);
}
