//! The registers of a TDX machine, by plain file operations and by the production platform code.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cc_platform::HashAlgorithm;
use rustix::io::Errno;
use tee_emulator::Machine;
use tee_emulator::machine::{Hex, Td};

use crate::platform::{LONG, detected};
use crate::room::{MEASUREMENTS, Room, list};
use crate::tdx::{machine, quote};

fn write(path: &Path, value: &[u8]) -> io::Result<usize> {
    OpenOptions::new().write(true).open(path)?.write(value)
}

fn extended(old: &[u8], digest: &[u8]) -> Vec<u8> {
    HashAlgorithm::Sha384.digest(&[old, digest].concat())
}

#[test]
fn the_attributes_are_the_kernels() {
    let td = Td { mrtd: Hex([1; 48]), rtmr0: Hex([2; 48]), mrconfigid: Hex([3; 48]), ..Td::default() };
    let Some(room) = Room::with_registers(Machine { td: td.clone(), ..machine() }) else { return };
    let attribute = |name: &str| room.root().join(MEASUREMENTS).join(name);
    assert_eq!(
        list(&room.root().join(MEASUREMENTS)),
        [
            "mrconfigid",
            "mrowner",
            "mrownerconfig",
            "mrtd:sha384",
            "rtmr0:sha384",
            "rtmr1:sha384",
            "rtmr2:sha384",
            "rtmr3:sha384",
        ]
    );
    for (name, value, mode) in [
        ("mrtd:sha384", td.mrtd.0, 0o100444),
        ("mrconfigid", td.mrconfigid.0, 0o100444),
        ("rtmr0:sha384", td.rtmr0.0, 0o100444),
        ("rtmr1:sha384", td.rtmr1.0, 0o100444),
        ("rtmr2:sha384", td.rtmr2.0, 0o100644),
        ("rtmr3:sha384", td.rtmr3.0, 0o100644),
    ] {
        assert_eq!(fs::read(attribute(name)).unwrap(), value, "{name}");
        assert_eq!(fs::metadata(attribute(name)).unwrap().mode(), mode, "{name}");
    }
    for (name, length, expected) in [
        ("rtmr3:sha384", 47, Errno::INVAL),
        ("rtmr3:sha384", 49, Errno::INVAL),
        ("rtmr1:sha384", 48, Errno::ACCESS),
        ("mrtd:sha384", 48, Errno::ACCESS),
    ] {
        let error = write(&attribute(name), &vec![7; length]).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(expected), "{name}, {length} bytes");
    }
    let before = fs::read(attribute("rtmr3:sha384")).unwrap();
    assert_eq!(write(&attribute("rtmr3:sha384"), &[7; 48]).unwrap(), 48);
    assert_eq!(fs::read(attribute("rtmr3:sha384")).unwrap(), extended(&before, &[7; 48]));
    assert!(fs::write(attribute("new"), b"").is_err() && fs::remove_file(attribute("mrtd:sha384")).is_err());
}

#[test]
fn the_platforms_registers_are_those_of_its_quotes() {
    let td = Td { rtmr2: Hex([2; 48]), rtmr3: Hex([3; 48]), ..Td::default() };
    let Some(room) = Room::with_registers(Machine { td, ..machine() }) else { return };
    let found = detected(&room, LONG);
    let registers = found.primary.registers().unwrap();
    registers.enabled().unwrap();
    let mut expected = [[2; 48].to_vec(), [3; 48].to_vec()];
    for (pcr, register) in [(17, 1), (9, 0), (17, 1)] {
        registers.extend(pcr, &[9; 48]).unwrap();
        expected[register] = extended(&expected[register], &[9; 48]);
        assert_eq!(registers.read(pcr).unwrap(), expected[register]);
    }
    let quoted = quote(&*found.primary, 1).body.rtmr;
    assert_eq!(quoted[2..].iter().map(|value| value.to_vec()).collect::<Vec<_>>(), expected);
    let error = registers.extend(1, &[9; 48]).unwrap_err();
    assert_eq!(error.code(), "TEE_DEVICE", "the firmware's registers are read-only");
    assert!(error.to_string().contains("rtmr0"), "{error}");
}

#[test]
fn a_kernel_without_the_attributes_is_told() {
    let Some(room) = Room::new(machine()) else { return };
    let found = detected(&room, LONG);
    let error = found.primary.registers().unwrap().enabled().unwrap_err();
    assert_eq!(error.code(), "REGISTERS_UNSUPPORTED");
}
