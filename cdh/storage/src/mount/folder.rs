//! The folder of a bundle, with those above it that are missing. What was made goes again, unless it is kept.
//!
//! What is made is its owner's alone, whatever the umask: an image has programs with set-id bits and device nodes, which are for
//! its container and for nobody else on the machine.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use crate::Failure;

/// Longest path (PATH_MAX).
const MAX_PATH: usize = 4095;

/// An open folder, and the paths that had to be made for it.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    made: Vec<PathBuf>,
}

impl Folder {
    /// Opens or makes the folder `path`.
    pub(super) fn begin(path: &str) -> Result<Self, Failure> {
        check(path)?;
        let mut made = Vec::new();
        let opened = open_or_make(Path::new(path), &mut made);
        match opened.map_err(Failure::storage(format!("open the folder {path}"))) {
            Ok(fd) => Ok(Self { fd, made }),
            Err(failure) => {
                remove(&made);
                Err(failure)
            }
        }
    }

    /// Opens the folder `path`, if it is there.
    pub(super) fn existing(path: &str) -> Result<Option<OwnedFd>, Failure> {
        check(path)?;
        match open(Path::new(path)) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(Failure::storage(format!("open the folder {path}"))(error)),
        }
    }

    /// Locks it for as long as somebody has its descriptor. `None` if somebody else has locked it: then it is his, whoever made it.
    pub(super) fn lock(mut self) -> Option<Self> {
        if rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Some(self);
        }
        self.made.clear();
        None
    }

    /// The folders that had to be made, one a line, the uppermost first.
    pub(super) fn made(&self) -> String {
        self.made.iter().map(|path| format!("{}\n", path.display())).collect()
    }

    pub(super) fn keep(mut self) {
        self.made.clear();
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.made);
    }
}

fn check(path: &str) -> Result<(), Failure> {
    let refused = |why| Err(Failure::BundlePath { path: path.chars().take(200).collect(), why });
    match path {
        _ if path.len() > MAX_PATH => refused("it is too long"),
        _ if path.contains(char::is_control) => refused("it has control characters"),
        _ if !path.starts_with('/') || path.bytes().all(|b| b == b'/') => {
            refused("it is not absolute, or only /")
        }
        _ if path.split('/').any(|part| part == "." || part == "..") => refused("it has . or .. in it"),
        _ => Ok(()),
    }
}

fn remove(made: &[PathBuf]) {
    // Those that somebody else uses by now stay.
    for path in made.iter().rev() {
        let _ = rustix::fs::rmdir(path);
    }
}

fn open_or_make(path: &Path, made: &mut Vec<PathBuf>) -> Result<OwnedFd, Errno> {
    match (open(path), path.parent()) {
        (Err(Errno::NOENT), Some(parent)) => {
            drop(open_or_make(parent, made)?);
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) => made.push(path.to_owned()),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            open(path)
        }
        (opened, _) => opened,
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_made_goes_unless_it_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).display().to_string();
        drop(Folder::begin(&path("a/b/c")).unwrap());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        Folder::begin(&path("a/b/c")).unwrap().keep();
        drop(Folder::begin(&path("a/b/d")).unwrap());
        for made in ["a", "a/b", "a/b/c"] {
            let mode = std::fs::metadata(root.path().join(made)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{made}");
        }
        assert!(root.path().join("a/b/c").is_dir() && !root.path().join("a/b/d").exists());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(Folder::begin(&path("file/x")).is_err());
        std::os::unix::fs::symlink(root.path().join("a"), root.path().join("link")).unwrap();
        assert!(Folder::begin(&path("link")).is_err(), "the folder itself is no link");
        assert!(Folder::begin(&path("link/b")).is_ok(), "those above it may be");
    }

    #[test]
    fn paths_that_two_readers_could_read_differently_are_refused() {
        for bad in
            ["", "/", "//", "a/b", "/a/./b", "/a/../b", "/a/..", "/a\nb", &format!("/{}", "x".repeat(5000))]
        {
            assert_eq!(Folder::begin(bad).unwrap_err().code(), "BUNDLE_PATH_REFUSED", "{bad}");
        }
    }
}
