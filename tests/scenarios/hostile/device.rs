//! Quote devices that misbehave, under the real agent. Their evidence is refused before it leaves the machine.

use std::time::{Duration, Instant};

use cc_tests::machine::Machine;
use cc_tests::stack::{Options, Part};

use super::{ask, expect, leaves_nothing};
use crate::{SECRET, stack};

fn faulty(fault: &str) -> Machine {
    Machine { fault: fault.to_owned(), ..Machine::default() }
}

#[test]
fn an_answer_that_is_no_evidence_for_the_question_is_never_sent() {
    let Some(mut stack) = stack(Options::default()) else { return };
    // There is a report before the next one.
    assert_eq!(ask(&stack).status, 200);
    for (fault, code, says) in [
        ("empty", "TSM_MALFORMED", "outblob is malformed: empty or absent"),
        ("short", "TSM_MALFORMED", "1183 bytes, an SNP report has 1184"),
        ("huge", "TSM_MALFORMED", "outblob"),
        ("wrong-report-data", "EVIDENCE_MISMATCH", "does not contain the report data that was asked for"),
        ("stale", "EVIDENCE_MISMATCH", "does not contain the report data that was asked for"),
    ] {
        stack.stop_part(Part::Hub).unwrap();
        stack.start_part(Part::Hub).unwrap();
        stack.set_machine(&faulty(fault)).unwrap();
        let quotes = stack.quotes().unwrap();
        expect(&ask(&stack), fault, (500, code, says));
        assert!(stack.quotes().unwrap() <= quotes + 1, "{fault}: it was asked once");
        if fault != "huge" {
            leaves_nothing(&mut stack, fault, false);
        }
        assert_eq!(std::fs::read_dir(stack.tsm_report()).unwrap().count(), 0, "{fault}: an entry is left");
        stack.set_machine(&Machine::default()).unwrap();
        let answer = ask(&stack);
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, SECRET),
            "after {fault}: {}",
            answer.text()
        );
    }
    let log = stack.part(Part::Kbs).unwrap().log();
    assert!(!log.contains("report_data"), "the key broker saw none of it:\n{log}");
}

#[test]
fn a_device_that_is_busy_for_ten_seconds_is_waited_for() {
    let Some(stack) = stack(Options::default()) else { return };
    stack.set_machine(&faulty("busy")).unwrap();
    let start = Instant::now();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(&stack));
        std::thread::sleep(Duration::from_secs(10));
        stack.set_machine(&Machine::default()).unwrap();
        asked.join().unwrap()
    });
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
    assert!((10..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    assert_eq!(stack.quotes().unwrap(), 1);
}

#[test]
fn a_device_that_stays_busy_or_hangs_is_a_timeout_and_leaves_one_thread_at_most() {
    let agent_config = "quote_time_limit_seconds = 1\n".to_owned();
    let Some(mut stack) = stack(Options { agent_config, ..Options::default() }) else { return };
    let threads = |stack: &mut cc_tests::stack::Stack| {
        let pid = stack.part(Part::Agent).unwrap().pid();
        std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
    };
    assert_eq!(ask(&stack).status, 200);
    let before = threads(&mut stack);
    for (fault, says) in [("busy", "busy"), ("hang", "no answer within 1 s")] {
        stack.stop_part(Part::Hub).unwrap();
        stack.start_part(Part::Hub).unwrap();
        stack.set_machine(&faulty(fault)).unwrap();
        expect(&ask(&stack), fault, (500, "TSM_TIMEOUT", says));
    }
    // While the call is inside the kernel, everybody else is told at once.
    for _ in 0..20 {
        let start = Instant::now();
        expect(&ask(&stack), "stuck", (500, "TSM_STUCK", "has been inside the kernel for"));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    let stuck = threads(&mut stack);
    // Blocking threads of the runtime linger a few seconds; one more is the stuck one.
    assert!(stuck <= before + 6, "{before} threads became {stuck}");
    stack.set_machine(&Machine::default()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = ask(&stack);
        if answer.status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "the device answers again, the agent does not: {}", answer.text());
        std::thread::sleep(Duration::from_millis(100));
    }
}
