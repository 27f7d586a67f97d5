//! The rules of the reader, by name.

/// Which rule an archive breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule} (header at byte {at})")]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// Where the header concerned begins, in bytes of the uncompressed archive.
    pub at: u64,
}

/// A rule of the reader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// The sum over the header is not the one in it.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// Neither ustar, nor GNU, nor an old header with zeros where the magic is.
    #[error("the header's magic is unknown")]
    Magic,
    /// A number that is not octal with an end after it, or base-256 of the one form that all readers know.
    #[error("the header's {0} is malformed")]
    Number(&'static str),
    /// A negative number where none can be.
    #[error("the header's {0} is negative")]
    Negative(&'static str),
    /// A number that no system can hold.
    #[error("the header's {0} is out of range")]
    OutOfRange(&'static str),
    /// A type that this reader does not know; readers differ in what they do with it.
    #[error("the entry's type {0:#04x} is unknown")]
    Type(u8),
    /// An entry without a name.
    #[error("the entry has no name")]
    EmptyName,
    /// A link without a target.
    #[error("the link has no target")]
    EmptyTarget,
    /// A file whose name ends like a directory's; some readers make a directory.
    #[error("the name ends in a slash and the entry is no directory")]
    TrailingSlash,
    /// A NUL inside a name from an extended header; some readers end the name there.
    #[error("a name has a NUL byte in it")]
    NulInName,
    /// A directory, link or device with data; some readers take that for headers.
    #[error("an entry of a type without data has a size")]
    SizeWithoutData,
    /// A pax record whose length, separator or end is wrong.
    #[error("a pax record is malformed")]
    PaxRecord,
    /// One keyword twice in a header; readers differ in which one holds.
    #[error("the pax keyword {0} is there twice")]
    PaxDuplicate(String),
    /// A value that is not of its keyword's form.
    #[error("the pax value of {0} is malformed")]
    PaxValue(String),
    /// A pax keyword that is not supported and must not be passed over.
    #[error("the pax keyword {0} is not supported")]
    PaxKeyword(String),
    /// A global header that says something about entries; readers differ in whether they obey.
    #[error("a global pax header sets {0}")]
    GlobalPax(String),
    /// Two extended headers of one kind before one entry, or a global one between.
    #[error("an entry has two extended headers of one kind")]
    ExtendedTwice,
    /// A GNU long name and a pax name for one entry.
    #[error("an entry has two long names")]
    NameTwice,
    /// The archive ends after an extended header.
    #[error("an extended header has no entry")]
    ExtendedWithoutEntry,
    /// One block of zeros, then something else; some readers go on.
    #[error("a single block of zeros is not the end")]
    LoneZeroBlock,
    /// A sparse map that is out of order, out of the file, or not as long as the data.
    #[error("the map of a sparse file is malformed")]
    SparseMap,
    /// The stream ended inside an entry.
    #[error("the archive ends inside an entry")]
    Truncated,
    /// A bound was reached.
    #[error("more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
}
