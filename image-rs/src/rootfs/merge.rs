//! Merging one layer's directory into that of the layers below it.

use std::{
    collections::BTreeSet,
    ffi::CStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use crate::{
    layer::unpack::{Deletions, content_of, open_beneath, split_last},
    tree,
};

/// Moves everything from `layer` into `root`, after the layer's deletions.
///
/// # Errors
/// What the file system says.
pub(super) fn layer(root: &OwnedFd, layer: &OwnedFd, deletions: &Deletions) -> Result<(), Errno> {
    let root = root.as_fd();
    let deleted = deletions.whiteouts.iter().try_for_each(|path| delete(root, path));
    let deleted = deleted.and_then(|()| deletions.opaque.iter().try_for_each(|path| clear(root, path)));
    deleted.and_then(|()| merge(root, layer.as_fd(), &mut Vec::new(), &deletions.implied))
}

fn delete(root: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
    let (parent, name) = split_last(path);
    match existing(root, parent)? {
        None => Ok(()),
        Some(parent) => keeping_times(parent.as_fd(), |parent| tree::remove(parent, name)),
    }
}

fn clear(root: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
    match existing(root, path)? {
        None => Ok(()),
        Some(directory) => keeping_times(directory.as_fd(), tree::empty),
    }
}

/// The directory `path` in the layers below, if it is one.
fn existing(root: BorrowedFd<'_>, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    match open_beneath(root, path) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Changes what is in a directory, but not when that happened.
fn keeping_times(
    directory: BorrowedFd<'_>,
    change: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let before = rustix::fs::fstat(directory)?;
    change(directory)?;
    rustix::fs::futimens(directory, &times(&before))
}

fn merge(
    into: BorrowedFd<'_>,
    from: BorrowedFd<'_>,
    path: &mut Vec<u8>,
    implied: &BTreeSet<Vec<u8>>,
) -> Result<(), Errno> {
    let (below, own) = (rustix::fs::fstat(into)?, rustix::fs::fstat(from)?);
    tree::take_each(from, |name| {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        merge_entry(into, from, name, path, implied)?;
        path.truncate(length);
        Ok(())
    })?;
    if implied.contains(path) {
        return rustix::fs::futimens(into, &times(&below));
    }
    rustix::fs::fchown(into, Some(Uid::from_raw(own.st_uid)), Some(Gid::from_raw(own.st_gid)))?;
    rustix::fs::fchmod(into, Mode::from_raw_mode(own.st_mode))?;
    copy_attributes(into, from)?;
    rustix::fs::futimens(into, &times(&own))
}

/// Moves `name` out of `from`.
fn merge_entry(
    into: BorrowedFd<'_>,
    from: BorrowedFd<'_>,
    name: &CStr,
    path: &mut Vec<u8>,
    implied: &BTreeSet<Vec<u8>>,
) -> Result<(), Errno> {
    let is_directory = |at: BorrowedFd<'_>| match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) => Ok(Some(FileType::from_raw_mode(status.st_mode) == FileType::Directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    };
    match (is_directory(into)?, is_directory(from)?) {
        (Some(true), Some(true)) => {
            let (below, own) = (open_beneath(into, name.to_bytes())?, open_beneath(from, name.to_bytes())?);
            merge(below.as_fd(), own.as_fd(), path, implied)?;
            return rustix::fs::unlinkat(from, name, AtFlags::REMOVEDIR);
        }
        // A file is replaced by the renaming itself, a directory and what a directory replaces is not.
        (Some(below), Some(above)) if below || above => tree::remove(into, name)?,
        _ => {}
    }
    rustix::fs::renameat(from, name, into, name)
}

/// The attributes that are content become those of `from`.
pub(crate) fn copy_attributes(into: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<(), Errno> {
    let (old, new) = (content_of(into)?, content_of(from)?);
    for name in old.iter().filter(|name| !new.contains(name)) {
        rustix::fs::fremovexattr(into, name.as_slice())?;
    }
    for name in &new {
        rustix::fs::fsetxattr(into, name.as_slice(), &attribute(from, name)?, XattrFlags::empty())?;
    }
    Ok(())
}

/// Whether two have the same attributes that are content.
pub(crate) fn same_attributes(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool, Errno> {
    let (mut names, mut others) = (content_of(one)?, content_of(other)?);
    names.sort();
    others.sort();
    if names != others {
        return Ok(false);
    }
    for name in &names {
        if attribute(one, name)? != attribute(other, name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn attribute(of: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 64 << 10];
    let length = rustix::fs::fgetxattr(of, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// The times of access and modification.
pub(crate) fn times(status: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: status.st_atime, tv_nsec: status.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: status.st_mtime, tv_nsec: status.st_mtime_nsec.cast_signed() },
    }
}
