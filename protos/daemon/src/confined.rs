//! Files that are named by somebody else and must lie in one folder.
//!
//! `openat2(2)` resolves the name with the folder as its root: neither `..`, nor an absolute path, nor a link leads out,
//! also while somebody renames on the way. It is NOT for files that the operator names in a configuration.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};

/// Reads the regular file `name` below `folder`, at most `limit` bytes. Links are followed as long as they stay inside.
///
/// The buffer has its room from the start, so that no copy of a key is left behind.
///
/// # Errors
/// What the system says; a name that leads out, something else than a regular file, a longer file.
pub fn read_below(folder: &Path, name: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::CLOEXEC | OFlags::RDONLY;
    let folder =
        fs::openat2(fs::CWD, folder, flags | OFlags::DIRECTORY, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    // A FIFO would keep the opener waiting.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = fs::openat2(&folder, name, flags | OFlags::NONBLOCK, Mode::empty(), resolve)?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    let mut content = Vec::with_capacity(limit + 2);
    File::from(file).take(limit as u64 + 1).read_to_end(&mut content)?;
    if content.len() > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_stay_in_their_folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("keys");
        std::fs::create_dir_all(folder.join("team")).unwrap();
        std::fs::write(root.path().join("outside"), "x").unwrap();
        std::fs::write(folder.join("inside"), "key").unwrap();
        std::fs::write(folder.join("team/deeper"), "key").unwrap();
        std::fs::write(folder.join("long"), vec![b' '; 9000]).unwrap();
        symlink("inside", folder.join("link")).unwrap();
        symlink("../outside", folder.join("escape")).unwrap();
        fs::mknodat(fs::CWD, folder.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let read = |name: &str| read_below(&folder, Path::new(name), 8192);
        assert_eq!(read("inside").unwrap(), b"key");
        assert_eq!(read("team/deeper").unwrap(), b"key");
        assert_eq!(read("link").unwrap(), b"key", "a link that stays inside is followed");
        for bad in ["escape", "../outside", "/etc/passwd", "team", "long", "absent", "fifo", "", "a\0b"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
