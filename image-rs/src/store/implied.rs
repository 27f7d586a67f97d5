//! Directories that an archive needs and does not name.
//!
//! In a layer's directory they have to be there all the same, and an overlay shows the topmost of the directories of one
//! name: a layer that adds `tmp/x` and says nothing about `tmp` would take away who may write there. So they are noted with
//! each layer, and once the overlay is mounted they get owner, mode, attributes and time from the layer below that does say
//! something about them.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

use crate::{layer::unpack::open_beneath, rootfs::merge};

/// One layer of an overlay.
#[derive(Debug)]
pub struct Below {
    /// Its directory.
    pub tree: OwnedFd,
    /// The directories that its archive does not name; the empty path is the layer's own.
    pub implied: BTreeSet<Vec<u8>>,
}

/// The paths as they are kept in a file, each ended by a zero byte.
#[must_use]
pub fn write(implied: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    implied.iter().flat_map(|path| path.iter().copied().chain([0])).collect()
}

/// Reads what [`write()`] wrote.
#[must_use]
pub fn read(bytes: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut paths: BTreeSet<_> = bytes.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
    // What stands behind the last zero byte is no path.
    if !bytes.starts_with(&[0]) {
        paths.remove(&[][..]);
    }
    paths
}

/// How many of `layers`, the lowest first, are hidden as a whole, because one above them deletes all that is in the root
/// (`.wh..wh..opq` there; OCI Image Layer Specification, "Opaque Whiteout"). An overlay does not look at that mark on the root of a layer, so
/// those below it must not be mounted.
///
/// # Errors
/// What the file system says.
pub fn hidden(layers: &[Below]) -> Result<usize, Errno> {
    for (number, layer) in layers.iter().enumerate().rev() {
        if is_opaque(layer.tree.as_fd())? {
            return Ok(number);
        }
    }
    Ok(0)
}

/// Gives the implied directories of `layers`, the lowest first, what the layers below say about them, in the overlay of these layers
/// that is mounted at `merged`.
///
/// # Errors
/// What the file system says.
pub fn restore(layers: &[Below], merged: BorrowedFd<'_>) -> Result<(), Errno> {
    let (_, shown) = layers.split_at_checked(hidden(layers)?).unwrap_or((&[], layers));
    let paths: BTreeSet<&Vec<u8>> = shown.iter().flat_map(|layer| &layer.implied).collect();
    // Those further down first: what is done in a directory changes its time.
    for path in paths.into_iter().rev() {
        // The root itself stays when all that is in it is deleted.
        let Some(from) = stated_below(if path.is_empty() { layers } else { shown }, path)? else { continue };
        let into = match open_beneath(merged, path) {
            Ok(into) => into,
            // Another layer has something else there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error),
        };
        let status = rustix::fs::fstat(&from)?;
        rustix::fs::fchown(&into, Some(Uid::from_raw(status.st_uid)), Some(Gid::from_raw(status.st_gid)))?;
        rustix::fs::fchmod(&into, Mode::from_raw_mode(status.st_mode))?;
        // Without CAP_FSETID the kernel takes set-group-ID away, and says nothing (chmod(2)).
        if rustix::fs::fstat(&into)?.st_mode & 0o7777 != status.st_mode & 0o7777 {
            return Err(Errno::PERM);
        }
        merge::copy_attributes(into.as_fd(), from.as_fd())?;
        rustix::fs::futimens(&into, &merge::times(&status))?;
    }
    Ok(())
}

/// The directory `path` of the topmost layer that says something about it; `None` if that is the topmost of all that have it
/// (then it is shown already, except for the root, which an overlay takes from its upper directory), or if there is none.
fn stated_below(layers: &[Below], path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let mut seen_implied = path.is_empty();
    for layer in layers.iter().rev() {
        match find(layer.tree.as_fd(), path)? {
            Found::Directory { .. } if !layer.implied.contains(path) => {
                return if seen_implied {
                    open_beneath(layer.tree.as_fd(), path).map(Some)
                } else {
                    Ok(None)
                };
            }
            Found::Directory { hides_below: false } => seen_implied = true,
            Found::Nothing { hides_below: false } => {}
            Found::Directory { .. } | Found::Nothing { .. } | Found::Other => return Ok(None),
        }
    }
    Ok(None)
}

enum Found {
    Directory {
        hides_below: bool,
    },
    /// Also where the way there ends at something that hides what is below.
    Nothing {
        hides_below: bool,
    },
    Other,
}

/// What a layer has under a path, and whether an overlay looks further down.
fn find(tree: BorrowedFd<'_>, path: &[u8]) -> Result<Found, Errno> {
    let mut hides_below = false;
    let mut at: Option<OwnedFd> = None;
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        let parent = at.as_ref().map_or(tree, AsFd::as_fd);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = match rustix::fs::openat2(parent, part, flags, Mode::empty(), within) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(Found::Nothing { hides_below }),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(other(parent, part)),
            Err(error) => return Err(error),
        };
        hides_below |= is_opaque(directory.as_fd())?;
        at = Some(directory);
    }
    Ok(Found::Directory { hides_below })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn paths_are_kept_as_they_are(
            paths in proptest::collection::btree_set(proptest::collection::vec(1u8..=255, 0..20), 0..10)
        ) {
            prop_assert_eq!(read(&write(&paths)), paths);
        }
    }
}
