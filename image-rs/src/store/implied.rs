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
    fs::{Gid, Mode, Stat, Uid},
    io::Errno,
};

use super::below::{Below, Found, Search};
use crate::{layer::unpack::open_beneath, rootfs::merge};

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

/// Gives the implied directories of `layers`, the lowest first, what the layers below say about them, in the overlay of these layers
/// that is mounted at `merged` without the `hidden` lowest of them (see [`hidden()`](super::below::hidden)). `goes_on` is asked now and then.
///
/// # Errors
/// What the file system says; [`Errno::CANCELED`] when it is not to go on.
pub fn restore(
    layers: &[&Below],
    hidden: usize,
    merged: BorrowedFd<'_>,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), Errno> {
    // An overlay takes the root from its upper directory, whatever the layers say.
    let root = Vec::new();
    let shown = layers.iter().skip(hidden);
    let paths: BTreeSet<&Vec<u8>> = shown.flat_map(|layer| &layer.implied).chain([&root]).collect();
    let mut searches: Vec<Search<'_>> = layers.iter().map(|layer| Search::new(layer)).collect();
    // Those further down first: what is done in a directory changes its time.
    for path in paths.into_iter().rev() {
        if !goes_on() {
            return Err(Errno::CANCELED);
        }
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
