//! Directories of a layer, by path, without ever leaving it.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

use super::{deletion, deletion::Form, name::join, shown};
use crate::{LayerFault, layer::run::Run};

/// Why a place cannot be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// The archive leads there by a way that is not allowed.
    Refused(&'static str),
    /// The same layer has made something else than a directory there, and no symbolic link.
    Occupied,
    /// The file system said no.
    Storage(&'static str, Errno),
    /// Too many directories have to be remembered.
    Limit(LayerFault),
}

impl Fault {
    /// The fault of the entry called `name`.
    pub(super) fn of(self, name: &[u8]) -> LayerFault {
        match self {
            Self::Refused(why) => LayerFault::Entry { name: shown(name), why },
            Self::Occupied => {
                let why = "its directory is something else in the same layer";
                LayerFault::Entry { name: shown(name), why }
            }
            Self::Storage(doing, error) => {
                LayerFault::Storage { doing, name: shown(name), folder: None, source: error.into() }
            }
            Self::Limit(fault) => fault,
        }
    }
}

/// The directory being filled, and the one in it that was used last: archives come directory by directory.
#[derive(Debug)]
pub(super) struct Places<'a> {
    root: OwnedFd,
    form: Form,
    last: Option<(Vec<u8>, OwnedFd)>,
    implied: BTreeSet<Vec<u8>>,
    /// Directories that hide what is in them in the layers below. For an overlay only.
    opaque: BTreeSet<Vec<u8>>,
    run: &'a Run,
}

impl<'a> Places<'a> {
    /// Fills `root`; directories that the archive did not name are remembered in the memory of `run`.
    pub(super) fn new(root: OwnedFd, form: Form, run: &'a Run) -> Self {
        Self { root, form, last: None, implied: BTreeSet::from([Vec::new()]), opaque: BTreeSet::new(), run }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The archive says something about this directory itself.
    pub(super) fn state(&mut self, path: &[u8]) {
        self.implied.remove(path);
    }

    pub(super) fn into_implied(self) -> BTreeSet<Vec<u8>> {
        self.implied
    }

    /// The directory `path` hides what is in it in the layers below.
    pub(super) fn hide_below(&mut self, path: &[u8]) -> Result<(), LayerFault> {
        self.run.take_names(deletion::memory_of(path))?;
        self.opaque.insert(path.to_vec());
        Ok(())
    }

    /// Whether the directory `path`, or one that it is in, hides what is in it in the layers below.
    pub(super) fn is_hidden_below(&self, path: &[u8]) -> bool {
        let mut ends =
            path.iter().enumerate().filter(|(_, b)| **b == b'/').filter_map(|(at, _)| path.get(..at));
        !self.opaque.is_empty()
            && (self.opaque.contains(path)
                || self.opaque.contains(&[][..])
                || ends.any(|above| self.opaque.contains(above)))
    }

    /// The directory `path`, if it is there.
    pub(super) fn existing(&mut self, path: &[u8]) -> Result<Option<BorrowedFd<'_>>, Fault> {
        if path.is_empty() {
            return Ok(Some(self.root.as_fd()));
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let directory = match open_beneath(self.root.as_fd(), path) {
                Ok(directory) => directory,
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::NOTDIR) if self.is_deleted(path)? => return Ok(None),
                Err(Errno::NOTDIR) => return Err(Fault::Occupied),
                Err(Errno::LOOP | Errno::XDEV) => return Err(Fault::Refused(THROUGH_LINK)),
                Err(error) => return Err(Fault::Storage("open the directory of", error)),
            };
            self.last = Some((path.to_vec(), directory));
        }
        Ok(self.last.as_ref().map(|(_, directory)| directory.as_fd()))
    }

    /// Whether the way to `path` ends at a deletion mark.
    fn is_deleted(&self, path: &[u8]) -> Result<bool, Fault> {
        let failed = |error| Fault::Storage("open the directory of", error);
        let mut at = open_beneath(self.root.as_fd(), b"").map_err(failed)?;
        for part in path.split(|b| *b == b'/') {
            let status = rustix::fs::statat(&at, part, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            if FileType::from_raw_mode(status.st_mode) != FileType::Directory {
                return Ok(self.form == Form::Overlay && deletion::is_whiteout(&status));
            }
            at = open_beneath(at.as_fd(), part).map_err(failed)?;
        }
        Ok(false)
    }

    /// The directory `path`; missing ones are made, owned by root, mode 0755.
    pub(super) fn enter(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Fault> {
        if path.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let directory = match open_beneath(self.root.as_fd(), path) {
                Ok(directory) => directory,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_all(path)?,
                Err(Errno::LOOP | Errno::XDEV) => return Err(Fault::Refused(THROUGH_LINK)),
                Err(error) => return Err(Fault::Storage("open the directory of", error)),
            };
            self.last = Some((path.to_vec(), directory));
        }
        Ok(self.last.as_ref().map_or_else(|| self.root.as_fd(), |(_, directory)| directory.as_fd()))
    }

    /// The directory `path`, which is `name` in `parent`, made if it is not there; whether it was made.
    pub(super) fn enter_new(&mut self, parent: &[u8], name: &[u8], path: &[u8]) -> Result<bool, Fault> {
        let form = self.form;
        let at = self.enter(parent)?;
        let (directory, made) = make_directory(at, name, form)?;
        if made == Made::InPlaceOfMark {
            self.hide_below(path).map_err(Fault::Limit)?;
        }
        self.last = Some((path.to_vec(), directory));
        Ok(made != Made::Found)
    }

    /// Runs `make` for `name` in the directory `parent`. What an earlier entry left under that name goes, unless
    /// it is a directory.
    pub(super) fn make<T>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, Fault> {
        let at = self.enter(parent)?;
        let failed = |error| Fault::Storage("make", error);
        match make(at, name) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(failed),
        }
        let status = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if FileType::from_raw_mode(status.st_mode) == FileType::Directory {
            return Err(Fault::Refused("it would replace a directory of the same layer"));
        }
        rustix::fs::unlinkat(at, name, AtFlags::empty()).map_err(failed)?;
        make(at, name).map_err(failed)
    }

    fn make_all(&mut self, path: &[u8]) -> Result<OwnedFd, Fault> {
        let mut done: Vec<u8> = Vec::new();
        let mut current: Option<OwnedFd> = None;
        for part in path.split(|b| *b == b'/') {
            let at = current.as_ref().map_or_else(|| self.root.as_fd(), OwnedFd::as_fd);
            let (directory, made) = make_directory(at, part, self.form)?;
            done = join(&done, part);
            if made == Made::InPlaceOfMark {
                self.hide_below(&done).map_err(Fault::Limit)?;
            }
            if made != Made::Found {
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::fchown(&directory, Some(Uid::ROOT), Some(Gid::ROOT))
                    .and_then(|()| rustix::fs::fchmod(&directory, mode))
                    .map_err(|error| Fault::Storage("make the directory of", error))?;
                self.run.take_names(deletion::memory_of(&done)).map_err(Fault::Limit)?;
                self.implied.insert(done.clone());
            }
            current = Some(directory);
        }
        current.ok_or(Fault::Refused("it has no directory"))
    }
}

const THROUGH_LINK: &str = "its directory is a symbolic link or leads through one";

/// Opens the directory `path` below `root`, through no link and no mount. The empty path is `root` itself.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let within = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(root, path, flags, Mode::empty(), within)
}

/// How there comes to be a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Found,
    New,
    InPlaceOfMark,
}

/// The directory `name` in `at`. A deletion mark in its place becomes an opaque directory.
fn make_directory(at: BorrowedFd<'_>, name: &[u8], form: Form) -> Result<(OwnedFd, Made), Fault> {
    let failed = |error| Fault::Storage("make the directory", error);
    let mode = Mode::from_raw_mode(0o700);
    let open = || open_beneath(at, name);
    match rustix::fs::mkdirat(at, name, mode) {
        Ok(()) => return Ok((open().map_err(failed)?, Made::New)),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(failed(error)),
    }
    let status = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => Ok((open().map_err(failed)?, Made::Found)),
        FileType::Symlink => Err(Fault::Refused(THROUGH_LINK)),
        _ if form == Form::Overlay && deletion::is_whiteout(&status) => {
            rustix::fs::unlinkat(at, name, AtFlags::empty()).map_err(failed)?;
            rustix::fs::mkdirat(at, name, mode).map_err(failed)?;
            let directory = open().map_err(failed)?;
            deletion::set_opaque(directory.as_fd()).map_err(failed)?;
            Ok((directory, Made::InPlaceOfMark))
        }
        _ => Err(Fault::Occupied),
    }
}
