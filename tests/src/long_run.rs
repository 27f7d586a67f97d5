//! A long run: many requests while the key broker is restarted, the token expires and the agent is killed.
//!
//! The load goes in bursts from a thread of its own, so that a fast machine does not end it before anything has
//! happened. The disturbances follow the clock of the token: the broker is restarted shortly after a renewal, so
//! its sessions are lost while the token lives; the agent is dead when the next renewal is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde::Serialize;

use crate::bench::load::{self, Open, Target};
use crate::stack::{Options, Part, Stack};

/// Where the secret is kept.
const RESOURCE: &str = "default/long/run";
const SECRET: &[u8] = b"the one body that is right: 7c1f0d";
const DAEMONS: [(Part, &str); 3] = [
    (Part::Agent, "attestation-agent"),
    (Part::Hub, "confidential-data-hub"),
    (Part::Rest, "api-server-rest"),
];
/// Life of a token in seconds; it is renewed from 80 % on.
const TOKEN_LIFE: u64 = 5;
/// How long the broker is down, and how long the agent is dead.
const BROKER_DOWN: Duration = Duration::from_millis(500);
const AGENT_DEAD: Duration = Duration::from_secs(2);
/// From a renewal to the agent's death: before the next renewal.
const AGENT_DIES: Duration = Duration::from_millis(3000);
/// Requests before memory is measured for the first time.
const WARM_UP: u64 = 500;

/// How long a run is.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests in all.
    pub requests: u64,
    /// Connections that ask at the same time.
    pub connections: usize,
    /// Requests of one burst.
    pub burst: u64,
    /// Shortest time that the run takes; bursts are spread over it.
    pub at_least: Duration,
    /// How long the daemons rest at the end, before their memory is looked at for the last time.
    pub rest: Duration,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Answers with the right body.
    pub good: u64,
    /// Answers with status 200 and another body.
    pub wrong_bodies: u64,
    /// Errors by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub unanswered: u64,
    /// The median latency of a burst in microseconds; of all bursts the one in the middle.
    pub p50_us: u64,
    /// The latency in microseconds that 99 of 100 requests of a burst stay within; of all bursts the one in the middle.
    pub p99_us: u64,
    /// The longest time that one request took, in microseconds.
    pub longest_us: u64,
    /// Length of the run in seconds, without the rest at its end.
    pub seconds: f64,
    /// How often the broker was restarted.
    pub broker_restarts: u64,
    /// How often the agent was killed.
    pub agent_kills: u64,
    /// Quotes made, which is attestations tried.
    pub quotes: u64,
    /// Memory and descriptors of each daemon.
    pub daemons: Vec<Footprint>,
}

/// What one daemon holds.
#[derive(Debug, Clone, Serialize)]
pub struct Footprint {
    /// Name of the program.
    pub program: &'static str,
    /// Resident bytes after the warm-up; of a killed program after its last start.
    pub resident_before: u64,
    /// The most resident bytes there ever were.
    pub resident_peak: u64,
    /// Resident bytes right after the last answer.
    pub resident_after: u64,
    /// Resident bytes after the rest.
    pub resident_at_rest: u64,
    /// Open descriptors after the warm-up.
    pub descriptors_before: usize,
    /// Open descriptors after the rest.
    pub descriptors_at_rest: usize,
}

impl Figures {
    /// Whether every error is of a kind that an outage explains (503, 504), and no body was wrong.
    pub fn is_clean(&self) -> bool {
        self.wrong_bodies == 0 && self.unanswered == 0 && self.statuses.keys().all(|s| matches!(s, 503 | 504))
    }
}

/// Runs `plan` against a stack of its own.
///
/// # Errors
/// The stack does not start, or a program does not come back.
pub fn run(plan: &Plan) -> anyhow::Result<Figures> {
    ensure!(plan.burst > 0, "a burst needs at least one request");
    let mut stack = Stack::start(Options {
        kbs_arguments: vec!["--token-lifetime".to_owned(), TOKEN_LIFE.to_string()],
        log: Some("warn".to_owned()),
        ..Options::default()
    })?;
    stack.put_resource(RESOURCE, SECRET)?;
    let target = Target {
        addr: stack.rest_url().trim_start_matches("http://").parse()?,
        path: format!("/cdh/resource/{RESOURCE}"),
        headers: http::HeaderMap::new(),
        tls: None,
    };
    let warm = Plan { requests: WARM_UP, burst: WARM_UP, at_least: Duration::ZERO, ..plan.clone() };
    ensure!(ask(&warm, &target)?.good == WARM_UP, "the stack does not serve before anything has happened");
    let mut before = DAEMONS.map(|(part, _)| part).map(|part| footprint(&mut stack, part));
    let mut disturbed = Disturbed::default();
    let (plan_of_load, target_of_load) = (plan.clone(), target);
    let began = Instant::now();
    let load = std::thread::spawn(move || ask(&plan_of_load, &target_of_load));
    while !load.is_finished() {
        disturbed.cycle(&mut stack, &|| load.is_finished())?;
        // Another process now.
        if let Some(first) = before.first_mut() {
            *first = footprint(&mut stack, Part::Agent);
        }
    }
    let answers = load.join().map_err(|_| anyhow::anyhow!("the load failed"))??;
    let seconds = began.elapsed().as_secs_f64();
    let after = DAEMONS.map(|(part, _)| footprint(&mut stack, part));
    pause(plan.rest);
    let mut daemons = Vec::new();
    for (((part, program), before), after) in DAEMONS.into_iter().zip(before).zip(after) {
        let (resident_before, descriptors_before) = before?;
        let (resident_at_rest, descriptors_at_rest) = footprint(&mut stack, part)?;
        daemons.push(Footprint {
            program,
            resident_before,
            resident_peak: stack.part(part)?.peak_bytes()?,
            resident_after: after?.0,
            resident_at_rest,
            descriptors_before,
            descriptors_at_rest,
        });
    }
    Ok(Figures {
        good: answers.good,
        wrong_bodies: answers.wrong_bodies,
        unanswered: answers.errors - answers.statuses.values().sum::<u64>(),
        statuses: answers.statuses,
        p50_us: middle(answers.p50_us),
        p99_us: middle(answers.p99_us),
        longest_us: answers.longest_us,
        seconds,
        broker_restarts: disturbed.broker_restarts,
        agent_kills: disturbed.agent_kills,
        quotes: stack.quotes()?,
        daemons,
    })
}

/// What the load saw.
#[derive(Debug, Default)]
struct Answers {
    good: u64,
    wrong_bodies: u64,
    errors: u64,
    statuses: BTreeMap<u16, u64>,
    /// Of each burst.
    p50_us: Vec<u64>,
    p99_us: Vec<u64>,
    longest_us: u64,
}

/// The value in the middle; 0 of none.
fn middle(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn ask(plan: &Plan, target: &Target) -> anyhow::Result<Answers> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wrong = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&wrong);
    let open: Open = Arc::new(move |body| {
        let right = body == SECRET;
        counted.fetch_add(u64::from(!right), Ordering::Relaxed);
        right
    });
    let bursts = plan.requests.div_ceil(plan.burst);
    let pace = plan.at_least.div_f64(bursts.max(1) as f64);
    let mut answers = Answers::default();
    let mut left = plan.requests;
    while left > 0 {
        let burst = left.min(plan.burst);
        let next = Instant::now() + pace;
        let summary = runtime.block_on(load::run_with(
            target.clone(),
            plan.connections,
            burst,
            Duration::from_secs(300),
            Arc::clone(&open),
        ))?;
        left -= burst;
        answers.good += summary.requests;
        answers.errors += summary.errors;
        answers.p50_us.push(summary.p50_us);
        answers.p99_us.push(summary.p99_us);
        answers.longest_us = answers.longest_us.max(summary.max_us);
        for (status, count) in summary.statuses {
            *answers.statuses.entry(status).or_default() += count;
        }
        if left > 0 {
            pause(next.saturating_duration_since(Instant::now()));
        }
    }
    answers.wrong_bodies = wrong.load(Ordering::Relaxed);
    // A wrong body has status 200 and is counted on its own.
    if let Some(wrong) = answers.statuses.remove(&200) {
        answers.errors -= wrong;
    }
    Ok(answers)
}

#[derive(Debug, Default)]
struct Disturbed {
    broker_restarts: u64,
    agent_kills: u64,
}

impl Disturbed {
    /// From one renewal of the token to the next; ends early when `done`.
    fn cycle(&mut self, stack: &mut Stack, done: &dyn Fn() -> bool) -> anyhow::Result<()> {
        let quotes = stack.quotes()?;
        while stack.quotes()? == quotes {
            if done() {
                return Ok(());
            }
            pause(Duration::from_millis(10));
        }
        let renewed = Instant::now();
        // The evidence is on its way: a broker that forgot the session would refuse it.
        pause(Duration::from_millis(500));
        stack.stop_part(Part::Kbs)?;
        pause(BROKER_DOWN);
        stack.start_part(Part::Kbs)?;
        self.broker_restarts += 1;
        pause((renewed + AGENT_DIES).saturating_duration_since(Instant::now()));
        if done() {
            return Ok(());
        }
        let agent = stack.part(Part::Agent)?;
        agent.signal(Signal::KILL)?;
        agent.wait()?;
        self.agent_kills += 1;
        pause(AGENT_DEAD);
        stack.start_part(Part::Agent)
    }
}

/// Resident bytes and open descriptors.
fn footprint(stack: &mut Stack, part: Part) -> anyhow::Result<(u64, usize)> {
    let process = stack.part(part)?;
    let resident = process.resident_bytes()?;
    let descriptors =
        std::fs::read_dir(format!("/proc/{}/fd", process.pid())).context("counting descriptors")?;
    Ok((resident, descriptors.count()))
}

#[allow(clippy::disallowed_methods, reason = "a test waits for other processes")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
