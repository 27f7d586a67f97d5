//! `cdh-storage volume`, which makes and changes headers with libcryptsetup: started for one piece of work, on a file in memory.
//!
//! This program is static and links no libcryptsetup. The other one gets no disk: a file in memory, as long as the disk, goes
//! over a private socket with the key, and what comes back is read strictly and judged before it is written.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_storage::{Channel, Client, Request, StorageError};
use cc_volume::luks2::{Canonical, Copies, DetachedHeader, HeaderKey, Policy};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{detached, volume};
use crate::failure::{self, Failure};

/// The program that is used: the one that was named, else the one beside this program, where packages and `make install` put it.
pub(super) fn program(named: Option<&Path>) -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("cdh-storage"));
    named.map(Path::to_owned).or_else(beside).unwrap_or_else(|| "/usr/local/bin/cdh-storage".into())
}

/// Has `request` done on a file of `length` bytes that begins with `header`, if there is one. The result is a header that keeps every rule, is that of
/// the volume `uuid`, and is signed with `key`; `policy` is the volume's.
pub(super) fn change(
    program: &Path,
    request: Request,
    secret: Secret,
    (header, length): (Option<&Canonical<'_>>, u64),
    (uuid, key, policy): (&str, &Secret, &Policy),
) -> Result<DetachedHeader, Failure> {
    let unusable = |source: std::io::Error| unusable(program, &source.to_string());
    let memory = memfd_create("header", MemfdFlags::CLOEXEC).map_err(|error| unusable(error.into()))?;
    let mut memory = File::from(memory);
    memory.set_len(length).map_err(unusable)?;
    for (at, piece) in header.iter().flat_map(|header| header.pieces()) {
        memory.write_all_at(piece, at).map_err(unusable)?;
    }
    let mode = if matches!(request, Request::FormatWithFileSystem { .. }) { "disk" } else { "volume" };
    let mut helper = Helper::start(program, mode)?;
    let asked = helper.client.ask(request, Some(secret), &[memory.as_fd()]);
    asked.map_err(|error| helper.failed(program, error))?;

    let header = detached(&mut memory, program, Copies::First, |header| policy.judge(header).into_result())?;
    let wrong = |error| volume(program, error);
    let tag = header.header().tag().ok_or(cc_volume::Error::TagMissing).map_err(wrong)?;
    HeaderKey::derive(key).and_then(|key| key.verify(header.header(), tag)).map_err(wrong)?;
    if header.header().binary().uuid != uuid {
        let why = "is the header of another volume".to_owned();
        return Err(Failure::Garbled { doing: program.display().to_string(), why });
    }
    Ok(header)
}

/// Has `request` done to an open volume, whose header is `header`.
pub(super) fn disk(
    program: &Path,
    request: Request,
    secret: Secret,
    header: &DetachedHeader,
) -> Result<(), Failure> {
    let unusable = |source: std::io::Error| unusable(program, &source.to_string());
    let memory = memfd_create("header", MemfdFlags::CLOEXEC).map_err(|error| unusable(error.into()))?;
    let memory = File::from(memory);
    let header = header.canonical();
    memory.set_len(header.length() as u64).map_err(unusable)?;
    for (at, piece) in header.pieces() {
        memory.write_all_at(piece, at).map_err(unusable)?;
    }
    let mut helper = Helper::start(program, "disk")?;
    let asked = helper.client.ask(request, Some(secret), &[memory.as_fd()]);
    asked.map(drop).map_err(|error| helper.failed(program, error))
}

/// Has closed what is left of formats and openings that were interrupted: the program does that whenever it starts.
pub(super) fn tidy_up(program: &Path) -> Result<(), Failure> {
    let mut helper = Helper::start(program, "disk")?;
    let asked = helper.client.ask(Request::ListVolumes, None, &[]);
    asked.map(drop).map_err(|error| helper.failed(program, error))
}

struct Helper {
    client: Client,
    child: Child,
}

impl Helper {
    #[allow(clippy::disallowed_methods, reason = "it is started as the data hub starts it")]
    fn start(program: &Path, mode: &str) -> Result<Self, Failure> {
        let (ours, theirs) = Channel::pair().map_err(|error| unusable(program, &error.to_string()))?;
        let child = Command::new(program)
            .args(["--log", "warn", mode])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| unusable(program, &source.to_string()))?;
        Ok(Self { client: Client::new(ours), child })
    }

    fn failed(&mut self, program: &Path, error: StorageError) -> Failure {
        match error {
            StorageError::Gone => unusable(program, "it ended, or was built without the feature luks"),
            other => failure::of(other.blame(), other.code(), &other, other.hint()),
        }
    }
}

impl Drop for Helper {
    /// It ends when the other end of its socket is closed; nobody waits for it to notice.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unusable(program: &Path, why: &str) -> Failure {
    let program: PathBuf = program.to_owned();
    failure::of(
        Blame::Platform,
        "STORAGE_HELPER",
        &format!("using {}: {why}", program.display()),
        "install cdh-storage, built with the feature luks, beside this program, or name it with --helper",
    )
}
