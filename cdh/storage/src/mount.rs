//! The mode that mounts. Its working directory is the store, so that the paths of layers are short.

mod bundle;
mod folder;
mod mounted;
mod overlay;
mod state;

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use cc_storage::{Answered, Request};
use rustix::fs::{Mode, OFlags};

use crate::{
    Failure, boot,
    serve::{Job, Worker, done},
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

impl Worker for Mounts {
    type Memory = ();

    fn work(&self, mut job: Job<'_>, (): &mut ()) -> Result<Answered, Failure> {
        match &job.request {
            Request::MakeBundle(bundle) => {
                let bundle = bundle.clone();
                let config = File::from(job.only_fd()?);
                bundle::make(self.store.as_fd(), &self.boot, &bundle, config)?;
            }
            Request::RemoveBundle { path } => bundle::remove(self.store.as_fd(), &self.boot, path)?,
            _ => return Err(Failure::Request { why: "it is no work of the mode that mounts".to_owned() }),
        }
        Ok(done())
    }
}
