//! The checked copy of a volume's header, `/run/confidential-containers/luks-headers/NAME.header`: in memory, of mode 0600,
//! complete or not there.
//!
//! Everything that opens the volume names this file. It is written under another name and renamed, and its folder belongs to
//! this user alone: whoever could write there could choose what a volume is opened with.

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
};

use cc_evidence::blame::Blame;
use cc_volume::luks2::{Canonical, Copies, DetachedHeader};
use rustix::{
    fs::{self, AtFlags, Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use super::detached;
use crate::failure::{self, Failure};

/// Where copies lie.
pub(super) const FOLDER: &str = "/run/confidential-containers/luks-headers";

/// The line in the file beside a copy of whose volume discards are admitted.
const DISCARDS: &str = "allow-discards";
/// How the line there begins that says on which device the header was.
const DEVICE: &str = "device ";

/// Most bytes of what is beside a copy.
const MAX_POLICY_LEN: u64 = 4096;

/// What an open volume is compared with besides its header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Whether the policy admits discards.
    pub(super) allow_discards: bool,
    /// The device that the header was read from, `MAJOR:MINOR`; none for a file.
    pub(super) device: Option<String>,
}

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

    /// Writes it, and beside it what is known besides.
    pub(super) fn write(&self, header: &Canonical<'_>, known: &Known) -> Result<(), Failure> {
        let mut text = String::new();
        if known.allow_discards {
            text.push_str(&format!("{DISCARDS}\n"));
        }
        if let Some(device) = &known.device {
            text.push_str(&format!("{DEVICE}{device}\n"));
        }
        let written = self
            .write_and_rename(&self.policy, text.len(), std::iter::once((0, text.as_bytes())))
            .and_then(|()| self.write_and_rename(&self.file, header.length(), header.pieces()));
        written.map_err(|source| self.failed(source))
    }

    /// The header in it; none if there is no copy.
    pub(super) fn find(&self) -> Result<Option<DetachedHeader>, Failure> {
        let failed = |source| Failure::Unreadable { path: self.path.clone(), source };
        let Some(mut file) = self.opened(&self.file).map_err(failed)? else { return Ok(None) };
        detached(&mut file, &self.path, Copies::First, |_| Ok(())).map(Some)
    }

    /// The header in it.
    pub(super) fn read(&self) -> Result<DetachedHeader, Failure> {
        let absent = || {
            failure::of(
                Blame::Absent,
                "VOLUME_NOT_OPEN",
                &format!(
                    "the volume was not opened by its unit: there is no checked header at {}",
                    self.path.display()
                ),
                "`systemctl start systemd-cryptsetup@NAME.service` opens it; `guestctl disk status` shows what is open",
            )
        };
        self.find()?.ok_or_else(absent)
    }

    /// What was known when the header was checked.
    pub(super) fn known(&self) -> Known {
        let mut text = String::new();
        // Where it cannot be read nothing more is admitted than where it is empty.
        if let Ok(Some(file)) = self.opened(&self.policy) {
            let _ = file.take(MAX_POLICY_LEN).read_to_string(&mut text);
        }
        Known {
            allow_discards: text.lines().any(|line| line == DISCARDS),
            device: text.lines().find_map(|line| line.strip_prefix(DEVICE)).map(str::to_owned),
        }
    }

    fn opened(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.folder, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(File::from(file))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a file of `length` bytes: these pieces, and zeros, which take no memory.
    fn write_and_rename<'a>(
        &self,
        name: &str,
        length: usize,
        pieces: impl Iterator<Item = (u64, &'a [u8])>,
    ) -> io::Result<()> {
        let temporary = format!(".{name}.new");
        let written = self.write_new(&temporary, length, pieces);
        let written = written.and_then(|()| Ok(fs::renameat(&self.folder, &temporary, &self.folder, name)?));
        if written.is_err() {
            // The first error is the one to report; the name may not exist at all.
            let _ = self.unlink(&temporary);
        }
        written
    }

    fn write_new<'a>(
        &self,
        temporary: &str,
        length: usize,
        pieces: impl Iterator<Item = (u64, &'a [u8])>,
    ) -> io::Result<()> {
        // What a process that was killed has left.
        self.unlink(temporary)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&self.folder, temporary, flags, Mode::from_raw_mode(0o600))?);
        file.set_len(length as u64)?;
        for (at, piece) in pieces {
            file.write_all_at(piece, at)?;
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
        let Some(disk) = crate::disk::device::tests::volume(parent.path()) else { return };
        let header = detached(&mut File::open(&disk).unwrap(), &disk, Copies::First, |_| Ok(())).unwrap();
        let known = Known { allow_discards: true, device: Some("253:16".to_owned()) };
        copy.write(&header.canonical(), &known).unwrap();
        assert_eq!(copy.read().unwrap().header(), header.header());
        assert_eq!(copy.known(), known);
        assert_eq!(std::fs::read(copy.path()).unwrap(), header.canonical().to_bytes());
        let status = std::fs::metadata(copy.path()).unwrap();
        assert_eq!((status.permissions().mode() & 0o777, status.len()), (0o600, 16 << 20));
        assert!(status.blocks() * 512 <= 1 << 20, "{} blocks", status.blocks());
        copy.write(&header.canonical(), &Known::default()).unwrap();
        assert_eq!(copy.known(), Known::default());
        copy.remove().unwrap();
        copy.remove().unwrap();
        assert_eq!(copy.read().unwrap_err().code(), "VOLUME_NOT_OPEN");
        assert!(copy.find().unwrap().is_none() && copy.known() == Known::default());
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
