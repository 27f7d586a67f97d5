//! Outages: what the application is told when one lasts, and that the same daemons serve when it is over.
//!
//! A request waits 45 seconds for a broker or an agent to come back, so all rows wait at the same time.

use std::time::Instant;

use cc_tests::curl::Answer;
use cc_tests::hostile_kbs::{HostileKbs, Reply, Step};
use cc_tests::stack::Part;
use rustix::process::Signal;

use super::{Ground, always, ask, expect};
use crate::SECRET;

/// What is down.
enum Down {
    /// Nobody listens at the broker's address.
    Broker,
    /// The broker answers a step like this.
    Step(Step, Reply),
    /// The agent was stopped.
    Agent,
    /// The agent does not move.
    AgentHangs,
    /// The data hub does not move.
    HubHangs,
}

struct Outage {
    name: &'static str,
    down: Down,
    expected: (u16, &'static str, &'static str),
}

fn outages() -> Vec<Outage> {
    let row = |name, down, expected| Outage { name, down, expected };
    let at = |step, reply| Down::Step(step, reply);
    let late = (504, "KBS_TIMEOUT", "time ran out while");
    vec![
        row(
            "unreachable",
            Down::Broker,
            (503, "KBS_UNREACHABLE", "cannot reach the KBS at http://127.0.0.1:"),
        ),
        row("silent at auth", at(Step::Auth, Reply::Silence), late),
        row("silent at attest", at(Step::Attest, Reply::Silence), late),
        row("silent at resource", at(Step::Resource, Reply::Silence), late),
        row("slow body at auth", at(Step::Auth, Reply::Trickle(200)), late),
        row("slow body at resource", at(Step::Resource, Reply::Trickle(200)), late),
        row("slow error body", at(Step::Resource, Reply::Trickle(403)), late),
        row(
            "closes mid-body",
            at(Step::Auth, Reply::Cut(200)),
            (503, "KBS_UNREACHABLE", "the connection broke in the middle of the answer"),
        ),
        row(
            "closes without a word",
            at(Step::Resource, Reply::Raw(Vec::new())),
            (503, "KBS_UNREACHABLE", "cannot reach the KBS"),
        ),
        row(
            "503 with JSON",
            at(Step::Attest, Reply::problem(503, "HTTPFailed", "back soon")),
            (503, "KBS_SERVER_ERROR", "status 503: HTTPFailed: back soon"),
        ),
        row(
            "500 without JSON",
            at(Step::Resource, Reply::http(500, "")),
            (503, "KBS_SERVER_ERROR", "status 500: Internal Server Error"),
        ),
        row("429", at(Step::Auth, Reply::http(429, "")), (503, "KBS_SERVER_ERROR", "status 429")),
        row("no agent", Down::Agent, (503, "PEER_UNREACHABLE", "attestation agent at unix://")),
        row("the agent hangs", Down::AgentHangs, (504, "KBS_TIMEOUT", "time ran out while")),
        row("the hub hangs", Down::HubHangs, (504, "CDH_TIMEOUT", "did not answer within 50 seconds")),
    ]
}

impl Ground {
    fn take_down(&mut self, down: &Down) {
        match down {
            // The port is kept by the object that replaces it later; until then nobody listens there.
            Down::Broker => self.kbs.close(),
            Down::Step(step, reply) => self.kbs.on(*step, always(reply.clone())),
            Down::Agent => drop(self.stack.stop_part(Part::Agent).unwrap()),
            Down::AgentHangs => self.stack.part(Part::Agent).unwrap().signal(Signal::STOP).unwrap(),
            Down::HubHangs => self.stack.part(Part::Hub).unwrap().signal(Signal::STOP).unwrap(),
        }
    }

    fn bring_back(&mut self, down: &Down) {
        match down {
            Down::Broker => self.kbs = HostileKbs::start_at(self.kbs.address(), SECRET).unwrap(),
            Down::Step(..) => self.kbs.behave(),
            Down::Agent => self.stack.start_part(Part::Agent).unwrap(),
            Down::AgentHangs => self.stack.part(Part::Agent).unwrap().signal(Signal::CONT).unwrap(),
            Down::HubHangs => self.stack.part(Part::Hub).unwrap().signal(Signal::CONT).unwrap(),
        }
    }
}

#[test]
fn a_lasting_outage_is_named_and_a_past_one_forgotten() {
    let outages = outages();
    let mut grounds: Vec<Ground> = outages.iter().map(|_| Ground::new()).collect();
    for (ground, outage) in grounds.iter_mut().zip(&outages) {
        ground.take_down(&outage.down);
    }
    let answers: Vec<(Answer, u64)> = std::thread::scope(|scope| {
        let asked: Vec<_> = grounds
            .iter()
            .map(|ground| {
                let stack = &ground.stack;
                scope.spawn(move || {
                    let start = Instant::now();
                    (ask(stack), start.elapsed().as_secs())
                })
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((outage, ground), (answer, seconds)) in outages.iter().zip(&mut grounds).zip(&answers) {
        let name = outage.name;
        expect(answer, name, outage.expected);
        // Waits between tries are whole: the last one may not fit any more.
        assert!((35..=52).contains(seconds), "{name}: {seconds} s");
        ground.bring_back(&outage.down);
        let answer = ground.ask();
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "after {name}: {}", answer.text());
        ground.assert_sound(name);
    }
}
