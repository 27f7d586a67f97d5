//! The agent is killed at random moments under a stream of events. Nothing that it has answered is lost, and its log
//! always leads to the register.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use cc_evidence::HashAlgorithm;
use cc_evidence::aael::Fields;
use cc_evidence::ccel::{Events, assemble, replay};
use cc_tests::stack::{Part, Stack};
use rustix::process::Signal;

use super::{ask_anew, client, measure, options, register, runtime};
use crate::{SECRET, stack};

const ROUNDS: u32 = 100;

/// A number below `limit`, another one each time.
fn random(limit: u64) -> u64 {
    RandomState::new().build_hasher().finish() % limit
}

/// The contents of the log's events, after it was replayed to the register.
fn logged(stack: &Stack) -> Vec<String> {
    let records = std::fs::read(stack.agent_log()).unwrap_or_default();
    let log = assemble(None, Some(&records)).unwrap().unwrap();
    let replayed = replay(&log, HashAlgorithm::Sha384).unwrap();
    assert_eq!(replayed.run_time().nth(3), Some(register(stack, 3).as_slice()), "log and register agree");
    let events: Vec<_> = Events::new(&log).unwrap().map(Result::unwrap).collect();
    events.iter().map(|event| Fields::of_data(event.data).unwrap().content.to_owned()).collect()
}

#[test]
fn an_agent_killed_at_any_moment_leaves_a_log_that_leads_to_the_register() {
    let Some(mut stack) = stack(options()) else { return };
    let mut answered: Vec<String> = Vec::new();
    let mut unanswered = 0;
    for round in 0..ROUNDS {
        let (few, pause) = (random(4), Duration::from_micros(random(6000)));
        let stream = runtime().block_on(async {
            let mut client = client(&stack).await;
            let mut stream = Vec::new();
            for number in 0..few {
                let content = format!("{round}.{number}");
                measure(&mut client, &content, None).await.unwrap();
                stream.push(content);
            }
            // The next one is on its way when the agent is killed.
            let last = format!("{round}.{few}");
            let content = last.clone();
            let call = tokio::spawn(async move { measure(&mut client, &content, None).await });
            tokio::time::sleep(pause).await;
            stack.part(Part::Agent).unwrap().signal(Signal::KILL).unwrap();
            if call.await.unwrap().is_ok() {
                stream.push(last);
            } else {
                unanswered += 1;
            }
            stream
        });
        answered.extend(stream);
        assert_eq!(stack.part(Part::Agent).unwrap().wait().unwrap(), None, "killed");
        std::fs::remove_file(stack.agent_socket()).unwrap();
        stack.start_part(Part::Agent).unwrap();
        let logged = logged(&stack);
        let mut rest = logged.iter();
        for content in &answered {
            assert!(
                rest.any(|found| found == content),
                "{content} was answered and is not in the log: {logged:?}"
            );
        }
        let surplus = logged.len() - answered.len();
        assert!(surplus <= unanswered, "an event was logged twice: {logged:?}");
    }
    let total = logged(&stack).len();
    assert!(unanswered > 0 && total >= answered.len() && !answered.is_empty());
    let finished = stack.part(Part::Agent).unwrap().log().matches("has been finished").count();
    #[allow(clippy::print_stderr, reason = "how often the interesting moment was met")]
    {
        eprintln!(
            "{ROUNDS} kills: {} events answered, {unanswered} not, {total} logged, {finished} finished by the next agent",
            answered.len()
        );
    }
    let answer = ask_anew(&mut stack);
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}
