//! The mode that mounts. Its working directory is the store, so that the paths of layers are short.

mod bundle;
mod folder;
mod mounted;
mod overlay;
mod stack;
mod state;
mod user;

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use bundle::Pending;
use cc_storage::{Answered, Request};
use rustix::fs::{Mode, OFlags};

use crate::{
    Failure, boot,
    serve::{Job, Worker, done, is_open},
};

/// The mode's worker.
#[derive(Debug)]
pub struct Mounts {
    store: OwnedFd,
    /// Which boot this is.
    boot: String,
}

impl Mounts {
    /// Works with the layers of `store`, which becomes the working directory of the process; it is made if it is not there.
    /// What a killed process left half made is undone.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(store: &Path) -> Result<Self, Failure> {
        let doing = || format!("open the store {}", store.display());
        std::fs::create_dir_all(store).map_err(Failure::storage(doing()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(store, flags, Mode::empty()).map_err(Failure::storage(doing()))?;
        rustix::process::fchdir(&folder).map_err(Failure::storage(doing()))?;
        for name in ["overlay", "l"] {
            match rustix::fs::mkdirat(&folder, name, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(Failure::storage(doing())(error)),
            }
        }
        let mounts = Self { store: folder, boot: boot::id()? };
        bundle::sweep(mounts.store.as_fd(), &mounts.boot)?;
        Ok(mounts)
    }
}

/// What a channel remembers: the bundle that was made over it and is not committed. It goes with the channel.
#[derive(Debug, Default)]
pub struct Memory {
    pending: Option<Pending>,
}

impl Worker for Mounts {
    type Memory = Memory;

    fn work(&self, mut job: Job<'_>, memory: &mut Memory) -> Result<Answered, Failure> {
        let refused = |why: &str| Err(Failure::Request { why: why.to_owned() });
        match &job.request {
            Request::MakeBundle(bundle) => {
                let bundle = bundle.clone();
                let config = File::from(job.only_fd()?);
                if memory.pending.is_some() {
                    return refused("the bundle before is neither committed nor removed");
                }
                let goes_on = || is_open(job.channel, Duration::ZERO);
                let pending = bundle::make(self.store.as_fd(), &self.boot, &bundle, config, &goes_on)?;
                memory.pending = Some(pending);
            }
            Request::CheckBundle { path } => bundle::check_place(path)?,
            Request::CommitBundle => {
                let Some(pending) = &memory.pending else {
                    return refused("no bundle was made over this channel");
                };
                // Until that is written it can be removed as what it is: not committed.
                pending.complete()?;
                memory.pending.take().into_iter().for_each(Pending::keep);
            }
            Request::RemoveBundle { path } => {
                match memory.pending.take_if(|pending| pending.path() == path) {
                    Some(pending) => pending.undo()?,
                    None => bundle::remove(self.store.as_fd(), &self.boot, path)?,
                }
            }
            _ => return refused("it is no work of the mode that mounts"),
        }
        Ok(done())
    }
}
