//! The image library on archives and images that are made for the purpose, and beside other readers.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests fail loudly and start programs"
)]

mod archive;
mod artifact;
mod documents;
mod encrypted;
mod layout;
mod layout_archive;
mod oracles;
mod pipe;
mod resume;
mod rootfs;
mod rules;
mod snapshot;
mod store;
mod unpack;

/// Whether this process may make devices and give files away; tells that a test is skipped if not.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "needs root");
    }
    root
}

/// Says that a test is skipped, also in the file that `SKIPPED_TESTS` names.
pub fn skip(test: &str, why: &str) {
    let note = format!("skipped: {test}: {why}\n");
    eprint!("{note}");
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::io::Write::write_all(&mut file, note.as_bytes()).unwrap();
    }
}
