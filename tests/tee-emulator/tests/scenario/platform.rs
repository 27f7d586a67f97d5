//! The production platform code over the emulator: success, every fault, time limits, and nothing left behind.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cc_evidence::snp::{CertKind, SnpEvidence};
use cc_platform::{Detected, InitDataBinding, Options, ReportData, SysRoot, Tee, detect};
use tee_emulator::Machine;
use tee_emulator::machine::{Certificates, Fault, Hex};

use crate::room::{Room, list};

pub(crate) const LONG: Duration = Duration::from_secs(30);

pub(crate) fn options(root: &Path, limit: Duration) -> Options {
    Options { sys_root: SysRoot::new(root.to_owned()), quote_time_limit: limit, ..Options::default() }
}

pub(crate) fn detected(room: &Room, limit: Duration) -> Detected {
    detect(&options(room.root(), limit)).unwrap()
}

pub(crate) fn data(tag: u8) -> ReportData {
    ReportData::new(&[tag; 48]).unwrap()
}

#[test]
fn evidence_answers_the_question_and_carries_the_chain() {
    let Some(room) = Room::new(Machine { host_data: Hex([9; 32]), vmpl: 2, ..Machine::default() }) else {
        return;
    };
    let found = detected(&room, LONG);
    assert_eq!(found.primary.tee(), Tee::Snp);
    assert!(
        found.tried.iter().any(|probe| probe.to_string().contains("provider sev_guest")),
        "{:?}",
        found.tried
    );
    assert_eq!(room.emulator.quotes(), 0, "detection makes no report");

    let evidence = SnpEvidence::from_json(&found.primary.evidence(&data(7)).unwrap()).unwrap();
    assert_eq!(evidence.report.report_data, data(7).padded());
    assert_eq!(evidence.report.vmpl, 2, "the floor was asked for");
    assert_eq!(evidence.report.measurement, Machine::default().measurement.0);
    let kinds: Vec<CertKind> = evidence.certs.iter().map(|cert| cert.kind).collect();
    assert_eq!(kinds, [CertKind::Vcek, CertKind::Ask, CertKind::Ark]);

    assert_eq!(found.primary.bind_init_data(&[9; 32]).unwrap(), InitDataBinding::Bound);
    assert_eq!(found.primary.bind_init_data(&[9; 48]).unwrap(), InitDataBinding::Bound, "cut to 32 bytes");
    let error = found.primary.bind_init_data(&[8; 32]).unwrap_err();
    assert_eq!(error.code(), "INIT_DATA_MISMATCH");
    assert_eq!(found.primary.bind_init_data(&[]).unwrap_err().code(), "INIT_DATA_DIGEST_EMPTY");
    assert!(error.to_string().contains(&"09".repeat(32)) && error.to_string().contains(&"08".repeat(32)));

    room.change(|machine| machine.certificates = Certificates::None);
    let evidence = SnpEvidence::from_json(&found.primary.evidence(&data(1)).unwrap()).unwrap();
    assert!(evidence.certs.is_empty());
    assert!(room.directories().is_empty());
}

#[test]
fn parallel_requests_are_all_served() {
    let Some(room) = Room::new(Machine { delay_ms: 5, ..Machine::default() }) else { return };
    let found = detected(&room, LONG);
    thread::scope(|scope| {
        for tag in 0..20 {
            let platform = Arc::clone(&found.primary);
            scope.spawn(move || {
                let evidence = SnpEvidence::from_json(&platform.evidence(&data(tag)).unwrap()).unwrap();
                assert_eq!(evidence.report.report_data, data(tag).padded());
            });
        }
    });
    assert_eq!(room.emulator.quotes(), 20);
    assert!(room.directories().is_empty());
}

#[test]
fn every_fault_has_its_error_and_leaves_nothing() {
    let Some(room) = Room::new(Machine::default()) else { return };
    let found = detected(&room, Duration::from_secs(2));
    for (fault, expected) in [
        (Fault::WrongReportData, Some("EVIDENCE_MISMATCH")),
        (Fault::Stale, Some("EVIDENCE_MISMATCH")),
        (Fault::Short, Some("TSM_MALFORMED")),
        (Fault::Empty, Some("TSM_MALFORMED")),
        (Fault::Huge, Some("TSM_MALFORMED")),
        (Fault::Busy, Some("TSM_TIMEOUT")),
        // Only a relying party can see these.
        (Fault::FlipBit, None),
        (Fault::ExpiredVcek, None),
        (Fault::WrongTcbExtension, None),
        (Fault::WrongChipId, None),
        (Fault::None, None),
    ] {
        room.change(|machine| machine.fault = fault);
        let code = found.primary.evidence(&data(3)).map_err(|error| {
            assert!(!error.hint().is_empty());
            error.code()
        });
        assert_eq!(code.err(), expected, "{fault:?}");
        eventually(&format!("{fault:?} leaves nothing"), || room.directories().is_empty());
    }
    // Stale from the first: data of another request.
    room.change(|machine| machine.fault = Fault::Stale);
    assert_eq!(found.primary.bind_init_data(&[0; 32]).unwrap_err().code(), "EVIDENCE_MISMATCH");
}

#[test]
fn a_busy_interface_is_tried_again() {
    let Some(room) = Room::new(Machine { fault: Fault::Busy, ..Machine::default() }) else { return };
    let found = detected(&room, LONG);
    thread::scope(|scope| {
        let request = scope.spawn(|| found.primary.evidence(&data(3)));
        // Busy at least once: the entry exists, then the first answer has been given.
        thread::sleep(Duration::from_millis(100));
        room.change(|machine| machine.fault = Fault::None);
        request.join().unwrap().unwrap();
    });
    assert!(room.directories().is_empty());
}

#[test]
fn a_writer_in_our_entry_is_noticed() {
    let Some(room) = Room::new(Machine { delay_ms: 150, ..Machine::default() }) else { return };
    let found = detected(&room, LONG);
    let done = AtomicBool::new(false);
    let report = room.report();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for name in list(&report) {
                    let _ = fs::write(report.join(name).join("inblob"), [0xEE; 64]);
                }
                thread::sleep(Duration::from_millis(5));
            }
        });
        let error = found.primary.evidence(&data(3)).unwrap_err();
        done.store(true, Ordering::Relaxed);
        assert_eq!(error.code(), "TSM_INTERFERENCE", "{error}");
    });
    found.primary.evidence(&data(4)).unwrap();
    assert!(room.directories().is_empty());
}

#[test]
fn other_providers_are_named_and_never_replaced_by_samples() {
    let Some(room) = Room::new(Machine { provider: "new_tee_guest".to_owned(), ..Machine::default() }) else {
        return;
    };
    let with_sample = Options { sample: true, ..options(room.root(), LONG) };
    for options in [options(room.root(), LONG), with_sample.clone()] {
        let error = detect(&options).unwrap_err();
        assert_eq!(error.code(), "TEE_NOT_FOUND");
        assert!(
            error.to_string().contains("found provider new_tee_guest, not supported by this version"),
            "{error}"
        );
    }
    room.change(|machine| "none".clone_into(&mut machine.provider));
    let error = detect(&options(room.root(), LONG)).unwrap_err();
    assert!(error.to_string().contains("ENXIO"), "{error}");
    assert_eq!(detect(&with_sample).unwrap().primary.tee(), Tee::Sample);

    room.change(|machine| "sev_guest".clone_into(&mut machine.provider));
    let found = detect(&with_sample).unwrap();
    assert_eq!(found.primary.tee(), Tee::Snp, "a TEE wins over the sample platform");
    room.change(|machine| "none".clone_into(&mut machine.provider));
    assert_eq!(found.primary.evidence(&data(1)).unwrap_err().code(), "TSM_NO_PROVIDER");
    room.change(|machine| "other_guest".clone_into(&mut machine.provider));
    assert_eq!(found.primary.evidence(&data(1)).unwrap_err().code(), "TSM_PROVIDER_CHANGED");
    assert!(room.directories().is_empty());
}

#[test]
fn leftovers_of_dead_processes_are_removed_at_start() {
    let Some(room) = Room::new(Machine::default()) else { return };
    let namespace = fs::metadata("/proc/self/ns/pid").map_or(0, |m| std::os::unix::fs::MetadataExt::ino(&m));
    // Above the largest process number that Linux gives.
    fs::create_dir(room.report().join(format!("cc-4194305-{namespace:x}-abc-7"))).unwrap();
    fs::create_dir(room.report().join("of-somebody-else")).unwrap();
    detected(&room, LONG);
    assert_eq!(room.directories(), ["of-somebody-else"]);
}

/// Waits until `condition` holds; fails after a long time.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < limit, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}
