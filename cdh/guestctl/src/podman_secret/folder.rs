//! The folder of references: one file for each of Podman's identifiers, whole or not there.
//!
//! Whoever can write here decides which secret a container gets, so the folder belongs to the user who runs Podman, and to
//! nobody else (mode 0700). It holds names of secrets and sealed texts, never a secret.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::process::{geteuid, getpid};

use super::reference::{MAX_LEN, Reference};
use crate::failure::Failure;

/// What a new file is called until it is complete. No identifier begins like this.
const NEW: &str = ".new-";

/// The folder, open.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    folder: OwnedFd,
}

impl Folder {
    /// Opens the folder; none if it does not exist.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, Failure> {
        let unreadable = |errno: Errno| Failure::Unreadable { path: path.to_owned(), source: errno.into() };
        let folder = match fs::openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(unreadable(errno)),
        };
        let state = fs::fstat(&folder).map_err(unreadable)?;
        let (owner, mode) = (state.st_uid, Mode::from_raw_mode(state.st_mode).bits());
        if owner != geteuid().as_raw() || mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(Failure::StateFolderOpen { path, owner, mode: mode & 0o7777 });
        }
        Ok(Some(Self { path: path.to_owned(), folder }))
    }

    /// Opens the folder; makes it, and the folders above it, where it does not exist.
    pub(super) fn open_or_make(path: &Path) -> Result<Self, Failure> {
        let failed = |source| Failure::OutputFile { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        Self::open(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// The identifiers, in order.
    pub(super) fn ids(&self) -> Result<Vec<String>, Failure> {
        let unreadable = |errno: Errno| Failure::Unreadable { path: self.path.clone(), source: errno.into() };
        let mut ids = Vec::new();
        for entry in Dir::read_from(&self.folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_string_lossy();
            if name.parse::<super::SecretId>().is_ok() {
                ids.push(name.into_owned());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The reference of `id`; none if there is none.
    pub(super) fn read(&self, id: &str) -> Result<Option<Reference>, Failure> {
        let path = self.path.join(id);
        let unreadable = |source| Failure::Unreadable { path: path.clone(), source };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&self.folder, id, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(unreadable(errno.into())),
        };
        let state = fs::fstat(&file).map_err(|errno| unreadable(errno.into()))?;
        let malformed = |why| Failure::Malformed { path: path.clone(), kind: "reference", why };
        if FileType::from_raw_mode(state.st_mode) != FileType::RegularFile {
            return Err(malformed("not a file".to_owned()));
        }
        let mut text = Vec::new();
        File::from(file).take(MAX_LEN as u64 + 1).read_to_end(&mut text).map_err(unreadable)?;
        Reference::parse(&text).map(Some).map_err(malformed)
    }

    /// Keeps `reference` under `id`, which must be new.
    pub(super) fn write(&self, id: &str, reference: &Reference) -> Result<(), Failure> {
        let new = format!("{NEW}{}-{id}", getpid().as_raw_nonzero());
        let written = self.write_new(&new, reference).and_then(|()| {
            fs::renameat_with(&self.folder, &new, &self.folder, id, RenameFlags::NOREPLACE)?;
            Ok(fs::fsync(&self.folder)?)
        });
        if written.is_err() {
            // The first error is the one to report.
            let _ = fs::unlinkat(&self.folder, &new, AtFlags::empty());
        }
        written.map_err(|source| Failure::OutputFile { path: self.path.join(id), source })
    }

    fn write_new(&self, name: &str, reference: &Reference) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(format!("{}\n", reference.as_str()).as_bytes())?;
        file.sync_all()
    }

    /// Forgets `id`; whether it was there.
    pub(super) fn remove(&self, id: &str) -> Result<bool, Failure> {
        let removed = match fs::unlinkat(&self.folder, id, AtFlags::empty()) {
            Ok(()) => fs::fsync(&self.folder).map(|()| true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno),
        };
        removed.map_err(|errno| Failure::OutputFile { path: self.path.join(id), source: errno.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_deleted() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/b");
        assert!(Folder::open(&path).unwrap().is_none());
        let folder = Folder::open_or_make(&path).unwrap();
        let one = reference("kbs:///a/b/1");
        folder.write("0b", &one).unwrap();
        folder.write("0a", &reference("kbs:///a/b/2")).unwrap();
        std::fs::write(path.join(".new-7-0c"), "kbs:///half").unwrap();
        assert_eq!(folder.ids().unwrap(), ["0a", "0b"]);
        assert_eq!(folder.read("0b").unwrap(), Some(one.clone()));
        assert_eq!(folder.read("0c").unwrap(), None);
        for (path, mode) in [(path.clone(), 0o700), (path.join("0b"), 0o600)] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        let error = folder.write("0b", &reference("kbs:///a/b/3")).unwrap_err();
        assert_eq!(error.code(), "OUTPUT_FILE");
        assert_eq!(folder.read("0b").unwrap(), Some(one), "nothing is replaced");
        assert!(folder.remove("0b").unwrap());
        assert!(!folder.remove("0b").unwrap());
        assert_eq!(
            std::fs::read_dir(&path).unwrap().count(),
            2,
            "no half file is left but the one put there"
        );
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused() {
        let place = tempfile::tempdir().unwrap();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let error = Folder::open_or_make(place.path()).unwrap_err();
        assert_eq!(error.code(), "PODMAN_STATE_OPEN");
        assert!(error.to_string().contains("0755"), "{error}");
    }

    #[test]
    fn what_is_no_reference_any_more_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("state");
        let folder = Folder::open_or_make(&path).unwrap();
        std::fs::write(path.join("0a"), "c4n4ry").unwrap();
        std::fs::create_dir(path.join("0b")).unwrap();
        symlink("0a", path.join("0c")).unwrap();
        for (id, code) in [("0a", "INPUT_MALFORMED"), ("0b", "INPUT_MALFORMED"), ("0c", "INPUT_UNREADABLE")] {
            let error = folder.read(id).unwrap_err();
            assert_eq!(error.code(), code, "{id}: {error}");
            assert!(!error.to_string().contains("c4n4ry"));
        }
    }
}
