//! What is open, as files in a folder in memory: one for each mapping, locked by whoever works on it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use cc_storage::Opened;
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, OFlags, flock, linkat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// Longest record, in bytes.
const MAX_LEN: u64 = 64 << 10;

/// What is known of an opening.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Name of the mapping.
    pub(super) name: String,
    /// UUID of the header; empty until there is one, and no mapping before.
    pub(super) uuid: String,
    /// Path of the device.
    pub(super) device: String,
    /// Where it appears; empty for nowhere.
    pub(super) mount_point: String,
    /// Whether that is a link.
    pub(super) link: bool,
    /// Whether the device was formatted.
    pub(super) fresh: bool,
    /// Whether all steps are done.
    pub(super) complete: bool,
    /// Names the request; empty for none.
    #[serde(default)]
    pub(super) opening: String,
}

impl Entry {
    pub(super) fn opened(&self) -> Opened {
        Opened {
            name: self.name.clone(),
            device: self.device.clone(),
            mount_point: self.mount_point.clone(),
            fresh: self.fresh,
        }
    }
}

/// A record that is locked.
#[derive(Debug)]
pub(super) struct Record {
    entry: Entry,
    file: File,
    path: PathBuf,
}

/// Makes the folder, for this user alone.
pub(super) fn prepare(folder: &Path) -> Result<(), Failure> {
    let failed = || Failure::storage(format!("use the folder {}", folder.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed())?;
    let status = std::fs::symlink_metadata(folder).map_err(failed())?;
    if !status.is_dir() || status.uid() != rustix::process::geteuid().as_raw() || status.mode() & 0o077 != 0 {
        return Err(failed()(std::io::Error::other("it is not for this user alone (mode 0700)")));
    }
    Ok(())
}

/// What is known of all openings, by name. A record that cannot be read is told, and left alone.
pub(super) fn entries(folder: &Path) -> Result<Vec<Entry>, Failure> {
    let failed = || Failure::storage(format!("read {}", folder.display()));
    let mut entries = Vec::new();
    for found in std::fs::read_dir(folder).map_err(failed())? {
        let path = found.map_err(failed())?.path();
        match File::open(&path).ok().as_ref().and_then(parse) {
            Some(entry) => entries.push(entry),
            // Removed, or just begun.
            None => tracing::debug!(path = %path.display(), "a record cannot be read"),
        }
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

fn parse(mut file: &File) -> Option<Entry> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.take(MAX_LEN).read_to_end(&mut text)).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Record {
    /// Begins the record of an opening.
    pub(super) fn begin(folder: &Path, entry: Entry) -> Result<Self, Failure> {
        let path = folder.join(format!("{}.json", entry.name));
        fn failed<E: Into<std::io::Error>>(path: &Path) -> impl FnOnce(E) -> Failure {
            Failure::storage(format!("write {}", path.display()))
        }
        // It gets its name when it is whole and locked: whoever is killed before that has taken no name.
        let file = OpenOptions::new().read(true).write(true).custom_flags(unnamed()).mode(0o600).open(folder);
        let file = file.map_err(failed(&path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(failed(&path))?;
        let mut record = Self { entry, file, path: path.clone() };
        record.update(|_| ())?;
        let unnamed = format!("/proc/self/fd/{}", record.file.as_raw_fd());
        match linkat(CWD, unnamed, CWD, &path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(record),
            Err(Errno::EXIST) => Err(Failure::NameTaken { name: record.entry.name }),
            Err(error) => Err(failed(&path)(error)),
        }
    }

    /// The records that nobody works on, of openings that are not complete: whoever made them was killed.
    pub(super) fn abandoned(folder: &Path) -> Result<Vec<Self>, Failure> {
        let entries = entries(folder)?.into_iter().filter(|entry| !entry.complete);
        Ok(entries.filter_map(|entry| Self::abandoned_as(folder, &entry)).collect())
    }

    /// The record that was seen as `seen`, unless somebody works on it or has completed it since.
    fn abandoned_as(folder: &Path, seen: &Entry) -> Option<Self> {
        let record = Self::lock(folder, &seen.name, FlockOperation::NonBlockingLockExclusive)?;
        (!record.entry.complete).then_some(record)
    }

    /// The record of what appears at `mount_point`, if `opening` is given that of this request alone; waits for whoever works on it.
    /// Of several, because others have unmounted some, it is one that `appears` there.
    pub(super) fn at(
        folder: &Path,
        mount_point: &str,
        opening: Option<&str>,
        appears: impl Fn(&Entry) -> bool,
    ) -> Result<Option<Self>, Failure> {
        let is_it = |entry: &Entry| {
            entry.mount_point == mount_point && opening.is_none_or(|opening| opening == entry.opening)
        };
        let mut found: Vec<Entry> = entries(folder)?.into_iter().filter(is_it).collect();
        if found.len() > 1 {
            // Those that do come first.
            found.sort_by_key(|entry| !appears(entry));
        }
        let found = found.into_iter().next();
        let lock = |entry: Entry| Self::lock(folder, &entry.name, FlockOperation::LockExclusive);
        Ok(found.and_then(lock).filter(|record| is_it(&record.entry)))
    }

    /// Whether something else `appears`, or is about to, where this one does. Of two that begin at once either may be told so, or both.
    pub(super) fn is_crowded(
        &self,
        folder: &Path,
        appears: impl Fn(&Entry) -> bool,
    ) -> Result<bool, Failure> {
        let (name, place) = (&self.entry.name, &self.entry.mount_point);
        let other = |entry: &Entry| {
            entry.name != *name && entry.mount_point == *place && (!entry.complete || appears(entry))
        };
        Ok(!place.is_empty() && entries(folder)?.iter().any(other))
    }

    /// None if somebody else works on it, or it is gone by now.
    fn lock(folder: &Path, name: &str, lock: FlockOperation) -> Option<Self> {
        let path = folder.join(format!("{name}.json"));
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).ok()?;
        flock(&file, lock).ok()?;
        let is_there = file.metadata().is_ok_and(|status| status.nlink() > 0);
        let entry = is_there.then(|| parse(&file)).flatten()?;
        Some(Self { entry, file, path })
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Changes the entry, and writes it down.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Entry)) -> Result<(), Failure> {
        change(&mut self.entry);
        let text = serde_json::to_vec(&self.entry).map_err(std::io::Error::from);
        // Blanks at the end in place of a shorter file: whoever is killed between two steps leaves a record that can be read.
        let written = text.and_then(|mut text| {
            let length = usize::try_from(self.file.metadata()?.len().min(MAX_LEN)).unwrap_or_default();
            text.resize(text.len().max(length), b' ');
            self.file.write_all_at(&text, 0)
        });
        written.map_err(Failure::storage(format!("write {}", self.path.display())))
    }

    /// Forgets it.
    pub(super) fn remove(self) -> Result<(), Failure> {
        std::fs::remove_file(&self.path).map_err(Failure::storage(format!("remove {}", self.path.display())))
    }
}

/// For a file that has no name in its folder yet.
fn unnamed() -> i32 {
    i32::try_from((OFlags::TMPFILE | OFlags::CLOEXEC).bits()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_there_from_the_first_step_and_locked_while_somebody_works() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("open");
        prepare(&folder).unwrap();
        let entry = Entry { name: "data".to_owned(), mount_point: "/srv".to_owned(), ..Entry::default() };
        let mut record = Record::begin(&folder, entry.clone()).unwrap();
        let again = Record::begin(&folder, entry.clone()).unwrap_err();
        assert_eq!(again.code(), "VOLUME_MAPPED_ALREADY");
        assert!(Record::abandoned(&folder).unwrap().is_empty(), "it is locked");
        record.update(|entry| entry.uuid = "a longer text than before".to_owned()).unwrap();
        record.update(|entry| entry.uuid = "x".to_owned()).unwrap();
        let expected = Entry { uuid: "x".to_owned(), ..entry };
        assert_eq!(entries(&folder).unwrap(), std::slice::from_ref(&expected), "it can be looked at");
        // Whoever was killed has no lock any more.
        drop(record);
        std::fs::write(folder.join("torn.json"), "{").unwrap();
        let mut abandoned = Record::abandoned(&folder).unwrap();
        assert_eq!(abandoned.len(), 1);
        let mut found = abandoned.remove(0);
        assert_eq!(*found.entry(), expected);
        found.update(|entry| entry.complete = true).unwrap();
        drop(found);
        assert!(
            Record::abandoned(&folder).unwrap().is_empty()
                && Record::at(&folder, "/x", None, |_| true).unwrap().is_none()
        );
        Record::at(&folder, "/srv", None, |_| true).unwrap().unwrap().remove().unwrap();
        assert!(
            entries(&folder).unwrap().is_empty()
                && Record::at(&folder, "/srv", None, |_| true).unwrap().is_none()
        );
    }

    #[test]
    fn what_was_completed_in_the_meantime_is_not_abandoned() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry { name: "data".to_owned(), ..Entry::default() };
        let mut record = Record::begin(folder.path(), entry.clone()).unwrap();
        assert!(Record::abandoned_as(folder.path(), &entry).is_none(), "somebody works on it");
        record.update(|entry| entry.complete = true).unwrap();
        drop(record);
        assert!(Record::abandoned_as(folder.path(), &entry).is_none(), "it is open by now");
    }

    #[test]
    fn of_two_at_one_place_each_request_finds_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |name: &str, opening: &str| {
            let (name, opening) = (name.to_owned(), opening.to_owned());
            let entry = Entry { name, opening, mount_point: "/srv".to_owned(), ..Entry::default() };
            Record::begin(folder.path(), entry).unwrap()
        };
        let first = begin("a", "1");
        assert!(!first.is_crowded(folder.path(), |_| true).unwrap());
        let mut second = begin("b", "2");
        assert!(second.is_crowded(folder.path(), |_| true).unwrap());
        assert!(second.is_crowded(folder.path(), |_| false).unwrap(), "the first is being opened");
        second.update(|entry| entry.complete = true).unwrap();
        assert!(first.is_crowded(folder.path(), |_| true).unwrap());
        assert!(!first.is_crowded(folder.path(), |_| false).unwrap(), "somebody has unmounted the second");
        drop((first, second));
        for name in ["a", "b"] {
            let found = Record::at(folder.path(), "/srv", None, |entry| entry.name == name).unwrap();
            assert_eq!(found.unwrap().entry().name, name, "the one that is there");
        }
        for (opening, name) in [("1", "a"), ("2", "b")] {
            let found = Record::at(folder.path(), "/srv", Some(opening), |_| true).unwrap().unwrap();
            assert_eq!(found.entry().name, name);
        }
        assert!(Record::at(folder.path(), "/srv", Some("3"), |_| true).unwrap().is_none());
        // What appears nowhere is in nobody's way.
        let nowhere = |name: &str| {
            Record::begin(folder.path(), Entry { name: name.to_owned(), ..Entry::default() }).unwrap()
        };
        let (_one, other) = (nowhere("c"), nowhere("d"));
        assert!(!other.is_crowded(folder.path(), |_| true).unwrap());
    }
}
