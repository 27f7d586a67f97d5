//! Evidence for tests: where the recorded is, which lives outside the repository, and a writer for what is made. And the way
//! to say that a test cannot run here.
//!
//! `VECTORS_DIR` names the folder of all vectors; without it, `../shared/vectors` beside the workspace is taken if it
//! exists. A machine without vectors skips the tests that need them, and that is no failure, not even in CI: the
//! emulator's evidence goes through the same code. A `VECTORS_DIR` that names no folder is a mistake, and fails.
//!
//! For tests alone: no program depends on it but the emulator.
#![forbid(unsafe_code)]
#![allow(
    clippy::panic,
    clippy::print_stderr,
    reason = "it is part of tests: they fail loudly and say what they skip"
)]

use std::path::PathBuf;

pub mod cbor;

/// The folder of the vectors called `name` (the empty name: of all); none, and a line on standard error, where this machine does not have it.
///
/// # Panics
///
/// When `VECTORS_DIR` is set, not empty, and no folder.
#[must_use]
pub fn folder(name: &str) -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "the only configuration of tests")]
    let named = std::env::var_os("VECTORS_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = named.as_ref().filter(|path| !path.is_dir()) {
        panic!(
            "VECTORS_DIR is {}, which is no folder: unset it, or name the vectors' folder",
            path.display()
        );
    }
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = named.unwrap_or_else(|| PathBuf::from(beside)).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: no recorded vectors at {} (VECTORS_DIR names their folder)", folder.display());
    None
}

/// The bytes of one file of the vectors called `name`; none where [`folder`] finds none.
///
/// # Panics
///
/// When the folder is there and the file cannot be read; and as [`folder`] does.
#[must_use]
pub fn read(name: &str, file: &str) -> Option<Vec<u8>> {
    let path = folder(name)?.join(file);
    Some(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Tells that the running test is skipped, and leaves a note in the file that `SKIPPED_TESTS` names, so that a run
/// that proved little says so at its end.
#[allow(clippy::disallowed_methods, reason = "the only configuration of tests")]
pub fn skip(why: &str) {
    let note = format!("skipped: {}: {why}", std::thread::current().name().unwrap_or("a test"));
    eprintln!("{note}");
    if let Some(file) = std::env::var_os("SKIPPED_TESTS") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(file);
        // The note is a courtesy; the test's own output has it too.
        let _ =
            file.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{note}\n").as_bytes()));
    }
}
