//! What the layers of one image have in common while they are unpacked: the options, and what is left of its bounds.
//!
//! The bounds are the image's, not each layer's: a hundred layers that each stay just below one fill a machine as well.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Options;
use crate::LayerFault;

/// One run over the layers of an image; they may be unpacked at once.
#[derive(Debug)]
pub struct Run {
    options: Options,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Run {
    /// A run of which nothing is used up.
    #[must_use]
    pub const fn new(options: Options) -> Self {
        Self { options, bytes: AtomicU64::new(0), entries: AtomicU64::new(0) }
    }

    /// What the layers are unpacked by.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Counts uncompressed bytes of an archive.
    pub(super) fn take_bytes(&self, count: u64) -> Result<(), LayerFault> {
        take(&self.bytes, count, "bytes when uncompressed", self.options.limits.bytes)
    }

    /// Counts an entry of an archive.
    pub(super) fn take_entry(&self) -> Result<(), LayerFault> {
        take(&self.entries, 1, "entries", self.options.limits.entries)
    }
}

fn take(used: &AtomicU64, count: u64, what: &'static str, limit: u64) -> Result<(), LayerFault> {
    let before = used.fetch_add(count, Ordering::Relaxed);
    if before.saturating_add(count) > limit { Err(LayerFault::Limit { what, limit }) } else { Ok(()) }
}
