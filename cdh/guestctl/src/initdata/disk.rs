//! Reading a document from a file, standard input or a block device, and finding the device.
//!
//! The layout is that of Kata Containers: the eight bytes `initdata`, a little-endian u64, that many bytes of gzip. Of a
//! device no byte beyond those is read, and of anything else no more than a document can have.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use cc_evidence::initdata::carrier::{self, DEVICE_HEADER_LEN};
use rustix::fs::OFlags;

use crate::failure::Failure;

/// Longest input that is no device, in bytes: base64 of the longest gzip, with room for white space. A document is
/// shorter.
const INPUT_MAX: u64 = carrier::MAX_COMPRESSED_LEN as u64 * 3 / 2;

/// Reads what is at `path`, or on standard input for `-`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let input: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(open(path).map_err(|source| unreadable(path, source))?),
    };
    read_from(input, path)
}

/// Reads a device's header and as much as it announces, or anything else to its end.
fn read_from(mut input: impl Read, path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |source| unreadable(path, source);
    let malformed = |why| Failure::Malformed { path: path.to_owned(), kind: "init-data document", why };
    let mut bytes = Vec::new();
    input.by_ref().take(DEVICE_HEADER_LEN as u64).read_to_end(&mut bytes).map_err(failed)?;
    let length = match bytes.first_chunk().map(carrier::device_length) {
        Some(Ok(length)) => length,
        Some(Err(error)) => return Err(malformed(error.to_string())),
        None => None,
    };
    match length {
        Some(length) => input.take(length as u64).read_to_end(&mut bytes).map_err(failed)?,
        None => input.take(INPUT_MAX).read_to_end(&mut bytes).map_err(failed)?,
    };
    if bytes.len() as u64 > INPUT_MAX {
        return Err(malformed(format!("longer than {INPUT_MAX} bytes, which no init-data is in any form")));
    }
    Ok(bytes)
}

/// The one init-data device in `folder` (`/dev`), among whole disks named `vd…` and `sd…`. `is_disk` tells devices
/// from other files.
///
/// Two of them are refused: which one counts would be up to the order in which the host attached them.
pub(super) fn find(folder: &Path, is_disk: impl Fn(&Metadata) -> bool) -> Result<PathBuf, Failure> {
    let entries = fs::read_dir(folder).map_err(|source| unreadable(folder, source))?;
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(is_disk_name))
        .map(|entry| entry.path())
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|metadata| is_disk(&metadata)) && has_magic(path))
        .collect();
    found.sort();
    let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    let refused = |why: String| Err(Failure::Unrecognised { path: folder.to_owned(), why });
    match (found.pop(), names.len()) {
        (Some(device), 1) => Ok(device),
        (None, _) => refused(
            "none of its disks vd* and sd* that can be read begins like an init-data device".to_owned(),
        ),
        _ => refused(format!("several disks begin like an init-data device: {}", names.join(", "))),
    }
}

/// Whether this is a block device.
pub(super) fn is_block_device(metadata: &Metadata) -> bool {
    metadata.file_type().is_block_device()
}

/// `vda`, `sdab`; partitions have a number.
fn is_disk_name(name: &str) -> bool {
    let letters = name.strip_prefix("vd").or_else(|| name.strip_prefix("sd"));
    letters
        .is_some_and(|letters| !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_lowercase()))
}

/// A disk without a medium, or one that may not be read, is none of ours.
fn has_magic(path: &Path) -> bool {
    let mut header = [0; DEVICE_HEADER_LEN];
    let read = open(path).and_then(|mut file| file.read_exact(&mut header));
    // A length that is out of bounds is an error to be told, not a reason to look elsewhere.
    read.is_ok() && !matches!(carrier::device_length(&header), Ok(None))
}

/// Opens a file or device; a pipe without a writer does not block.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn unreadable(path: &Path, source: io::Error) -> Failure {
    Failure::Unreadable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = ''\n";

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn of_a_device_no_more_is_read_than_it_announces() {
        let mut disk = carrier::to_device(BODY).unwrap();
        disk.resize(8 << 20, 0xEE);
        let folder = folder(&[("vda", &disk)]);
        let bytes = read(&folder.path().join("vda")).unwrap();
        assert!(bytes.len() < 512, "{} bytes", bytes.len());
        assert_eq!(carrier::from_device(&bytes).unwrap().as_deref(), Some(BODY));
    }

    #[test]
    fn what_is_too_long_or_lies_about_its_length_is_refused() {
        let mut lying = carrier::to_device(BODY).unwrap();
        lying[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        let folder = folder(&[("long", &vec![b'#'; 4 << 20]), ("lying", &lying), ("empty", b"")]);
        assert_eq!(read(&folder.path().join("long")).unwrap_err().code(), "INPUT_MALFORMED");
        let error = read(&folder.path().join("lying")).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
        assert_eq!(read(&folder.path().join("empty")).unwrap(), b"");
        assert_eq!(read(&folder.path().join("absent")).unwrap_err().code(), "INPUT_UNREADABLE");
        assert_eq!(read(folder.path()).unwrap_err().code(), "INPUT_UNREADABLE");
    }

    #[test]
    fn exactly_one_whole_disk_may_be_the_device() {
        let image = carrier::to_device(BODY).unwrap();
        let other = vec![0; 4096];
        let any = |_: &Metadata| true;
        let one = folder(&[
            ("vda", &other),
            ("sdb", &image),
            ("vdb1", &image),
            ("nvme0n1", &image),
            ("sd", &image),
            ("vdX", &image),
        ]);
        assert_eq!(find(one.path(), any).unwrap(), one.path().join("sdb"));
        assert!(find(one.path(), is_block_device).is_err(), "files are no devices");
        let two = folder(&[("vda", &image), ("sda", &image)]);
        let error = find(two.path(), any).unwrap_err().to_string();
        assert!(error.contains("several") && error.contains("sda, "), "{error}");
        let none = folder(&[("vda", b"short"), ("vdb", &other)]);
        assert_eq!(find(none.path(), any).unwrap_err().code(), "INPUT_UNRECOGNISED");
    }
}
