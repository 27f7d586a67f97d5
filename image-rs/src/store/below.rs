//! The layers of an overlay, and what each has under a path, as the kernel reads them (Linux, Documentation/filesystems/overlayfs.rst).

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::marks::Marks;

/// One layer of an overlay.
#[derive(Debug)]
pub struct Below {
    /// Its directory.
    pub tree: OwnedFd,
    /// The directories that its archive does not name; the empty path is the layer's own.
    pub implied: BTreeSet<Vec<u8>>,
    /// Its deletions that need more than its directory.
    pub marks: Marks,
}

/// How many of `layers`, the lowest first, are hidden as a whole, because one above them deletes all that is in the root
/// (`.wh..wh..opq` there; OCI Image Layer Specification, "Opaque Whiteout"). An overlay does not look at that mark on the root of a layer, so
/// those below it must not be mounted.
///
/// # Errors
/// What the file system says.
pub fn hidden(layers: &[Below]) -> Result<usize, Errno> {
    for (number, layer) in layers.iter().enumerate().rev() {
        if hides_all_below(layer)? {
            return Ok(number);
        }
    }
    Ok(0)
}

/// Whether `layer` hides all layers below it, see [`hidden()`].
///
/// # Errors
/// What the file system says.
pub fn hides_all_below(layer: &Below) -> Result<bool, Errno> {
    is_opaque(layer.tree.as_fd())
}

/// A layer in which one path after the other is looked for.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub(super) layer: &'a Below,
    /// Where the last search ended at no directory, and what was there: what is below that path is not there either.
    ended: Option<(Vec<u8>, Found)>,
}

impl<'a> Search<'a> {
    pub(super) const fn new(layer: &'a Below) -> Self {
        Self { layer, ended: None }
    }

    /// What the layer has under `path`.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Found, Errno> {
        if let Some((end, found)) = &self.ended
            && path.strip_prefix(end.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        {
            return Ok(*found);
        }
        let (found, length) = find(self.layer.tree.as_fd(), path)?;
        if !matches!(found, Found::Directory { .. }) {
            self.ended = path.get(..length).map(|end| (end.to_vec(), found));
        }
        Ok(found)
    }
}

/// What a layer has under a path.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Directory {
        hides_below: bool,
    },
    /// Also where the way there ends at something that hides what is below.
    Nothing {
        hides_below: bool,
    },
    Other,
}

/// What a layer has under a path, and whether an overlay looks further down; with the bytes of the path at which that was known.
fn find(tree: BorrowedFd<'_>, path: &[u8]) -> Result<(Found, usize), Errno> {
    // A deletion of all that is in a directory hides that, not the directory itself.
    let (mut hides_below, mut is_cleared) = (false, false);
    let (mut at, mut length): (Option<OwnedFd>, usize) = (None, 0);
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        hides_below |= is_cleared;
        length += part.len() + usize::from(length > 0);
        let parent = at.as_ref().map_or(tree, AsFd::as_fd);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = match rustix::fs::openat2(parent, part, flags, Mode::empty(), within) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok((Found::Nothing { hides_below }, length)),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok((other(parent, part), length)),
            Err(error) => return Err(error),
        };
        is_cleared = is_opaque(directory.as_fd())?;
        at = Some(directory);
    }
    Ok((Found::Directory { hides_below }, length))
}

/// Something that is no directory hides what is below it, whatever it is.
fn other(parent: BorrowedFd<'_>, name: &[u8]) -> Found {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) != FileType::Directory => Found::Other,
        _ => Found::Nothing { hides_below: true },
    }
}

fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 4];
    match rustix::fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value[..]) {
        Ok(length) => Ok(length > 0),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(true),
        Err(error) => Err(error),
    }
}
