//! The matrix of bad input from afar: brokers, devices and neighbours that misbehave, and daemons that go on serving.
//!
//! Each row asserts what an application sees (status, code, sentence) and that the next good answer is served by
//! the same daemons. The table of all rows is `docs/bad-input.md`.

use std::time::{Duration, Instant};

use cc_tests::bench::load::{self, Summary, Target};
use cc_tests::curl::{self, Answer};
use cc_tests::hostile_kbs::{Exchange, HostileKbs, Reply, Step};
use cc_tests::stack::{ForeignKbs, Options, Part, Stack, Tee};

use crate::{REST_PATH, SECRET, code};

mod bodies;
mod broker;
mod challenge;
mod device;
mod errors;
mod long_run;
mod neighbours;
mod outage;
mod sealed;
mod tls;
mod token;

/// How often a row is repeated to see whether it leaves something behind.
const REPEATED: u64 = 50;
/// Descriptors that may come and go by themselves: kept connections and what the runtime opens late.
const FILE_SLACK: usize = 10;
/// What a daemon may grow by in memory while one row is repeated, in bytes: allocator arenas and warm buffers.
const MEMORY_SLACK: u64 = 24 << 20;
const DAEMONS: [Part; 3] = [Part::Agent, Part::Hub, Part::Rest];

/// The stack in front of a broker that does what it is told. The platform is the sample one, so these rows run
/// everywhere.
struct Ground {
    stack: Stack,
    kbs: HostileKbs,
    folder: tempfile::TempDir,
    /// Of each daemon before anything happened: descriptors and resident bytes.
    before: [(usize, u64); 3],
}

/// One bad answer and what must come of it.
struct Row {
    name: &'static str,
    step: Step,
    reply: Box<dyn Fn(&Exchange) -> Reply + Send + Sync>,
    status: u16,
    code: &'static str,
    says: &'static str,
}

fn row(
    name: &'static str,
    step: Step,
    reply: impl Fn(&Exchange) -> Reply + Send + Sync + 'static,
    (status, code, says): (u16, &'static str, &'static str),
) -> Row {
    Row { name, step, reply: Box::new(reply), status, code, says }
}

/// The same answer every time.
fn always(reply: Reply) -> impl Fn(&Exchange) -> Reply + Send + Sync {
    move |_| reply.clone()
}

impl Ground {
    /// Plain HTTP on loopback.
    fn new() -> Self {
        let kbs = HostileKbs::start(SECRET).unwrap();
        let url = kbs.url();
        Self::before(kbs, url, Options::default())
    }

    /// TLS with `identity`, which the hub trusts.
    fn over_tls(identity: &cc_tests::hostile_kbs::Identity) -> Self {
        let kbs = HostileKbs::start(SECRET).unwrap();
        kbs.present(Some(identity)).unwrap();
        let url = kbs.url().replace("http://", "https://");
        let folder = tempfile::tempdir().unwrap();
        let certificate = folder.path().join("trusted.pem");
        std::fs::write(&certificate, &identity.certificate).unwrap();
        let options = Options {
            foreign_kbs: Some(ForeignKbs { url, certificate: Some(certificate) }),
            tee: Tee::Sample,
            ..Options::default()
        };
        Self::of(start(options), kbs, folder)
    }

    fn before(kbs: HostileKbs, url: String, options: Options) -> Self {
        let foreign_kbs = Some(ForeignKbs { url, certificate: None });
        let stack = start(Options { foreign_kbs, tee: Tee::Sample, ..options });
        Self::of(stack, kbs, tempfile::tempdir().unwrap())
    }

    fn of(mut stack: Stack, kbs: HostileKbs, folder: tempfile::TempDir) -> Self {
        let before = DAEMONS
            .map(|part| (open_files(&mut stack, part), stack.part(part).unwrap().resident_bytes().unwrap()));
        Self { stack, kbs, folder, before }
    }

    /// Has the hub trust `pem` from now on, and drops its session.
    fn trust(&mut self, pem: &str) {
        std::fs::write(self.folder.path().join("trusted.pem"), pem).unwrap();
        self.forget();
    }

    /// A new hub, so that there is no session.
    fn forget(&mut self) {
        self.stack.stop_part(Part::Hub).unwrap();
        self.stack.start_part(Part::Hub).unwrap();
    }

    fn ask(&self) -> Answer {
        ask(&self.stack)
    }

    /// Everything is honest again: the same daemons serve, and hold no more than they did at the start.
    fn serves(&mut self, after: &str) {
        self.kbs.behave();
        let answer = self.ask();
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, SECRET),
            "after {after}: {}",
            answer.text()
        );
        self.assert_sound(after);
    }

    /// Neither descriptors nor memory have grown since the start beyond what is kept warm.
    fn assert_sound(&mut self, after: &str) {
        for (part, (files, memory)) in DAEMONS.into_iter().zip(self.before) {
            assert_files(&mut self.stack, part, files, after);
            let now = self.stack.part(part).unwrap().resident_bytes().unwrap();
            assert!(
                now <= memory + MEMORY_SLACK,
                "after {after}: {part:?} grew from {memory} to {now} bytes"
            );
        }
    }

    /// Plays each row on a hub without a session, and sees the hub serve afterwards.
    fn play(&mut self, rows: Vec<Row>) {
        for Row { name, step, reply, status, code, says } in rows {
            self.forget();
            self.kbs.behave();
            self.kbs.on(step, reply);
            expect(&self.ask(), name, (status, code, says));
            assert!(self.kbs.asked(step) > 0, "{name}: the step was never reached");
            self.serves(name);
        }
    }

    /// Repeats a row whose answer is immediate; nothing may stay behind.
    fn repeat(&mut self, name: &str, step: Step, reply: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) {
        self.forget();
        self.kbs.behave();
        self.kbs.on(step, reply);
        leaves_nothing(&mut self.stack, name, false);
        self.serves(name);
    }
}

/// Rows follow each other at once: a denial must not answer for the next one.
const NO_PAUSE: &str = "denial_pause_seconds = 0\n";

fn start(options: Options) -> Stack {
    let hub_kbc_config = format!("{NO_PAUSE}{}", options.hub_kbc_config);
    let options = Options { hub_kbc_config, ..options };
    Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"))
}

fn ask(stack: &Stack) -> Answer {
    curl::curl(&["-H", "Accept: application/json"], &format!("{}{REST_PATH}", stack.rest_url())).unwrap()
}

/// Asserts status, code and a part of the sentence; a body never holds the secret.
fn expect(answer: &Answer, name: &str, (status, expected, says): (u16, &str, &str)) {
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    assert_eq!(code(&answer.body), expected, "{name}: {}", answer.text());
    assert!(answer.text().contains(says), "{name}: {says:?} is missing in {}", answer.text());
    assert!(
        !answer.text().contains(std::str::from_utf8(SECRET).unwrap()),
        "{name}: the secret is in the error"
    );
}

/// Asks [`REPEATED`] times, and compares descriptors and memory of the daemons before and after.
fn leaves_nothing(stack: &mut Stack, name: &str, served: bool) {
    load(stack, 8); // what is opened once and kept
    let files = DAEMONS.map(|part| open_files(stack, part));
    let memory = DAEMONS.map(|part| stack.part(part).unwrap().resident_bytes().unwrap());
    let summary = load(stack, REPEATED);
    let (good, bad) = if served { (REPEATED, 0) } else { (0, REPEATED) };
    assert_eq!((summary.requests, summary.errors), (good, bad), "{name}");
    for ((part, before), resident) in DAEMONS.into_iter().zip(files).zip(memory) {
        assert_files(stack, part, before, name);
        let now = stack.part(part).unwrap().resident_bytes().unwrap();
        assert!(now <= resident + MEMORY_SLACK, "{name}: {part:?} grew from {resident} to {now} bytes");
    }
}

/// Waits until a daemon has no more than [`FILE_SLACK`] descriptors beyond `before`.
fn assert_files(stack: &mut Stack, part: Part, before: usize, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut after = open_files(stack, part);
    while after > before + FILE_SLACK && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        after = open_files(stack, part);
    }
    assert!(after <= before + FILE_SLACK, "{name}: {part:?} had {before} descriptors, now {after}");
}

/// Asks over four connections until `requests` were answered.
fn load(stack: &Stack, requests: u64) -> Summary {
    let addr = stack.rest_url().trim_start_matches("http://").parse().unwrap();
    let target = Target { addr, path: REST_PATH.to_owned(), headers: http::HeaderMap::new(), tls: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(load::run(target, 4, requests, Duration::from_secs(30))).unwrap()
}

/// Descriptors that a daemon has open.
fn open_files(stack: &mut Stack, part: Part) -> usize {
    let pid = stack.part(part).unwrap().pid();
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
