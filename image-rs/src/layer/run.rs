//! What the layers of one image have in common while they are unpacked: the options, and what is left of its bounds.
//!
//! The bounds are the image's, not each layer's: a hundred layers that each stay just below one fill a machine as well.

use std::sync::{
    Arc, Condvar, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::Options;
use crate::{Compression, LayerFault, Limits};

/// Bytes of a block of most file systems.
const BLOCK: u64 = 4096;
// What is counted, for messages.
const BYTES: &str = "bytes when uncompressed";
const CLAIMED: &str = "bytes of files";
const ENTRIES: &str = "entries";

/// Bounds besides those of the image, such as those of what the archive goes into.
pub(crate) trait Room: std::fmt::Debug + Send + Sync {
    /// Counts uncompressed bytes of an archive.
    fn take(&self, count: u64) -> Result<(), LayerFault>;
}

/// One run over the layers of an image; they may be unpacked at once. A clone is the same run.
#[derive(Clone, Debug)]
pub struct Run {
    options: Options,
    used: Arc<Used>,
    windows: Arc<Windows>,
    room: Option<Arc<dyn Room>>,
}

/// What is used up.
#[derive(Debug, Default)]
struct Used {
    bytes: AtomicU64,
    claimed: AtomicU64,
    entries: AtomicU64,
    names: AtomicU64,
    /// Compressed bytes of the compressed layers begun so far, and what came out of them.
    compressed: AtomicU64,
    inflated: AtomicU64,
}

/// Bytes of decoders' windows that are not in use.
#[derive(Debug)]
struct Windows {
    free: Mutex<u64>,
    freed: Condvar,
}

impl Run {
    /// A run of which nothing is used up.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let windows = Windows { free: Mutex::new(options.windows), freed: Condvar::new() };
        Self::with_windows(options, Arc::new(windows))
    }

    /// A run with bounds of its own, whose decoders share the memory of this one's.
    #[must_use]
    pub fn beside(&self, options: Options) -> Self {
        Self::with_windows(Options { windows: self.options.windows, ..options }, Arc::clone(&self.windows))
    }

    fn with_windows(options: Options, windows: Arc<Windows>) -> Self {
        Self { options, used: Arc::default(), windows, room: None }
    }

    /// The same run, for a layer that has to fit into `room` too.
    pub(crate) fn within(&self, room: Arc<dyn Room>) -> Self {
        Self { room: Some(room), ..self.clone() }
    }

    /// Counts a layer of the image that need not be unpacked, because it was before: `bytes` of its archive with `entries`.
    ///
    /// # Errors
    /// [`LayerFault::Limit`] if the image is too large with it.
    pub fn take_layer(&self, bytes: u64, entries: u64) -> Result<(), LayerFault> {
        take(&self.used.bytes, bytes, BYTES, self.options.limits.bytes)?;
        take(&self.used.claimed, bytes, CLAIMED, self.options.limits.bytes)?;
        take(&self.used.entries, entries, ENTRIES, self.options.limits.entries)
    }

    /// What the layers are unpacked by.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Counts a blob of `size` bytes that is begun.
    pub(super) fn begin(&self, size: u64, compression: Compression) {
        if compression != Compression::None {
            self.used.compressed.fetch_add(size, Ordering::Relaxed);
        }
    }

    /// Counts uncompressed bytes of a blob that is compressed so.
    pub(super) fn take_bytes(&self, compression: Compression, count: u64) -> Result<(), LayerFault> {
        take(&self.used.bytes, count, BYTES, self.options.limits.bytes)?;
        if let Some(room) = &self.room {
            room.take(count)?;
        }
        if compression == Compression::None {
            return Ok(());
        }
        let compressed = self.used.compressed.load(Ordering::Relaxed);
        let most = compressed.saturating_mul(self.options.limits.ratio).max(Limits::RATIO_FROM);
        take(&self.used.inflated, count, BYTES, most)
    }

    /// Counts an entry of an archive; `size` is the length that its file claims to have. File systems set whole blocks aside,
    /// also for a piece between two holes: what a file takes up is bounded by its length with all of them.
    pub(crate) fn take_entry(&self, size: u64) -> Result<(), LayerFault> {
        take(&self.used.entries, 1, ENTRIES, self.options.limits.entries)?;
        let blocks = size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        take(&self.used.claimed, blocks, CLAIMED, self.options.limits.bytes)
    }

    /// Counts bytes of names that are remembered.
    pub(super) fn take_names(&self, count: usize) -> Result<(), LayerFault> {
        take(
            &self.used.names,
            count as u64,
            "bytes of names of directories and deletions",
            self.options.limits.ledger as u64,
        )
    }

    /// Counts bytes of names that are forgotten.
    pub(super) fn return_names(&self, count: usize) {
        self.used.names.fetch_sub(count as u64, Ordering::Relaxed);
    }

    /// Waits for `amount` bytes of memory for a decoder's window. One that is larger than all there is waits for all.
    pub(super) fn take_memory(&self, amount: u64) -> Memory<'_> {
        let taken = amount.min(self.options.windows);
        let Windows { free, freed } = self.windows.as_ref();
        let free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = freed.wait_while(free, |free| *free < taken).unwrap_or_else(PoisonError::into_inner);
        *free -= taken;
        Memory { run: self, amount, taken }
    }
}

/// Memory for a window, given back when the value goes.
#[derive(Debug)]
pub(super) struct Memory<'a> {
    run: &'a Run,
    amount: u64,
    taken: u64,
}

impl Memory<'_> {
    /// Bytes that were asked for.
    pub(super) const fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        let Windows { free, freed } = self.run.windows.as_ref();
        *free.lock().unwrap_or_else(PoisonError::into_inner) += self.taken;
        freed.notify_all();
    }
}

fn take(used: &AtomicU64, count: u64, what: &'static str, limit: u64) -> Result<(), LayerFault> {
    let before = used.fetch_add(count, Ordering::Relaxed);
    if before.saturating_add(count) > limit { Err(LayerFault::Limit { what, limit }) } else { Ok(()) }
}
