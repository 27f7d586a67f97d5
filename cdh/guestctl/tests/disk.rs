//! `guestctl disk` on volumes that cryptsetup made.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, starts cryptsetup and says what it skips"
)]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use guestctl::{Console, Exit};
use serde_json::Value;

/// Users' search paths do not lead there.
const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

#[tokio::main(flavor = "current_thread")]
async fn disk(arguments: &[&str]) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = ["guestctl", "disk"].iter().chain(arguments);
    let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err)).await;
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn json(arguments: &[&str]) -> (Exit, Value) {
    let (exit, out, _) = disk(&[arguments, &["--json"]].concat());
    (exit, serde_json::from_str(&out).unwrap())
}

fn cryptsetup(arguments: &[&str], input: &[u8]) {
    let mut child = Command::new(CRYPTSETUP).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success(), "cryptsetup {arguments:?}");
}

/// A folder with a volume `volume` and its secret `key`; nothing without cryptsetup.
fn volume(test: &str) -> Option<tempfile::TempDir> {
    if Command::new(CRYPTSETUP).arg("--version").output().is_err() {
        let note = format!("skipped: {test}: needs cryptsetup\n");
        eprint!("{note}");
        if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
            let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(note.as_bytes()).unwrap();
        }
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = path(folder.path(), "volume");
    fs::File::create(&path).unwrap().set_len(24 << 20).unwrap();
    fs::write(folder.path().join("key"), SECRET).unwrap();
    let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--label", "d\u{1b}[31m"];
    let make = ["luksFormat", "-q", "--type", "luks2", "--key-file", "-"];
    cryptsetup(&[&make[..], &cheap, &[path.as_str()]].concat(), SECRET);
    Some(folder)
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

#[test]
fn a_volume_is_explained_and_admitted() {
    let Some(folder) = volume("a_volume_is_explained_and_admitted") else { return };
    let file = path(folder.path(), "volume");
    let (exit, out, _) = disk(&["inspect", &file]);
    assert_eq!(exit, Exit::Success);
    for word in ["aes-xts-plain64", "pbkdf2 with sha256, 1000 rounds", "from byte 16777216", "all are kept"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert!(!out.contains('\u{1b}'), "a label steers the terminal: {out:?}");
    let (exit, facts) = json(&["inspect", &file]);
    assert_eq!((exit, &facts["verdict"]), (Exit::Success, &"admitted".into()));
    assert_eq!(facts["segments"]["0"]["offset"], 16_777_216);
    assert_eq!(facts["keyslots"]["0"]["key_size"], 64);

    let (exit, out, _) = disk(&["check", &file]);
    assert_eq!(exit, Exit::Success);
    assert!(out.contains("open  tag"), "it says what was not verified: {out}");
    let (exit, out, err) = disk(&["check", &file, "--require-integrity"]);
    assert_eq!(exit, Exit::Failed);
    assert!(out.contains("FAIL  integrity") && err.contains("[LUKS_HEADER_REFUSED]"), "{out}{err}");
}

#[test]
fn a_changed_header_is_refused_with_the_name_of_the_rule() {
    let Some(folder) = volume("a_changed_header_is_refused_with_the_name_of_the_rule") else { return };
    let file = path(folder.path(), "volume");
    let foreign = br#"{"type":"clevis","keyslots":["0"],"jwe":{}}"#;
    cryptsetup(&["token", "import", "--json-file", "-", &file], foreign);
    let (exit, verdict) = json(&["check", &file]);
    assert_eq!(exit, Exit::Failed);
    assert_eq!(
        (&verdict["verdict"], &verdict["violations"][0]["rule"]),
        (&"refused".into(), &"tokens".into())
    );
    let (exit, facts) = json(&["inspect", &file]);
    assert_eq!((exit, &facts["verdict"]), (Exit::Success, &"refused".into()));

    let mut bytes = fs::read(&file).unwrap();
    bytes[4096] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (exit, verdict) = json(&["check", &file]);
    assert_eq!((exit, &verdict["violations"][0]["rule"]), (Exit::Failed, &"checksum".into()));
    assert!(verdict["notes"][0].as_str().unwrap().contains("second copy is whole"), "{verdict}");
    let (_, _, err) = disk(&["check", &file]);
    assert!(err.contains("first copy, checksum") && err.contains("[LUKS_HEADER_MALFORMED]"), "{err}");
    assert!(err.contains("guestctl disk repair"), "{err}");
    // What is left of it is explained.
    let (exit, out, _) = disk(&["inspect", &file]);
    assert!(exit == Exit::Success && out.contains("FAIL  checksum") && out.contains("FAIL  tokens"), "{out}");
    let (exit, facts) = json(&["inspect", &file]);
    assert_eq!((exit, &facts["violations"][0]["rule"]), (Exit::Success, &"checksum".into()));
    assert_eq!((&facts["shown_copy"], &facts["verdict"]), (&"second".into(), &"refused".into()));
    // Where both are damaged there is nothing to explain.
    let mut bytes = fs::read(&file).unwrap();
    bytes[0x4000 + 4096] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (exit, out, _) = disk(&["inspect", &file]);
    assert!(
        exit == Exit::Failed && out.contains("FAIL  checksum") && !out.contains("second copy is"),
        "{out}"
    );
}

#[test]
fn a_signed_header_is_told_from_any_other() {
    let Some(folder) = volume("a_signed_header_is_told_from_any_other") else { return };
    let [file, key] = ["volume", "key"].map(|name| path(folder.path(), name));
    let check = ["check", &file, "--key", &key];
    let (exit, _, err) = disk(&check);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("[LUKS_TAG_MISSING]") && err.contains("disk sign"), "{err}");

    let (exit, token, err) = disk(&["sign", &file, "--key", &key]);
    assert_eq!(exit, Exit::Success, "{err}");
    let (_, tag, _) = disk(&["sign", &file, "--key", &key, "--tag-only"]);
    cryptsetup(&["token", "import", "--json-file", "-", &file], token.as_bytes());
    let (exit, verdict) = json(&check);
    assert_eq!((exit, &verdict["authentic"]), (Exit::Success, &true.into()));

    // A first copy that was left half written: the second one fits the tag.
    let whole = fs::read(&file).unwrap();
    let mut torn = whole.clone();
    torn[4608] ^= 1;
    fs::write(&file, torn).unwrap();
    let (exit, verdict) = json(&check);
    assert_eq!((exit, &verdict["authentic"]), (Exit::Success, &true.into()));
    assert!(verdict["notes"][0].as_str().unwrap().contains("guestctl disk repair"), "{verdict}");
    assert_eq!(disk(&["check", &file]).0, Exit::Failed);
    fs::write(&file, whole).unwrap();

    let other = path(folder.path(), "other");
    fs::write(&other, [7; 32]).unwrap();
    let (exit, _, err) = disk(&["check", &file, "--key", &other]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("[LUKS_TAG_MISMATCH]"), "{err}");
    fs::write(&other, "password").unwrap();
    let (exit, _, err) = disk(&["sign", &file, "--key", &other]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("[LUKS_SECRET_WEAK]") && !err.contains("password"), "{err}");

    cryptsetup(&["config", "--label", "other", &file], b"");
    let (exit, verdict) = json(&[&check[..], &["--tag", tag.trim()]].concat());
    assert_eq!(
        (exit, &verdict["authentic"], &verdict["verdict"]),
        (Exit::Failed, &false.into(), &"refused".into())
    );
}

#[test]
fn what_is_no_header_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content, code) in [
        ("empty", &b""[..], "[LUKS_HEADER_MALFORMED]"),
        ("text", &[b'x'; 5000], "does not begin like a LUKS header"),
        ("luks1", b"LUKS\xba\xbe\0\x01", "is 1, read is version 2"),
    ] {
        let file = path(folder.path(), name);
        fs::write(&file, content).unwrap();
        for command in ["inspect", "check"] {
            let (exit, _, err) = disk(&[command, &file]);
            assert_eq!(exit, Exit::Failed, "{name}");
            assert!(err.contains(code), "{err}");
        }
    }
    let (exit, _, err) = disk(&["check", &path(folder.path(), "absent")]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("[INPUT_UNREADABLE]"), "{err}");
    // A disk that goes on for ever.
    let (exit, _, err) = disk(&["check", "/dev/zero"]);
    assert_eq!(exit, Exit::Failed);
    assert!(err.contains("[LUKS_HEADER_MALFORMED]"), "{err}");
}
