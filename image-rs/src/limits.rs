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

/// What is counted, for messages.
pub(crate) mod counted {
    pub(crate) const STORED: &str = "bytes as stored";
    pub(crate) const INFLATED: &str = "bytes when uncompressed";
    pub(crate) const INFLATED_BY_RATIO: &str = "bytes when uncompressed, for what has come of it compressed";
    pub(crate) const CLAIMED: &str = "bytes of files";
    pub(crate) const IN_FILES: &str = "bytes in its files";
    pub(crate) const WINDOW: &str = "bytes of a decoder's window";
    pub(crate) const NAMES: &str = "bytes of names of directories and deletions";
    pub(crate) const ENTRIES: &str = "entries";
    pub(crate) const NAME: &str = "bytes in a name";
    pub(crate) const DEPTH: &str = "directories around an entry";
}

/// The next step when there is more than a bound of `what`: the option that raises it. The data hub has a key for each, the unit of
/// `cdh-storage unpack` an option of the same name.
pub(crate) fn hint(what: &str) -> &'static str {
    match what {
        counted::STORED | counted::INFLATED | counted::CLAIMED | counted::IN_FILES => {
            "if the image is meant to be so large, raise --max-bytes; for PullImage image.max_image_bytes, or --max-image-bytes of the unit that unpacks"
        }
        counted::WINDOW => {
            "compress the layer without --long and --ultra, or raise --max-window; for PullImage image.max_window_bytes, or --max-window of the unit that unpacks"
        }
        counted::ENTRIES => {
            "build the image with fewer files; PullImage takes more by image.max_image_entries, or --max-image-entries of the unit that unpacks"
        }
        counted::INFLATED_BY_RATIO => {
            "compress the layer less; PullImage takes more by image.max_ratio, or --max-ratio of the unit that unpacks"
        }
        counted::NAME => {
            "build the layer with shorter names, or raise image.max_name_bytes where that is lower"
        }
        counted::DEPTH => {
            "build the layer with fewer directories in each other, or raise image.max_depth where that is lower"
        }
        _ => "build the image anew with less of it in one layer; this bound is fixed",
    }
}

impl Limits {
    /// Most bytes of a name: what Linux takes in a path (limits.h, `PATH_MAX`).
    pub const MOST_NAME: usize = 4095;
    /// Most directories above an entry: with the longest names in them it can be removed again.
    pub const MOST_DEPTH: usize = 256;
    /// Uncompressed bytes below which [`Limits::ratio`] is not looked at.
    pub const RATIO_FROM: u64 = 256 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 256 << 30,
            entries: 4_000_000,
            ratio: 1100,
            name: Self::MOST_NAME,
            depth: Self::MOST_DEPTH,
            ledger: 32 << 20,
        }
    }
}
