//! The production platform code over an emulated TDX machine.

use std::fs;
use std::time::Duration;

use cc_evidence::tdx::{Quote, TdxEvidence};
use cc_platform::{InitDataBinding, Platform, Tee};
use tee_emulator::Machine;
use tee_emulator::machine::{self, Fault, Hex, Td};

use crate::platform::{LONG, data, detected, eventually};
use crate::room::Room;

pub(crate) fn machine() -> Machine {
    Machine { tee: machine::Tee::Tdx, ..Machine::default() }
}

pub(crate) fn quote(platform: &dyn Platform, tag: u8) -> Quote {
    let evidence = TdxEvidence::from_json(&platform.evidence(&data(tag)).unwrap()).unwrap();
    Quote::parse(&evidence.quote).unwrap()
}

#[test]
fn evidence_answers_the_question_and_says_what_the_machine_is() {
    let td = Td { mrconfigid: Hex([9; 48]), rtmr3: Hex([4; 48]), padding: 3065, ..Td::default() };
    let Some(room) = Room::new(Machine { td: td.clone(), ..machine() }) else { return };
    let found = detected(&room, LONG);
    assert_eq!(found.primary.tee(), Tee::Tdx);
    let probes = found.tried.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(
        probes.iter().any(|probe| probe.contains("tdx") && probe.contains("provider tdx_guest")),
        "{probes:?}"
    );
    assert_eq!(room.emulator.quotes(), 0, "detection makes no quote");

    let quote = quote(&*found.primary, 7);
    assert_eq!((quote.header.version, quote.trailing), (4, 3065));
    let body = &quote.body;
    assert_eq!(body.report_data, data(7).padded());
    assert_eq!((body.mr_td, body.mr_config_id), (td.mrtd.0, td.mrconfigid.0));
    assert_eq!(body.rtmr, [td.rtmr0.0, td.rtmr1.0, td.rtmr2.0, td.rtmr3.0]);
    assert_eq!(body.td_attributes.0.to_le_bytes(), td.attributes.0);
    assert_eq!((body.xfam.to_le_bytes(), body.tee_tcb_svn), (td.xfam.0, td.tee_tcb_svn.0));

    assert_eq!(found.primary.bind_init_data(&[9; 48]).unwrap(), InitDataBinding::Claimed);
    assert_eq!(found.primary.bind_init_data(&[9; 64]).unwrap(), InitDataBinding::Claimed, "cut to 48 bytes");
    for other in [&[9; 32][..], &[8; 48]] {
        assert_eq!(found.primary.bind_init_data(other).unwrap_err().code(), "INIT_DATA_MISMATCH");
    }
    assert_eq!(found.primary.bind_init_data(&[]).unwrap_err().code(), "INIT_DATA_DIGEST_EMPTY");
    assert!(room.directories().is_empty());
}

#[test]
fn every_fault_has_its_error_and_leaves_nothing() {
    let Some(room) = Room::new(machine()) else { return };
    let found = detected(&room, Duration::from_secs(2));
    for (fault, expected) in [
        (Fault::WrongReportData, Some("EVIDENCE_MISMATCH")),
        (Fault::Stale, Some("EVIDENCE_MISMATCH")),
        (Fault::Short, Some("EVIDENCE_MALFORMED")),
        (Fault::Empty, Some("TSM_MALFORMED")),
        (Fault::Huge, Some("TSM_MALFORMED")),
        (Fault::Busy, Some("TSM_TIMEOUT")),
        (Fault::HostTimeout, Some("TSM_HOST_TIMEOUT")),
        // Only a relying party can see these.
        (Fault::FlipBit, None),
        (Fault::ExpiredPck, None),
        (Fault::RevokedPck, None),
        (Fault::OutOfDateTcb, None),
        (Fault::RevokedTcb, None),
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
    room.change(|machine| machine.fault = Fault::Hang);
    assert_eq!(found.primary.evidence(&data(3)).unwrap_err().code(), "TSM_TIMEOUT");
    assert_eq!(found.primary.evidence(&data(3)).unwrap_err().code(), "TSM_STUCK");
}

#[test]
fn a_machine_file_that_changes_the_tee_gives_no_report() {
    let Some(room) = Room::new(machine()) else { return };
    let found = detected(&room, LONG);
    room.change(|machine| machine.tee = machine::Tee::Snp);
    assert_eq!(found.primary.evidence(&data(3)).unwrap_err().code(), "TSM_IO", "its keys are for TDX");
}

#[test]
fn a_log_of_the_firmware_goes_with_the_quote() {
    let Some(room) = Room::new(machine()) else { return };
    let found = detected(&room, LONG);
    let log = || TdxEvidence::from_json(&found.primary.evidence(&data(1)).unwrap()).unwrap().cc_eventlog;
    assert_eq!(log(), None);
    let tables = room.root().join("sys/firmware/acpi/tables/data");
    fs::create_dir_all(&tables).unwrap();
    fs::write(tables.join("CCEL"), b"no log").unwrap();
    let quotes = room.emulator.quotes();
    let error = found.primary.evidence(&data(1)).unwrap_err();
    assert_eq!(error.code(), "EVIDENCE_MALFORMED", "{error}");
    assert_eq!(room.emulator.quotes(), quotes, "a broken log costs no quote");
}

#[test]
fn what_the_module_says_of_the_launch_counts_more_than_a_quote() {
    let td = Td { mrconfigid: Hex([9; 48]), ..Td::default() };
    let Some(room) = Room::new(Machine { td, ..machine() }) else { return };
    let found = detected(&room, LONG);
    let measurements = room.root().join("sys/devices/virtual/misc/tdx_guest/measurements");
    fs::create_dir_all(&measurements).unwrap();
    fs::write(measurements.join("mrconfigid"), [8; 48]).unwrap();
    assert_eq!(found.primary.bind_init_data(&[8; 48]).unwrap(), InitDataBinding::Bound);
    assert_eq!(found.primary.bind_init_data(&[9; 48]).unwrap_err().code(), "INIT_DATA_MISMATCH");
    assert_eq!(room.emulator.quotes(), 0, "no quote was needed");
}
