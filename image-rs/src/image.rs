//! From a pointer to an image whose documents are what their digests say.

use cc_sealed::LayerEncryption;

use crate::{
    Algorithm, Compression, Descriptor, Digest, Document, Error, ImageConfig, Manifest, Platform, Pointer,
    Source,
    descriptor::Storage,
    manifest::Top,
    source::{check_digest, read_small},
};

/// Most bytes of all layers of an image together that a manifest may announce, so that sums cannot overflow.
pub(crate) const MAX_TOTAL: u64 = 1 << 50;

/// An image whose manifest and configuration were read and compared with their digests. Its layers were not.
#[derive(Clone, Debug)]
pub struct Image {
    manifest_digest: Digest,
    index_digest: Option<Digest>,
    config_digest: Digest,
    config: ImageConfig,
    layers: Vec<Layer>,
}

/// One layer: how it is stored, and what it has to be.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Names the blob.
    pub descriptor: Descriptor,
    /// How the blob is compressed.
    pub compression: Compression,
    /// How the compressed bytes are encrypted, if they are.
    pub encryption: Option<LayerEncryption>,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
}

impl Image {
    /// Reads manifest and configuration of the image that `pointer` names, the one for `platform` if there are several.
    ///
    /// # Errors
    /// What the source says; `IMAGE_DIGEST_MISMATCH`, `IMAGE_LENGTH`, `IMAGE_DOCUMENT_INVALID`, `IMAGE_MEDIA_TYPE` for
    /// documents that are not what they should be; `IMAGE_PLATFORM_MISSING`, also where the configuration names another architecture than `platform`.
    pub fn resolve(source: &dyn Source, pointer: &Pointer, platform: &Platform) -> Result<Self, Error> {
        let (digest, document) = read_named(source, pointer)?;
        let top = Top::parse(document.media_type.as_deref(), &document.bytes)?;
        let (index_digest, manifest_digest, manifest) = match top {
            Top::Manifest(manifest) => (None, digest, manifest),
            Top::Index(index) => {
                let chosen = index.choose(platform)?;
                let bytes = read_document(source, chosen)?;
                match Top::parse(Some(&chosen.media_type), &bytes)? {
                    Top::Manifest(manifest) => (Some(digest), chosen.digest, manifest),
                    Top::Index(_) => {
                        let why = "an entry of an index is an index again".to_owned();
                        return Err(Error::Document { what: "image manifest".to_owned(), why });
                    }
                }
            }
        };
        let config = read_small(source, &manifest.config, "image configuration")?;
        let config = ImageConfig::parse(&config)?;
        // Without an index nobody has chosen; with one, the entry could have said something else than the image.
        let made_for =
            Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant: None };
        if made_for.architecture != platform.architecture || made_for.os != platform.os {
            return Err(Error::NoPlatform {
                wanted: platform.to_string(),
                offered: made_for.to_string().escape_debug().to_string(),
            });
        }
        let config_digest = manifest.config.digest;
        let layers = pair_layers(manifest, &config)?;
        Ok(Self { manifest_digest, index_digest, config_digest, config, layers })
    }

    /// Digest of the manifest: what signatures and policies speak of.
    #[must_use]
    pub const fn manifest_digest(&self) -> Digest {
        self.manifest_digest
    }

    /// Digest of the index that the manifest was chosen from, if there was one.
    #[must_use]
    pub const fn index_digest(&self) -> Option<Digest> {
        self.index_digest
    }

    /// Digest of the configuration, also known as the image's id.
    #[must_use]
    pub const fn config_digest(&self) -> Digest {
        self.config_digest
    }

    /// The configuration.
    #[must_use]
    pub const fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

/// The document that `pointer` names, and its digest.
pub(crate) fn read_named(source: &dyn Source, pointer: &Pointer) -> Result<(Digest, Document), Error> {
    let document = source.document(pointer)?;
    let digest = match pointer {
        Pointer::Digest(digest) => {
            check_digest("image manifest", &document.bytes, *digest)?;
            *digest
        }
        Pointer::Tag(_) => Digest::of(Algorithm::Sha256, &document.bytes),
    };
    Ok((digest, document))
}

/// A manifest that an index names. Registries give it under the path of manifests, not of blobs.
pub(crate) fn read_document(source: &dyn Source, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
    let what = "image manifest";
    let document = source.document(&Pointer::Digest(descriptor.digest))?;
    if document.bytes.len() as u64 != descriptor.size {
        let actual = document.bytes.len().to_string();
        return Err(Error::Length { what: what.to_owned(), expected: descriptor.size, actual });
    }
    check_digest(what, &document.bytes, descriptor.digest)?;
    Ok(document.bytes)
}

fn pair_layers(manifest: Manifest, config: &ImageConfig) -> Result<Vec<Layer>, Error> {
    let malformed = |why: String| Error::Document { what: "image manifest".to_owned(), why };
    let (layers, ids) = (manifest.layers.len(), config.diff_ids.len());
    if layers != ids {
        return Err(malformed(format!("it has {layers} layers, its configuration has {ids} diff_ids")));
    }
    if manifest
        .layers
        .iter()
        .try_fold(0u64, |sum, d| sum.checked_add(d.size))
        .is_none_or(|sum| sum > MAX_TOTAL)
    {
        return Err(malformed("its layers are larger than any image".to_owned()));
    }
    let pair = |(number, (descriptor, diff_id)): (usize, (Descriptor, &Digest))| {
        let storage = Storage::of_media_type(&descriptor.media_type).ok_or_else(|| Error::MediaType {
            what: format!("layer {number}"),
            media_type: descriptor.media_type.clone(),
        })?;
        let encryption = storage.encrypted.then(|| LayerEncryption::parse(&descriptor.annotations));
        let encryption =
            encryption.transpose().map_err(|error| malformed(format!("layer {number}: {error}")))?;
        Ok(Layer { descriptor, compression: storage.compression, encryption, diff_id: *diff_id })
    };
    manifest.layers.into_iter().zip(&config.diff_ids).enumerate().map(pair).collect()
}
