//! The agent dies at each step, before it, in the middle of it, or after it; or the step fails and the agent lives on.
//! Then the next agent, or the next call, makes log and register agree.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::measurement::files::Files;

/// What happens at the fatal step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Death before it has any effect.
    Before,
    /// Death in the middle: what is written is written in part.
    Half,
    /// Death after it.
    After,
    /// The step fails without effect, and life goes on.
    Fails,
    /// The step has its effect, and fails all the same.
    FailsLate,
}

/// Counts steps down to the fatal one.
#[derive(Debug)]
struct Clock {
    left: AtomicUsize,
    fate: Fate,
}

/// What a step is to do.
enum Turn {
    Live,
    Fatal,
    Dead,
}

impl Clock {
    fn new(steps: usize, fate: Fate) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(steps), fate })
    }

    fn turn(&self) -> Turn {
        match self.left.load(Ordering::Relaxed) {
            0 if matches!(self.fate, Fate::Fails | Fate::FailsLate) => Turn::Live,
            0 => Turn::Dead,
            left => {
                self.left.store(left - 1, Ordering::Relaxed);
                if left == 1 { Turn::Fatal } else { Turn::Live }
            }
        }
    }

    fn happened(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Takes a step that is `whole`, or `half` of it.
    fn step<T, E>(
        &self,
        error: impl FnOnce() -> E,
        half: impl FnOnce(),
        whole: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        match (self.turn(), self.fate) {
            (Turn::Live, _) => return whole(),
            (Turn::Fatal, Fate::Half) => half(),
            (Turn::Fatal, Fate::After | Fate::FailsLate) => drop(whole()),
            (Turn::Fatal | Turn::Dead, _) => {}
        }
        Err(error())
    }
}

#[derive(Debug)]
struct MortalFiles {
    files: Directory,
    log: PathBuf,
    clock: Arc<Clock>,
}

fn died() -> AgentError {
    AgentError::EventLogFile {
        step: "dying",
        path: PathBuf::new(),
        source: io::ErrorKind::StorageFull.into(),
    }
}

impl Files for MortalFiles {
    fn log_len(&self) -> Result<u64, AgentError> {
        self.clock.step(died, || (), || self.files.log_len())
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<(), AgentError> {
        self.clock.step(died, || (), || self.files.reserve(offset, len))
    }

    fn put_record(&self, offset: u64, record: &[u8]) -> Result<(), AgentError> {
        let half = || {
            let mut log = fs::read(&self.log).unwrap_or_default();
            log.truncate(usize::try_from(offset).unwrap());
            log.extend(&record[..record.len() / 2]);
            fs::write(&self.log, log).unwrap();
        };
        self.clock.step(died, half, || self.files.put_record(offset, record))
    }

    fn read_note(&self) -> Result<Option<Vec<u8>>, AgentError> {
        self.clock.step(died, || (), || self.files.read_note())
    }

    fn write_note(&self, note: &[u8]) -> Result<(), AgentError> {
        let half = || {
            fs::write(self.log.with_file_name(".wal_event_entry.new"), &note[..note.len() / 2]).unwrap();
        };
        self.clock.step(died, half, || self.files.write_note(note))
    }

    fn remove_note(&self) -> Result<(), AgentError> {
        self.clock.step(died, || (), || self.files.remove_note())
    }
}

#[derive(Debug)]
struct MortalRegisters<'a> {
    memory: &'a Memory,
    clock: Arc<Clock>,
}

fn gone() -> cc_platform::Error {
    cc_platform::Error::RegistersUnsupported { why: "dead".to_owned() }
}

impl Registers for MortalRegisters<'_> {
    fn hash(&self) -> HashAlgorithm {
        self.memory.hash()
    }

    fn enabled(&self) -> Result<(), cc_platform::Error> {
        self.memory.enabled()
    }

    fn register_of(&self, pcr: u32) -> Result<u32, cc_platform::Error> {
        self.memory.register_of(pcr)
    }

    fn read(&self, pcr: u32) -> Result<Vec<u8>, cc_platform::Error> {
        self.clock.step(gone, || (), || self.memory.read(pcr))
    }

    fn extend(&self, pcr: u32, digest: &[u8]) -> Result<(), cc_platform::Error> {
        self.clock.step(gone, || (), || self.memory.extend(pcr, digest))
    }
}

/// An agent that meets its fate at the step of that number, and its registers.
fn mortal<'a>(place: &Place, memory: &'a Memory, clock: &Arc<Clock>) -> (EventLog, MortalRegisters<'a>) {
    let files = Directory::open(&place.log()).unwrap();
    let files = MortalFiles { files, log: place.log(), clock: Arc::clone(clock) };
    let registers = MortalRegisters { memory, clock: Arc::clone(clock) };
    (EventLog { files: Box::new(files), pcr: 17, identity: vec![8, 11] }, registers)
}

const FATES: [Fate; 5] = [Fate::Before, Fate::Half, Fate::After, Fate::Fails, Fate::FailsLate];

/// Measures "second" with a fate at the given step; tells whether the step was reached.
fn story(fate: Fate, step: usize, hash: HashAlgorithm, pcr: u32, again: Option<usize>) -> bool {
    let title = format!("{fate:?} at step {step} ({again:?}), {hash}, PCR {pcr}");
    let (place, memory) = (Place::new(), Memory::new(hash));
    place.open().measure(&memory, &event("first"), 17, &ROOT).unwrap();
    let before = memory.read(pcr).unwrap();

    let clock = Clock::new(step, fate);
    let (log, registers) = mortal(&place, &memory, &clock);
    let outcome = log.measure(&registers, &event("second"), pcr, &ROOT);
    let happened = clock.happened();
    if happened && matches!(fate, Fate::Fails | Fate::FailsLate) {
        // The same agent goes on: before the next quote it settles what is open.
        log.settle(&registers).unwrap_or_else(|e| panic!("{title}: {e}"));
        assert_agree(&title, &place, &memory, pcr, &before, outcome.is_ok());
    }
    drop(log);

    if let Some(step) = again {
        // The next agent dies too, while it finishes what the first one left.
        let clock = Clock::new(step, fate);
        let (log, registers) = mortal(&place, &memory, &clock);
        let _ = log.settle(&registers);
        drop(log);
    }
    let log = place.open();
    log.settle(&memory).unwrap_or_else(|e| panic!("{title}: {e}"));
    assert_agree(&title, &place, &memory, pcr, &before, outcome.is_ok());
    log.measure(&memory, &event("third"), 17, &ROOT).unwrap_or_else(|e| panic!("{title}: {e}"));
    assert_eq!(explained(&place, &memory).last().unwrap(), "example.org test third", "{title}");
    happened
}

fn assert_agree(title: &str, place: &Place, memory: &Memory, pcr: u32, before: &[u8], told_ok: bool) {
    let texts = explained(place, memory);
    let measured = memory.read(pcr).unwrap() != before;
    let expected: &[&str] = if measured { &["first", "second"] } else { &["first"] };
    let expected: Vec<String> = expected.iter().map(|text| format!("example.org test {text}")).collect();
    assert_eq!(texts, expected, "{title}");
    assert!(measured || !told_ok, "{title}: what was answered with OK was measured");
    assert!(!place.note().exists(), "{title}");
}

#[test]
fn log_and_register_agree_after_death_at_each_step() {
    for fate in FATES {
        for (hash, pcr) in
            [(HashAlgorithm::Sha384, 17), (HashAlgorithm::Sha384, 9), (HashAlgorithm::Sha256, 16)]
        {
            let steps = (1..).take_while(|step| story(fate, *step, hash, pcr, None)).count();
            assert_eq!(steps, 8, "{fate:?}: every step of the order was met");
        }
    }
}

#[test]
fn log_and_register_agree_after_a_second_death_during_the_repair() {
    for fate in FATES {
        for step in 1..=8 {
            for again in 1..=6 {
                story(fate, step, HashAlgorithm::Sha384, 17, Some(again));
            }
        }
    }
}
