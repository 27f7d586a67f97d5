//! Removing directory trees by descriptor, through no symbolic link.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, RenameFlags},
    io::Errno,
    path::Arg,
};

/// How many directories lie open in each other while a tree is removed. How deep it is has been decided by whoever built it, and
/// descriptors are few (getrlimit(2)).
const OPEN_AT_ONCE: usize = 32;

/// Removes `name` in `at`, with all that is in it if it is a directory. That it is not there is no error.
///
/// # Errors
/// What the file system says.
pub fn remove(at: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<(), Errno> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    empty(open(at, name)?.as_fd())?;
    rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
}

/// Removes everything in `directory`.
pub(crate) fn empty(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut clearing = Clearing { top: directory, lifted: 0 };
    take_each(directory, |name| clearing.remove(directory, name, 1))
}

/// A directory that is being emptied.
struct Clearing<'a> {
    top: BorrowedFd<'a>,
    /// Directories from further down that lie in it now.
    lifted: u64,
}

impl Clearing<'_> {
    /// Removes `name` in `at`, which is `depth` directories below the place where the top lies.
    fn remove(&mut self, at: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
        match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(error),
        }
        if depth >= OPEN_AT_ONCE && self.lift(at, name) {
            return Ok(());
        }
        let directory = open(at, name)?;
        take_each(directory.as_fd(), |inner| self.remove(directory.as_fd(), inner, depth + 1))?;
        rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
    }

    /// Moves a directory up into the top, whose turn comes again. Where the file system does not do that, it is removed where it is.
    fn lift(&mut self, at: BorrowedFd<'_>, name: &CStr) -> bool {
        loop {
            self.lifted += 1;
            let new = format!(".{}", self.lifted);
            match rustix::fs::renameat_with(at, name, self.top, new, RenameFlags::NOREPLACE) {
                Ok(()) => return true,
                Err(Errno::EXIST) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Takes the access control lists away that a directory got from the one it was made in: what is made in it would get them too.
pub(crate) fn forget_lists(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    for name in ["system.posix_acl_default", "system.posix_acl_access"] {
        match rustix::fs::fremovexattr(directory, name) {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Calls `take` with each name in `directory`, of which nothing must be left there afterwards. Only some names are held in
/// memory at a time: a directory of an image may have millions.
pub(crate) fn take_each(
    directory: BorrowedFd<'_>,
    mut take: impl FnMut(&CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    const SOME: usize = 1024;
    loop {
        let names: Vec<CString> = all_names(directory)?.take(SOME).collect::<Result<_, _>>()?;
        if names.is_empty() {
            return Ok(());
        }
        names.iter().try_for_each(|name| take(name))?;
    }
}

/// Whether nothing is in `directory`.
pub(crate) fn is_empty(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(all_names(directory)?.next().transpose()?.is_none())
}

/// The names in `directory`, without `.` and `..`.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    all_names(directory)?.collect()
}

fn all_names(directory: BorrowedFd<'_>) -> Result<impl Iterator<Item = Result<CString, Errno>>, Errno> {
    let is_own = |name: &CString| matches!(name.as_bytes(), b"." | b"..");
    let names = Dir::read_from(directory)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
    Ok(names.filter(move |name| !name.as_ref().is_ok_and(is_own)))
}

/// Opens the directory `name` in `at`, also one that its owner may not enter.
fn open(at: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rustix::fs::openat(at, name, flags, Mode::empty());
    match open() {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(at, name, Mode::RWXU, AtFlags::empty())?;
            open()
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::symlink,
    };

    use super::*;

    #[test]
    fn more_names_than_are_held_at_a_time_go_too() {
        let folder = tempfile::tempdir().unwrap();
        (0..2500).for_each(|i| fs::write(folder.path().join(i.to_string()), "").unwrap());
        let mut taken = 0;
        let at = File::open(folder.path()).unwrap();
        take_each(at.as_fd(), |name| {
            taken += 1;
            remove(at.as_fd(), name)
        })
        .unwrap();
        assert_eq!((taken, fs::read_dir(folder.path()).unwrap().count()), (2500, 0));
    }

    #[test]
    fn a_tree_goes_and_what_its_links_point_at_stays() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        fs::create_dir_all(kept.join("x")).unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/file"), "1").unwrap();
        symlink(&kept, tree.join("a/b/link")).unwrap();
        symlink("/nowhere", tree.join("dangling")).unwrap();
        let at = File::open(folder.path()).unwrap();
        remove(at.as_fd(), "tree").unwrap();
        remove(at.as_fd(), "tree").unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"]);
        assert!(kept.join("x").exists());
    }
}
