//! Layers that were checked and unpacked, each once, as an overlay file system reads them.
//!
//! ```text
//! store.json            what this is, and in which boot of the machine it was made
//! lock                  shared by whoever pulls, taken alone by whoever removes
//! layers/<name>/tree    the layer's directory
//!               layer.json, implied, marks    what was checked; directories that the archive does not name; deletions that
//!                                      its directory does not tell
//! locks/<name>          held by whoever fills that layer, who notes in it how far he is; <name>.1 and so on by those who
//!                       fill it beside him
//! images/<digest>.json  which layers an image has
//! overlay/<name>/boot, layers    what is mounted, in which boot, of which layers; kept by whoever mounts
//! ```
//!
//! A layer has its name from all that was checked of it, and appears under it by one rename(2) at the end, so that there is
//! nothing an index could be wrong about: what has a name is whole. What a killed process left has no such name, and goes.
//! A store that was made in another boot, or whose `store.json` cannot be read, counts as empty: since then the host may
//! have written to its disk. So do notes about overlays that do not name this boot, which the host cannot have known.
//!
//! Whether an image may be used is NOT known here: the policy decides at each pull, whatever is in the store.

pub mod below;
mod claim;
mod collect;
pub mod implied;
mod layer;
pub mod marks;
mod progress;
mod record;
mod tally;

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

pub use self::{
    claim::{Claim, Reservation},
    collect::Collected,
    layer::{LayerName, Stored},
    record::Record,
};
use crate::{Error, tree};

/// Version of the layout of the folder.
const VERSION: u32 = 2;
/// Longest file of the store that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Folders of a store, besides those that others keep in it.
const FOLDERS: [&str; 4] = ["layers", "locks", "images", "overlay"];

/// An open store.
#[derive(Debug)]
pub struct Store {
    folder: OwnedFd,
    path: String,
    boot: String,
    limit: Option<u64>,
    patience: Duration,
    tally: Mutex<tally::Tally>,
}

/// While it lives, nothing is removed from the store.
#[derive(Debug)]
pub struct Hold {
    _lock: OwnedFd,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    version: u32,
    boot: String,
}

impl Store {
    /// Opens the store in the folder `path`, which is made if it is not there. `boot` names this boot of the machine, such as
    /// the text of `/proc/sys/kernel/random/boot_id`. `limit` is the most bytes that the archives of all layers may have.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`; `IMAGE_STORE_BUSY` if another version works in it.
    pub fn open(path: &Path, boot: &str, limit: Option<u64>) -> Result<Self, Error> {
        let doing = || format!("open the store {}", path.display());
        let failed = |source| Error::Storage { doing: doing(), source };
        std::fs::create_dir_all(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let boot = boot.trim().to_owned();
        let path = path.display().to_string();
        let store = Self {
            folder,
            path,
            boot: boot.clone(),
            limit,
            patience: claim::PATIENCE,
            tally: Mutex::default(),
        };
        for name in FOLDERS {
            match rustix::fs::mkdirat(&store.folder, name, Mode::RWXU) {
                // What is made in it would begin with the lists of the folder around it.
                Ok(()) => tree::forget_lists(store.subfolder(name)?.as_fd())
                    .map_err(|error| store.storage("make a folder in", error))?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        let identity = Identity { version: VERSION, boot };
        match store.lock(FlockOperation::NonBlockingLockExclusive)? {
            Some(_alone) => store.tidy(&identity)?,
            None => {
                // Somebody is alone in it for a moment, perhaps to make it what it should be; whoever pulls lets others in.
                let _shared = store.lock(FlockOperation::LockShared)?;
                if store.identity() != Some(identity) {
                    return Err(Error::StoreBusy { path: store.path });
                }
            }
        }
        Ok(store)
    }

    /// The same store, where a layer that somebody else is filling is waited for no longer than this while hardly anything of it comes;
    /// three minutes by default.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Keeps all that is in the store from being removed, for the length of a pull. Waits while something is being removed.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`.
    pub fn hold(&self) -> Result<Hold, Error> {
        let lock = self.lock(FlockOperation::LockShared)?;
        let lock = lock.ok_or_else(|| Error::StoreBusy { path: self.path.clone() })?;
        Ok(Hold { _lock: lock })
    }

    /// The most bytes that the archives of all layers may have.
    #[must_use]
    pub const fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Takes the lock of the whole store; `None` if somebody has it and `operation` does not wait.
    fn lock(&self, operation: FlockOperation) -> Result<Option<OwnedFd>, Error> {
        let failed = |error: Errno| self.storage("lock", error);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(&self.folder, "lock", flags, mode).map_err(failed)?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Some(file)),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn identity(&self) -> Option<Identity> {
        let text = self.read(self.folder.as_fd(), "store.json").ok().flatten()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes what killed processes left, or everything if the store is not one of `identity`. Nobody else is at work.
    fn tidy(&self, identity: &Identity) -> Result<(), Error> {
        if self.identity().as_ref() == Some(identity) {
            return self.remove_partial();
        }
        // What is mounted stays: it is of this boot, whatever became of the note.
        self.empty()?;
        let text = serde_json::to_vec(identity).unwrap_or_default();
        self.write(self.folder.as_fd(), "store.json", &text)
    }

    fn subfolder(&self, name: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.folder, name, flags, Mode::empty())
            .map_err(|error| self.storage("open a folder of", error))
    }

    /// The file `name` in `at`, if it is there.
    fn read(&self, at: BorrowedFd<'_>, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(at, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.storage("read", error)),
        };
        let mut bytes = Vec::new();
        let read = File::from(file).take(MAX_FILE).read_to_end(&mut bytes);
        read.map_err(|source| Error::Storage { doing: format!("read the store {}", self.path), source })?;
        Ok(Some(bytes))
    }

    /// Writes the file `name` in `at`, which appears complete.
    fn write(&self, at: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let partial = format!(".{name}.partial");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(at, &partial, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| self.storage("write to", error))?;
        let written = File::from(file).write_all(bytes);
        let written = written
            .map_err(|source| Error::Storage { doing: format!("write to the store {}", self.path), source });
        let renamed = written.and_then(|()| {
            rustix::fs::renameat_with(at, &partial, at, name, RenameFlags::empty())
                .map_err(|error| self.storage("write to", error))
        });
        if renamed.is_err() {
            let _ = rustix::fs::unlinkat(at, &partial, AtFlags::empty());
        }
        renamed
    }

    fn remove(&self, at: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
        tree::remove(at, name).map_err(|error| self.storage("remove something of", error))
    }

    fn storage(&self, doing: &str, error: Errno) -> Error {
        Error::Storage { doing: format!("{doing} the store {}", self.path), source: error.into() }
    }
}
