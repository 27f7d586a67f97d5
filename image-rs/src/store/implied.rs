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
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid},
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
    let hidden = hidden(layers)?;
    // An overlay takes the root from its upper directory, whatever the layers say.
    let root = Vec::new();
    let shown = layers.iter().skip(hidden);
    let paths: BTreeSet<&Vec<u8>> = shown.flat_map(|layer| &layer.implied).chain([&root]).collect();
    let mut searches: Vec<Search<'_>> = layers.iter().map(Search::new).collect();
    // Those further down first: what is done in a directory changes its time.
    for path in paths.into_iter().rev() {
        // The root itself stays when all that is in it is deleted.
        let from = if path.is_empty() { 0 } else { hidden };
        let Some(from) = stated_below(searches.get_mut(from..).unwrap_or_default(), path)? else { continue };
        let into = match open_beneath(merged, path) {
            Ok(into) => into,
            // Another layer has something else there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error),
        };
        let (status, present) = (rustix::fs::fstat(&from)?, rustix::fs::fstat(&into)?);
        // Whatever is changed is copied up, into memory that each container has for itself.
        if is_like(&present, &status) && merge::same_attributes(into.as_fd(), from.as_fd())? {
            continue;
        }
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

/// Whether two directories have the same owner, mode and time of modification.
fn is_like(one: &Stat, other: &Stat) -> bool {
    let what = |status: &Stat| {
        (status.st_uid, status.st_gid, status.st_mode & 0o7777, status.st_mtime, status.st_mtime_nsec)
    };
    what(one) == what(other)
}

/// The directory `path` of the topmost layer that says something about it; `None` if that is the topmost of all that have it
/// (then it is shown already, except for the root, which an overlay takes from its upper directory), or if there is none.
fn stated_below(layers: &mut [Search<'_>], path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let mut seen_implied = path.is_empty();
    for search in layers.iter_mut().rev() {
        match search.find(path)? {
            Found::Directory { .. } if !search.layer.implied.contains(path) => {
                return if seen_implied {
                    open_beneath(search.layer.tree.as_fd(), path).map(Some)
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

/// A layer in which one path after the other is looked for.
struct Search<'a> {
    layer: &'a Below,
    /// Where the last search ended at no directory, and what was there: what is below that path is not there either.
    ended: Option<(Vec<u8>, Found)>,
}

impl<'a> Search<'a> {
    const fn new(layer: &'a Below) -> Self {
        Self { layer, ended: None }
    }

    /// What the layer has under `path`.
    fn find(&mut self, path: &[u8]) -> Result<Found, Errno> {
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

#[derive(Clone, Copy)]
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
