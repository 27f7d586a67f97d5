//! Bounds on what one layer may ask for.
//!
//! The store is often guest memory, and a registry is not trusted: without bounds a few kilobytes end the machine.

/// Bounds for each layer. The defaults are far above what images in use need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive, and bytes that its files claim to have (holes included).
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Uncompressed bytes for each compressed byte, counted from [`Limits::RATIO_FROM`] on.
    pub ratio: u64,
    /// Bytes of an entry's name and of a link's target.
    pub name: usize,
    /// Directories above an entry.
    pub depth: usize,
    /// Bytes of memory for what can only be done at the end of a layer: times of directories, deletions.
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
