//! Which images the store has, and of which layers they are.

use std::os::fd::AsFd;

use serde::{Deserialize, Serialize};

use super::{LayerName, Store};
use crate::{Digest, Error, tree};

/// An image whose layers are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name that it was asked for by.
    pub reference: String,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<LayerName>,
    /// When it was pulled, in seconds since 1970 by the guest's clock.
    pub at: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    reference: String,
    manifest: String,
    layers: Vec<String>,
    at: u64,
}

impl Record {
    fn parse(text: &[u8]) -> Option<Self> {
        let text: Text = serde_json::from_slice(text).ok()?;
        let layers = text.layers.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?;
        Some(Self { reference: text.reference, manifest: text.manifest.parse().ok()?, layers, at: text.at })
    }

    fn file(manifest: &Digest) -> String {
        format!("{}-{}.json", manifest.algorithm().as_str(), manifest.hex())
    }
}

impl Store {
    /// Notes that an image is in the store; its layers stay until it is removed.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`.
    pub fn record(&self, record: &Record) -> Result<(), Error> {
        let text = Text {
            reference: record.reference.clone(),
            manifest: record.manifest.to_string(),
            layers: record.layers.iter().map(ToString::to_string).collect(),
            at: record.at,
        };
        let images = self.subfolder("images")?;
        let text = serde_json::to_vec(&text).unwrap_or_default();
        self.write(images.as_fd(), &Record::file(&record.manifest), &text)
    }

    /// The images in the store, the oldest first. A note that cannot be read is passed over.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`.
    pub fn images(&self) -> Result<Vec<Record>, Error> {
        let images = self.subfolder("images")?;
        let names = tree::names(images.as_fd()).map_err(|error| self.storage("read", error))?;
        let mut records = Vec::new();
        for name in names.iter().filter_map(|name| name.to_str().ok()) {
            let text = self.read(images.as_fd(), name)?;
            records.extend(
                text.and_then(|text| Record::parse(&text)).filter(|r| Record::file(&r.manifest) == name),
            );
        }
        records.sort_by(|one, other| (one.at, &one.reference).cmp(&(other.at, &other.reference)));
        Ok(records)
    }

    /// Forgets an image. Its layers go with the next [`Store::collect`], unless something else has them. Whether there was one.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`.
    pub fn forget(&self, manifest: &Digest) -> Result<bool, Error> {
        let images = self.subfolder("images")?;
        let name = Record::file(manifest);
        let known = self.read(images.as_fd(), &name)?.is_some();
        self.remove(images.as_fd(), &name)?;
        Ok(known)
    }

    /// Bytes of the uncompressed archives of all layers.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`.
    pub fn used(&self) -> Result<u64, Error> {
        let mut used: u64 = 0;
        for name in self.layer_names()? {
            used = used.saturating_add(self.note(&name)?.map_or(0, |note| note.occupied));
        }
        Ok(used)
    }

    /// The names of all layers that are there.
    pub(super) fn layer_names(&self) -> Result<Vec<LayerName>, Error> {
        let layers = self.subfolder("layers")?;
        let names = tree::names(layers.as_fd()).map_err(|error| self.storage("read", error))?;
        Ok(names.iter().filter_map(|name| name.to_str().ok()?.parse().ok()).collect())
    }
}
