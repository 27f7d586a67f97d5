//! How a result gets its name.
//!
//! A directory is renamed. A mount point gets the result's entries one by one; so that a process that is killed meanwhile leaves
//! nothing that looks whole, their names are written down first, and the next pull takes down what is there of them.

use std::{
    ffi::CString,
    io::{BufRead, BufReader, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Mode, RenameFlags},
    io::Errno,
};

use super::{DIRECTORY, Form, KEPT, Place, Staging, Stays, WORK, open_own, write_new};
use crate::{Error, tree};

/// The names of what gets into a mount point, each ended by a zero.
const PUBLISHED: &str = "published";
/// Bytes of the longest name of a file (`NAME_MAX`), and its end.
const LONGEST: u64 = 256;
/// Where what is taken down lies for the next pull.
const TAKEN_DOWN: &str = "artifact";

impl Staging {
    /// Gives what is called `name` in what was made the name that was wanted, and removes the rest.
    pub(crate) fn publish(mut self, name: &str) -> Result<(), Error> {
        // What is kept has served its purpose, and should not outlive this process if it is killed now.
        tree::remove(self.folder.as_fd(), KEPT).map_err(|error| self.storage("clear up beside", error))?;
        let flags = match self.place.form {
            // Without the flag a directory takes the place of an empty one only.
            Form::Empty => RenameFlags::empty(),
            Form::New => RenameFlags::NOREPLACE,
            Form::Within => {
                let made = self.open(name)?;
                return self.fill(&made);
            }
        };
        let Place { at, target, .. } = &self.place;
        let renamed = rustix::fs::renameat_with(&self.work, name, at, target, flags);
        renamed.map_err(|error| self.not_named(error))
    }

    /// The same after all of it was written to the disk, and so is its name.
    pub(crate) fn publish_durably(self, name: &str) -> Result<(), Error> {
        if self.place.form == Form::Within {
            let names = tree::names(self.open(name)?.as_fd());
            let list =
                names.map(|names| names.iter().flat_map(|name| name.as_bytes_with_nul()).copied().collect());
            let written = list.and_then(|list: Vec<u8>| write_new(self.folder.as_fd(), PUBLISHED, &list));
            written.map_err(|error| self.storage("write to the disk", error))?;
        }
        // One call for all files: a model may have many, and each fsync(2) waits for the journal.
        rustix::fs::syncfs(&self.folder).map_err(|error| self.storage("write to the disk", error))?;
        let at = self.place.at.try_clone();
        let at = at.map_err(|source| Error::Storage { doing: "keep the folder open".to_owned(), source })?;
        let path = self.place.path.clone();
        self.publish(name)?;
        let doing = format!("write to the disk {path}");
        rustix::fs::fsync(&at).map_err(|error| Error::Storage { doing, source: error.into() })
    }

    /// Moves all entries of `made` into the mount point, or none.
    fn fill(&mut self, made: &OwnedFd) -> Result<(), Error> {
        let names = tree::names(made.as_fd()).map_err(|error| self.storage("give its name to", error))?;
        for (done, name) in names.iter().enumerate() {
            let at = &self.place.at;
            let Err(error) = rustix::fs::renameat_with(made, name, at, name, RenameFlags::NOREPLACE) else {
                continue;
            };
            let undo = |name| rustix::fs::renameat_with(at, name, made, name, RenameFlags::NOREPLACE);
            let undone: Vec<_> = names.iter().take(done).map(undo).collect();
            let error = self.not_named(error);
            if undone.iter().any(Result::is_err) {
                // The next pull takes it down: it finds its name here.
                self.stays = Stays::All;
            }
            return Err(error);
        }
        Ok(())
    }

    fn not_named(&self, error: Errno) -> Error {
        match error {
            Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => self.place.taken(),
            other => self.storage("give its name to", other),
        }
    }
}

impl Place {
    /// Takes down from a mount point what a pull that was killed had begun to put there; it lies in `folder` then.
    pub(super) fn take_down(&self, folder: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.form != Form::Within {
            return Ok(());
        }
        let list = match open_own(folder, PUBLISHED) {
            Ok(list) => list,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let made = enter(folder, WORK).and_then(|work| enter(work.as_fd(), TAKEN_DOWN))?;
        let mut list = BufReader::new(list);
        loop {
            let mut name = Vec::new();
            let read = (&mut list).take(LONGEST).read_until(0, &mut name);
            if read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))? == 0 {
                break;
            }
            let name = name.strip_suffix(b"\0").unwrap_or_default();
            let is_name = !name.is_empty() && !matches!(name, b"." | b"..") && !name.contains(&b'/');
            let Some(name) = CString::new(name).ok().filter(|_| is_name) else { continue };
            match rustix::fs::renameat_with(&self.at, &name, &made, &name, RenameFlags::NOREPLACE) {
                // It had not got there yet.
                Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        tree::remove(folder, PUBLISHED)
    }
}

fn enter(folder: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(folder, name, DIRECTORY, Mode::empty()),
        Err(error) => Err(error),
    }
}
