//! Event logs: recorded ones agree with their facts, changed ones do not replay, broken ones are refused by name.

use cc_evidence::HashAlgorithm;
use cc_evidence::aael::Event;
use cc_evidence::ccel::{Events, assemble};

use super::*;

fn len(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_le_bytes()
}

/// Every recorded log: name of its folder, its bytes, its facts.
fn recorded() -> Vec<(String, Vec<u8>, Value)> {
    let Some(root) = vector("") else { return Vec::new() };
    let mut folders: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.retain(|folder| folder.file_name().unwrap().to_str().unwrap().starts_with("ccel-"));
    assert!(folders.len() >= 7, "all logs are there");
    let read = |folder: PathBuf| {
        let log = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "bin"));
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(log.unwrap()).unwrap(), facts(&folder))
    };
    folders.into_iter().map(read).collect()
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn inspect_bytes(bytes: &[u8], options: &[&str]) -> Outcome {
    inspect(written(bytes).path(), options)
}

/// A TDREPORT with registers as a log's facts have them.
fn report(facts: &Value) -> tempfile::NamedTempFile {
    let mut report = vec![0; 1024];
    report[0] = 0x81;
    for number in 0..4 {
        if let Some(value) = facts["replay"][format!("sha384:{}", number + 1)].as_str() {
            report[0x2D0 + number * 48..][..48].copy_from_slice(&hex::decode(value).unwrap());
        }
    }
    written(&report)
}

#[test]
fn recorded_logs_agree_with_their_facts() {
    for (name, log, facts) in recorded() {
        let seen = inspect_bytes(&log, &["--json"]);
        assert_eq!(
            (seen.exit, &seen.json()["kind"]),
            (Exit::Success, &"event-log".into()),
            "{name}: {}",
            seen.err
        );
        assert_covers(&facts, &seen.json()["log"], &name);
        let events = seen.json()["events"].as_array().unwrap().len();
        assert_eq!(seen.json()["log"]["events"], events, "{name}");
        assert_eq!(seen.check("event log"), "not verified", "{name}: nothing vouches for it");
        let people = inspect_bytes(&log, &[]).out;
        for value in facts["replay"].as_object().unwrap().values() {
            assert!(people.contains(&value.as_str().unwrap()[..64]), "{name}: {people}");
        }
        // What another program says of the same log.
        let expected = vector(&name).unwrap().join("upstream-expected.json");
        let Ok(expected) = fs::read(expected) else { continue };
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        let theirs = expected["uefi_event_logs"].as_array().unwrap();
        let ours = seen.json()["events"].clone();
        for (ours, theirs) in ours.as_array().unwrap().iter().zip(theirs) {
            for member in ["index", "type_name", "event", "digests", "digest_matches_event"] {
                assert_eq!(ours[member], theirs[member], "{name}: {member} of {theirs}");
            }
        }
    }
}

#[test]
fn a_log_is_compared_with_registers_and_no_changed_one_passes() {
    for (name, log, facts) in recorded() {
        let report = report(&facts);
        let options = ["--json", "--registers", report.path().to_str().unwrap()];
        let compare = |log: &[u8]| inspect_bytes(log, &options);
        let whole = compare(&log);
        if !facts["algs"].as_array().unwrap().contains(&"sha384".into()) {
            assert_eq!((whole.exit, whole.check("event log").as_str()), (Exit::Failed, "failed"), "{name}");
            continue;
        }
        assert_eq!((whole.exit, whole.check("event log").as_str()), (Exit::Success, "verified"), "{name}");
        let mut walk = Events::new(&log).unwrap();
        let mut at = walk.offset();
        while let Some(event) = walk.next() {
            let event = event.unwrap();
            if event.is_measured() {
                let mut changed = log.clone();
                // Behind register, type, count and algorithm.
                changed[at + 14 + at % 48] ^= 1 << (at % 8);
                let seen = compare(&changed);
                assert_eq!(
                    (seen.exit, seen.check("event log").as_str()),
                    (Exit::Failed, "failed"),
                    "{name}, byte {at}"
                );
                let left_out = [&log[..at], &log[walk.offset()..]].concat();
                assert_eq!(compare(&left_out).check("event log"), "failed", "{name}, without byte {at}");
            }
            at = walk.offset();
        }
    }
}

#[test]
fn registers_are_taken_from_files_that_have_them_and_for_logs_alone() {
    let Some((_, log, _)) = recorded().into_iter().find(|(name, ..)| name == "ccel-ovmf") else { return };
    let quote = vector("tdx-quote-v4").unwrap().join("quote.bin");
    let seen = inspect_bytes(&log, &["--json", "--registers", quote.to_str().unwrap()]);
    assert_eq!((seen.exit, seen.check("event log").as_str()), (Exit::Failed, "failed"), "another machine's");
    assert!(seen.out.contains("RTMR0"), "{}", seen.out);
    let token = written(b"no evidence");
    let seen = inspect_bytes(&log, &["--registers", token.path().to_str().unwrap()]);
    assert!(seen.err.contains("[INPUT_UNRECOGNISED]") || seen.err.contains("unknown kind"), "{}", seen.err);
    let sgx = vector("sgx-quote-v3").unwrap().join("quote.bin");
    let seen = inspect_bytes(&log, &["--registers", sgx.to_str().unwrap()]);
    assert!(seen.err.contains("no run-time registers"), "{}", seen.err);
    let seen = inspect(&quote, &["--registers", quote.to_str().unwrap()]);
    assert!(seen.err.contains("only an event log"), "{}", seen.err);
}

#[test]
fn the_agents_log_is_told_with_and_without_header() {
    let Some((_, log, facts)) = recorded().into_iter().find(|(name, ..)| name == "ccel-aael-alibaba") else {
        return;
    };
    let mut walk = Events::new(&log).unwrap();
    let firmware = facts["events"].as_u64().unwrap() - 2;
    for _ in 0..firmware {
        walk.next().unwrap().unwrap();
    }
    let records = &log[walk.offset()..log.len() - 8];
    let bare = inspect_bytes(records, &["--json"]);
    assert_eq!((bare.exit, &bare.json()["kind"]), (Exit::Success, &"agent-event-log".into()), "{}", bare.err);
    let joined = assemble(None, Some(records)).unwrap().unwrap();
    let with_header = inspect_bytes(&joined, &["--json"]);
    assert_eq!(&with_header.json()["kind"], "event-log");
    for seen in [bare, with_header] {
        let told = &seen.json()["log"];
        assert_eq!((&told["aael"], &told["spec_sig"]), (&facts["aael"], &"".into()));
        assert_eq!(told["replay"]["sha384:4"], facts["replay"]["sha384:4"]);
        assert!(seen.json()["events"].as_array().unwrap().iter().all(|e| e["digest_matches_event"] == true));
    }
    // On a platform with PCRs.
    let event = Event::new("example.org", "test", "of a TPM").unwrap();
    let seen = inspect_bytes(&event.record(17, HashAlgorithm::Sha256), &["--json"]);
    assert_eq!(seen.json()["log"]["aael"][0][1], "example.org test of a TPM");
    assert!(seen.json()["log"]["replay"]["sha256:17"].is_string(), "{}", seen.out);
}

/// A record with digests of the given algorithms.
fn record(register: u32, kind: u32, digests: &[(u16, Vec<u8>)], data: &[u8]) -> Vec<u8> {
    let mut record = [register, kind, u32::try_from(digests.len()).unwrap()].map(u32::to_le_bytes).concat();
    for (algorithm, digest) in digests {
        record.extend(algorithm.to_le_bytes());
        record.extend(digest);
    }
    record.extend(len(data));
    [record, data.to_vec()].concat()
}

/// A log of a TPM with SHA-1 and SHA-256, as firmware leaves it.
fn tpm_log(records: &[Vec<u8>]) -> Vec<u8> {
    let mut declared = b"Spec ID Event03\0".to_vec();
    declared.extend([0, 0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0]);
    declared.extend([4, 0, 20, 0, 11, 0, 32, 0, 0]);
    let mut first = [0u32, 3].map(u32::to_le_bytes).concat();
    first.extend([0; 20]);
    first.extend(len(&declared));
    [first, declared, records.concat()].concat()
}

#[test]
fn the_log_of_a_tpm_is_replayed_from_its_locality_on() {
    let digests = |data: &[u8]| vec![(4, vec![9; 20]), (11, HashAlgorithm::Sha256.digest(data))];
    let log = tpm_log(&[
        record(0, 3, &[(4, vec![0; 20]), (11, vec![0; 32])], b"StartupLocality\0\x03"),
        record(0, 8, &digests(b"firmware"), b"firmware"),
        record(7, 4, &digests(&[0; 4]), &[0; 4]),
    ]);
    let seen = inspect_bytes(&log, &["--json"]);
    assert_eq!(seen.exit, Exit::Success, "{}", seen.err);
    let told = &seen.json()["log"];
    assert_eq!(
        (&told["algs"], &told["startup_locality"]),
        (&serde_json::json!(["sha1", "sha256"]), &3.into())
    );
    let mut start = [0; 32];
    start[31] = 3;
    let pcr = |start: &[u8], data: &[u8]| {
        hex::encode(HashAlgorithm::Sha256.digest(&[start, &HashAlgorithm::Sha256.digest(data)].concat()))
    };
    assert_eq!(told["replay"]["sha256:0"], pcr(&start, b"firmware"));
    assert_eq!(told["replay"]["sha256:7"], pcr(&[0; 32], &[0; 4]));
    let events = seen.json()["events"].clone();
    assert_eq!(
        (&events[1]["digests"][0]["alg"], &events[1]["digest_matches_event"]),
        (&"SHA-1".into(), &true.into())
    );
    // A TDX quote says nothing about it.
    if let Some(quote) = vector("tdx-quote-v4") {
        let quote = quote.join("quote.bin");
        let seen = inspect_bytes(&log, &["--json", "--registers", quote.to_str().unwrap()]);
        assert_eq!(seen.check("event log"), "not verified");
    }
}

#[test]
fn the_text_of_a_record_that_no_register_holds_is_marked() {
    let data = Event::new("example.org", "PullImage", "{}").unwrap().data();
    let digest = || vec![(12, HashAlgorithm::Sha384.digest(&data))];
    let records = [record(0, 6, &digest(), &data), record(4, 6, &digest(), &data)].concat();
    let log = assemble(None, Some(&records)).unwrap().unwrap();
    let events = inspect_bytes(&log, &["--json"]).json()["events"].clone();
    assert_eq!(
        (&events[0]["digest_matches_event"], &events[1]["digest_matches_event"]),
        (&false.into(), &true.into())
    );
    let people = inspect_bytes(&log, &[]).out;
    assert_eq!(people.matches("(text not measured)").count(), 1, "{people}");
}

#[test]
fn broken_logs_are_refused_by_name() {
    let digest = |data: &[u8]| vec![(11, HashAlgorithm::Sha256.digest(data)), (4, vec![9; 20])];
    let log = tpm_log(&[record(0, 8, &digest(b"a"), b"a"), record(7, 4, &digest(b"bc"), b"bc")]);
    let mut walk = Events::new(&log).unwrap();
    let mut whole = vec![walk.offset()];
    while walk.next().is_some() {
        whole.push(walk.offset());
    }
    assert_eq!(whole.len(), 3, "behind the header and each record");
    for len in 0..log.len() {
        let seen = inspect_bytes(&log[..len], &["--json"]);
        assert_eq!(seen.exit == Exit::Success, whole.contains(&len), "{len} bytes: {}{}", seen.out, seen.err);
        if len > whole[0] && seen.exit != Exit::Success {
            assert!(
                seen.err.contains("[INPUT_MALFORMED]") && seen.err.contains("record "),
                "{len}: {}",
                seen.err
            );
        }
    }
    let unknown = record(1, 4, &[(0x55, vec![1; 32])], b"x");
    let seen = inspect_bytes(&tpm_log(&[unknown]), &[]);
    assert!(seen.err.contains("0x0055") && seen.err.contains("record 1"), "{}", seen.err);
    // Ten megabytes that are announced, and ten that are there.
    let mut announced = record(1, 4, &digest(b"x"), b"x");
    let at = announced.len() - 5;
    announced[at..at + 4].copy_from_slice(&10_000_000u32.to_le_bytes());
    let seen = inspect_bytes(&tpm_log(&[announced]), &[]);
    assert!(seen.err.contains("10000000"), "{}", seen.err);
    let seen = inspect_bytes(&tpm_log(&[record(1, 4, &digest(b"x"), &vec![b'x'; 10_000_000])]), &[]);
    assert!(seen.exit != Exit::Success && seen.err.contains("longer than 4 MiB"), "{}", seen.err);
    let seen = inspect_bytes(&tpm_log(&[record(1, 4, &digest(b"x"), &vec![b'x'; 3 << 20])]), &[]);
    assert!(seen.err.contains("[INPUT_MALFORMED]") && seen.err.contains("too large"), "{}", seen.err);
    // A log with registers that no machine has, or without a digest that its first record declares.
    for broken in [record(24, 4, &digest(b"x"), b"x"), record(1, 4, &[(4, vec![9; 20])], b"x")] {
        let seen = inspect_bytes(&tpm_log(&[record(7, 4, &digest(b"y"), b"y"), broken]), &["--json"]);
        assert_eq!((seen.exit, seen.check("replay").as_str()), (Exit::Failed, "failed"), "{}", seen.err);
    }
}
