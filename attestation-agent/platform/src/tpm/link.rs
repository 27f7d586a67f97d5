//! One open TPM: a command goes out, its response comes back, and both take no longer than agreed.
//!
//! The framing of the TPM 2.0 Library, part 1 ("Command/response structure"): a header of ten bytes with tag, size and
//! code. The peer is a kernel driver, or behind a socket any program: nothing it announces is believed. The descriptor
//! is never waited on without a limit; the kernel serves a TPM that way since version 5.0.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::TpmError;
use super::command::Command;
use super::response_code::{self, Kind};

/// Longest response: the kernel's buffer, which no TPM of today exceeds.
pub(super) const MAX_RESPONSE: usize = 4096;

/// Tag, size and code.
const HEADER: usize = 10;

/// When an operation has to be over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        let now = Instant::now();
        // A limit beyond the clock's range is no limit that anybody will see: take a year.
        Self { at: now.checked_add(limit).unwrap_or(now + Duration::from_secs(365 * 24 * 3600)), limit }
    }

    fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }
}

/// Waits that grow from 5 to 250 milliseconds.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(Duration::from_millis(5))
    }

    /// Waits; false if there is no time left for it.
    #[allow(clippy::disallowed_methods, reason = "everything here blocks, bounded by the deadline")]
    fn wait(&mut self, deadline: Deadline) -> bool {
        if deadline.left() <= self.0 {
            return false;
        }
        thread::sleep(self.0);
        self.0 = (self.0 * 2).min(Duration::from_millis(250));
        true
    }
}

/// An open TPM.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    path: PathBuf,
    deadline: Deadline,
}

impl Link {
    /// Opens the TPM at `path`; one in use is waited for.
    pub(super) fn open(path: &Path, deadline: Deadline) -> Result<Self, TpmError> {
        let failed = |source| TpmError::Open { path: path.to_owned(), source };
        let kind = fs::metadata(path).map_err(failed)?.file_type();
        let mut pauses = Pauses::new();
        loop {
            let opened = if kind.is_char_device() {
                open_device(path)
            } else if kind.is_socket() {
                open_socket(path)
            } else {
                return Err(TpmError::NoDevice { path: path.to_owned() });
            };
            match opened {
                Ok(fd) => return Ok(Self { fd, path: path.to_owned(), deadline }),
                // A device that one process holds, or a socket with a full queue.
                Err(Errno::BUSY | Errno::AGAIN) => {
                    if !pauses.wait(deadline) {
                        return Err(TpmError::Busy { path: path.to_owned(), limit: deadline.limit });
                    }
                }
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Sends `command` and gives the parameters of its response. `step` says in errors what for.
    pub(super) fn call(&mut self, step: &str, command: &Command) -> Result<Vec<u8>, TpmError> {
        let mut pauses = Pauses::new();
        loop {
            let response = self.exchange(step, command.bytes())?;
            let malformed = |why: String| TpmError::Malformed { step: step.to_owned(), why };
            let (code, body) = split(&response).map_err(malformed)?;
            if code != 0 && !body.is_empty() {
                return Err(malformed(format!("the code {code:#x} is followed by {} bytes", body.len())));
            }
            match response_code::kind(code) {
                Kind::Success => return command.parameters(&response, body).map_err(malformed),
                Kind::Later => {
                    if !pauses.wait(self.deadline) {
                        return Err(TpmError::Later {
                            step: step.to_owned(),
                            code: response_code::name(code),
                            limit: self.deadline.limit,
                        });
                    }
                }
                Kind::Refused(why) => return Err(TpmError::refused(step, code, why)),
            }
        }
    }

    /// One frame there, one frame back.
    fn exchange(&mut self, step: &str, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let malformed = |why: String| TpmError::Malformed { step: step.to_owned(), why };
        let mut rest = command;
        while !rest.is_empty() {
            self.wait(step, PollFlags::OUT)?;
            match rustix::io::write(&self.fd, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(self.failed(step, errno)),
            }
        }
        // One byte more than a response may have, so that a longer one shows.
        let mut buffer = vec![0; MAX_RESPONSE + 1];
        let mut have = 0;
        loop {
            let size = announced(buffer.get(..have).unwrap_or_default()).map_err(malformed)?;
            match size {
                Some(size) if have > size => {
                    return Err(malformed(format!("{have} bytes, of which {size} were announced")));
                }
                Some(size) if have == size => {
                    buffer.truncate(size);
                    return Ok(buffer);
                }
                _ => {}
            }
            self.wait(step, PollFlags::IN)?;
            match rustix::io::read(&self.fd, buffer.get_mut(have..).unwrap_or_default()) {
                Ok(0) => return Err(malformed(format!("it ended after {have} bytes"))),
                Ok(more) => have += more,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(errno) => return Err(self.failed(step, errno)),
            }
        }
    }

    fn wait(&self, step: &str, for_what: PollFlags) -> Result<(), TpmError> {
        loop {
            let left = self.deadline.left();
            let timeout = rustix::event::Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.fd, for_what)];
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => {
                    return Err(TpmError::Timeout {
                        step: step.to_owned(),
                        path: self.path.clone(),
                        limit: self.deadline.limit,
                    });
                }
                // Ready, or broken: then reading or writing says how.
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.failed(step, errno)),
            }
        }
    }

    fn failed(&self, step: &str, errno: Errno) -> TpmError {
        TpmError::Io { step: step.to_owned(), path: self.path.clone(), source: errno.into() }
    }
}

fn open_device(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    opened.map(OwnedFd::from).map_err(|error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn open_socket(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// The size in the header of a response of which `have` has arrived; none if that is not there yet.
fn announced(have: &[u8]) -> Result<Option<usize>, String> {
    let Some(&[_, _, a, b, c, d]) = have.first_chunk::<6>() else { return Ok(None) };
    let size = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(size) {
        Ok(size) if (HEADER..=MAX_RESPONSE).contains(&size) => Ok(Some(size)),
        _ => Err(format!("it announces {size} bytes; responses have {HEADER} to {MAX_RESPONSE}")),
    }
}

/// Response code and what follows the header.
fn split(response: &[u8]) -> Result<(u32, &[u8]), String> {
    match response.split_first_chunk::<HEADER>() {
        Some((&[.., a, b, c, d], body)) => Ok((u32::from_be_bytes([a, b, c, d]), body)),
        None => Err(format!("{} bytes are no header", response.len())),
    }
}
