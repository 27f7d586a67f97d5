//! Everything that can be seen of a tree, as text to compare: a line for each file.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use cc_tests::image::sha256;

/// Type, mode, owner, size, time, device, hard links, attributes, and target or content of each file below `root`, and of
/// the root itself.
pub(crate) fn of(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    // The first name of each file that has several: the same one in equal trees.
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    let mut paths = Vec::new();
    while let Some(path) = waiting.pop() {
        if fs::symlink_metadata(root.join(&path)).is_ok_and(|status| status.is_dir()) {
            let inside = fs::read_dir(root.join(&path)).unwrap();
            waiting.extend(inside.map(|entry| path.join(entry.unwrap().file_name())));
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let full = root.join(&path);
        // What is listed has to be there.
        let Ok(status) = fs::symlink_metadata(&full) else {
            all.insert(path, "listed, but not there".to_owned());
            continue;
        };
        let kind = status.file_type();
        let mut line = format!(
            "{:o} {}:{} {}.{:09} {:x}",
            status.mode(),
            status.uid(),
            status.gid(),
            status.mtime(),
            status.mtime_nsec(),
            status.rdev()
        );
        if !kind.is_dir() {
            let same = first.entry(status.ino()).or_insert_with(|| path.clone());
            write!(line, " {} {} as {:?}", status.size(), status.nlink(), same).unwrap();
        }
        for (name, value) in attributes(&full) {
            write!(line, " {name}={}", hex::encode(value)).unwrap();
        }
        if kind.is_symlink() {
            write!(line, " -> {:?}", fs::read_link(&full).unwrap()).unwrap();
        } else if kind.is_file() {
            write!(line, " {}", sha256(&fs::read(&full).unwrap())).unwrap();
        }
        all.insert(path, line);
    }
    all
}

/// Extended attributes but those that the machine itself gives.
fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap_or(0);
    let names =
        list[..length].split(|b| *b == 0).filter(|name| !name.is_empty() && *name != b"security.selinux");
    names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

/// Fails with the first differences.
#[track_caller]
pub(crate) fn assert_equal(ours: &BTreeMap<PathBuf, String>, theirs: &BTreeMap<PathBuf, String>, what: &str) {
    let names = ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path)));
    let unequal: Vec<String> = names
        .filter(|path| ours.get(*path) != theirs.get(*path))
        .map(|path| format!("{path:?}\n  ours   {:?}\n  theirs {:?}", ours.get(path), theirs.get(path)))
        .collect();
    assert!(
        unequal.is_empty(),
        "{what}: {} of {} differ:\n{}",
        unequal.len(),
        ours.len(),
        unequal[..unequal.len().min(12)].join("\n")
    );
}
