//! Signatures that lie beside their image in a [`Source`], and keys that something else reads.
//!
//! For sources without a call for referrers, such as an image layout: there the tag schema tells. A registry client that has
//! that call implements [`Signatures`] itself.

use std::{fmt, io::Read};

use super::Signatures;
use crate::{Descriptor, Digest, Document, Error, Pointer, Source};

/// Reads a key or a file of a lookaside folder, by path or URL; `IMAGE_NOT_FOUND` if there is none.
pub type Fetch<'a> = dyn FnMut(&str) -> Result<Vec<u8>, Error> + 'a;

/// The signatures beside an image.
pub struct Beside<'a> {
    source: &'a dyn Source,
    fetch: Box<Fetch<'a>>,
}

impl<'a> Beside<'a> {
    /// Signatures in `source`; keys and lookaside folders are read by `fetch`.
    pub fn new(source: &'a dyn Source, fetch: impl FnMut(&str) -> Result<Vec<u8>, Error> + 'a) -> Self {
        Self { source, fetch: Box::new(fetch) }
    }
}

impl fmt::Debug for Beside<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Beside").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Signatures for Beside<'_> {
    fn document(&mut self, pointer: &Pointer) -> Result<Document, Error> {
        self.source.document(pointer)
    }

    fn referrers(&mut self, subject: &Digest) -> Result<Vec<u8>, Error> {
        Err(Error::NotFound { what: format!("list of what refers to {subject}") })
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let blob = self.source.blob(descriptor)?;
        let read = blob.take(descriptor.size.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| Error::from_read(|| descriptor.digest.to_string(), error))?;
        Ok(bytes)
    }

    fn lookaside(&mut self, url: &str) -> Result<Vec<u8>, Error> {
        (self.fetch)(url)
    }

    fn key(&mut self, location: &str) -> Result<Vec<u8>, Error> {
        (self.fetch)(location)
    }
}
