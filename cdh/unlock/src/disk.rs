//! Disks by the UUID of the header on them, whatever they are called and in whatever order they appear.
//!
//! Anybody who can attach a disk can give it any UUID: it only selects. That a header is the right one shows by its tag. What is judged,
//! authenticated and opened is one copy of the header and its keyslots, each byte read once.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cc_volume::luks2::{Copies, DetachedHeader, NotRead, Policy, format::BINARY_LEN};
use rustix::fs::{OFlags, major, minor};

use crate::failure::Failure;

/// Most block devices that are looked at.
const MAX_DEVICES: usize = 1024;
/// Where the binary header has its UUID (LUKS2 On-Disk Format Specification 1.1, section 2.1).
const UUID_FIELD: std::ops::Range<usize> = 168..208;
const MAGIC: &[u8] = b"LUKS\xba\xbe";

/// A disk with a header that the policy admits.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// `MAJOR:MINOR`.
    pub(crate) number: String,
    /// What was read.
    pub(crate) header: DetachedHeader,
    /// What is unusual about it and does no harm, as sentences.
    pub(crate) notes: Vec<String>,
}

/// What was looked at.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// Disks whose header says the UUID.
    pub(crate) found: Vec<PathBuf>,
    /// Names of all block devices that hold something.
    pub(crate) seen: Vec<String>,
}

impl Search {
    /// Looks at all block devices that `class` (`/sys/class/block`) names for the volume `uuid`; they are in `devices` (`/dev`).
    /// Each is told to `at` before it is read.
    pub(crate) fn below(class: &Path, devices: &Path, uuid: &str, at: impl Fn(&Path)) -> Self {
        let mut names: Vec<String> = fs::read_dir(class)
            .into_iter()
            .flatten()
            .flatten()
            .take(MAX_DEVICES)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        let mut search = Self::default();
        for name in names {
            let size = fs::read_to_string(class.join(&name).join("size")).unwrap_or_default();
            // Without a medium, or a mapping: ours are not below themselves.
            if size.trim() == "0" || class.join(&name).join("dm").exists() {
                continue;
            }
            let path = devices.join(name.replace('!', "/"));
            at(&path);
            if says(&path, uuid) {
                search.found.push(path);
            }
            search.seen.push(name);
        }
        search
    }
}

impl Disk {
    /// Reads the header at `path`, judges it, and reads its keyslots. Where the first copy was left half written it is the second one:
    /// whoever opens a volume with it has compared it with its tag.
    ///
    /// # Errors
    /// [`Failure::Unreadable`], or [`Failure::Header`] with the rules that are broken.
    pub(crate) fn read(path: &Path, uuid: &str, policy: &Policy) -> Result<Self, Failure> {
        let unreadable = |e: io::Error| Failure::Unreadable { path: path.to_owned(), why: e.to_string() };
        let mut file = open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let number = format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()));
        let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
        let fill = |at: usize, into: &mut [u8]| file.read_exact_at(into, at as u64);
        let mut notes = Vec::new();
        let header = DetachedHeader::read_from(fill, length, Copies::Either, |header| {
            let verdict = policy.judge(header);
            notes.clone_from(&verdict.notes);
            verdict.into_result()
        });
        let header = header.map_err(|error| match error {
            NotRead::Disk(e) => unreadable(e),
            NotRead::Header(error) => Failure::Header { path: path.to_owned(), error },
        })?;
        if header.header().binary().uuid != uuid {
            let why = "the header has another UUID than a moment ago".to_owned();
            return Err(Failure::Unreadable { path: path.to_owned(), why });
        }
        Ok(Self { path: path.to_owned(), number, header, notes })
    }
}

/// Whether the first bytes at `path` are a header with this UUID, at a glance.
fn says(path: &Path, uuid: &str) -> bool {
    let mut head = [0; BINARY_LEN];
    let read = open(path).and_then(|file| {
        let kind = file.metadata()?.file_type();
        if !(kind.is_block_device() || cfg!(test)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        file.read_exact_at(&mut head, 0)
    });
    let field = head.get(UUID_FIELD).and_then(|field| field.split(|byte| *byte == 0).next());
    read.is_ok() && head.starts_with(MAGIC) && field == Some(uuid.as_bytes())
}

/// Opens for reading; a pipe without a writer does not block.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";

    #[test]
    fn disks_are_found_by_the_uuid_of_their_header_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (class, devices) = (folder.path().join("class"), folder.path().join("dev"));
        let add = |name: &str, size: &str, magic: &[u8], uuid: &str, length: usize| {
            fs::create_dir_all(class.join(name)).unwrap();
            fs::write(class.join(name).join("size"), size).unwrap();
            let path = devices.join(name.replace('!', "/"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let mut bytes = vec![0; length];
            bytes[..6].copy_from_slice(magic);
            bytes[168..168 + uuid.len()].copy_from_slice(uuid.as_bytes());
            fs::write(path, bytes).unwrap();
        };
        add("sda", "8\n", MAGIC, UUID, 4096);
        add("sdb", "8\n", MAGIC, &UUID.replace('6', "7"), 4096);
        add("sdc", "8\n", b"SKUL\xba\xbe", UUID, 4096);
        add("sdd", "8\n", MAGIC, &format!("{UUID}0"), 4096);
        add("sde", "0\n", MAGIC, UUID, 4096);
        add("sdf", "8\n", MAGIC, UUID, 512);
        add("cciss!c0d0", "8\n", MAGIC, UUID, 8192);
        add("dm-0", "8\n", MAGIC, UUID, 4096);
        fs::create_dir(class.join("dm-0/dm")).unwrap();
        fs::create_dir(class.join("gone")).unwrap();
        let search = Search::below(&class, &devices, UUID, |_| ());
        assert_eq!(search.found, [devices.join("cciss/c0d0"), devices.join("sda")]);
        assert_eq!(search.seen, ["cciss!c0d0", "gone", "sda", "sdb", "sdc", "sdd", "sdf"]);
        assert!(Search::below(&folder.path().join("none"), &devices, UUID, |_| ()).seen.is_empty());
    }
}
