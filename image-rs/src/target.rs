//! Where a result appears, what may stay beside it for the next pull, and what confines the work on it.

use std::{ffi::OsStr, fmt, os::fd::BorrowedFd, thread};

use crate::Error;

/// The name of a result in an open folder.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub(crate) folder: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
    confine: Option<&'a (dyn Fn(BorrowedFd<'_>) + Sync)>,
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("folder", &self.folder)
            .field("name", &self.name)
            .field("is_confined", &self.confine.is_some())
            .finish()
    }
}

impl<'a> Target<'a> {
    /// `name`, one part of a path, in `folder`.
    #[must_use]
    pub const fn new(folder: BorrowedFd<'a>, name: &'a OsStr) -> Self {
        Self { folder, name, confine: None }
    }

    /// The same, but what reads archives does so on a thread that `confine` was called on first, and on threads that this one
    /// starts. `confine` gets the folder that all of it is made in. The source is read by these threads as well.
    #[must_use]
    pub const fn confined_by(self, confine: &'a (dyn Fn(BorrowedFd<'_>) + Sync)) -> Self {
        Self { confine: Some(confine), ..self }
    }

    /// Does `work` in `folder`, confined if that was asked for.
    ///
    /// # Errors
    /// Those of `work`; `IMAGE_STORAGE` if there can be no thread.
    pub(crate) fn confined<T: Send>(
        &self,
        folder: BorrowedFd<'_>,
        work: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        let Some(confine) = self.confine else { return work() };
        thread::scope(|scope| {
            let confined = thread::Builder::new().spawn_scoped(scope, || {
                confine(folder);
                work()
            });
            let confined =
                confined.map_err(|source| Error::Storage { doing: "start a thread".to_owned(), source })?;
            confined.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
