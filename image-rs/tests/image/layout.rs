//! Writes image layouts, right ones and wrong ones.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use image_rs::{Algorithm, Compression, Descriptor, Digest, Layer, manifest::MANIFEST_TYPES};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// How test layers are compressed, and what that is called.
pub fn compress(compression: Compression, archive: &[u8]) -> (Vec<u8>, &'static str) {
    match compression {
        Compression::None => (archive.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(archive).unwrap();
            (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
        }
        Compression::Zstd => {
            (zstd::encode_all(archive, 1).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
        }
    }
}

pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A layer and its blob.
pub fn layer(compression: Compression, archive: &[u8]) -> (Layer, Vec<u8>) {
    let (blob, media_type) = compress(compression, archive);
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: sha256(&blob),
        size: blob.len() as u64,
        annotations: Default::default(),
        platform: None,
    };
    (Layer { descriptor, compression, encryption: None, diff_id: sha256(archive) }, blob)
}

/// An image layout in a temporary folder.
pub struct Image {
    pub folder: TempDir,
}

impl Image {
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder }
    }

    /// A layout with one image of these layers, called `it`.
    pub fn of_layers(layers: &[(Compression, Vec<u8>)]) -> Self {
        let image = Self::empty();
        let ids: Vec<String> = layers.iter().map(|(_, archive)| sha256(archive).to_string()).collect();
        let layers: Vec<Value> = layers
            .iter()
            .map(|(compression, archive)| {
                let (blob, media_type) = compress(*compression, archive);
                image.blob(media_type, &blob)
            })
            .collect();
        let manifest = image.manifest(&json!(layers), &json!(ids));
        image.index(&[named(&manifest, "it")]);
        image
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Stores a blob and gives its descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes).to_string();
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    /// Stores manifest and configuration.
    pub fn manifest(&self, layers: &Value, ids: &Value) -> Value {
        let config = json!({
            "os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "config": config, "layers": layers});
        self.blob(MANIFEST_TYPES[0], manifest.to_string().as_bytes())
    }

    pub fn index(&self, manifests: &[Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}

/// The descriptor with a name.
pub fn named(descriptor: &Value, name: &str) -> Value {
    let mut named = descriptor.clone();
    named["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    named
}
