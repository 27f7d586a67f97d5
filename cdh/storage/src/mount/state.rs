//! What is known of each overlay: the directory `overlay/<name>` in the store.
//!
//! In it are `boot`, which names the boot that it is of, `upper` and `work` of the overlay, layers that are made for it alone, `layers`, `bundle` and `made`, which say
//! what it was made of, where it is and which folders had to be made for it, and at last `complete`. Whoever works on it holds a
//! lock. What does not name this boot counts for nothing: the store may lie on a disk that the host could write to in between.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use cc_storage::Name;
use rustix::{
    fs::{AtFlags, Dir, FlockOperation, Mode, OFlags},
    io::Errno,
};

use crate::Failure;

/// The note that names the boot.
const BOOT: &str = "boot";
/// Longest note, in bytes.
const MAX_NOTE: u64 = 128 << 10;

/// One overlay's directory.
#[derive(Debug)]
pub(super) struct State {
    overlays: Arc<OwnedFd>,
    name: Name,
    fd: OwnedFd,
    /// Whether it goes with this value.
    passing: bool,
}

impl State {
    /// Makes and locks a new one. It goes with the value, unless it is kept.
    pub(super) fn begin(store: BorrowedFd<'_>, boot: &str) -> Result<Self, Failure> {
        const DOING: &str = "make the directories of an overlay";
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| storage(DOING)(io::Error::other(error.to_string())))?;
        let name = hex::encode(random).parse::<Name>();
        let name = name.map_err(|why| Failure::Request { why: why.to_owned() })?;
        let overlays = Arc::new(overlays(store)?);
        // Until it is locked, others would take it for something that was left.
        let _among_all = alone(store)?;
        rustix::fs::mkdirat(&*overlays, name.as_str(), Mode::RWXU).map_err(storage(DOING))?;
        let fd = open(overlays.as_fd(), name.as_str()).map_err(storage(DOING))?;
        let state = Self { overlays, name, fd, passing: true };
        rustix::fs::flock(&state.fd, FlockOperation::NonBlockingLockExclusive).map_err(storage(DOING))?;
        state.write(BOOT, boot.as_bytes())?;
        // The mode of `upper` becomes that of the root directory.
        for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
            let mode = Mode::from_raw_mode(mode);
            rustix::fs::mkdirat(&state.fd, name, mode)
                .and_then(|()| rustix::fs::chmodat(&state.fd, name, mode, AtFlags::empty()))
                .map_err(storage(DOING))?;
        }
        Ok(state)
    }

    /// All that nobody works on, locked.
    pub(super) fn idle(store: BorrowedFd<'_>) -> Result<Vec<Self>, Failure> {
        const DOING: &str = "read the folder of overlays";
        let overlays = Arc::new(overlays(store)?);
        let mut states = Vec::new();
        let _among_all = alone(store)?;
        for entry in Dir::read_from(&*overlays).map_err(storage(DOING))? {
            let entry = entry.map_err(storage(DOING))?;
            // What has no such name is not ours; what is gone has been removed by somebody else.
            let name = entry.file_name().to_str().ok().and_then(|name| name.parse::<Name>().ok());
            let Some(name) = name else { continue };
            let Ok(fd) = open(overlays.as_fd(), name.as_str()) else { continue };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
                states.push(Self { overlays: Arc::clone(&overlays), name, fd, passing: false });
            }
        }
        Ok(states)
    }

    /// Makes the directory of a layer that is for this overlay alone. Gives its path, relative to the store.
    pub(super) fn make_layer(&self, number: usize) -> Result<(String, OwnedFd), Failure> {
        const DOING: &str = "make a layer of an overlay";
        let path = format!("layer-{number}");
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdirat(&self.fd, &path, mode).map_err(storage(DOING))?;
        let tree = open(self.fd.as_fd(), &path).map_err(storage(DOING))?;
        Ok((format!("overlay/{}/{path}", self.name), tree))
    }

    /// Its name.
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// Whether it is of the boot called `boot`.
    pub(super) fn is_of(&self, boot: &str) -> bool {
        self.read(BOOT).is_ok_and(|note| note.is_some_and(|note| note == boot.as_bytes()))
    }

    /// Writes a note that is not there yet.
    pub(super) fn write(&self, name: &str, text: &[u8]) -> Result<(), Failure> {
        const DOING: &str = "note what an overlay is made of";
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)).map_err(storage(DOING))?;
        File::from(file).write_all(text).map_err(storage(DOING))
    }

    /// Reads a note, if it is there.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        const DOING: &str = "read what an overlay is made of";
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(storage(DOING)(error)),
        };
        let mut text = Vec::new();
        File::from(file).take(MAX_NOTE).read_to_end(&mut text).map_err(storage(DOING))?;
        Ok(Some(text))
    }

    /// Lets it stay.
    pub(super) fn keep(mut self) {
        self.passing = false;
    }

    /// Removes it.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        image_rs::tree::remove(self.overlays.as_fd(), self.name.as_str())
            .map_err(storage("remove the directories of an overlay"))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if self.passing
            && let Err(failure) = self.clear()
        {
            tracing::error!(error = %failure, overlay = %self.name, "directories stay");
        }
    }
}

/// Keeps others from making and from looking through directories of overlays, as long as the value lives.
fn alone(store: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    let folder = overlays(store)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&folder, FlockOperation::LockExclusive))
        .map_err(storage("lock the folder of overlays"))?;
    Ok(folder)
}

fn overlays(store: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    open(store, "overlay").map_err(storage("open the folder of overlays"))
}

fn open(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// For `map_err`: the file system said no when `doing`, in the store.
fn storage<E: Into<io::Error>>(doing: &str) -> impl FnOnce(E) -> Failure {
    move |error| {
        // The store is the working directory.
        let store = std::env::current_dir().unwrap_or_default();
        Failure::storage(format!("{doing} in the store {}", store.display()))(error)
    }
}
