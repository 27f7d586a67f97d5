//! Counters for tests, kept in a file that is replaced as a whole.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    /// Reports that were generated, cached ones not counted.
    pub(crate) quotes: u64,
    /// Request directories that exist now.
    pub(crate) entries_open: u64,
}

/// The counters and the file they are kept in.
#[derive(Debug)]
pub(crate) struct Stats {
    counts: Mutex<Counts>,
    path: Option<PathBuf>,
}

impl Stats {
    /// Counters at zero; written to `path` at once and after each change.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        let stats = Self { counts: Mutex::new(Counts::default()), path };
        stats.update(|_| {});
        stats
    }

    /// Changes the counters and the file. The lock is held while writing, so the file never goes back in time.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        let Some(path) = &self.path else { return };
        let aside = path.with_extension("aside");
        let text = serde_json::to_string(&*counts).unwrap_or_default();
        if let Err(error) = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path)) {
            tracing::warn!(path = %path.display(), %error, "cannot write the counters");
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
