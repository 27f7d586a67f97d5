//! One request directory of the TSM interface: its attributes, and its removal in every case.
//!
//! Implements the attribute rules of the Linux ABI document `configfs-tsm-report`. configfs hands a binary
//! attribute to the driver when the file is *closed*, so a write here is open, one `write`, close; and the size
//! that `stat` tells is meaningless, so a read goes on to end of file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{malformed, name};
use crate::Error;

/// Largest text attribute, bytes: configfs gives a page, ours are a number or a short name.
const TEXT_LIMIT: usize = 4096;

/// How much is asked for per read, bytes.
const CHUNK: usize = 4096;

/// A request directory that exists. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
}

impl Entry {
    /// Makes a directory under a name that no other request of any process has.
    pub(super) fn make(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(name::unique()?);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let existing =
                    directory.ancestors().find(|part| part.exists()).unwrap_or_else(|| Path::new("/"));
                Err(Error::TsmMissing { path: directory.to_owned(), existing: existing.to_owned() })
            }
            Err(error) => Err(classify(format!("making the TSM report entry {}", path.display()), error)),
        }
    }

    /// The name of the TEE driver that serves this entry.
    pub(super) fn provider(&self) -> Result<String, Error> {
        let text = self.text("provider")?.ok_or_else(|| malformed("provider", "absent"))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
            return Err(malformed("provider", format!("{text:?} is not a driver name")));
        }
        Ok(text)
    }

    /// The smallest privilege level that may be asked for; none where the provider has no levels.
    pub(super) fn privlevel_floor(&self) -> Result<Option<u32>, Error> {
        self.text("privlevel_floor")?
            .map(|text| {
                text.parse().map_err(|_| malformed("privlevel_floor", format!("{text:?} is not a number")))
            })
            .transpose()
    }

    /// Fails unless exactly `writes` writes have been made to this entry.
    pub(super) fn expect_generation(&self, writes: u64) -> Result<(), Error> {
        let text = self.text("generation")?.ok_or_else(|| malformed("generation", "absent"))?;
        let found = text.parse().map_err(|_| malformed("generation", format!("{text:?} is not a number")))?;
        if found == writes { Ok(()) } else { Err(Error::TsmInterference { expected: writes, found }) }
    }

    /// Writes an attribute in one call and closes it.
    pub(super) fn write(&self, attribute: &'static str, value: &[u8]) -> Result<(), Error> {
        let path = self.path.join(attribute);
        let step = || format!("writing {}", path.display());
        // Never create or truncate: on configfs there is nothing to create, elsewhere it would hide the error.
        let mut file = OpenOptions::new().write(true).open(&path).map_err(|e| classify(step(), e))?;
        let written = file.write(value).map_err(|e| classify(step(), e))?;
        if written == value.len() {
            Ok(())
        } else {
            Err(malformed(attribute, format!("took {written} of {} bytes", value.len())))
        }
    }

    /// Reads an attribute to its end; none if it does not exist.
    pub(super) fn read(&self, attribute: &'static str, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path.join(attribute);
        let step = || format!("reading {}", path.display());
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(classify(step(), error)),
        };
        read_to_end(&mut file, limit)
            .map_err(|e| classify(step(), e))?
            .map(Some)
            .ok_or_else(|| malformed(attribute, format!("longer than {limit} bytes")))
    }

    fn text(&self, attribute: &'static str) -> Result<Option<String>, Error> {
        let Some(bytes) = self.read(attribute, TEXT_LIMIT)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| malformed(attribute, "not text"))?;
        Ok(Some(text.trim_end_matches('\n').to_owned()))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Not recursive: configfs removes the attributes with the entry, and nothing else may be in it.
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a TSM report entry");
        }
    }
}

/// Removes the entries of processes that have died: they block a reload of the TEE driver.
pub(super) fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        if !file_name.to_str().is_some_and(name::is_leftover) {
            continue;
        }
        match fs::remove_dir(entry.path()) {
            Ok(()) => {
                tracing::info!(path = %entry.path().display(), "removed a TSM report entry of a dead process")
            }
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a leftover TSM report entry")
            }
        }
    }
}

/// Reads to end of file, none if there are more than `limit` bytes. A signal (EINTR) is passed up, because
/// the driver may have given up the report for it: the request is begun anew.
fn read_to_end(source: &mut impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    let mut chunk = [0u8; CHUNK];
    loop {
        let count = source.read(&mut chunk)?;
        if count == 0 {
            return Ok(Some(all));
        }
        if all.len() + count > limit {
            return Ok(None);
        }
        all.extend(chunk.iter().take(count));
    }
}

/// Gives an error of the interface its meaning.
fn classify(step: String, error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => Error::TsmNoProvider { step },
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Error::TsmAccess { step, source: error },
        Some(Errno::INVAL) => Error::TsmRefused { step },
        Some(Errno::TIMEDOUT) => Error::TsmHostTimeout { step },
        _ => Error::TsmIo { step, source: error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts one per read, whatever size is asked for.
    struct Parts(Vec<Vec<u8>>);

    impl Read for Parts {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            buffer[..part.len()].copy_from_slice(&part);
            Ok(part.len())
        }
    }

    #[test]
    fn short_reads_are_joined_and_the_cap_holds() {
        let parts = || Parts(vec![vec![1; 1000], vec![2; 184], vec![3; 1]]);
        let all = read_to_end(&mut parts(), 1185).unwrap().unwrap();
        assert_eq!((all.len(), all[999], all[1000], all[1184]), (1185, 1, 2, 3));
        assert_eq!(read_to_end(&mut parts(), 1184).unwrap(), None);
    }

    #[test]
    fn kernel_answers_get_their_codes() {
        let code = |errno: Errno| classify("reading x".to_owned(), errno.into()).code();
        assert_eq!(code(Errno::NXIO), "TSM_NO_PROVIDER");
        assert_eq!(code(Errno::ACCESS), "TSM_ACCESS_DENIED");
        assert_eq!(code(Errno::PERM), "TSM_ACCESS_DENIED");
        assert_eq!(code(Errno::ROFS), "TSM_ACCESS_DENIED");
        assert_eq!(code(Errno::INVAL), "TSM_REFUSED");
        assert_eq!(code(Errno::TIMEDOUT), "TSM_HOST_TIMEOUT");
        assert_eq!(code(Errno::IO), "TSM_IO");
        assert_eq!(code(Errno::NOTTY), "TSM_IO");
    }

    #[test]
    fn a_missing_interface_names_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("tsm/report");
        let error = Entry::make(&missing).unwrap_err();
        assert_eq!(error.code(), "TSM_MISSING");
        let (missing, existing) = (missing.display(), directory.path().display());
        assert_eq!(error.to_string(), format!("{missing} does not exist, only {existing}"));
    }

    #[test]
    fn an_ordinary_directory_is_not_the_interface() {
        let directory = tempfile::tempdir().unwrap();
        let entry = Entry::make(directory.path()).unwrap();
        assert_eq!(entry.provider().unwrap_err().code(), "TSM_MALFORMED");
        drop(entry);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "the entry is removed");
    }

    #[test]
    fn attributes_of_a_wrong_form_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let entry = Entry::make(directory.path()).unwrap();
        let path = entry.path.clone();
        let put = |attribute: &str, value: &[u8]| fs::write(path.join(attribute), value).unwrap();
        put("provider", b"sev_guest\n");
        assert_eq!(entry.provider().unwrap(), "sev_guest");
        for bad in [&b""[..], b"\n", b"two words\n", b"\xff\xfe", b"a\x1b[31m\n", &[b'a'; 65]] {
            put("provider", bad);
            assert_eq!(entry.provider().unwrap_err().code(), "TSM_MALFORMED", "{bad:?}");
        }
        assert_eq!(entry.privlevel_floor().unwrap(), None);
        put("privlevel_floor", b"2\n");
        assert_eq!(entry.privlevel_floor().unwrap(), Some(2));
        for bad in [&b"-1\n"[..], b"x", b"", b"4294967296"] {
            put("privlevel_floor", bad);
            assert_eq!(entry.privlevel_floor().unwrap_err().code(), "TSM_MALFORMED", "{bad:?}");
        }
        put("generation", b"2\n");
        entry.expect_generation(2).unwrap();
        let error = entry.expect_generation(1).unwrap_err();
        assert_eq!(error.code(), "TSM_INTERFERENCE");
        for attribute in ["provider", "privlevel_floor", "generation"] {
            fs::remove_file(path.join(attribute)).unwrap();
        }
    }

    #[test]
    fn leftovers_of_dead_processes_go_and_the_rest_stays() {
        let directory = tempfile::tempdir().unwrap();
        // No process has this number: it is above the largest pid_max that Linux knows.
        let dead = name::of_process(4_194_305);
        fs::create_dir(directory.path().join(&dead)).unwrap();
        let alive = name::unique().unwrap();
        fs::create_dir(directory.path().join(&alive)).unwrap();
        fs::create_dir(directory.path().join("somebody-elses")).unwrap();
        remove_leftovers(directory.path());
        let mut left: Vec<String> = fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [alive, "somebody-elses".to_owned()]);
    }
}
