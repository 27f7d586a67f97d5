//! What can be asked, and what is answered. A new kind of work is a variant of [`Request`].

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize, de::Error as _};

use crate::Fault;

/// Most layers of one file system: the most that Linux stacks (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Serve the socket that comes with it like this one, until it is closed. Both modes.
    Connect,
    /// Look whether a bundle can be made there; nothing is made. Mode `mount`.
    CheckBundle {
        /// The bundle's folder.
        path: String,
    },
    /// Make a bundle of layers of the store. Mode `mount`. The text of `config.json` comes as a file. The bundle goes when the
    /// channel is closed, unless it is committed before.
    MakeBundle(Bundle),
    /// Let the bundle stay that was made over this channel. Mode `mount`.
    CommitBundle,
    /// Unmount and remove what [`Request::MakeBundle`] made. Mode `mount`.
    RemoveBundle {
        /// The bundle's folder.
        path: String,
    },
    /// Look for a layer in the store, and wait while another channel is filling it. Nothing is removed from the store from
    /// now on until the channel is closed. Mode `unpack`.
    Claim(Claim),
    /// Fill the layer that [`Request::Claim`] found wanting. Its bytes come out of the file or pipe beside the request; if it
    /// is encrypted, the secret is its key. Mode `unpack`.
    Fill(Option<Cipher>),
    /// Note that an image is in the store. Mode `unpack`.
    Record(Image),
    /// Remove the layers of the store that no image and no bundle has, and what is half there; waits some seconds for channels that
    /// were closed to come to their end. Mode `unpack`.
    Collect,
    /// Make the header of a new LUKS2 volume in the file that comes with it, which is as long as the volume's device and empty. The
    /// secret is the volume's key, which also signs the header. Mode `volume`.
    FormatVolume {
        /// The volume's UUID.
        uuid: String,
    },
    /// Replace the key in the header of a LUKS2 volume, in the file that comes with it. The secret is the present key and the new
    /// one, as [`join_keys`](crate::join_keys) puts them together. Mode `volume`.
    RotateVolume,
    /// Open a block device, formatted before if it is to be, and let it appear. The secret is its key. Mode `disk`.
    OpenVolume(Volume),
    /// Undo what [`Request::OpenVolume`] did; if that is still at work, when it has ended. Mode `disk`.
    CloseVolume {
        /// Where it appears.
        mount_point: String,
        /// Only what was opened by the request of this name; none for whatever is there.
        opening: Option<Name>,
    },
    /// Tell what is open. Mode `disk`.
    ListVolumes,
    /// As [`Request::FormatVolume`], with an ext4 file system in the volume, which is written to the device. The header alone comes
    /// back: until whoever asked writes it, the device is no volume. Mode `disk`.
    FormatWithFileSystem {
        /// The volume's UUID.
        uuid: String,
        /// Its device, which begins with [`format_mark`].
        device: Device,
        /// Whether each sector has a tag; what is kept of them is written to the device as well.
        integrity: bool,
    },
    /// Let an open mapping reach to the end of its device, which has grown. The file is the header that it was opened with, the secret its
    /// key. Mode `disk`.
    ResizeVolume {
        /// Name of the mapping.
        name: String,
    },
}

/// What a disk begins with while it is being formatted as the volume `uuid`: nothing else than that volume's format may write to it, and a
/// format that was interrupted begins anew. Less than one sector.
#[must_use]
pub fn format_mark(uuid: &str) -> String {
    format!("this disk is being formatted as the volume {uuid}\n")
}

/// A block device to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Names this request; made up by whoever asks, of random bytes.
    pub opening: Name,
    /// The device.
    pub device: Device,
    /// Name of its mapping.
    pub name: String,
    /// What is on it.
    pub content: Content,
    /// Where it appears: an absolute path.
    pub mount_point: String,
    /// Folders below which that has to be, once links are followed; none for the usual ones.
    pub below: Option<Vec<String>>,
    /// Whether a link to the mapping appears there; else a file system is mounted.
    pub link: bool,
    /// Further arguments for mkfs.ext4, each checked.
    pub mkfs: Vec<String>,
}

/// A block device by its number or path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Device {
    /// Numbers of its driver, and of the device there.
    Number(u32, u32),
    /// Absolute path.
    Path(String),
}

/// What is on a block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Nothing that counts.
    Fresh {
        /// Whether each sector is to be authenticated.
        integrity: bool,
    },
    /// A LUKS2 volume.
    Volume {
        /// Whether its header needs a tag that fits the key.
        signed: bool,
        /// Whether its sectors have to be authenticated.
        require_integrity: bool,
    },
}

/// A block device that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    /// Name of its mapping.
    pub name: String,
    /// Path of the device.
    pub device: String,
    /// Where it appears.
    pub mount_point: String,
    /// Whether it was formatted when it was opened.
    pub fresh: bool,
}

/// A layer that an image needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Names the pull that it is for, over whichever channels that asks; made up by whoever asks, of random bytes. The bounds
    /// of images hold for all layers of one pull together.
    pub pull: Name,
    /// The layer.
    pub layer: Layer,
}

/// A layer as the manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Media type of the blob.
    pub media_type: String,
    /// Digest of the blob.
    pub digest: String,
    /// Length of the blob in bytes.
    pub size: u64,
    /// Digest of the uncompressed archive.
    pub diff_id: String,
    /// Annotations of the blob that tell its encryption; none if it is not encrypted.
    pub encryption: BTreeMap<String, String>,
}

/// What decrypts a layer, besides its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cipher {
    /// The first counter block, in hexadecimal.
    pub nonce: String,
    /// The authentication code of the cipher text, in hexadecimal.
    pub mac: String,
    /// Digest of the layer before it was encrypted.
    pub digest: String,
}

/// An image whose layers are in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The name that it was asked for by.
    pub reference: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// Its layers, the lowest first.
    pub layers: Vec<Name>,
    /// When it was pulled, in seconds since 1970.
    pub at: u64,
}

/// A folder that a container is started from (OCI runtime specification, bundle.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The bundle's folder, absolute; made if it is not there.
    pub path: String,
    /// Layers of the store, the lowest first; each once.
    pub layers: Vec<Name>,
    /// Whom the image names as the one that its program runs as; it is looked up in the image's own files. Empty if it names nobody.
    pub user: String,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// It is done.
    Done,
    /// The layer is in the store under this name.
    Present(Name),
    /// What is open.
    Volumes(Vec<Opened>),
    /// The volume is open; whether its header was authenticated.
    Open {
        /// Whether it carries a tag, which fits the key.
        authentic: bool,
    },
    /// The layer is not in the store; whoever asked is to fill it.
    Wanted,
    /// It is not done, and nothing is left of it.
    Fault(Fault),
}

/// The name of something in the store, or of a pull: 64 hexadecimal digits, so that no name leads anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<[u8; 32]> for Name {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        well_formed.then(|| Self(text.to_owned())).ok_or("a name in the store has 64 hexadecimal digits")
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_nowhere() {
        let name = "0123456789abcdef".repeat(4);
        assert_eq!(name.parse::<Name>().unwrap().as_str(), name);
        assert_eq!(Name::from([0xa5; 32]), "a5".repeat(32).parse().unwrap());
        for bad in
            ["", "..", "a/b", &name[1..], &name.to_uppercase(), &format!("{name}0"), &name.replace('f', "/")]
        {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
            assert!(serde_json::from_value::<Name>(bad.into()).is_err(), "{bad}");
        }
    }
}
