//! Bounds on what one image may ask for, all its layers together.
//!
//! The store is often guest memory, and a registry is not trusted: without bounds a few kilobytes end the machine.

/// Bounds for all layers of an image together. The defaults are far above what images in use need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archives, and bytes that their files claim to have, holes included, in blocks of 4 KiB.
    pub bytes: u64,
    /// Entries of the archives.
    pub entries: u64,
    /// Uncompressed bytes for each compressed byte that has arrived, counted from [`Limits::RATIO_FROM`] on; for each layer, and for the image.
    pub ratio: u64,
    /// Bytes of an entry's name and of a link's target.
    pub name: usize,
    /// Directories above an entry.
    pub depth: usize,
    /// Bytes of memory for what can only be done at the end of a layer (times of directories) or of the image (deletions).
    pub ledger: usize,
}

impl Limits {
    /// Uncompressed bytes below which [`Limits::ratio`] is not looked at.
    pub const RATIO_FROM: u64 = 256 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 256 << 30, entries: 4_000_000, ratio: 1100, name: 4095, depth: 256, ledger: 32 << 20 }
    }
}
