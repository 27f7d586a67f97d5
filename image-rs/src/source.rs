//! Where an image comes from: something that has documents under names and blobs under digests.
//!
//! A source is not trusted. Whoever uses it compares lengths and digests; the source only finds and transports.

mod archive;
mod layout;

use std::{
    fmt,
    io::{self, Read},
};

use crate::{Descriptor, Digest, Error, Mismatch};

pub use layout::Layout;

/// Most bytes of a manifest, an index or a configuration. Registries refuse larger ones.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// Names a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// By a name that can be moved.
    Tag(String),
    /// By its content.
    Digest(Digest),
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest or an index as the source gave it, unchecked.
#[derive(Clone, Debug)]
pub struct Document {
    /// The media type that came with it.
    pub media_type: Option<String>,
    /// Its bytes, at most [`MAX_DOCUMENT`].
    pub bytes: Vec<u8>,
}

/// A place that images are read from. Calls block; several threads call at once.
pub trait Source: fmt::Debug + Send + Sync {
    /// The manifest or index under `pointer`.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND` if there is none, else what the transport says.
    fn document(&self, pointer: &Pointer) -> Result<Document, Error>;

    /// The bytes of a configuration or layer, from the first on. They may end early or late and may be wrong; the caller
    /// compares. A failing `read` can carry an [`Error`] of this crate (`io::Error::other`), which is then
    /// reported as it is.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND` if there is none, else what the transport says.
    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error>;

    /// The same from the byte at `at` on, which is not behind the end.
    ///
    /// # Errors
    /// As [`Source::blob`].
    fn blob_from(&self, descriptor: &Descriptor, at: u64) -> Result<Box<dyn Read + Send>, Error> {
        let mut blob = self.blob(descriptor)?;
        let skipped = io::copy(&mut (&mut blob).take(at), &mut io::sink());
        skipped.map_err(|error| Error::from_read(|| format!("blob {}", descriptor.digest), error))?;
        Ok(blob)
    }

    /// The same for a blob that is a document, such as a configuration or a signature. A source may limit how long all of it
    /// takes, since it is known how long documents are.
    ///
    /// # Errors
    /// As [`Source::blob`].
    fn document_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        self.blob(descriptor)
    }

    /// Ends whatever waits for this source, soon, with [`Error::Interrupted`]: one of several blobs cannot be used, and the
    /// others are not wanted any more. The source gives nothing after that. Sources that are never waited for need not do
    /// anything.
    fn give_up(&self) {}
}

/// Reads the small blob that `descriptor` names and compares length and digest.
pub(crate) fn read_small(source: &dyn Source, descriptor: &Descriptor, what: &str) -> Result<Vec<u8>, Error> {
    let length = |actual: String| Error::Length { what: what.to_owned(), expected: descriptor.size, actual };
    if descriptor.size > MAX_DOCUMENT {
        let why = format!("it has {} bytes, more than {MAX_DOCUMENT}", descriptor.size);
        return Err(Error::Document { what: what.to_owned(), why });
    }
    let mut bytes = Vec::new();
    source
        .document_blob(descriptor)?
        .take(descriptor.size + 1)
        .read_to_end(&mut bytes)
        .map_err(|error: io::Error| Error::from_read(|| what.to_owned(), error))?;
    match (bytes.len() as u64).cmp(&descriptor.size) {
        std::cmp::Ordering::Less => return Err(length(bytes.len().to_string())),
        std::cmp::Ordering::Greater => return Err(length("more".to_owned())),
        std::cmp::Ordering::Equal => {}
    }
    check_digest(what, &bytes, descriptor.digest)?;
    Ok(bytes)
}

/// Compares the digest of `bytes`, called `what`, with the one it was named by.
pub(crate) fn check_digest(what: &str, bytes: &[u8], expected: Digest) -> Result<(), Error> {
    let actual = Digest::of(expected.algorithm(), bytes);
    if actual == expected {
        return Ok(());
    }
    let digests = Box::new(Mismatch { expected, actual });
    Err(Error::DigestMismatch { what: what.to_owned(), digests })
}
