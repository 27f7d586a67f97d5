//! Log and register agree whatever happens: rules, limits, bad files. Death at each step is in [`crash`].

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, PoisonError};

use cc_daemon::peer::Transport;
use cc_evidence::ccel::Events;
use cc_platform::HashAlgorithm;
use tempfile::TempDir;

use super::*;

mod crash;

/// Registers of a machine: they outlive every agent.
#[derive(Debug)]
pub(super) struct Memory {
    hash: HashAlgorithm,
    values: Mutex<BTreeMap<u32, Vec<u8>>>,
}

impl Memory {
    pub(super) fn new(hash: HashAlgorithm) -> Self {
        Self { hash, values: Mutex::default() }
    }

    pub(super) fn value(&self, register: u32) -> Vec<u8> {
        let values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.get(&register).cloned().unwrap_or_else(|| vec![0; self.hash.digest_len()])
    }

    pub(super) fn put(&self, register: u32, digest: &[u8]) {
        let value = self.hash.digest(&[self.value(register).as_slice(), digest].concat());
        self.values.lock().unwrap_or_else(PoisonError::into_inner).insert(register, value);
    }
}

impl Registers for Memory {
    fn hash(&self) -> HashAlgorithm {
        self.hash
    }

    fn enabled(&self) -> Result<(), cc_platform::Error> {
        Ok(())
    }

    /// As on TDX for SHA-384, as on a TPM otherwise.
    fn register_of(&self, pcr: u32) -> Result<u32, cc_platform::Error> {
        match (self.hash, pcr) {
            (HashAlgorithm::Sha384, 8..=15) => Ok(3),
            (HashAlgorithm::Sha384, 16..) => Ok(4),
            (_, 0..=23) => Ok(pcr),
            _ => Err(cc_platform::Error::NoSuchRegister { pcr }),
        }
    }

    fn read(&self, pcr: u32) -> Result<Vec<u8>, cc_platform::Error> {
        Ok(self.value(self.register_of(pcr)?))
    }

    fn extend(&self, pcr: u32, digest: &[u8]) -> Result<(), cc_platform::Error> {
        self.put(self.register_of(pcr)?, digest);
        Ok(())
    }
}

/// A folder in which an agent keeps its log.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.path().join("run/attestation-agent/eventlog")
    }

    fn note(&self) -> PathBuf {
        self.log().with_file_name(".wal_event_entry")
    }

    pub(super) fn open(&self) -> EventLog {
        EventLog { files: Box::new(Directory::open(&self.log()).unwrap()), pcr: 17, identity: vec![8, 11] }
    }

    pub(super) fn records(&self) -> Vec<u8> {
        fs::read(self.log()).unwrap_or_default()
    }
}

pub(super) fn event(content: &str) -> Event {
    Event::new("example.org", "test", content).unwrap()
}

pub(super) const ROOT: Caller = Caller {
    pid: Some(1),
    uid: Some(0),
    gid: Some(0),
    transport: Transport::Grpc,
    local_http: false,
    place: None,
};

/// The texts of the log, after it was replayed to what the registers hold.
pub(super) fn explained(place: &Place, memory: &Memory) -> Vec<String> {
    let log = cc_evidence::ccel::assemble(None, Some(&place.records())).unwrap().unwrap();
    let replayed = Memory::new(memory.hash);
    let mut texts = Vec::new();
    for record in Events::new(&log).unwrap() {
        let record = record.unwrap();
        assert_eq!(record.digests.len(), 1);
        assert_eq!(record.digests[0].bytes, memory.hash.digest(record.data), "the text is what was measured");
        replayed.put(record.register, record.digests[0].bytes);
        texts.push(String::from_utf8(record.data[8..].to_vec()).unwrap());
    }
    for register in 0..24 {
        assert_eq!(replayed.value(register), memory.value(register), "register {register}, log {texts:?}");
    }
    texts
}

#[test]
fn events_are_extended_and_logged() {
    for hash in [HashAlgorithm::Sha384, HashAlgorithm::Sha256] {
        let (place, memory) = (Place::new(), Memory::new(hash));
        let log = place.open();
        for (content, pcr) in [("one", 17), ("two", 16), ("three", 9), ("four", 17)] {
            log.measure(&memory, &event(content), pcr, &ROOT).unwrap();
        }
        let texts = explained(&place, &memory);
        assert_eq!(texts.len(), 4);
        assert_eq!(texts[3], "example.org test four");
        assert!(!place.note().exists());
        drop(log);
        place.open().measure(&memory, &event("five"), 17, &ROOT).unwrap();
        assert_eq!(explained(&place, &memory).len(), 5, "another agent goes on where the first one stopped");
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(place.log()), 0o600);
        assert_eq!(mode(place.log().parent().unwrap().to_owned()), 0o700);
    }
}

#[test]
fn the_log_ends_at_its_limit_and_nothing_is_extended_beyond() {
    let (place, memory) = (Place::new(), Memory::new(HashAlgorithm::Sha384));
    let log = place.open();
    let workload = Caller { local_http: true, ..ROOT };
    let large = event(&"x".repeat(15_000));
    let mut measured = 0;
    let error = loop {
        match log.measure(&memory, &large, 17, &workload) {
            Ok(()) => measured += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "EVENT_LOG_FULL");
    assert!(error.to_string().contains(&LOCAL_HTTP_LIMIT.to_string()), "{error}");
    assert_eq!(measured, 17, "half of the log is for workloads");
    log.measure(&memory, &large, 17, &ROOT).unwrap();
    while log.measure(&memory, &large, 17, &ROOT).is_ok() {}
    assert!(place.records().len() as u64 <= LOG_LIMIT);
    assert!(!place.note().exists(), "nothing half done");
    // To the byte.
    let left = usize::try_from(LOG_LIMIT).unwrap() - place.records().len();
    let overhead = event("").record(4, HashAlgorithm::Sha384).len();
    let (fits, too_long) = (event(&"y".repeat(left - overhead)), event(&"y".repeat(left - overhead + 1)));
    assert_eq!(log.measure(&memory, &too_long, 17, &ROOT).unwrap_err().code(), "EVENT_LOG_FULL");
    log.measure(&memory, &fits, 17, &ROOT).unwrap();
    assert_eq!(place.records().len() as u64, LOG_LIMIT);
    explained(&place, &memory);
}

#[test]
fn registers_of_the_machines_identity_are_nobodys() {
    let log = Place::new();
    let log = log.open();
    let workload = Caller { uid: Some(1000), ..ROOT };
    let http = Caller { local_http: true, ..ROOT };
    let code = |asked, caller: &Caller| log.register(asked, caller).map_err(|e| e.code().to_owned());
    for caller in [&ROOT, &workload, &http, &Caller::UNKNOWN] {
        assert_eq!(code(None, caller), Ok(17));
        assert_eq!(code(Some(17), caller), Ok(17));
        for pcr in [8, 11] {
            assert_eq!(code(Some(pcr), caller), Err("REGISTER_REFUSED".to_owned()), "{caller:?}");
        }
    }
    for caller in [&workload, &http, &Caller::UNKNOWN] {
        assert_eq!(code(Some(16), caller), Err("REGISTER_REFUSED".to_owned()), "{caller:?}");
    }
    assert_eq!(code(Some(16), &ROOT), Ok(16));
    assert_eq!(code(Some(u64::from(u32::MAX) + 18), &ROOT), Err("REGISTER_REFUSED".to_owned()));
    for (pcr, allowed) in [(8, false), (11, false), (24, false), (23, true), (0, true)] {
        let settings = |enabled| Settings { enabled, pcr: Some(pcr), log: PathBuf::new() };
        assert_eq!(settings(true).check().is_ok(), allowed, "{pcr}");
        assert!(settings(false).check().is_ok(), "it is not used");
    }
}

/// A machine with nothing but registers.
#[derive(Debug)]
struct Machine(Memory);

impl Platform for Machine {
    fn tee(&self) -> cc_platform::Tee {
        cc_platform::Tee::Tdx
    }

    fn evidence(&self, _data: &cc_platform::ReportData) -> Result<String, cc_platform::Error> {
        Ok("{}".to_owned())
    }

    fn bind_init_data(&self, _digest: &[u8]) -> Result<cc_platform::InitDataBinding, cc_platform::Error> {
        Ok(cc_platform::InitDataBinding::Unsupported)
    }

    fn registers(&self) -> Option<&dyn Registers> {
        Some(&self.0)
    }
}

#[test]
fn a_register_that_is_shared_with_the_machines_identity_is_nobodys_either() {
    let open = |hash, pcr| {
        let place = Place::new();
        let settings = Settings { enabled: true, pcr, log: place.log() };
        (Measuring::open(&settings, &Machine(Memory::new(hash))), place)
    };
    // PCRs 8 to 15 are one register here.
    for pcr in 8..=15 {
        let (result, _) = open(HashAlgorithm::Sha384, Some(pcr));
        let error = result.unwrap_err();
        assert_eq!(error.code(), "REGISTER_REFUSED", "{pcr}: {error}");
    }
    for pcr in [None, Some(17), Some(16)] {
        let (result, _place) = open(HashAlgorithm::Sha384, pcr);
        let Measuring::On(log) = result.unwrap() else { panic!("{pcr:?} takes no events") };
        for asked in [8, 9, 11, 15] {
            assert_eq!(log.register(Some(asked), &ROOT).unwrap_err().code(), "REGISTER_REFUSED", "{asked}");
        }
        assert_eq!(log.register(Some(18), &ROOT).unwrap(), 18);
    }
    // Here each is one of its own.
    let (result, _place) = open(HashAlgorithm::Sha256, Some(12));
    let Measuring::On(log) = result.unwrap() else { panic!("PCR 12 takes no events") };
    assert_eq!((log.register(None, &ROOT).unwrap(), log.register(Some(9), &ROOT).unwrap()), (12, 9));
}

#[test]
fn a_note_of_the_existing_agent_is_finished() {
    let memory = Memory::new(HashAlgorithm::Sha384);
    for (extended, before) in [(false, 0), (true, 1)] {
        let place = Place::new();
        let log = place.open();
        // The same registers twice: the second log begins with what it does not know, so it is not replayed.
        for _ in 0..before {
            log.measure(&memory, &event("before"), 17, &ROOT).unwrap();
        }
        let late = event("late");
        let digest = late.digest(HashAlgorithm::Sha384);
        let expected = HashAlgorithm::Sha384.digest(&[memory.value(4).as_slice(), &digest].concat());
        let offset = place.records().len() as u64;
        fs::write(place.note(), [&offset.to_be_bytes()[..], &expected, late.text().as_bytes()].concat())
            .unwrap();
        if extended {
            memory.put(4, &digest);
        }
        log.settle(&memory).unwrap();
        assert_eq!(memory.value(4), expected, "extended exactly once");
        assert!(place.records().ends_with(&late.record(4, HashAlgorithm::Sha384)));
        assert_eq!(place.records().len() as u64, offset + late.record(4, HashAlgorithm::Sha384).len() as u64);
        assert!(!place.note().exists());
    }
}

#[test]
fn a_note_about_another_register_names_it() {
    let (place, memory) = (Place::new(), Memory::new(HashAlgorithm::Sha256));
    // An agent that was configured for 16 was killed; the next one is configured for 23.
    let note = |pcr| {
        let expected = HashAlgorithm::Sha256
            .digest(&[memory.value(16).as_slice(), &event("x").digest(HashAlgorithm::Sha256)].concat());
        WriteAhead { offset: 0, expected, event: event("x"), pcr }
    };
    fs::create_dir_all(place.log().parent().unwrap()).unwrap();
    let log = EventLog { pcr: 23, ..place.open() };
    fs::write(place.note(), note(Some(16)).encode()).unwrap();
    log.settle(&memory).unwrap();
    assert_eq!(explained(&place, &memory).len(), 1);
    assert_ne!(memory.value(16), vec![0; 32]);
    // One that was configured for 17 leaves no number.
    log.measure(&memory, &event("y"), 17, &ROOT).unwrap();
    let expected = HashAlgorithm::Sha256
        .digest(&[memory.value(17).as_slice(), &event("z").digest(HashAlgorithm::Sha256)].concat());
    let offset = place.records().len() as u64;
    let note = WriteAhead { offset, expected, event: event("z"), pcr: Some(17) };
    fs::write(place.note(), note.encode()).unwrap();
    log.settle(&memory).unwrap();
    assert_eq!(explained(&place, &memory).len(), 3);
}

#[test]
fn what_cannot_be_finished_stops_everything_and_says_so() {
    let (place, memory) = (Place::new(), Memory::new(HashAlgorithm::Sha384));
    let log = place.open();
    log.measure(&memory, &event("one"), 17, &ROOT).unwrap();
    let records = place.records();
    let refused = |says: &str| {
        for error in
            [log.settle(&memory).unwrap_err(), log.measure(&memory, &event("two"), 17, &ROOT).unwrap_err()]
        {
            assert_eq!(error.code(), "EVENT_INTERRUPTED", "{error}");
            assert!(error.to_string().contains(says) && !error.hint().is_empty(), "{error}");
        }
        assert_eq!(place.records(), records);
        assert!(place.note().exists(), "the next agent sees it too");
    };
    for len in [0, 7, 55] {
        fs::write(place.note(), vec![7; len]).unwrap();
        refused("bytes");
    }
    fs::write(place.note(), vec![0; WriteAhead::MAX_LEN + 10]).unwrap();
    refused("too large");
    let note = WriteAhead { offset: 0, expected: vec![9; 48], event: event("x"), pcr: None };
    fs::write(place.note(), note.encode()).unwrap();
    refused("somebody else");
    // The log was removed, or has more than this event.
    for offset in [records.len() as u64 + 1, 0] {
        let expected = memory.value(4);
        let short = Event::new("a", "b", "").unwrap();
        fs::write(place.note(), WriteAhead { offset, expected, event: short, pcr: None }.encode()).unwrap();
        let error = log.settle(&memory).unwrap_err();
        assert_eq!(error.code(), "EVENT_LOG_FILE");
        assert!(error.to_string().contains(&format!("{} bytes", records.len())), "{error}");
        assert_eq!(place.records(), records);
    }
}

#[test]
fn the_directory_is_one_agents_alone() {
    let place = Place::new();
    let directory = place.log().parent().unwrap().to_owned();
    let first = place.open();
    let error = Directory::open(&place.log()).unwrap_err();
    assert!(error.to_string().contains("another agent"), "{error}");
    drop(first);
    fs::write(directory.join(".wal_event_entry.new"), b"half").unwrap();
    drop(place.open());
    assert!(!directory.join(".wal_event_entry.new").exists());
    for mode in [0o770, 0o707, 0o1777] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
        let error = Directory::open(&place.log()).unwrap_err();
        assert!(error.to_string().contains("nobody except"), "{error}");
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
    let log = place.open();
    // A link in the place of the log leads nowhere.
    let victim = place.0.path().join("victim");
    fs::write(&victim, b"mine").unwrap();
    std::os::unix::fs::symlink(&victim, place.log()).unwrap();
    let memory = Memory::new(HashAlgorithm::Sha384);
    assert_eq!(log.measure(&memory, &event("x"), 17, &ROOT).unwrap_err().code(), "EVENT_LOG_FILE");
    assert_eq!((fs::read(&victim).unwrap(), memory.value(4)), (b"mine".to_vec(), vec![0; 48]));
    for path in ["/", ""] {
        assert!(Directory::open(std::path::Path::new(path)).is_err(), "{path:?}");
    }
}
