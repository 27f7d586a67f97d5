//! Client of the kernel's configfs interface for TSM reports, shared by all platforms that have one.
//!
//! It follows the Linux ABI document `configfs-tsm-report` (kernel 6.7 and later): one request is one directory,
//! made by us under a name that nobody else uses, and the `generation` attribute is compared with the number of
//! our own writes, so that an answer to somebody else's question is noticed.
//!
//! It is not a parser of reports: the blobs are handed on as bytes, capped in size. It retries what the
//! interface documents as passing (EBUSY, EINTR) and nothing else, because a provider error may mean that the
//! driver has wiped its message key, and hammering it makes matters worse.
//!
//! The calls into the kernel cannot be cancelled, so they run on a thread of their own; see [`Client`].

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::gate::{Gate, Pauses, is_passing};
use crate::{Error, SysRoot};

mod entry;
mod name;

use entry::Entry;

/// Where the interface is, below the root of the machine.
pub const REPORT_DIRECTORY: &str = "sys/kernel/config/tsm/report";

/// Largest accepted report or quote, bytes: the quote buffer of TDX has 128 KiB in newer kernels (8 KiB in older ones),
/// an SNP report has 1184.
pub const OUTBLOB_LIMIT: usize = 128 * 1024;

/// Largest accepted second blob, bytes: the certificate table of SNP, which the guest driver limits to 16 KiB.
pub const AUXBLOB_LIMIT: usize = 64 * 1024;

/// How often a request is begun anew when another process has written to its entry.
const INTERFERENCE_ATTEMPTS: usize = 3;

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blobs {
    /// The report (SNP, 1184 bytes) or quote (TDX).
    pub outblob: Vec<u8>,
    /// The second blob: the certificate table of SNP, often empty; empty where the provider has none.
    pub auxblob: Vec<u8>,
    /// The provider that answered, for example `sev_guest`.
    pub provider: String,
}

/// The client. One request at a time is inside the kernel: the interface has one lock for all entries, so more
/// would only queue there.
///
/// Each request runs on its own thread and its caller waits at most for the time limit. After that the caller
/// gets [`Error::TsmTimeout`]; while the thread is stuck in the kernel every further request is refused at once
/// with [`Error::TsmStuck`], so threads do not pile up. When the thread comes back it removes its directory, and
/// requests are served again.
#[derive(Debug)]
pub struct Client {
    directory: PathBuf,
    gate: Gate,
    swept: Arc<AtomicBool>,
}

impl Client {
    /// A client of the interface below `root`; `limit` is the time that one request may take, waiting for its
    /// turn included. Touches nothing yet.
    pub fn new(root: &SysRoot, limit: Duration) -> Self {
        Self {
            directory: root.path(REPORT_DIRECTORY),
            gate: Gate::new(limit),
            swept: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The name of the TEE driver behind the interface, found out by making and removing an entry. Makes no
    /// report, so it is cheap.
    ///
    /// # Errors
    /// As [`Client::report`]; [`Error::TsmMissing`] and [`Error::TsmNoProvider`] mean that there is none.
    pub fn provider(&self) -> Result<String, Error> {
        let job = self.job();
        self.gate.run("asking for the TSM provider", move |_| job.make_entry()?.provider())
    }

    /// Asks for a report over 64 bytes of report data. With `privlevel` the lowest-numbered (most privileged) level that the
    /// interface offers at all (`privlevel_floor`) is asked for, where the provider has such levels (SNP).
    ///
    /// # Errors
    /// [`Error::TsmMissing`], [`Error::TsmNoProvider`] and [`Error::TsmAccess`] if the interface cannot be used;
    /// [`Error::TsmTimeout`], [`Error::TsmHostTimeout`] and [`Error::TsmStuck`] if it does not answer; [`Error::TsmInterference`] if another
    /// process kept writing to the entry; [`Error::TsmMalformed`] for an empty or too large blob;
    /// [`Error::TsmRefused`] and [`Error::TsmIo`] for what the kernel answered.
    pub fn report(&self, report_data: &[u8; 64], privlevel: bool) -> Result<Blobs, Error> {
        let job = self.job();
        let data = *report_data;
        self.gate.run("waiting for a TSM report", move |deadline| job.report(&data, privlevel, deadline))
    }

    fn job(&self) -> Job {
        Job { directory: self.directory.clone(), swept: Arc::clone(&self.swept), limit: self.gate.limit() }
    }
}

/// One request, as it runs on the thread that may get stuck.
struct Job {
    directory: PathBuf,
    swept: Arc<AtomicBool>,
    limit: Duration,
}

impl Job {
    /// Makes the entry; before the first one of this client, removes what dead processes left behind.
    fn make_entry(&self) -> Result<Entry, Error> {
        if !self.swept.swap(true, Ordering::Relaxed) {
            entry::remove_leftovers(&self.directory);
        }
        Entry::make(&self.directory)
    }

    fn report(&self, data: &[u8; 64], privlevel: bool, deadline: Instant) -> Result<Blobs, Error> {
        let mut pauses = Pauses::until(deadline);
        let mut interfered = 0;
        loop {
            let error = match self.attempt(data, privlevel) {
                Ok(blobs) => return Ok(blobs),
                Err(error) => error,
            };
            match &error {
                Error::TsmInterference { .. } if interfered + 1 < INTERFERENCE_ATTEMPTS => interfered += 1,
                Error::TsmIo { source, .. } if is_passing(source) => {}
                _ => return Err(error),
            }
            if !pauses.wait() {
                return Err(match error {
                    Error::TsmIo { step, source } => Error::TsmTimeout {
                        step: format!("{step} (last answer: {source})"),
                        limit: self.limit,
                    },
                    other => other,
                });
            }
        }
    }

    /// One entry from making to removal. A busy interface starts with a fresh entry, so that no half-done
    /// request of ours is ever read.
    fn attempt(&self, data: &[u8; 64], privlevel: bool) -> Result<Blobs, Error> {
        let entry = self.make_entry()?;
        let provider = entry.provider()?;
        let mut writes = 0;
        entry.write("inblob", data)?;
        writes += 1;
        if privlevel && let Some(floor) = entry.privlevel_floor()? {
            // Text: the kernel parses a number, a raw byte is refused.
            entry.write("privlevel", floor.to_string().as_bytes())?;
            writes += 1;
        }
        entry.expect_generation(writes)?;
        let outblob = entry
            .read("outblob", OUTBLOB_LIMIT)?
            .filter(|blob| !blob.is_empty())
            .ok_or_else(|| malformed("outblob", "empty or absent"))?;
        let auxblob = entry.read("auxblob", AUXBLOB_LIMIT)?.unwrap_or_default();
        entry.expect_generation(writes)?;
        Ok(Blobs { outblob, auxblob, provider })
    }
}

fn malformed(attribute: &'static str, reason: impl Into<String>) -> Error {
    Error::TsmMalformed { attribute, reason: reason.into() }
}
