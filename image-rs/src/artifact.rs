//! Artifacts: files that are kept in a registry like images, such as models, and how they get into a folder.
//!
//! An artifact is a manifest whose configuration is not an image's (OCI image specification 1.1, manifest.md, "Guidelines
//! for Artifact Usage"). Its layers are files, named by the annotation `org.opencontainers.image.title`, or archives of
//! directories, marked `io.deis.oras.content.unpack`, as ORAS writes them. They may be encrypted like the layers of images
//! (ocicrypt). It is NOT a way to unpack images: those have layers that change each other, owners, devices and deletions; an
//! artifact has files and directories, which belong to whoever pulls it.
//!
//! A title says where bytes of a registry are written. So it is read strictly ([`Title`]), no two parts may lie in each other,
//! and each part's files are made beneath the new folder through no symbolic link (openat2(2)).

mod archive;
mod document;
mod folder;
mod title;

use cc_sealed::LayerEncryption;

use crate::{Compression, Descriptor, Digest, Error, Platform, Pointer, Source, image, manifest};
use document::Top;
pub use folder::{ArtifactOrder, Pulled, pull_artifact};
pub use title::Title;

/// An artifact whose manifest was read and compared with its digest. Its parts were not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    manifest_digest: Digest,
    index_digest: Option<Digest>,
    kind: String,
    parts: Vec<Part>,
    untitled: Vec<Digest>,
}

/// One file or archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its place in the folder.
    pub title: Title,
    /// Names the blob.
    pub descriptor: Descriptor,
    /// How the blob is encrypted, if it is.
    pub encryption: Option<LayerEncryption>,
    /// What is in it.
    pub form: PartForm,
}

/// What is in a blob once it is decrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartForm {
    /// A file, byte for byte.
    File,
    /// A tar archive of the directory that the title names.
    Archive {
        /// How it is compressed.
        compression: Compression,
        /// Digest of the uncompressed archive, if the manifest names one.
        digest: Option<Digest>,
    },
}

impl Artifact {
    /// Reads the manifest of the artifact that `pointer` names. Of an index the one for `platform` is taken, or the only one.
    ///
    /// # Errors
    /// What the source says; `IMAGE_DIGEST_MISMATCH`, `IMAGE_LENGTH`, `IMAGE_DOCUMENT_INVALID`, `IMAGE_MEDIA_TYPE` for
    /// documents that are not what they should be; `ARTIFACT_INVALID` for an image, or a manifest without files;
    /// `ARTIFACT_TITLE_REFUSED`.
    pub fn resolve(source: &dyn Source, pointer: &Pointer, platform: &Platform) -> Result<Self, Error> {
        let (digest, found) = image::read_named(source, pointer)?;
        let (index_digest, manifest_digest, document) =
            match Top::parse(found.media_type.as_deref(), &found.bytes)? {
                Top::Manifest(document) => (None, digest, document),
                Top::Index(index) => {
                    let chosen = match index.manifests.as_slice() {
                        [only] => only,
                        _ => index.choose(platform)?,
                    };
                    let bytes = image::read_document(source, chosen)?;
                    match Top::parse(Some(&chosen.media_type), &bytes)? {
                        Top::Manifest(document) => (Some(digest), chosen.digest, document),
                        Top::Index(_) => {
                            let why = "an entry of an index is an index again";
                            return Err(Error::Document {
                                what: manifest::WHAT.to_owned(),
                                why: why.to_owned(),
                            });
                        }
                    }
                }
            };
        let document::Document { kind, parts, untitled } = document;
        Ok(Self { manifest_digest, index_digest, kind, parts, untitled })
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

    /// What it says that it is: `artifactType`, or the media type of its configuration.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What gets into the folder; at least one part.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Layers without a title, which get nowhere.
    #[must_use]
    pub fn untitled(&self) -> &[Digest] {
        &self.untitled
    }
}
