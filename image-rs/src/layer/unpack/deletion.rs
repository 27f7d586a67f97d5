//! What a layer deletes in the layers below it, and the two ways to keep that.

use std::{collections::BTreeSet, os::fd::BorrowedFd};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, Stat, XattrFlags},
    io::Errno,
};

use super::place::open_beneath;

/// How deletions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the directory itself, as an overlay file system reads them: character devices 0/0, and the attribute
    /// `trusted.overlay.opaque` (Linux, Documentation/filesystems/overlayfs.rst).
    Overlay,
    /// In [`Deletions`], for layers that are merged into one directory at once.
    Listed,
}

/// Deletions in the layers below. Paths are relative, without `.` and `..`. For an overlay only those are here that are in directories
/// which the layer does not have; the others are in its directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    /// Removed with all that is in them.
    pub whiteouts: Vec<Vec<u8>>,
    /// Emptied.
    pub opaque: Vec<Vec<u8>>,
    /// Directories of this layer that it says nothing about: parents that were missing. Those below keep their owner,
    /// mode and time. Contains the layer's own directory, the empty path, unless the archive has it.
    pub implied: BTreeSet<Vec<u8>>,
    /// For an overlay: directories of this layer, but its own, in which something is deleted.
    pub marked: BTreeSet<Vec<u8>>,
}

impl Deletions {
    /// Bytes of memory for all names.
    pub(crate) fn memory(&self) -> u64 {
        let lists = self.whiteouts.iter().chain(&self.opaque).chain(&self.implied).chain(&self.marked);
        lists.map(|path| memory_of(path) as u64).sum()
    }
}

/// Bytes of memory for a name in a set.
pub(super) const fn memory_of(path: &[u8]) -> usize {
    path.len() + 4 * size_of::<Vec<u8>>()
}

pub(super) fn is_whiteout(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice && status.st_rdev == 0
}

pub(crate) fn make_whiteout(at: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0)
}

pub(crate) fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}

/// Removes all deletion marks in the directory `path` below `root`, one by one: a directory of an image may have millions of names.
pub(super) fn forget_whiteouts(root: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
    let directory = open_beneath(root, path)?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        // Taking away what was read does not hide what was not (readdir(3p)).
        if matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown)
            && is_whiteout(&rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
        {
            rustix::fs::unlinkat(&directory, name, AtFlags::empty())?;
        }
    }
    Ok(())
}
