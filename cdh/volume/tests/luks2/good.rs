//! What cryptsetup writes is read as cryptsetup reads it, and admitted.

use std::fs;

use cc_volume::luks2::{Header, Policy, Rule, Secondary, format::Kdf};
use serde_json::Value;

use crate::{SECRET, area, craft::sample, cryptsetup, format, has_cryptsetup};

#[test]
fn volumes_of_every_kind_are_admitted() {
    if !has_cryptsetup("volumes_of_every_kind_are_admitted") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let argon2 = [
        "--pbkdf",
        "argon2id",
        "--pbkdf-force-iterations",
        "4",
        "--pbkdf-memory",
        "32768",
        "--pbkdf-parallel",
        "2",
    ];
    let kinds: [(&str, &[&str]); 6] = [
        ("plain", &[]),
        ("labelled", &["--label", "data ä", "--subsystem", "cc"]),
        ("argon2id", &argon2),
        ("small", &["--luks2-metadata-size", "16k", "--luks2-keyslots-size", "256k"]),
        ("large", &["--luks2-metadata-size", "4m", "--luks2-keyslots-size", "4m"]),
        ("sectors of 512", &["--sector-size", "512"]),
    ];
    for (name, options) in kinds {
        let header = Header::read(&format(folder.path(), name, options)).unwrap();
        let verdict = Policy::default().judge(&header);
        assert!(verdict.is_admitted() && verdict.notes.is_empty(), "{name}: {verdict:#?}");
        assert_eq!(header.secondary(), &Secondary::Same, "{name}");
        agrees_with_dump(&header, folder.path().join(name).to_str().unwrap());
    }
    let labelled = Header::read(&area(&folder.path().join("labelled"))).unwrap();
    assert_eq!((labelled.binary().label.as_str(), labelled.binary().subsystem.as_str()), ("data ä", "cc"));
    let argon2 = Header::read(&area(&folder.path().join("argon2id"))).unwrap();
    let slot = argon2.metadata().keyslots[&0].slot.clone().unwrap();
    assert!(matches!(slot.kdf, Kdf::Argon2 { time: 4, memory: 32768, cpus: 2, .. }), "{slot:?}");
}

fn agrees_with_dump(header: &Header, path: &str) {
    let dump = cryptsetup(&["luksDump", "--dump-json-metadata", path], b"");
    let dump: Value = serde_json::from_slice(&dump.stdout).unwrap();
    let metadata = header.metadata();
    let crypt = metadata.segments[&0].crypt.clone().unwrap();
    assert_eq!(dump["segments"]["0"]["encryption"], crypt.encryption);
    assert_eq!(dump["segments"]["0"]["offset"], crypt.offset.to_string());
    assert_eq!(dump["segments"]["0"]["sector_size"], crypt.sector_size);
    let area = metadata.keyslots[&0].slot.clone().unwrap().area;
    assert_eq!(dump["keyslots"]["0"]["area"]["offset"], area.offset.to_string());
    assert_eq!(dump["keyslots"]["0"]["area"]["size"], area.size.to_string());
    assert_eq!(dump["config"]["keyslots_size"], metadata.config.keyslots_size.to_string());
    let uuid = cryptsetup(&["luksUUID", path], b"");
    assert_eq!(String::from_utf8(uuid.stdout).unwrap().trim(), header.binary().uuid);
}

#[test]
fn detached_headers_and_backups_are_admitted() {
    if !has_cryptsetup("detached_headers_and_backups_are_admitted") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    format(folder.path(), "data", &["--header", &path("header")]);
    let header = Header::read(&area(&folder.path().join("header"))).unwrap();
    let apart = Policy { detached: true, ..Policy::default() };
    assert!(apart.judge(&header).is_admitted(), "{:?}", apart.judge(&header));
    let on_device = Policy::default().judge(&header);
    assert_eq!(on_device.violations.iter().map(|v| v.rule).collect::<Vec<_>>(), [Rule::SegmentOffset]);

    let whole = format(folder.path(), "whole", &[]);
    let backup = path("backup");
    let out = cryptsetup(&["luksHeaderBackup", &path("whole"), "--header-backup-file", &backup], b"");
    assert!(out.status.success());
    let backup = Header::read(&fs::read(backup).unwrap()).unwrap();
    assert_eq!(backup, Header::read(&whole).unwrap());
}

#[test]
fn what_cryptsetup_changes_is_seen() {
    if !has_cryptsetup("what_cryptsetup_changes_is_seen") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    format(folder.path(), "volume", &[]);
    let path = folder.path().join("volume").to_str().unwrap().to_owned();
    let rules = |policy: &Policy| {
        let header = Header::read(&area(folder.path().join("volume").as_path())).unwrap();
        policy.judge(&header).violations.into_iter().map(|v| v.rule).collect::<Vec<_>>()
    };
    let key = folder.path().join("key").to_str().unwrap().to_owned();
    fs::write(&key, SECRET).unwrap();
    let add = [
        "luksAddKey",
        "-q",
        "--pbkdf",
        "pbkdf2",
        "--pbkdf-force-iterations",
        "1000",
        "--key-file",
        &key,
        &path,
        "-",
    ];
    let out = cryptsetup(&add, b"another");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(rules(&Policy::default()), [Rule::KeyslotCount]);
    let two = Policy { max_keyslots: 2, ..Policy::default() };
    assert_eq!(rules(&two), []);
    let out = cryptsetup(&["config", "--priority", "prefer", "--key-slot", "1", &path], b"");
    assert!(out.status.success());
    assert_eq!(rules(&two), [Rule::KeyslotPriority]);
}

#[test]
fn the_header_that_these_tests_write_is_one_for_cryptsetup() {
    if !has_cryptsetup("the_header_that_these_tests_write_is_one_for_cryptsetup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sample");
    fs::write(&path, sample().bytes).unwrap();
    let out = cryptsetup(&["luksDump", path.to_str().unwrap()], b"");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}
