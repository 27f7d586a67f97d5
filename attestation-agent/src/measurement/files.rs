//! The two files of the event log: the records one after the other, and the note about the event in progress.
//!
//! Only the agent may write there, and only one agent at a time: the directory is made 0700, the files 0600, and the
//! directory is locked while the agent lives. A change of a file is on disk before the call returns.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cc_evidence::aael::WriteAhead;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;

use crate::error::AgentError;

/// Name of the note beside the log.
const NOTE: &str = ".wal_event_entry";

/// Name of a note that is being written.
const NEW_NOTE: &str = ".wal_event_entry.new";

/// What [`super::EventLog`] does with files: each step whole, or an error.
pub(super) trait Files: Send + Sync + Debug {
    /// Length of the log in bytes; 0 if there is none.
    fn log_len(&self) -> Result<u64, AgentError>;

    /// Makes sure that there is room for `len` bytes at `offset` of the log, without changing its length.
    fn reserve(&self, offset: u64, len: u64) -> Result<(), AgentError>;

    /// Puts the last record at `offset`. An unfinished or finished copy of it may be there already.
    fn put_record(&self, offset: u64, record: &[u8]) -> Result<(), AgentError>;

    /// The note, if there is one.
    fn read_note(&self) -> Result<Option<Vec<u8>>, AgentError>;

    /// Writes the note: all of it or nothing.
    fn write_note(&self, note: &[u8]) -> Result<(), AgentError>;

    /// Removes the note.
    fn remove_note(&self) -> Result<(), AgentError>;
}

/// The files on disk.
#[derive(Debug)]
pub(super) struct Directory {
    log: PathBuf,
    note: PathBuf,
    new_note: PathBuf,
    /// Holds the lock, and is what a new name is synced with.
    directory: File,
}

impl Directory {
    /// The directory of `log`, made if it does not exist.
    pub(super) fn open(log: &Path) -> Result<Self, AgentError> {
        let path = log.parent().filter(|_| log.file_name().is_some());
        let path = path.ok_or_else(|| {
            failed("using", log, io::Error::new(io::ErrorKind::InvalidInput, "it is no path of a file"))
        })?;
        let directory = open_directory(path)?;
        let files =
            Self { log: log.to_owned(), note: path.join(NOTE), new_note: path.join(NEW_NOTE), directory };
        // What a killed agent left half written was never acted upon.
        remove(&files.new_note)?;
        Ok(files)
    }

    fn open_log(&self) -> Result<File, AgentError> {
        options()
            .read(true)
            .create(true)
            .truncate(false)
            .open(&self.log)
            .map_err(|e| failed("opening", &self.log, e))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl Files for Directory {
    fn log_len(&self) -> Result<u64, AgentError> {
        match fs::symlink_metadata(&self.log) {
            Ok(found) if found.is_file() => Ok(found.len()),
            Ok(_) => Err(failed("using", &self.log, io::Error::other("it is no regular file"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(failed("looking at", &self.log, error)),
        }
    }

    fn reserve(&self, offset: u64, len: u64) -> Result<(), AgentError> {
        match fallocate(self.open_log()?, FallocateFlags::KEEP_SIZE, offset, len) {
            // A file system that cannot reserve says so when the record is written; the note repairs that.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(failed("making room in", &self.log, error.into())),
        }
    }

    fn put_record(&self, offset: u64, record: &[u8]) -> Result<(), AgentError> {
        let end = offset + record.len() as u64;
        let put = |file: &File| {
            let found = file.metadata()?.len();
            if !(offset..=end).contains(&found) {
                let why = format!(
                    "it has {found} bytes where a record goes to byte {offset}: it is not the agent's alone"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            file.write_all_at(record, offset)?;
            file.set_len(end)?;
            file.sync_all()?;
            self.sync_names()
        };
        put(&self.open_log()?).map_err(|e| failed("writing", &self.log, e))
    }

    fn read_note(&self) -> Result<Option<Vec<u8>>, AgentError> {
        let file = match options().write(false).read(true).open(&self.note) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("opening", &self.note, error)),
        };
        let mut bytes = Vec::new();
        // One byte more than is read shows that there is more.
        let limit = WriteAhead::MAX_LEN as u64 + 1;
        file.take(limit).read_to_end(&mut bytes).map_err(|e| failed("reading", &self.note, e))?;
        Ok(Some(bytes))
    }

    fn write_note(&self, note: &[u8]) -> Result<(), AgentError> {
        let write = || {
            let mut file = options().create(true).truncate(true).open(&self.new_note)?;
            file.write_all(note)?;
            file.sync_all()?;
            fs::rename(&self.new_note, &self.note)?;
            self.sync_names()
        };
        write().map_err(|error| {
            // As far as it got: nothing has been extended, so neither must be found later.
            let _ = remove(&self.new_note);
            let _ = remove(&self.note);
            failed("writing", &self.note, error)
        })
    }

    fn remove_note(&self) -> Result<(), AgentError> {
        remove(&self.note)?;
        self.sync_names().map_err(|e| failed("removing", &self.note, e))
    }
}

/// Writable, for the agent alone, and no link that somebody else has put there.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Opens and locks the directory at `path`, and makes it if it does not exist.
fn open_directory(path: &Path) -> Result<File, AgentError> {
    let make = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    };
    make().map_err(|e| failed("making", path, e))?;
    let open = || {
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let found = directory.metadata()?;
        let own = rustix::process::geteuid().as_raw();
        if found.uid() != own || found.mode() & 0o022 != 0 {
            let why = format!(
                "user {} owns it with mode {:04o}, but nobody except user {own} may write there",
                found.uid(),
                found.mode() & 0o7777
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(directory),
            Err(Errno::WOULDBLOCK) => Err(io::Error::other("another agent works there")),
            Err(error) => Err(error.into()),
        }
    };
    open().map_err(|e| failed("using", path, e))
}

fn remove(path: &Path) -> Result<(), AgentError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path, error)),
        _ => Ok(()),
    }
}

fn failed(step: &'static str, path: &Path, source: io::Error) -> AgentError {
    AgentError::EventLogFile { step, path: path.to_owned(), source }
}
