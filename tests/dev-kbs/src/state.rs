//! The state directory: which files it holds, and how private ones are made.
//!
//! Not the database itself (`store`) and not the formats of the keys (`token`, `admin`, `tls`).

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// Largest key or certificate file that is read, in bytes.
const FILE_LIMIT: u64 = 64 * 1024;

/// The directory that holds everything that survives a restart.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// Opens `path`, and makes it (mode 0700, parents included) when it is missing.
    ///
    /// # Errors
    /// [`Error::State`] when it cannot be made or is not a directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::State { doing: "make the state directory", path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        // An absolute path: it is printed for other programs, which run elsewhere.
        Ok(Self { path: path.canonicalize().map_err(fail)? })
    }

    /// The path of the file called `name` in this directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The text of the file `name`; when it is missing, it is first made (mode 0600) with what `make` gives.
    ///
    /// # Errors
    /// [`Error::State`] when the file cannot be read or written, and whatever `make` fails with.
    pub fn load_or_create(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<String, Error>,
    ) -> Result<String, Error> {
        if let Some(text) = self.load(name)? {
            return Ok(text);
        }
        let text = make()?;
        self.create(name, &text, 0o600)?;
        Ok(text)
    }

    /// The text of the file `name`, or nothing when there is no such file.
    ///
    /// # Errors
    /// [`Error::State`] when it exists and cannot be read, is larger than 64 KiB, or is not text.
    pub fn load(&self, name: &str) -> Result<Option<String>, Error> {
        let path = self.file(name);
        let fail = |source| Error::State { doing: "read", path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
            Ok(facts) if facts.len() > FILE_LIMIT => Err(fail(ErrorKind::FileTooLarge.into())),
            Ok(_) => fs::read_to_string(&path).map(Some).map_err(fail),
        }
    }

    /// Writes `text` to the file `name` with `mode`, in one step: a reader sees all of it or nothing.
    ///
    /// # Errors
    /// [`Error::State`] when it cannot be written.
    pub fn create(&self, name: &str, text: &str, mode: u32) -> Result<(), Error> {
        let path = self.file(name);
        let aside = self.file(&format!(".{name}.new"));
        let write = || {
            // A left-over of a crash may have another mode: never write into it.
            match fs::remove_file(&aside) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().map_err(|source| {
            // The first error is the one to report.
            let _ = fs::remove_file(&aside);
            Error::State { doing: "write", path: path.clone(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_made_once_and_kept() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(&place.path().join("a/b")).unwrap();
        let first = state.load_or_create("k", || Ok("one".into())).unwrap();
        let second = state.load_or_create("k", || panic!("must not be made again")).unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("one", "one"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&state.file("k")), 0o600);
        assert_eq!(mode(&place.path().join("a/b")), 0o700);
        assert_eq!(fs::read_dir(place.path().join("a/b")).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn an_oversized_file_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let state = StateDir::open(place.path()).unwrap();
        fs::write(state.file("k"), vec![b'x'; 70_000]).unwrap();
        assert!(state.load("k").unwrap_err().to_string().contains("read"));
    }
}
