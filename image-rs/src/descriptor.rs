//! Descriptors: media type, digest and length of a blob (OCI image specification, descriptor.md).

use std::collections::BTreeMap;

use crate::{Digest, Error, Platform, json::Object};

/// Members that are read.
pub(crate) const MEMBERS: [&str; 5] = ["mediaType", "digest", "size", "annotations", "platform"];
const PLATFORM_MEMBERS: [&str; 3] = ["os", "architecture", "variant"];

/// Names one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Notes, such as the name in an image layout or the wrapped key of an encrypted layer.
    pub annotations: BTreeMap<String, String>,
    /// What the image behind it is made for; entries of an index have it.
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Reads a descriptor. `urls` and `data` are not used: a blob comes from where its image comes from.
    pub(crate) fn read(object: &Object<'_>) -> Result<Self, Error> {
        let digest = object.required_text("digest")?;
        let digest = digest.parse().map_err(|error: Error| object.malformed(error.to_string()))?;
        let platform = object.object("platform", &PLATFORM_MEMBERS)?;
        Ok(Self {
            media_type: object.required_text("mediaType")?.to_owned(),
            digest,
            size: object.required_number("size")?,
            annotations: object.pairs("annotations")?.into_iter().collect(),
            platform: platform.as_ref().map(read_platform).transpose()?,
        })
    }
}

fn read_platform(object: &Object<'_>) -> Result<Platform, Error> {
    Ok(Platform {
        os: object.required_text("os")?.to_owned(),
        architecture: object.required_text("architecture")?.to_owned(),
        variant: object.text("variant")?.filter(|v| !v.is_empty()).map(str::to_owned),
    })
}

/// How a layer's archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952, one or more members.
    Gzip,
    /// Zstandard, RFC 8878, one or more frames.
    Zstd,
}

/// How a layer's archive is stored, as the media type of its descriptor says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// How it is compressed.
    pub compression: Compression,
    /// Whether the compressed bytes are encrypted.
    pub encrypted: bool,
}

impl Storage {
    /// What `media_type` says; `None` if it is not one of a layer.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let (plain, encrypted) = match media_type.strip_suffix("+encrypted") {
            // Only layers in OCI's own types are encrypted.
            Some(plain) if plain.starts_with("application/vnd.oci.") => (plain, true),
            Some(_) => return None,
            None => (media_type, false),
        };
        let compression = match plain {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
            _ => return None,
        };
        Some(Self { compression, encrypted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_tell_compression_and_encryption() {
        use Compression::{Gzip, None as Plain, Zstd};
        let oci = "application/vnd.oci.image.layer";
        let docker = "application/vnd.docker.image.rootfs";
        for kind in ["", ".nondistributable"] {
            for (ending, compression) in [("", Plain), ("+gzip", Gzip), ("+zstd", Zstd)] {
                for encrypted in [false, true] {
                    let suffix = if encrypted { "+encrypted" } else { "" };
                    let media_type = format!("{oci}{kind}.v1.tar{ending}{suffix}");
                    let storage = Some(Storage { compression, encrypted });
                    assert_eq!(Storage::of_media_type(&media_type), storage, "{media_type}");
                }
            }
        }
        for (ending, compression) in [("", Plain), (".gzip", Gzip), (".zstd", Zstd)] {
            let storage = Some(Storage { compression, encrypted: false });
            assert_eq!(Storage::of_media_type(&format!("{docker}.diff.tar{ending}")), storage);
        }
        for other in [
            format!("{docker}.diff.tar.gzip+encrypted"),
            format!("{oci}.v1.tar+encrypted+gzip"),
            format!("{oci}.v1.tar+gzip+encrypted+encrypted"),
            format!("{oci}.v1.tar+xz"),
            "+encrypted".to_owned(),
            String::new(),
        ] {
            assert_eq!(Storage::of_media_type(&other), None, "{other}");
        }
    }
}
