//! What is in a folder, to compare two of them.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

/// Everything that can be seen of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub device: u64,
    pub content: Vec<u8>,
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// Everything below `root`, and itself as the empty path. A link's content is its target.
pub fn of(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = if path.as_os_str().is_empty() { root.to_owned() } else { root.join(&path) };
        // Overlay file systems list a deletion mark in a directory that one layer alone has, and then do not find it.
        let Ok(status) = fs::symlink_metadata(&full) else { continue };
        let kind = status.file_type();
        if kind.is_dir() {
            waiting.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        }
        let content = match () {
            () if kind.is_file() => fs::read(&full).unwrap(),
            () if kind.is_symlink() => OsString::from(fs::read_link(&full).unwrap()).into_encoded_bytes(),
            () => Vec::new(),
        };
        let is_node = kind.is_char_device() || kind.is_block_device();
        let seen = Seen {
            mode: status.mode(),
            owner: (status.uid(), status.gid()),
            mtime: (status.mtime(), status.mtime_nsec()),
            device: if is_node { status.rdev() } else { 0 },
            content,
            attributes: if kind.is_file() || kind.is_dir() { attributes(&full) } else { BTreeMap::new() },
        };
        all.insert(path, seen);
    }
    all
}

/// Names alone.
pub fn names(root: &Path) -> Vec<String> {
    of(root)
        .into_keys()
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| path.display().to_string())
        .collect()
}

pub fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 4096];
    let length = rustix::fs::listxattr(path, &mut list).unwrap();
    let names = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let length = rustix::fs::getxattr(path, name, &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .filter(|(name, _)| name != "security.selinux")
        .collect()
}
