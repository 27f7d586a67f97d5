//! The checked copy of a volume's header, `/run/confidential-containers/luks-headers/NAME.header`: in memory, of mode 0600,
//! complete or not there.
//!
//! Everything that opens the volume names this file. It is written under another name and renamed, and its folder belongs to
//! this user alone: whoever could write there could choose what a volume is opened with.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cc_volume::luks2::format::MAX_AREA_LEN;
use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use crate::failure::Failure;

/// Where copies lie.
pub(super) const FOLDER: &str = "/run/confidential-containers/luks-headers";

/// What is in the file beside a copy of whose volume discards are admitted.
const DISCARDS: &[u8] = b"allow-discards\n";

/// Zeros are not written in pieces of this size: the file stays sparse, and memory is not taken for nothing.
const PIECE_LEN: usize = 64 << 10;

/// The copy of one volume's header, there or not.
#[derive(Debug)]
pub(super) struct HeaderCopy {
    folder: OwnedFd,
    file: String,
    policy: String,
    path: PathBuf,
}

impl HeaderCopy {
    /// The copy for the volume `name`, whose form the hub has checked, in `folder`, which is made if it is missing.
    pub(super) fn of(folder: &Path, name: &str) -> Result<Self, Failure> {
        let failed = |source: io::Error| Failure::OutputFile { path: folder.to_owned(), source };
        match fs::mkdir(folder, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let opened = fs::open(folder, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let status = fs::fstat(&opened).map_err(|error| failed(error.into()))?;
        if status.st_uid != geteuid().as_raw() || status.st_mode & 0o077 != 0 {
            return Err(failed(io::Error::other("the folder is not for this user alone (mode 0700)")));
        }
        let file = format!("{name}.header");
        Ok(Self { folder: opened, path: folder.join(&file), policy: format!("{name}.policy"), file })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, if it is there, and what was written beside it.
    pub(super) fn remove(&self) -> Result<(), Failure> {
        let removed = self.unlink(&self.file).and_then(|()| self.unlink(&self.policy));
        removed.map_err(|source| self.failed(source))
    }

    /// Writes it, and beside it whether the volume's policy admits discards.
    pub(super) fn write(&self, bytes: &[u8], allow_discards: bool) -> Result<(), Failure> {
        let policy = if allow_discards { DISCARDS } else { b"" };
        let written = self
            .write_and_rename(&self.policy, policy)
            .and_then(|()| self.write_and_rename(&self.file, bytes));
        written.map_err(|source| self.failed(source))
    }

    /// Its content; none if there is no copy.
    pub(super) fn find(&self) -> Result<Option<Vec<u8>>, Failure> {
        self.content(&self.file).map_err(|source| Failure::Unreadable { path: self.path.clone(), source })
    }

    /// Its content.
    pub(super) fn read(&self) -> Result<Vec<u8>, Failure> {
        let absent =
            || Failure::Unreadable { path: self.path.clone(), source: io::ErrorKind::NotFound.into() };
        self.find()?.ok_or_else(absent)
    }

    /// Whether discards were admitted when the header was checked.
    pub(super) fn allows_discards(&self) -> bool {
        self.content(&self.policy).is_ok_and(|content| content.as_deref() == Some(DISCARDS))
    }

    fn content(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_AREA_LEN as u64).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write_and_rename(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!(".{name}.new");
        let written = self.write_new(&temporary, bytes);
        let written = written.and_then(|()| Ok(fs::renameat(&self.folder, &temporary, &self.folder, name)?));
        if written.is_err() {
            // The first error is the one to report; the name may not exist at all.
            let _ = self.unlink(&temporary);
        }
        written
    }

    fn write_new(&self, temporary: &str, bytes: &[u8]) -> io::Result<()> {
        // What a process that was killed has left.
        self.unlink(temporary)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(&self.folder, temporary, flags, Mode::from_raw_mode(0o600))?);
        file.set_len(bytes.len() as u64)?;
        for (number, piece) in bytes.chunks(PIECE_LEN).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                file.seek(SeekFrom::Start((number * PIECE_LEN) as u64))?;
                file.write_all(piece)?;
            }
        }
        file.sync_all()
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn failed(&self, source: io::Error) -> Failure {
        Failure::OutputFile { path: self.path.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use super::*;

    #[test]
    fn a_copy_is_private_complete_and_sparse() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("headers");
        let copy = HeaderCopy::of(&folder, "data").unwrap();
        std::fs::write(folder.join(".data.header.new"), "of a process that was killed").unwrap();
        let mut bytes = vec![0; 4 << 20];
        bytes[0] = 1;
        bytes[3 << 20] = 2;
        copy.write(&bytes, true).unwrap();
        assert!(copy.read().unwrap() == bytes && copy.allows_discards());
        let status = std::fs::metadata(copy.path()).unwrap();
        assert_eq!((status.permissions().mode() & 0o777, status.len()), (0o600, 4 << 20));
        assert!(status.blocks() * 512 <= 4 * PIECE_LEN as u64, "{} blocks", status.blocks());
        copy.write(b"short", false).unwrap();
        assert_eq!(copy.read().unwrap(), b"short");
        assert!(!copy.allows_discards());
        copy.remove().unwrap();
        copy.remove().unwrap();
        assert!(copy.read().is_err() && copy.find().unwrap().is_none() && !copy.allows_discards());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_others_can_use_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("headers");
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(HeaderCopy::of(&folder, "data").is_err());
        let link = parent.path().join("link");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(HeaderCopy::of(&link, "data").is_err());
        assert!(HeaderCopy::of(&folder, "data").is_ok());
    }
}
