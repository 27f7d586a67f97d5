//! What a layer deletes in the layers below it, and the two ways to keep that.

use std::{collections::BTreeSet, os::fd::BorrowedFd};

use rustix::{
    fs::{FileType, Mode, Stat, XattrFlags},
    io::Errno,
};

/// How deletions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the directory itself, as an overlay file system reads them: character devices 0/0, and the attribute
    /// `trusted.overlay.opaque` (Linux, Documentation/filesystems/overlayfs.rst).
    Overlay,
    /// In [`Deletions`], for layers that are merged into one directory at once.
    Listed,
}

/// Deletions in the layers below. Paths are relative, without `.` and `..`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    /// Removed with all that is in them.
    pub whiteouts: Vec<Vec<u8>>,
    /// Emptied.
    pub opaque: Vec<Vec<u8>>,
    /// Directories of this layer that it says nothing about: parents that were missing. Those below keep their owner,
    /// mode and time. Contains the layer's own directory, the empty path, unless the archive has it.
    pub implied: BTreeSet<Vec<u8>>,
}

pub(super) fn is_whiteout(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice && status.st_rdev == 0
}

pub(super) fn make_whiteout(at: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0)
}

pub(super) fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty())
}
