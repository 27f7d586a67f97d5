//! Headers made by cryptsetup, and what a host could make of them.
//!
//! `good.rs`: what cryptsetup writes is read as it reads it, and admitted. `mutants.rs`: each bad header is refused by the
//! rule that is meant for it, and what cryptsetup says to it. `tags.rs`: authentication. `detached.rs`: the copy that a volume
//! is opened with. `random.rs`: any bytes.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, starts cryptsetup and says what it skips"
)]

mod craft;
mod detached;
mod good;
mod mutants;
mod random;
mod tags;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

/// Users' search paths do not lead there.
const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";

/// A secret of 32 bytes.
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Whether cryptsetup is installed; tells that `test` is skipped if not, also in the file that `SKIPPED_TESTS` names.
fn has_cryptsetup(test: &str) -> bool {
    if Command::new(CRYPTSETUP).arg("--version").output().is_ok() {
        return true;
    }
    let note = format!("skipped: {test}: needs cryptsetup\n");
    eprint!("{note}");
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(note.as_bytes()).unwrap();
    }
    false
}

/// Runs cryptsetup with `input` on standard input.
fn cryptsetup(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(CRYPTSETUP)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// Makes a volume in a new file of `folder` and gives its header area. Cheap derivations keep the test fast.
fn format(folder: &Path, name: &str, options: &[&str]) -> Vec<u8> {
    let path = folder.join(name);
    fs::File::create(&path).unwrap().set_len(24 << 20).unwrap();
    let path = path.to_str().unwrap();
    let cheap = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    let cheap = if options.contains(&"--pbkdf") { &[][..] } else { &cheap };
    let common = ["luksFormat", "-q", "--type", "luks2", "--key-file", "-"];
    let out = cryptsetup(&[&common, cheap, options, &[path]].concat(), SECRET);
    assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
    area(Path::new(path))
}

/// The first 16 MiB of a file.
fn area(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    bytes.truncate(16 << 20);
    bytes
}
