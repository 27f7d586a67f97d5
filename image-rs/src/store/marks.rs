//! Deletions that the directory of a layer alone cannot tell an overlay.
//!
//! An overlay reads deletions in a layer's directories, and two things go wrong there that no reader of archives does. A deletion in a
//! directory that the layer itself does not have would need that directory, which then is there also where nothing below has it, or has a
//! file of its name. So such deletions are kept beside the layer, and where something below has the directory, a layer of them alone is
//! put under this one ([`Marks::applying`], [`Marks::make`]). And where one layer alone has a directory, the kernel shows the deletions in it
//! as files that are not there (it looks for them only where it merges): [`hide_ghosts`].
//!
//! Which of both is needed depends on the layers below, which are others in each image; so it is found out for each bundle.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode},
    io::Errno,
};

use super::below::{Below, Found, Search};
use crate::{
    layer::unpack::{Deletions, make_whiteout, open_beneath, set_opaque, split_last},
    rootfs::merge,
};

/// What is kept beside a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Paths of what is deleted, in directories that the layer does not have.
    pub whiteouts: BTreeSet<Vec<u8>>,
    /// Directories that are emptied and that the layer does not have.
    pub opaque: BTreeSet<Vec<u8>>,
    /// Directories of the layer in which something is deleted.
    pub directories: BTreeSet<Vec<u8>>,
}

impl Marks {
    /// What a layer that was unpacked for an overlay leaves to be kept.
    #[must_use]
    pub fn of(deletions: &Deletions) -> Self {
        Self {
            whiteouts: deletions.whiteouts.iter().cloned().collect(),
            opaque: deletions.opaque.iter().cloned().collect(),
            directories: deletions.marked.clone(),
        }
    }

    /// As it is kept in a file: a letter for the kind, the path and a zero byte each.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let kinds = [(b'w', &self.whiteouts), (b'o', &self.opaque), (b'd', &self.directories)];
        let all = kinds.into_iter().flat_map(|(kind, paths)| paths.iter().map(move |path| (kind, path)));
        all.flat_map(|(kind, path)| [kind].into_iter().chain(path.iter().copied()).chain([0])).collect()
    }

    /// Reads what [`Marks::write`] wrote.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let mut marks = Self::default();
        for line in bytes.split(|b| *b == 0) {
            let Some((kind, path)) = line.split_first() else { continue };
            let paths = match kind {
                b'w' => &mut marks.whiteouts,
                b'o' => &mut marks.opaque,
                _ => &mut marks.directories,
            };
            paths.insert(path.to_vec());
        }
        marks
    }

    /// Whether all that is deleted lies in directories of the layer.
    fn is_told(&self) -> bool {
        self.whiteouts.is_empty() && self.opaque.is_empty()
    }

    /// The deletions in directories that the layer does not have and `below` does, the lowest first. `goes_on` is asked now and then.
    ///
    /// # Errors
    /// What the file system says; [`Errno::CANCELED`] when it is not to go on.
    pub fn applying(&self, below: &[&Below], goes_on: &dyn Fn() -> bool) -> Result<Self, Errno> {
        let mut applying = Self::default();
        if self.is_told() {
            return Ok(applying);
        }
        let mut searches: Vec<Search<'_>> = below.iter().map(|layer| Search::new(layer)).collect();
        let mut last: Option<(&[u8], bool)> = None;
        let mut has = |directory| match last {
            Some((known, has)) if known == directory => Ok(has),
            _ if !goes_on() => Err(Errno::CANCELED),
            _ => {
                let has = is_directory(&mut searches, directory)?;
                last = Some((directory, has));
                Ok(has)
            }
        };
        for path in &self.whiteouts {
            if has(split_last(path).0)? {
                applying.whiteouts.insert(path.clone());
            }
        }
        for path in &self.opaque {
            if has(path)? {
                applying.opaque.insert(path.clone());
            }
        }
        applying.forget_what_is_said_twice();
        Ok(applying)
    }

    /// Keeps of deletions in each other the outermost: a directory that is gone has nothing to delete, and in one that hides all below
    /// it a deletion would be shown as a file.
    fn forget_what_is_said_twice(&mut self) {
        let Self { whiteouts, opaque, .. } = self;
        opaque.retain(|path| !whiteouts.contains(path));
        let all: BTreeSet<Vec<u8>> = whiteouts.union(opaque).cloned().collect();
        let is_outermost = |path: &Vec<u8>| {
            let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
            !ends.filter_map(|end| path.get(..end)).any(|above| all.contains(above))
        };
        whiteouts.retain(is_outermost);
        opaque.retain(is_outermost);
    }

    /// Makes the layer of these deletions in the empty directory `tree`. What is said of its directories is that they are implied.
    ///
    /// # Errors
    /// What the file system says.
    pub fn make(&self, tree: OwnedFd) -> Result<Option<Below>, Errno> {
        if self.is_told() {
            return Ok(None);
        }
        let mut implied = BTreeSet::from([Vec::new()]);
        for path in &self.opaque {
            set_opaque(make_directories(&tree, path, &mut implied)?.as_fd())?;
        }
        for path in &self.whiteouts {
            let (parent, name) = split_last(path);
            match make_whiteout(make_directories(&tree, parent, &mut implied)?.as_fd(), name) {
                // What another deletion is below: both are gone with this one.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(Below { tree, implied, marks: Self::default() }))
    }
}

/// Has the deletions hidden that an overlay of `layers`, which is mounted at `merged`, shows as files that are not there: a directory
/// that is copied up is merged from then on. `goes_on` is asked now and then.
///
/// # Errors
/// What the file system says; [`Errno::CANCELED`] when it is not to go on.
pub fn hide_ghosts(
    layers: &[&Below],
    merged: BorrowedFd<'_>,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), Errno> {
    let paths: BTreeSet<&Vec<u8>> = layers.iter().flat_map(|layer| &layer.marks.directories).collect();
    for path in paths {
        if !goes_on() {
            return Err(Errno::CANCELED);
        }
        let directory = match open_beneath(merged, path) {
            Ok(directory) => directory,
            // Another layer has something else there.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error),
        };
        if shows_ghosts(&directory)? {
            // The same times once more: it is copied up, and nothing else.
            rustix::fs::futimens(&directory, &merge::times(&rustix::fs::fstat(&directory)?))?;
        }
    }
    Ok(())
}

fn shows_ghosts(directory: &OwnedFd) -> Result<bool, Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown) {
            match rustix::fs::statat(directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(false)
}

/// Whether an overlay of these layers, the lowest first, shows a directory under `path`.
fn is_directory(layers: &mut [Search<'_>], path: &[u8]) -> Result<bool, Errno> {
    for layer in layers.iter_mut().rev() {
        match layer.find(path)? {
            Found::Directory { .. } => return Ok(true),
            Found::Nothing { hides_below: false } => {}
            Found::Nothing { hides_below: true } | Found::Other => return Ok(false),
        }
    }
    Ok(false)
}

/// The directory `path`, made with those above it, of which `implied` is told.
fn make_directories(tree: &OwnedFd, path: &[u8], implied: &mut BTreeSet<Vec<u8>>) -> Result<OwnedFd, Errno> {
    let mut at = tree.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::MFILE))?;
    let mut done = Vec::new();
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()) {
        if !done.is_empty() {
            done.push(b'/');
        }
        done.extend_from_slice(part);
        match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => drop(implied.insert(done.clone())),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        at = open_beneath(at.as_fd(), part)?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paths() -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
        proptest::collection::btree_set(proptest::collection::vec(1u8..=255, 1..20), 0..6)
    }

    /// Paths that often are in each other.
    fn nested() -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
        let part = prop_oneof![Just("a"), Just("b")];
        let path = proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/").into_bytes());
        proptest::collection::btree_set(path, 0..6)
    }

    proptest! {
        #[test]
        fn they_are_kept_as_they_are(whiteouts in paths(), opaque in paths(), directories in paths()) {
            let marks = Marks { whiteouts, opaque, directories };
            prop_assert_eq!(Marks::read(&marks.write()), marks);
        }

        #[test]
        fn of_deletions_in_each_other_the_outermost_is_kept(
            whiteouts in nested(), opaque in nested(), directories in paths(),
        ) {
            let all = Marks { whiteouts, opaque, directories };
            let mut kept = all.clone();
            kept.forget_what_is_said_twice();
            let covers = |above: &Vec<u8>, path: &Vec<u8>| {
                path == above || path.strip_prefix(above.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
            };
            for path in &all.whiteouts {
                let by = kept.whiteouts.iter().chain(&kept.opaque).filter(|above| covers(above, path)).count();
                prop_assert_eq!(by, 1, "{:?} of {:?}", path, all);
            }
            for path in &all.opaque {
                let by = kept.whiteouts.iter().chain(&kept.opaque).filter(|above| covers(above, path)).count();
                prop_assert_eq!(by, 1, "{:?} of {:?}", path, all);
            }
            prop_assert!(kept.whiteouts.is_subset(&all.whiteouts) && kept.opaque.is_subset(&all.opaque));
            // The whole tree can be made of them.
            let folder = tempfile::tempdir().unwrap();
            let tree = rustix::fs::open(folder.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
            if rustix::process::geteuid().is_root() {
                kept.make(tree).unwrap();
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Marks::read(&bytes);
        }
    }
}
