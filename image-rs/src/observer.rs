//! What a pull tells while it runs, and how it is stopped.

use crate::Digest;

/// One step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A layer's pipe was started.
    LayerStarted {
        /// Its place, 0 is the lowest.
        layer: usize,
        /// Its digest.
        digest: Digest,
        /// Its compressed length in bytes.
        size: u64,
    },
    /// Bytes of a layer are there from an earlier pull, and were hashed again.
    LayerKept {
        /// Its place.
        layer: usize,
        /// Compressed bytes that need not be fetched.
        bytes: u64,
    },
    /// Bytes of a layer were read and hashed.
    LayerRead {
        /// Its place.
        layer: usize,
        /// Compressed bytes so far.
        bytes: u64,
    },
    /// A layer was checked and unpacked.
    LayerUnpacked {
        /// Its place.
        layer: usize,
        /// Entries of its archive.
        entries: u64,
        /// Bytes of its archive.
        bytes: u64,
        /// `user.` attributes that the file system does not take.
        attributes_left_out: u64,
    },
    /// Of a pull that was cut off something stays for the next one.
    Kept {
        /// The folder that it stays in.
        folder: String,
        /// Its bytes.
        bytes: u64,
    },
    /// What a pull that failed had made stays for now.
    LeftBehind {
        /// What could not be done, and why.
        why: String,
    },
}

/// Takes the events of a pull; called from several threads.
pub trait Observer: Sync {
    /// Takes an event. Should return soon.
    fn event(&self, event: Event);

    /// Whether the pull is to stop. Asked between blocks of data.
    fn stopped(&self) -> bool {
        false
    }
}

/// Nobody is interested.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}
