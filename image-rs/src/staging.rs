//! A folder in which a result is made, beside the name that it will get.
//!
//! The result appears under its name at once and complete, or not at all: by renameat2(2) at the end. Until then the folder
//! is open to its owner only and locked by flock(2). When the value goes, the folder goes; one that a killed process left
//! has no lock any more, and goes when the next pull wants its name.

use std::{
    ffi::{OsStr, OsString},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{
        AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, StatxAttributes, StatxFlags, Uid,
    },
    io::Errno,
};

use crate::{Error, tree};

/// The folder of one pull.
#[derive(Debug)]
pub(crate) struct Staging {
    parent: OwnedFd,
    name: OsString,
    target: OsString,
    /// The target for messages: absolute, where the kernel tells.
    path: String,
    folder: OwnedFd,
    /// Whether an empty directory of the target's name gives way to it.
    replaces_empty: bool,
}

impl Staging {
    /// Makes the folder in which `target` in `parent` will be made.
    ///
    /// # Errors
    /// `IMAGE_TARGET_EXISTS`, `IMAGE_TARGET_BUSY`, `IMAGE_STORAGE`.
    pub(crate) fn begin(parent: BorrowedFd<'_>, target: &OsStr) -> Result<Self, Error> {
        match rustix::fs::statat(parent, target, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Self::make_folder(parent, target, false),
            Err(error) => Err(storage("make a folder beside", &shown(parent, target), error)),
            Ok(_) => Err(Error::TargetExists { path: shown(parent, target) }),
        }
    }

    /// The same, but an empty directory of the target's name gives way to the result.
    ///
    /// # Errors
    /// As [`Staging::begin`]; `IMAGE_STORAGE` for a mount point, which no rename can replace.
    pub(crate) fn begin_in_empty(parent: BorrowedFd<'_>, target: &OsStr) -> Result<Self, Error> {
        let path = shown(parent, target);
        let failed = |error: Errno| storage("look at", &path, error);
        let exists = || Error::TargetExists { path: path.clone() };
        let status = match rustix::fs::statx(parent, target, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE) {
            Err(Errno::NOENT) => return Self::make_folder(parent, target, true),
            other => other.map_err(failed)?,
        };
        if FileType::from_raw_mode(status.stx_mode.into()) != FileType::Directory {
            return Err(exists());
        }
        if status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Err(storage("replace the mount point", &path, Errno::BUSY));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, target, flags, Mode::empty()).map_err(failed)?;
        match tree::is_empty(directory.as_fd()).map_err(failed)? {
            true => Self::make_folder(parent, target, true),
            false => Err(exists()),
        }
    }

    fn make_folder(parent: BorrowedFd<'_>, target: &OsStr, replaces_empty: bool) -> Result<Self, Error> {
        let path = shown(parent, target);
        let failed = |error: Errno| storage("make a folder beside", &path, error);
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
                    return Err(Error::TargetBusy { path });
                }
                Err(error) => return Err(failed(error)),
            }
            let gone = rustix::fs::fstat(&folder).map_err(failed)?.st_nlink == 0;
            if new && !gone {
                // What is made in it would begin with the lists of the folder around it.
                tree::forget_lists(folder.as_fd()).map_err(failed)?;
                let parent = parent
                    .try_clone_to_owned()
                    .map_err(|source| Error::Storage { doing: "keep the folder open".to_owned(), source })?;
                return Ok(Self { parent, name, target: target.to_owned(), path, folder, replaces_empty });
            }
            if !gone {
                tree::remove(parent, &name).map_err(failed)?;
            }
        }
    }

    /// The name that the result gets, for messages.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The error of a file system that said no while the result was made; `doing` ends before its name.
    pub(crate) fn storage(&self, doing: &str, error: Errno) -> Error {
        storage(doing, &self.path, error)
    }

    /// Makes the empty directory `name` in it.
    pub(crate) fn make(&self, name: &str) -> Result<OwnedFd, Error> {
        let failed = |error| self.storage("make a folder beside", error);
        rustix::fs::mkdirat(&self.folder, name, Mode::RWXU).map_err(failed)?;
        self.open(name)
    }

    /// Makes the empty directory `name` in it as the root of an image whose archives do not name their root: like every
    /// directory that an archive implies, of root and open to all. The folder around it is private until it is published.
    pub(crate) fn make_root(&self, name: &str) -> Result<OwnedFd, Error> {
        let failed = |error| self.storage("make the root folder for", error);
        let root = self.make(name)?;
        rustix::fs::fchown(&root, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(failed)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(failed)?;
        Ok(root)
    }

    /// Makes the empty directory `name` in it that will be open to all for reading, whatever the umask is.
    pub(crate) fn make_open(&self, name: &str) -> Result<OwnedFd, Error> {
        let folder = self.make(name)?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o755))
            .map_err(|error| self.storage("make a folder beside", error))?;
        Ok(folder)
    }

    /// Opens the directory `name` in it.
    pub(crate) fn open(&self, name: &str) -> Result<OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.folder, name, flags, Mode::empty());
        opened.map_err(|error| self.storage("open a folder beside", error))
    }

    /// Gives what is called `name` in it the name that was wanted, and removes the rest.
    pub(crate) fn publish(self, name: &str) -> Result<(), Error> {
        // Without the flag a directory takes the place of an empty one only.
        let flags = if self.replaces_empty { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = rustix::fs::renameat_with(&self.folder, name, &self.parent, &self.target, flags);
        renamed.map_err(|error| match error {
            Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => Error::TargetExists { path: self.path.clone() },
            other => self.storage("give its name to", other),
        })
    }

    /// The same after all of it was written to the disk, and so is its name.
    pub(crate) fn publish_durably(self, name: &str) -> Result<(), Error> {
        let failed = |error| self.storage("write to the disk", error);
        // One call for all files: a model may have many, and each fsync(2) waits for the journal.
        rustix::fs::syncfs(&self.folder).map_err(failed)?;
        let parent = self.parent.try_clone();
        let parent =
            parent.map_err(|source| Error::Storage { doing: "keep the folder open".to_owned(), source })?;
        let path = self.path.clone();
        self.publish(name)?;
        rustix::fs::fsync(&parent).map_err(|error| storage("write to the disk", &path, error))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next pull; there is nobody to tell.
        let _ = tree::remove(self.parent.as_fd(), &self.name);
    }
}

fn storage(doing: &str, path: &str, error: Errno) -> Error {
    Error::Storage { doing: format!("{doing} {path}"), source: error.into() }
}

/// `name` in the folder `parent` (proc_pid_fd(5)); the name alone where there is no `/proc`.
fn shown(parent: BorrowedFd<'_>, name: &OsStr) -> String {
    let link = format!("/proc/self/fd/{}", parent.as_raw_fd());
    let parent = std::fs::read_link(link).ok().filter(|path| path.is_absolute());
    parent.unwrap_or_default().join(name).display().to_string()
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
