//! The rules of `configfs-tsm-report`, seen through plain file operations.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::io::Errno;
use tee_emulator::Machine;
use tee_emulator::machine::Tee;

use crate::room::{Room, list};

const DATA: [u8; 64] = [0x42; 64];

fn write(path: &Path, value: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value)
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}

#[test]
fn a_new_entry_has_the_kernels_attributes() {
    let Some(room) = Room::new(Machine { vmpl: 1, ..Machine::default() }) else { return };
    let entry = room.report().join("one");
    fs::create_dir(&entry).unwrap();
    assert_eq!(
        list(&entry),
        ["auxblob", "generation", "inblob", "outblob", "privlevel", "privlevel_floor", "provider"]
    );
    for (name, mode, size) in [
        ("inblob", 0o100200, 0),
        ("outblob", 0o100444, 0),
        ("auxblob", 0o100444, 0),
        ("provider", 0o100444, 4096),
        ("generation", 0o100444, 4096),
        ("privlevel", 0o100200, 4096),
        ("privlevel_floor", 0o100444, 4096),
    ] {
        let meta = fs::metadata(entry.join(name)).unwrap();
        assert_eq!((meta.mode(), meta.size()), (mode, size), "{name}");
    }
    assert_eq!(fs::read_to_string(entry.join("provider")).unwrap(), "sev_guest\n");
    assert_eq!(fs::read_to_string(entry.join("generation")).unwrap(), "0\n");
    assert_eq!(fs::read_to_string(entry.join("privlevel_floor")).unwrap(), "1\n");
    assert_eq!(room.emulator.entries_open(), 1);
    fs::remove_dir(&entry).unwrap();
    assert_eq!(room.emulator.entries_open(), 0);
    assert!(room.directories().is_empty());
}

#[test]
fn a_tdx_driver_shows_neither_levels_nor_a_second_blob() {
    let Some(room) = Room::new(Machine { tee: Tee::Tdx, ..Machine::default() }) else { return };
    let entry = room.report().join("one");
    fs::create_dir(&entry).unwrap();
    assert_eq!(list(&entry), ["generation", "inblob", "outblob", "provider"]);
    for hidden in ["auxblob", "privlevel", "privlevel_floor"] {
        assert_eq!(errno(File::open(entry.join(hidden))), Errno::NOENT, "{hidden}");
    }
    assert_eq!(fs::read_to_string(entry.join("provider")).unwrap(), "tdx_guest\n");
    assert_eq!(errno(fs::read(entry.join("outblob"))), Errno::INVAL, "nothing written");
    write(&entry.join("inblob"), &DATA).unwrap();
    let quote = fs::read(entry.join("outblob")).unwrap();
    assert_eq!(&quote[48 + 520..48 + 584], &DATA);
    assert_eq!(fs::read(entry.join("outblob")).unwrap(), quote);
    assert_eq!(room.emulator.quotes(), 1);
    fs::remove_dir(&entry).unwrap();
}

#[test]
fn writes_count_and_reports_are_cached() {
    let Some(room) = Room::new(Machine::default()) else { return };
    let entry = room.report().join("one");
    fs::create_dir(&entry).unwrap();
    let generation = || fs::read_to_string(entry.join("generation")).unwrap();
    let outblob = || fs::read(entry.join("outblob")).unwrap();

    let mut open = OpenOptions::new().write(true).open(entry.join("inblob")).unwrap();
    open.write_all(&DATA[..32]).unwrap();
    open.write_all(&DATA[32..]).unwrap();
    assert_eq!(generation(), "0\n", "a binary attribute takes effect when it is closed");
    drop(open);
    assert_eq!(generation(), "1\n");

    let first = outblob();
    assert_eq!((first.len(), &first[0x50..0x90]), (1184, &DATA[..]));
    assert_eq!(outblob(), first);
    let table = fs::read(entry.join("auxblob")).unwrap();
    assert_eq!(cc_evidence::snp::cert_table::parse(&table).unwrap().len(), 3);
    assert_eq!((room.emulator.quotes(), generation()), (1, "1\n".to_owned()), "reading makes one report");

    write(&entry.join("privlevel"), b"0").unwrap();
    assert_eq!(generation(), "2\n");
    assert_ne!(outblob(), first, "an ECDSA signature is never the same twice");
    assert_eq!(room.emulator.quotes(), 2);

    // Each open file has its own place and reads what its first read saw.
    let (mut a, mut b) =
        (File::open(entry.join("outblob")).unwrap(), File::open(entry.join("outblob")).unwrap());
    let (mut head, mut tail) = ([0; 100], Vec::new());
    a.read_exact(&mut head).unwrap();
    let mut whole = Vec::new();
    b.read_to_end(&mut whole).unwrap();
    write(&entry.join("privlevel"), b"1\n").unwrap();
    a.read_to_end(&mut tail).unwrap();
    assert_eq!([&head[..], &tail].concat(), whole);
    fs::remove_dir(&entry).unwrap();
}

#[test]
fn misuse_gets_the_kernels_answers() {
    let Some(room) = Room::new(Machine { vmpl: 1, ..Machine::default() }) else { return };
    let report = room.report();
    let entry = report.join("one");
    fs::create_dir(&entry).unwrap();
    let of = |name: &str| entry.join(name);

    assert_eq!(errno(fs::read(of("outblob"))), Errno::INVAL, "nothing written");
    assert_eq!(errno(fs::read(of("auxblob"))), Errno::INVAL);
    write(&of("inblob"), &DATA[..63]).unwrap();
    assert_eq!(errno(fs::read(of("outblob"))), Errno::INVAL, "not 64 bytes");
    assert_eq!(errno(write(&of("inblob"), &[0; 65])), Errno::FBIG);
    for bad in [&b"0"[..], b"4", b"x", b"\x01", b""] {
        if !bad.is_empty() {
            assert_eq!(errno(write(&of("privlevel"), bad)), Errno::INVAL, "{bad:?}");
        }
    }
    assert_eq!(errno(File::open(of("inblob"))), Errno::ACCESS);
    assert_eq!(errno(OpenOptions::new().write(true).open(of("outblob"))), Errno::ACCESS);
    assert_eq!(errno(OpenOptions::new().read(true).write(true).open(of("inblob"))), Errno::ACCESS);

    assert_eq!(
        errno(File::create(report.join("file"))),
        Errno::ACCESS,
        "nothing but directories can be made"
    );
    assert_eq!(errno(File::create(of("file"))), Errno::ACCESS);
    assert_eq!(errno(fs::create_dir(of("below"))), Errno::PERM);
    assert_eq!(errno(fs::create_dir(&entry)), Errno::EXIST);
    assert_eq!(errno(fs::remove_file(of("outblob"))), Errno::PERM);
    assert_eq!(errno(fs::rename(&entry, report.join("two"))), Errno::PERM);
    assert_eq!(errno(std::os::unix::fs::symlink("x", report.join("link"))), Errno::PERM);
    assert_eq!(errno(fs::remove_dir(of("outblob"))), Errno::NOTDIR);
    assert_eq!(errno(fs::remove_dir(report.join("none"))), Errno::NOENT);

    // A report below the floor: the firmware refuses.
    write(&of("inblob"), &DATA).unwrap();
    assert_eq!(errno(fs::read(of("outblob"))), Errno::IO);
    write(&of("privlevel"), b"1").unwrap();
    assert_eq!(fs::read(of("outblob")).unwrap()[0x30], 1);

    let mut open = File::open(of("generation")).unwrap();
    fs::remove_dir(&entry).unwrap();
    assert_eq!(errno(open.read(&mut [0; 8])), Errno::NOENT, "the entry is gone under an open file");
}

#[test]
fn without_a_driver_there_are_no_entries() {
    let Some(room) = Room::new(Machine::default()) else { return };
    let entry = room.report().join("one");
    fs::create_dir(&entry).unwrap();
    room.change(|machine| "none".clone_into(&mut machine.provider));
    assert_eq!(errno(fs::create_dir(room.report().join("two"))), Errno::NXIO);
    assert_eq!(errno(fs::read(entry.join("provider"))), Errno::NXIO);
    assert_eq!(errno(write(&entry.join("privlevel"), b"0")), Errno::NXIO);
    fs::remove_dir(&entry).unwrap();
}
