//! A folder in which a result is made, beside the name that it will get, or in the mount point that it will fill.
//!
//! The result appears under its name at once and complete, or not at all: by renameat2(2) at the end. Until then the folder
//! is open to its owner only and locked by flock(2). When the value goes, the folder goes, unless the pull was only cut off: then
//! what came stays ([`Kept`]) for the next pull of the same image. One that a killed process left has no lock any more; the next
//! pull that wants its name goes on with it, or removes it if it is of another image.

mod publish;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, FlockOperation, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid},
    io::Errno,
};

use crate::{Digest, Error, Event, Observer, Target, kept::Kept, tree};

/// How the name of the folder ends.
const SUFFIX: &str = ".guestctl-partial";
/// In the folder: which image it is for, what is being made, and what is kept.
const IMAGE: &str = "image";
pub(crate) const WORK: &str = "work";
const KEPT: &str = "kept";
/// What mke2fs(8) makes in a new file system.
const RECOVERED: &[u8] = b"lost+found";
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The folder of one pull.
#[derive(Debug)]
pub(crate) struct Staging {
    place: Place,
    folder: OwnedFd,
    work: OwnedFd,
    stays: Stays,
}

/// What stays when the value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    Nothing,
    /// Blobs, if there are any.
    Kept,
    /// All: the next pull has to know what this one could not undo.
    All,
}

/// Where the folder is, and the result will be.
#[derive(Debug)]
struct Place {
    /// What the folder lies in, and its name there.
    at: OwnedFd,
    name: OsString,
    target: OsString,
    /// The target for messages: absolute, where the kernel tells.
    path: String,
    form: Form,
}

/// How the result appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Under a name that nothing has.
    New,
    /// Under a name that nothing has, or an empty directory.
    Empty,
    /// A mount point cannot be replaced: in it, entry by entry.
    Within,
}

impl Staging {
    /// Makes the folder in which `target` will be made, of the image with the manifest `image`.
    ///
    /// # Errors
    /// `IMAGE_TARGET_EXISTS`, `IMAGE_TARGET_BUSY`, `IMAGE_STORAGE`.
    pub(crate) fn begin(target: &Target<'_>, image: Digest) -> Result<Self, Error> {
        let place = Place::beside(target, Form::New)?;
        match rustix::fs::statat(target.folder, target.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Self::prepare(place, image, |_| ()),
            Err(error) => Err(place.storage("make a folder beside", error)),
            Ok(_) => Err(place.taken()),
        }
    }

    /// The same, but an empty directory of the target's name gives way to the result, and an empty mount point is filled. What
    /// an earlier pull of the same image had made is given to `take_back` before it goes.
    ///
    /// # Errors
    /// As [`Staging::begin`].
    pub(crate) fn begin_in_empty(
        target: &Target<'_>,
        image: Digest,
        take_back: impl FnOnce(BorrowedFd<'_>),
    ) -> Result<Self, Error> {
        let place = Place::find(target)?;
        if place.form == Form::Within {
            let mut staging = Self::prepare(place, image, take_back)?;
            let empty = staging.place.has_nothing_else();
            return match empty.map_err(|error| staging.storage("look at", error)) {
                Ok(true) => Ok(staging),
                other => {
                    staging.stays = Stays::Kept;
                    Err(other.err().unwrap_or_else(|| staging.place.taken()))
                }
            };
        }
        let directory = match rustix::fs::openat(target.folder, target.name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => return Self::prepare(place, image, take_back),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(place.taken()),
            other => other.map_err(|error| place.storage("look at", error))?,
        };
        match tree::is_empty(directory.as_fd()).map_err(|error| place.storage("look at", error))? {
            true => Self::prepare(place, image, take_back),
            false => Err(place.taken()),
        }
    }

    fn prepare(place: Place, image: Digest, take_back: impl FnOnce(BorrowedFd<'_>)) -> Result<Self, Error> {
        let folder = place.open_folder(image)?;
        take_back(folder.as_fd());
        let work = tree::remove(folder.as_fd(), WORK)
            .and_then(|()| rustix::fs::mkdirat(&folder, WORK, Mode::RWXU))
            .and_then(|()| rustix::fs::openat(&folder, WORK, DIRECTORY, Mode::empty()));
        match work {
            Ok(work) => Ok(Self { place, folder, work, stays: Stays::Nothing }),
            Err(error) => {
                // The first error says more.
                let _ = tree::remove(place.at.as_fd(), &place.name);
                Err(place.storage("make a folder beside", error))
            }
        }
    }

    /// Whether `name` is taken where the entries of the result get to: by what is in a mount point that counts as empty.
    pub(crate) fn has_taken(&self, name: &str) -> bool {
        self.place.form == Form::Within
            && rustix::fs::statat(&self.place.at, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The name that the result gets, for messages.
    pub(crate) fn path(&self) -> &str {
        &self.place.path
    }

    /// The folder: all that is made lies in it.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// What earlier pulls have kept, and this one keeps.
    pub(crate) fn kept(&self) -> Result<Kept, Error> {
        open_kept(self.folder.as_fd())
            .map(Kept::new)
            .map_err(|error| self.storage("make a folder beside", error))
    }

    /// Says that a pull ended by `error`, which decides what stays, and tells `observer`.
    pub(crate) fn end(mut self, error: &Error, observer: &dyn Observer) {
        if !error.may_go_on() {
            return;
        }
        self.stays = Stays::Kept;
        if let Some(bytes) = self.bytes_kept() {
            let folder = shown(self.place.at.as_fd(), &self.place.name);
            observer.event(Event::Kept { folder, bytes });
        }
    }

    /// Bytes of blobs that are kept; `None` if there are no blobs.
    fn bytes_kept(&self) -> Option<u64> {
        let kept = rustix::fs::openat(&self.folder, KEPT, DIRECTORY, Mode::empty()).ok()?;
        Kept::bytes(kept.as_fd()).ok()?
    }

    /// The error of a file system that said no while the result was made; `doing` ends before its name.
    pub(crate) fn storage(&self, doing: &str, error: Errno) -> Error {
        self.place.storage(doing, error)
    }

    /// Makes the empty directory `name` in what is being made.
    pub(crate) fn make(&self, name: &str) -> Result<OwnedFd, Error> {
        let failed = |error| self.storage("make a folder beside", error);
        rustix::fs::mkdirat(&self.work, name, Mode::RWXU).map_err(failed)?;
        self.open(name)
    }

    /// Makes the empty directory `name` as the root of an image whose archives do not name their root: like every
    /// directory that an archive implies, of root and open to all. The folder around it is private until it is published.
    pub(crate) fn make_root(&self, name: &str) -> Result<OwnedFd, Error> {
        let failed = |error| self.storage("make the root folder for", error);
        let root = self.make(name)?;
        rustix::fs::fchown(&root, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(failed)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).map_err(failed)?;
        Ok(root)
    }

    /// Makes the empty directory `name` that will be open to all for reading, whatever the umask is.
    pub(crate) fn make_open(&self, name: &str) -> Result<OwnedFd, Error> {
        let folder = self.make(name)?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o755))
            .map_err(|error| self.storage("make a folder beside", error))?;
        Ok(folder)
    }

    /// Opens the directory `name` in what is being made.
    pub(crate) fn open(&self, name: &str) -> Result<OwnedFd, Error> {
        let opened = rustix::fs::openat(&self.work, name, DIRECTORY, Mode::empty());
        opened.map_err(|error| self.storage("open a folder beside", error))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next pull; there is nobody to tell.
        let _ = match self.stays {
            Stays::All => Ok(()),
            Stays::Kept if self.bytes_kept().is_some() => tree::remove(self.folder.as_fd(), WORK),
            Stays::Kept | Stays::Nothing => tree::remove(self.place.at.as_fd(), &self.place.name),
        };
    }
}

/// Removes what an earlier pull into `target` has left, unless one is at work there. Gives whether there was something.
///
/// # Errors
/// `IMAGE_STORAGE`.
pub fn discard_kept(target: &Target<'_>) -> Result<bool, Error> {
    let place = match Place::find(target) {
        Err(Error::TargetExists { .. }) => Place::beside(target, Form::New)?,
        other => other?,
    };
    let failed = |error| place.storage("remove what is kept of", error);
    let folder = match rustix::fs::openat(&place.at, &place.name, DIRECTORY, Mode::empty()) {
        Ok(folder) => folder,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(failed(error)),
    }
    if rustix::fs::fstat(&folder).map_err(failed)?.st_nlink == 0 {
        // Its pull has just ended; what has the name now is another one's.
        return Ok(false);
    }
    if is_own(folder.as_fd()) {
        place.take_down(folder.as_fd()).map_err(failed)?;
    }
    tree::remove(place.at.as_fd(), &place.name).map_err(failed)?;
    Ok(true)
}

/// The folder of what is kept, made if need be.
pub(crate) fn open_kept(folder: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let made = rustix::fs::mkdirat(folder, KEPT, Mode::RWXU);
    if !matches!(made, Ok(()) | Err(Errno::EXIST)) {
        made?;
    }
    let kept = rustix::fs::openat(folder, KEPT, DIRECTORY, Mode::empty())?;
    tree::forget_lists(kept.as_fd())?;
    Ok(kept)
}

impl Place {
    fn beside(target: &Target<'_>, form: Form) -> Result<Self, Error> {
        let path = shown(target.folder, target.name);
        let at = target.folder.try_clone_to_owned();
        let at = at.map_err(|source| Error::Storage { doing: "keep the folder open".to_owned(), source })?;
        let mut name = OsString::from(".");
        name.push(target.name);
        name.push(SUFFIX);
        Ok(Self { at, name, target: target.name.to_owned(), path, form })
    }

    /// The place for a result that may replace an empty directory, or fill a mount point.
    fn find(target: &Target<'_>) -> Result<Self, Error> {
        let place = Self::beside(target, Form::Empty)?;
        let status =
            rustix::fs::statx(target.folder, target.name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
        let status = match status {
            Err(Errno::NOENT) => return Ok(place),
            other => other.map_err(|error| place.storage("look at", error))?,
        };
        if FileType::from_raw_mode(status.stx_mode.into()) != FileType::Directory {
            return Err(place.taken());
        }
        if !status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            return Ok(place);
        }
        let at = rustix::fs::openat(target.folder, target.name, DIRECTORY, Mode::empty());
        let at = at.map_err(|error| place.storage("look at", error))?;
        Ok(Self { at, name: SUFFIX.into(), form: Form::Within, ..place })
    }

    /// The folder of the pull, locked. One of the same image stays as it is, any other is made anew.
    fn open_folder(&self, image: Digest) -> Result<OwnedFd, Error> {
        let failed = |error: Errno| self.storage("make a folder beside", error);
        loop {
            let new = match rustix::fs::mkdirat(&self.at, &self.name, Mode::RWXU) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(failed(error)),
            };
            let folder = match rustix::fs::openat(&self.at, &self.name, DIRECTORY, Mode::empty()) {
                Ok(folder) => folder,
                // Another process has just cleared it away.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed(error)),
            };
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::TargetBusy { path: self.path.clone() }),
                Err(error) => return Err(failed(error)),
            }
            if rustix::fs::fstat(&folder).map_err(failed)?.st_nlink == 0 {
                continue;
            }
            if new {
                let begun = begin_folder(folder.as_fd(), image);
                return match begun {
                    Ok(()) => Ok(folder),
                    Err(error) => {
                        // The first error says more.
                        let _ = tree::remove(self.at.as_fd(), &self.name);
                        Err(failed(error))
                    }
                };
            }
            // One that others made says nothing about what may be done here.
            if is_own(folder.as_fd()) {
                self.take_down(folder.as_fd()).map_err(failed)?;
                if is_for(folder.as_fd(), image) {
                    tree::forget_lists(folder.as_fd()).map_err(failed)?;
                    return Ok(folder);
                }
            }
            tree::remove(self.at.as_fd(), &self.name).map_err(failed)?;
        }
    }

    /// Whether nothing is in the mount point but the folder, and what is in each new file system.
    fn has_nothing_else(&self) -> Result<bool, Errno> {
        let is_known = |name: &std::ffi::CString| {
            let is_directory = || {
                let status = rustix::fs::statat(&self.at, name, AtFlags::SYMLINK_NOFOLLOW);
                status.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
            };
            name.as_bytes() == self.name.as_encoded_bytes()
                || (name.as_bytes() == RECOVERED && is_directory())
        };
        Ok(tree::names(self.at.as_fd())?.iter().all(is_known))
    }

    fn taken(&self) -> Error {
        Error::TargetExists { path: self.path.clone() }
    }

    fn storage(&self, doing: &str, error: Errno) -> Error {
        Error::Storage { doing: format!("{doing} {}", self.path), source: error.into() }
    }
}

/// Makes a new folder ready: for this image, and private.
fn begin_folder(folder: BorrowedFd<'_>, image: Digest) -> Result<(), Errno> {
    // What is made in it would begin with the lists of the folder around it.
    tree::forget_lists(folder)?;
    write_new(folder, IMAGE, image.to_string().as_bytes())
}

fn write_new(folder: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    (&file).write_all(bytes).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A file that was written here.
fn open_own(folder: BorrowedFd<'_>, name: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty()).map(File::from)
}

/// Whether this user made the folder, and nobody else can enter it.
fn is_own(folder: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(folder).is_ok_and(|status| {
        status.st_uid == rustix::process::geteuid().as_raw() && status.st_mode & 0o777 == 0o700
    })
}

/// Whether it was made for this image.
fn is_for(folder: BorrowedFd<'_>, image: Digest) -> bool {
    let mut text = Vec::new();
    let read = open_own(folder, IMAGE).map(|file| file.take(1000).read_to_end(&mut text));
    read.is_ok_and(|read| read.is_ok()) && text == image.to_string().as_bytes()
}

/// `name` in the folder `parent` (proc_pid_fd(5)); the name alone where there is no `/proc`.
fn shown(parent: BorrowedFd<'_>, name: &OsStr) -> String {
    let link = format!("/proc/self/fd/{}", parent.as_raw_fd());
    let parent = std::fs::read_link(link).ok().filter(|path| path.is_absolute());
    parent.unwrap_or_default().join(name).display().to_string()
}

#[cfg(test)]
mod tests;
