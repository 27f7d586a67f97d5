//! Neighbours that die, hang and come back in the middle of the work.

use std::time::{Duration, Instant};

use cc_tests::curl::Answer;
use cc_tests::hostile_kbs::{Reply, Step};
use cc_tests::machine::Machine;
use cc_tests::stack::{Options, Part, Stack};
use rustix::process::Signal;

use super::{Ground, NO_PAUSE, always, ask, expect};
use crate::{SECRET, stack};

fn kill(stack: &mut Stack, part: Part) {
    let process = stack.part(part).unwrap();
    process.signal(Signal::KILL).unwrap();
    process.wait().unwrap();
}

fn is_secret(answer: &Answer, name: &str) {
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{name}: {}", answer.text());
}

/// Asks, and does `meanwhile` after a second.
fn ask_while(stack: &mut Stack, meanwhile: impl FnOnce(&mut Stack)) -> Answer {
    let url = stack.rest_url();
    std::thread::scope(|scope| {
        let asked = scope.spawn(move || {
            let url = format!("{url}{}", crate::REST_PATH);
            cc_tests::curl::curl(&["-H", "Accept: application/json"], &url).unwrap()
        });
        std::thread::sleep(Duration::from_secs(1));
        meanwhile(stack);
        asked.join().unwrap()
    })
}

/// A machine that takes three seconds for a quote.
fn slow() -> Options {
    let machine = Machine { delay_ms: 3000, ..Machine::default() };
    Options { machine, hub_kbc_config: NO_PAUSE.to_owned(), ..Options::default() }
}

#[test]
fn an_agent_that_is_late_gone_or_stopped_costs_time_only() {
    let Some(mut stack) = stack(slow()) else { return };
    stack.stop_part(Part::Agent).unwrap();
    let answer = ask_while(&mut stack, |stack| stack.start_part(Part::Agent).unwrap());
    is_secret(&answer, "started late");

    stack.stop_part(Part::Hub).unwrap();
    stack.start_part(Part::Hub).unwrap();
    let answer = ask_while(&mut stack, |stack| {
        kill(stack, Part::Agent);
        stack.start_part(Part::Agent).unwrap();
    });
    is_secret(&answer, "killed in the middle of an evidence call");
    assert_eq!(
        std::fs::read_dir(stack.tsm_report()).unwrap().count(),
        0,
        "the dead agent's entry was removed"
    );

    stack.stop_part(Part::Hub).unwrap();
    stack.start_part(Part::Hub).unwrap();
    let answer = ask_while(&mut stack, |stack| {
        stack.part(Part::Agent).unwrap().signal(Signal::STOP).unwrap();
        std::thread::sleep(Duration::from_secs(3));
        stack.part(Part::Agent).unwrap().signal(Signal::CONT).unwrap();
    });
    is_secret(&answer, "stopped and continued");
}

#[test]
fn a_killed_hub_is_told_at_once_and_found_again() {
    let mut ground = Ground::new();
    ground.serves("the start");
    ground.kbs.on(Step::Resource, always(Reply::Silence));
    let start = Instant::now();
    let answer = ask_while(&mut ground.stack, |stack| kill(stack, Part::Hub));
    expect(&answer, "killed with a request in it", (503, "CDH_UNREACHABLE", "cannot be reached"));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    expect(&ground.ask(), "not running", (503, "CDH_UNREACHABLE", "cannot be reached"));
    // The stale socket is there already, so wait until the new one answers.
    ground.kbs.behave();
    ground.stack.start_part(Part::Hub).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while ground.ask().status != 200 {
        assert!(Instant::now() < deadline, "the REST server does not find the new hub");
        std::thread::sleep(Duration::from_millis(20));
    }
    ground.serves("a killed hub");
}

#[test]
fn a_restarted_broker_is_survived_with_and_without_a_live_token() {
    let kbs_arguments = vec!["--token-lifetime".to_owned(), "3".to_owned()];
    let Some(mut stack) = stack(Options { kbs_arguments, ..Options::default() }) else { return };
    let restart = |stack: &mut Stack| {
        stack.stop_part(Part::Kbs).unwrap();
        stack.start_part(Part::Kbs).unwrap();
    };
    is_secret(&ask(&stack), "the start");
    restart(&mut stack);
    is_secret(&ask(&stack), "sessions lost, token alive");
    std::thread::sleep(Duration::from_millis(3200));
    let quotes = stack.quotes().unwrap();
    restart(&mut stack);
    is_secret(&ask(&stack), "sessions lost, token expired");
    assert_eq!(stack.quotes().unwrap(), quotes + 1, "one new attestation");
}

#[test]
fn a_broker_that_forgets_the_session_between_challenge_and_evidence_refuses_once() {
    // By the protocol this cannot be told from refused evidence, so it is final; the next request is a new start.
    // The broker is there again long before the quote is.
    let machine = Machine { delay_ms: 8000, ..Machine::default() };
    let Some(mut stack) = stack(Options { machine, ..slow() }) else { return };
    let answer = ask_while(&mut stack, |stack| {
        stack.stop_part(Part::Kbs).unwrap();
        stack.start_part(Part::Kbs).unwrap();
    });
    expect(&answer, "restarted meanwhile", (403, "KBS_DENIED_ATTESTATION", "session"));
    is_secret(&ask(&stack), "the next request");
}
