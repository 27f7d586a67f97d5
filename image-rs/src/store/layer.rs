//! The name of a layer in the store, and what is known of it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Algorithm, Digest, Layer, layer::unpack::Policy};

/// Version of what the unpacker makes of an archive. A layer that another version unpacked has another name.
const FORM: u32 = 3;

/// Name of a layer in the store: the SHA-256 of all that was checked of it, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerName(String);

impl LayerName {
    /// The 64 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LayerName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        well_formed.then(|| Self(text.to_owned())).ok_or("a layer's name has 64 hexadecimal digits")
    }
}

/// All that is checked of a layer before it has a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checked {
    form: u32,
    blob: String,
    size: u64,
    /// Tells compression and encryption.
    media_type: String,
    diff_id: String,
    refuse_devices: bool,
    drop_privileges: bool,
}

impl Checked {
    pub(super) fn new(layer: &Layer, policy: Policy) -> Self {
        Self {
            form: FORM,
            blob: layer.descriptor.digest.to_string(),
            size: layer.descriptor.size,
            media_type: layer.descriptor.media_type.clone(),
            diff_id: layer.diff_id.to_string(),
            refuse_devices: policy.refuse_devices,
            drop_privileges: policy.drop_privileges,
        }
    }

    pub(super) fn name(&self) -> LayerName {
        // What another version has unpacked may be mounted, and has another name. Structures of texts and numbers can always be written.
        let text = serde_json::to_vec(&(super::VERSION, self)).unwrap_or_default();
        LayerName(Digest::of(Algorithm::Sha256, &text).hex())
    }
}

/// A layer in the store: what was checked, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Note {
    pub(super) checked: Checked,
    /// Bytes of the uncompressed archive.
    pub(super) bytes: u64,
    /// Bytes that count against the limit of the store: of the archive, or what it takes up if that is more.
    pub(super) occupied: u64,
    /// Bytes that its files claim to have.
    pub(super) claimed: u64,
    pub(super) entries: u64,
    /// Bytes of memory for the names that are kept beside its directory.
    pub(super) names: u64,
    pub(super) attributes_left_out: u64,
}

/// A layer that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name there.
    pub name: LayerName,
    /// Bytes of its uncompressed archive.
    pub bytes: u64,
    /// Bytes that its files claim to have, holes included, in whole blocks.
    pub claimed: u64,
    /// Entries of its archive.
    pub entries: u64,
    /// Bytes of memory for the names of directories and deletions that are kept of it.
    pub names: u64,
    /// `user.` attributes left out, because the file system does not have them.
    pub attributes_left_out: u64,
}

impl Note {
    pub(super) fn stored(&self, name: LayerName) -> Stored {
        Stored {
            name,
            bytes: self.bytes,
            claimed: self.claimed,
            entries: self.entries,
            names: self.names,
            attributes_left_out: self.attributes_left_out,
        }
    }
}
