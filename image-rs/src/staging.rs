//! A folder in which a result is made, beside the name that it will get.
//!
//! The result appears under its name at once and complete, or not at all: by renameat2(2) at the end. Until then the folder
//! is open to its owner only and locked by flock(2). When the value goes, the folder goes; one that a killed process left
//! has no lock any more, and goes when the next pull wants its name.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
};

use crate::{Error, tree};

/// The folder of one pull.
#[derive(Debug)]
pub(crate) struct Staging {
    parent: OwnedFd,
    name: OsString,
    target: OsString,
    folder: OwnedFd,
}

impl Staging {
    /// Makes the folder in which `target` in `parent` will be made.
    ///
    /// # Errors
    /// `IMAGE_TARGET_EXISTS`, `IMAGE_TARGET_BUSY`, `IMAGE_STORAGE`.
    pub(crate) fn begin(parent: BorrowedFd<'_>, target: &OsStr) -> Result<Self, Error> {
        let failed = |error: Errno| storage("make a folder beside", target, error);
        match rustix::fs::statat(parent, target, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Err(Error::TargetExists { path: target.display().to_string() }),
        }
        let mut name = OsString::from(".");
        name.push(target);
        name.push(".partial");
        loop {
            let new = match rustix::fs::mkdirat(parent, &name, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(failed(error)),
            };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = match rustix::fs::openat(parent, &name, flags, Mode::empty()) {
                Ok(folder) => folder,
                // Another process has just cleared it away.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
            };
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    return Err(Error::TargetBusy { path: target.display().to_string() });
                }
                Err(error) => return Err(failed(error)),
            }
            let gone = rustix::fs::fstat(&folder).map_err(failed)?.st_nlink == 0;
            if new && !gone {
                let parent = parent
                    .try_clone_to_owned()
                    .map_err(|source| Error::Storage { doing: "keep the folder open".to_owned(), source })?;
                return Ok(Self { parent, name, target: target.to_owned(), folder });
            }
            if !gone {
                tree::remove(parent, &name).map_err(failed)?;
            }
        }
    }

    /// Makes the empty directory `name` in it.
    pub(crate) fn make(&self, name: &str) -> Result<OwnedFd, Error> {
        let failed = |error| storage("make a folder beside", &self.target, error);
        rustix::fs::mkdirat(&self.folder, name, Mode::RWXU).map_err(failed)?;
        self.open(name)
    }

    /// Makes the empty directory `name` in it as the root of an image whose archives do not name their root: like every
    /// directory that an archive implies, of root and open to all. The folder around it is private until it is published.
    pub(crate) fn make_root(&self, name: &str) -> Result<OwnedFd, Error> {
        let failed = |error| storage("make the root folder for", &self.target, error);
        let root = self.make(name)?;
        rustix::fs::fchown(&root, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(failed)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(failed)?;
        Ok(root)
    }

    /// Opens the directory `name` in it.
    pub(crate) fn open(&self, name: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.folder, name, flags, Mode::empty());
        opened.map_err(|error| storage("open a folder beside", &self.target, error))
    }

    /// Gives what is called `name` in it the name that was wanted, and removes the rest.
    pub(crate) fn publish(self, name: &str) -> Result<(), Error> {
        let renamed =
            rustix::fs::renameat_with(&self.folder, name, &self.parent, &self.target, RenameFlags::NOREPLACE);
        renamed.map_err(|error| match error {
            Errno::EXIST => Error::TargetExists { path: self.target.display().to_string() },
            other => storage("give its name to", &self.target, other),
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next pull; there is nobody to tell.
        let _ = tree::remove(self.parent.as_fd(), &self.name);
    }
}

fn storage(doing: &str, target: &OsStr, error: Errno) -> Error {
    Error::Storage { doing: format!("{doing} {}", target.display()), source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_result_appears_complete_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let parent = File::open(folder.path()).unwrap();
        let begin = || Staging::begin(parent.as_fd(), OsStr::new("out"));
        let staging = begin().unwrap();
        staging.make("half").unwrap();
        assert_eq!(begin().unwrap_err().code(), "IMAGE_TARGET_BUSY");
        drop(staging);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let staging = begin().unwrap();
        staging.make("done").unwrap();
        staging.make("waste").unwrap();
        staging.publish("done").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(begin().unwrap_err().code(), "IMAGE_TARGET_EXISTS");
    }

    #[test]
    fn what_a_killed_pull_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(".out.partial/layer/x")).unwrap();
        let parent = File::open(folder.path()).unwrap();
        let staging = Staging::begin(parent.as_fd(), OsStr::new("out")).unwrap();
        assert_eq!(fs::read_dir(folder.path().join(".out.partial")).unwrap().count(), 0);
        drop(staging);
    }
}
