//! The distribution's cryptsetup, which opens a volume with the copy of the header that was checked.
//!
//! The copy lies in a sealed memfd: it has no name, and nobody can change it any more, this process included. The key goes through a
//! pipe. Neither is ever in an argument, the environment or a file.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use cc_crypto::Secret;
use cc_volume::luks2::Canonical;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::{FdFlags, fcntl_setfd},
};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// Where distributions have it.
const PROGRAMS: [&str; 3] = ["/usr/sbin/cryptsetup", "/sbin/cryptsetup", "/usr/bin/cryptsetup"];
/// Pause between two looks whether it has ended.
const GLANCE: Duration = Duration::from_millis(10);
/// How long it may take to end when it is killed.
const PARTING: Duration = Duration::from_secs(1);
/// Most of what it says that is repeated, in bytes.
const MAX_SAID: u64 = 2000;

/// Has the volume at `device` opened as the mapping `name`, by the header in `header`.
///
/// # Errors
/// [`Failure::Cryptsetup`] if there is none, it fails, or is not done by `deadline`; then it is ended.
pub(crate) async fn open(
    name: &str,
    device: &Path,
    header: &Canonical<'_>,
    allow_discards: bool,
    key: &Secret,
    deadline: Instant,
) -> Result<(), Failure> {
    let failed = |why: String| Failure::Cryptsetup { why };
    let program = PROGRAMS.iter().find(|path| Path::new(path).exists());
    let program = program.ok_or_else(|| failed(format!("none of {} is there", PROGRAMS.join(", "))))?;
    let copy = sealed(header).map_err(|e| failed(format!("laying down the header in memory: {e}")))?;
    let mut command = command(program, name, device, &copy, allow_discards);
    let mut child = command.spawn().map_err(|e| failed(format!("starting {program}: {e}")))?;
    drop(copy);
    if let Some(mut stdin) = child.stdin.take() {
        // If it reads no key, what it says tells why.
        let _ = stdin.write_all(key.expose());
    }
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(failed(format!("{}{status}", said(&mut child)))),
            Ok(None) if Instant::now() < deadline => sleep(GLANCE).await,
            Ok(None) => {
                // One that has ended meanwhile cannot be ended.
                let _ = child.kill();
                if has_ended(&mut child).await {
                    return Err(failed(format!("{}it was not done in time", said(&mut child))));
                }
                // It waits for the device in the kernel, where no signal reaches it: it is left there.
                let device = device.display();
                return Err(failed(format!(
                    "it was not done in time, and waits for {device}, which does not answer"
                )));
            }
            Err(e) => return Err(failed(e.to_string())),
        }
    }
}

/// Whether a program that was killed is gone a moment later.
async fn has_ended(child: &mut Child) -> bool {
    let until = Instant::now() + PARTING;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < until => sleep(GLANCE).await,
            Ok(None) => return false,
            Ok(Some(_)) | Err(_) => return true,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the one program that this tool is there to start")]
fn command(program: &str, name: &str, device: &Path, copy: &OwnedFd, allow_discards: bool) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .args(["open", "--type", "luks2", "--disable-external-tokens", "--batch-mode", "--tries", "1"])
        .arg("--header")
        .arg(format!("/proc/self/fd/{}", copy.as_raw_fd()))
        .args(["--key-file", "-"])
        .args(allow_discards.then_some("--allow-discards"))
        .arg(device)
        .arg(name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// The header in memory where nobody can change it, to be inherited by the next program.
fn sealed(header: &Canonical<'_>) -> std::io::Result<OwnedFd> {
    let file = File::from(memfd_create("luks-header", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC)?);
    file.set_len(header.length() as u64)?;
    for (at, piece) in header.pieces() {
        file.write_all_at(piece, at)?;
    }
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    fcntl_setfd(&file, FdFlags::empty())?;
    Ok(file.into())
}

/// What an ended program has said, on one line.
fn said(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read is not repeated.
        let _ = stderr.take(MAX_SAID).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: String =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ");
    if lines.is_empty() { String::new() } else { format!("{}; ", lines.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_copy_is_complete_and_cannot_be_changed() {
        let Some(machine) = crate::choice::tests::Machine::with_cryptsetup() else { return };
        machine.add("vda", &[7; 64], |_| ());
        let disk = std::fs::read(machine.path("dev").join("vda")).unwrap();
        let header = cc_volume::luks2::DetachedHeader::read(&disk).unwrap();
        let copy = sealed(&header.canonical()).unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        assert!(std::fs::read(&path).unwrap() == header.canonical().to_bytes());
        let mut file = File::from(copy);
        assert!(file.write_all(b"x").is_err() && file.set_len(0).is_err());
        let again = std::fs::OpenOptions::new().write(true).open(&path);
        assert!(again.is_ok_and(|mut file| file.write_all(b"x").is_err()));
    }
}
