//! The production platform code over drivers' devices, as kernels without configfs-tsm have them.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cc_evidence::snp::{CertKind, SnpEvidence};
use cc_evidence::tdx::TdxEvidence;
use cc_platform::{InitDataBinding, Platform, Tee, detect};
use cc_verify::{TrustRoots, snp, tdx};
use tee_emulator::Machine;
use tee_emulator::machine::{Certificates, Fault, Hex, Td};

use crate::platform::{LONG, data, detected, eventually, options};
use crate::room::Room;
use crate::tdx::{machine as tdx_machine, quote};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn roots(room: &Room) -> TrustRoots {
    TrustRoots::vendor().with_test_roots(&room.maker.roots_pem().unwrap()).unwrap()
}

fn report(platform: &dyn Platform, tag: u8) -> SnpEvidence {
    SnpEvidence::from_json(&platform.evidence(&data(tag)).unwrap()).unwrap()
}

/// Sets each fault and compares the code of what the platform answers.
fn check_faults(room: &Room, platform: &dyn Platform, faults: &[(Fault, Option<&str>)]) {
    for (fault, expected) in faults {
        room.change(|machine| machine.fault = *fault);
        let code = platform.evidence(&data(3)).map_err(|error| {
            assert!(!error.hint().is_empty());
            error.code()
        });
        assert_eq!(code.err(), *expected, "{fault:?}");
    }
}

#[test]
fn sev_guest_gives_reports_that_verify() {
    let machine = Machine { host_data: Hex([9; 32]), ..Machine::default() };
    let Some(room) = Room::with_devices(machine) else { return };
    let found = detected(&room, LONG);
    assert_eq!(found.primary.tee(), Tee::Snp);
    let probes = found.tried.iter().map(ToString::to_string).collect::<Vec<_>>();
    for expected in ["dev/sev-guest: answers, used", "tsm/report does not exist", "dev/tdx_guest: absent"] {
        assert!(probes.iter().any(|probe| probe.contains(expected)), "{expected} in {probes:?}");
    }
    assert_eq!(room.emulator.quotes(), 0, "detection makes no report");

    let evidence = report(&*found.primary, 7);
    let kinds: Vec<CertKind> = evidence.certs.iter().map(|cert| cert.kind).collect();
    assert_eq!(kinds, [CertKind::Vcek, CertKind::Ask, CertKind::Ark]);
    let x = snp::Expectation {
        report_data: &data(7).padded(),
        init_data_digest: Some(&[9; 32]),
        now: now(),
        extra_certs: &[],
    };
    snp::verify(&evidence, &roots(&room), &x).unwrap();
    assert_eq!(found.primary.bind_init_data(&[9; 32]).unwrap(), InitDataBinding::Bound);
    assert_eq!(found.primary.bind_init_data(&[8; 32]).unwrap_err().code(), "INIT_DATA_MISMATCH");

    room.change(|machine| machine.certificates = Certificates::None);
    assert!(report(&*found.primary, 1).certs.is_empty());
    room.change(|machine| machine.vmpl = 2);
    assert_eq!(report(&*found.primary, 1).report.vmpl, 2, "the lowest level that the firmware allows");
    room.change(|machine| machine.vmpl = 4);
    assert_eq!(found.primary.evidence(&data(1)).unwrap_err().code(), "SNP_REPORT_REFUSED");
}

#[test]
fn every_fault_of_sev_guest_has_its_error() {
    let Some(room) = Room::with_devices(Machine::default()) else { return };
    let found = detected(&room, Duration::from_secs(2));
    let faults = [
        (Fault::WrongReportData, Some("EVIDENCE_MISMATCH")),
        (Fault::Stale, Some("EVIDENCE_MISMATCH")),
        (Fault::Short, Some("EVIDENCE_MALFORMED")),
        (Fault::Empty, Some("EVIDENCE_MALFORMED")),
        (Fault::Huge, Some("EVIDENCE_MALFORMED")),
        (Fault::Busy, Some("TSM_TIMEOUT")),
        (Fault::FirmwareError, Some("SNP_REQUEST_FAILED")),
        (Fault::KeyLost, Some("SNP_KEY_LOST")),
        // Only a relying party can see these.
        (Fault::FlipBit, None),
        (Fault::ExpiredVcek, None),
        (Fault::None, None),
    ];
    check_faults(&room, &*found.primary, &faults);
    room.change(|machine| machine.fault = Fault::FirmwareError);
    let error = found.primary.evidence(&data(3)).unwrap_err();
    assert!(error.to_string().contains("firmware error 0x1d, hypervisor error 0x0"), "{error}");

    // A table that no buffer of the driver holds: the report goes without certificates.
    room.change(|machine| machine.fault = Fault::LargeTable);
    assert!(report(&*found.primary, 4).certs.is_empty());
}

#[test]
fn a_hanging_driver_is_left_behind_and_recovers() {
    let Some(room) = Room::with_devices(Machine { fault: Fault::Hang, ..Machine::default() }) else { return };
    let found = detected(&room, Duration::from_millis(200));
    assert_eq!(found.primary.evidence(&data(3)).unwrap_err().code(), "TSM_TIMEOUT");
    assert_eq!(found.primary.evidence(&data(3)).unwrap_err().code(), "TSM_STUCK");
    room.change(|machine| machine.fault = Fault::None);
    eventually("the driver answers again", || found.primary.evidence(&data(3)).is_ok());
}

#[test]
fn a_busy_driver_is_asked_again() {
    let Some(room) = Room::with_devices(Machine { fault: Fault::Busy, ..Machine::default() }) else { return };
    let found = detected(&room, LONG);
    let asked = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let request = scope.spawn(|| {
            asked.store(true, std::sync::atomic::Ordering::Relaxed);
            found.primary.evidence(&data(3))
        });
        eventually("the request has begun", || asked.load(std::sync::atomic::Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(100));
        room.change(|machine| machine.fault = Fault::None);
        request.join().unwrap().unwrap();
    });
}

#[test]
fn the_quote_service_gives_quotes_that_verify() {
    let td = Td { mrconfigid: Hex([9; 48]), rtmr3: Hex([4; 48]), ..Td::default() };
    let Some(room) = Room::with_devices(Machine { td, ..tdx_machine() }) else { return };
    let found = detected(&room, LONG);
    assert_eq!(found.primary.tee(), Tee::Tdx);
    assert!(found.tried.iter().any(|probe| probe.to_string().contains("dev/tdx_guest: answers, used")));
    assert_eq!(room.emulator.quotes(), 0, "the host is not asked at detection");

    let evidence = TdxEvidence::from_json(&found.primary.evidence(&data(7)).unwrap()).unwrap();
    let x = tdx::Expectation { report_data: &data(7).padded(), init_data_digest: Some(&[9; 48]), now: now() };
    tdx::verify(&evidence, &roots(&room), None, &x).unwrap();
    assert_eq!(quote(&*found.primary, 8).body.rtmr[3], [4; 48]);
    // What the domain was launched with is asked of the module.
    let before = room.emulator.quotes();
    assert_eq!(found.primary.bind_init_data(&[9; 48]).unwrap(), InitDataBinding::Bound);
    assert_eq!(found.primary.bind_init_data(&[8; 48]).unwrap_err().code(), "INIT_DATA_MISMATCH");
    assert_eq!(room.emulator.quotes(), before);
    let registers = found.primary.registers().unwrap();
    assert_eq!(registers.read(16).unwrap(), [4; 48], "from a TDREPORT");
    assert_eq!(registers.enabled().unwrap_err().code(), "REGISTERS_UNSUPPORTED");
}

#[test]
fn every_fault_of_the_quote_service_has_its_error() {
    let Some(room) = Room::with_devices(tdx_machine()) else { return };
    let found = detected(&room, Duration::from_secs(2));
    let faults = [
        (Fault::WrongReportData, Some("EVIDENCE_MISMATCH")),
        (Fault::Stale, Some("EVIDENCE_MISMATCH")),
        (Fault::OtherDomain, Some("EVIDENCE_MISMATCH")),
        (Fault::Short, Some("EVIDENCE_MALFORMED")),
        (Fault::Empty, Some("EVIDENCE_MALFORMED")),
        (Fault::Huge, Some("EVIDENCE_MALFORMED")),
        (Fault::Busy, Some("TDX_QUOTE_REFUSED")),
        (Fault::HostTimeout, Some("TDX_QUOTE_REFUSED")),
        (Fault::Hang, Some("TSM_TIMEOUT")),
    ];
    check_faults(&room, &*found.primary, &faults);
    // The socket's time was up: nothing is stuck in the kernel.
    room.change(|machine| machine.fault = Fault::None);
    eventually("the service answers again", || found.primary.evidence(&data(3)).is_ok());
    fs::remove_file(room.root().join("run/tdx-qgs/qgs.socket")).unwrap();
    assert_eq!(found.primary.evidence(&data(3)).unwrap_err().code(), "TDX_QUOTE_SERVICE_UNREACHABLE");
}

/// One machine with both interfaces: which is chosen, and by what name the device is told of.
fn check_both(machine: Machine, device: &str) {
    let Some(room) = Room::with_both(machine) else { return };
    let chosen = |expected: &str| {
        let found = detect(&options(room.root(), LONG)).unwrap();
        let line = found.tried.iter().map(ToString::to_string).find(|probe| probe.contains(device)).unwrap();
        assert!(line.ends_with(expected), "{line}");
        found.primary.evidence(&data(1)).unwrap();
        found.primary.tee()
    };
    let first = chosen("exists, of the platform found");
    // A driver of another name than any that is known: the device is there all the same.
    room.change(|machine| "new_tee_guest".clone_into(&mut machine.provider));
    assert_eq!(chosen("answers, used"), first);
}

#[test]
fn configfs_wins_over_sev_guest_and_that_over_a_broken_configfs() {
    check_both(Machine::default(), "dev/sev-guest");
}

#[test]
fn configfs_wins_over_tdx_guest_and_that_over_a_broken_configfs() {
    check_both(tdx_machine(), "dev/tdx_guest");
}

#[test]
fn of_two_devices_the_first_that_answers_is_chosen() {
    let Some(room) = Room::with_devices(Machine::default()) else { return };
    // A node that no driver serves, before the one of this machine in the order.
    fs::write(room.root().join("dev/tdx_guest"), "").unwrap();
    let found = detected(&room, LONG);
    assert_eq!(found.primary.tee(), Tee::Snp);
    let line =
        |name: &str| found.tried.iter().map(ToString::to_string).find(|probe| probe.contains(name)).unwrap();
    assert!(line("dev/tdx_guest").contains("exists, not used: asking"), "{}", line("dev/tdx_guest"));
    assert!(line("dev/sev-guest").contains("answers, used"));
}
