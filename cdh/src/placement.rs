//! A file's content replaced as a whole: under another name beside it first, then renamed.
//!
//! Whoever reads the file sees the old content or the new one, whatever happens in between: no room left, a hub that is
//! killed. It is NOT the choice of the folder; see [`crate::credential`] and [`crate::file`].

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;

use cc_crypto::Secret;
use rustix::fs::{self, AtFlags, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

/// Owner and mode that a file gets before it has its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Permission bits.
    pub mode: u32,
    /// Owner; none: the user that this process runs as.
    pub uid: Option<u32>,
    /// Group; none: the group that this process runs as.
    pub gid: Option<u32>,
}

impl Ownership {
    /// Mode 0600, own user and group.
    pub const PRIVATE: Self = Self { mode: 0o600, uid: None, gid: None };
}

/// Puts `content` into the file `name` of `directory`. A link in its place is replaced, not followed.
///
/// # Errors
/// What the system says; the file is as it was.
pub fn replace(
    directory: &OwnedFd,
    name: &OsStr,
    content: &Secret,
    ownership: Ownership,
) -> std::io::Result<()> {
    remove_leftover(directory, name)?;
    let temporary = temporary(name);
    let result = write_and_rename(directory, &temporary, name, content, ownership);
    if result.is_err() {
        // The first error is the one to report; the name may not exist at all.
        let _ = fs::unlinkat(directory, &temporary, AtFlags::empty());
    }
    result
}

/// Removes what a hub that was killed while it wrote the file `name` left beside it.
///
/// # Errors
/// What the system says.
pub fn remove_leftover(directory: &OwnedFd, name: &OsStr) -> std::io::Result<()> {
    match fs::unlinkat(directory, temporary(name), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The other name: one for every hub, so that the next one finds what the last one left.
fn temporary(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    temporary
}

fn write_and_rename(
    directory: &OwnedFd,
    temporary: &OsStr,
    name: &OsStr,
    content: &Secret,
    ownership: Ownership,
) -> std::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut file = std::fs::File::from(fs::openat(directory, temporary, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(content.expose())?;
    // For the folders that lie on a disk; nothing to wait for on a tmpfs.
    file.sync_all()?;
    // Named in any case: in a folder with the set-group-ID bit the file would have the folder's group.
    let uid = ownership.uid.map_or_else(geteuid, Uid::from_raw);
    let gid = ownership.gid.map_or_else(getegid, Gid::from_raw);
    fs::fchown(&file, Some(uid), Some(gid))?;
    // After the owner: a change of that clears bits of the mode.
    fs::fchmod(&file, Mode::from_raw_mode(ownership.mode))?;
    fs::renameat(directory, temporary, directory, name)?;
    Ok(())
}
