//! Images for tests and the demo, written document by document: an image layout (OCI image specification, image-layout.md),
//! layers as they are, compressed, or encrypted by a key provider (ocicrypt), and signatures of a Sigstore key beside the image
//! (the tag scheme of cosign).
//!
//! It is NOT a tool to build images, and it writes wrong ones where a test wants them.

#![allow(clippy::indexing_slicing, reason = "a JSON value is null where it has no such member")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use aws_lc_rs::{digest, hmac, rand};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_crypto::{Secret, cipher::ContentCipher};
use cc_protos::keyprovider::KeyProviderKeyWrapProtocolInput;
use cc_protos::keyprovider::key_provider_service_client::KeyProviderServiceClient;
use flate2::{Compression, write::GzEncoder};
use rcgen::{KeyPair, SigningKey as _};
use serde_json::{Value, json};

use crate::curl::curl;
use crate::registry::Registry;

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a layer that is not compressed.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// What annotations of encrypted layers begin with.
const ENCRYPTED: &str = "org.opencontainers.image.enc";
/// Name of the key provider in them.
const PROVIDER: &str = "attestation-agent";

/// `sha256:` and the digest of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest::digest(&digest::SHA256, bytes)))
}

/// A layer of an image: its descriptor, and the digest of its archive.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Descriptor for the manifest.
    pub descriptor: Value,
    /// Digest of the archive, for the configuration.
    pub diff_id: String,
}

/// An image layout being written.
#[derive(Debug)]
pub struct Layout {
    folder: PathBuf,
    entries: RefCell<Vec<Value>>,
}

impl Layout {
    /// An empty layout in the new folder `folder`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256")).context("making an image layout")?;
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { folder: folder.to_owned(), entries: RefCell::default() })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stores `bytes`; their descriptor.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> anyhow::Result<Value> {
        let digest = sha256(bytes);
        fs::write(self.path(&digest), bytes)?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": bytes.len()}))
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs").join(digest.replace(':', "/"))
    }

    /// A layer compressed with gzip.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn gzip(&self, archive: &[u8]) -> anyhow::Result<Layer> {
        let descriptor = self.blob(&format!("{LAYER}+gzip"), &gzip(archive)?)?;
        Ok(Layer { descriptor, diff_id: sha256(archive) })
    }

    /// A layer compressed with gzip and encrypted; the key provider at `address` (a URL) wraps its key under the
    /// key-encryption key `kid`, which it makes and registers when it is first named.
    ///
    /// # Errors
    /// The key provider refuses or is not there, or the folder cannot be written.
    pub fn encrypted(&self, archive: &[u8], address: &str, kid: &str) -> anyhow::Result<Layer> {
        let plain = gzip(archive)?;
        let mut key = [0; 32];
        rand::fill(&mut key).ok().context("no random numbers")?;
        let (nonce, cipher_text) = ContentCipher::A256Ctr.seal(&Secret::new(key.to_vec()), &plain)?;
        let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &cipher_text);
        let private = json!({
            "symkey": encode(key), "digest": sha256(&plain), "cipheroptions": {"nonce": encode(nonce)},
        });
        let public =
            json!({"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": encode(code.as_ref()), "cipheroptions": {}});
        let mut descriptor = self.blob(&format!("{LAYER}+gzip+encrypted"), &cipher_text)?;
        descriptor["annotations"] = json!({
            format!("{ENCRYPTED}.keys.provider.{PROVIDER}"): wrap(address, kid, &private)?,
            format!("{ENCRYPTED}.pubopts"): encode(public.to_string()),
        });
        Ok(Layer { descriptor, diff_id: sha256(archive) })
    }

    /// An image of these layers, called `tag`; the digest of its manifest.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn image(&self, tag: &str, layers: &[Layer]) -> anyhow::Result<String> {
        let ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
        let descriptors: Vec<_> = layers.iter().map(|layer| &layer.descriptor).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ids},
        });
        self.manifest(tag, &self.blob(CONFIG, config.to_string().as_bytes())?, &json!(descriptors))
    }

    /// An artifact of these files, each under its title, called `tag`; the digest of its manifest.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn artifact(&self, tag: &str, files: &[(&str, &[u8])]) -> anyhow::Result<String> {
        let mut layers = Vec::new();
        for (title, content) in files {
            let mut layer = self.blob("application/vnd.example.weights", content)?;
            layer["annotations"] = json!({"org.opencontainers.image.title": title});
            layers.push(layer);
        }
        self.manifest(tag, &self.blob("application/vnd.oci.empty.v1+json", b"{}")?, &json!(layers))
    }

    fn manifest(&self, tag: &str, config: &Value, layers: &Value) -> anyhow::Result<String> {
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut entry = self.blob(MANIFEST, manifest.to_string().as_bytes())?;
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let digest = entry["digest"].as_str().unwrap_or_default().to_owned();
        let mut entries = self.entries.borrow_mut();
        entries.push(entry);
        let index = json!({"schemaVersion": 2, "manifests": *entries});
        fs::write(self.folder.join("index.json"), index.to_string())?;
        Ok(digest)
    }

    /// Takes over what another program has changed in the folder.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn reread(&self) -> anyhow::Result<()> {
        let index: Value = serde_json::from_slice(&fs::read(self.folder.join("index.json"))?)?;
        *self.entries.borrow_mut() = index["manifests"].as_array().cloned().unwrap_or_default();
        Ok(())
    }

    /// Signs the image with the manifest `digest` under the name `reference`; the tag of the signature, beside the image.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn sign(&self, digest: &str, reference: &str, key: &KeyPair) -> anyhow::Result<String> {
        let payload = json!({
            "critical": {
                "type": "cosign container image signature",
                "image": {"docker-manifest-digest": digest},
                "identity": {"docker-reference": reference},
            },
            "optional": null,
        })
        .to_string();
        let mut layer = self.blob(SIGNATURE, payload.as_bytes())?;
        let signature = encode(key.sign(payload.as_bytes())?);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        let config = json!({"rootfs": {"type": "layers", "diff_ids": [sha256(payload.as_bytes())]}});
        let config = self.blob(CONFIG, config.to_string().as_bytes())?;
        let tag = format!("{}.sig", digest.replace(':', "-"));
        self.manifest(&tag, &config, &json!([layer]))?;
        Ok(tag)
    }

    /// Sends the image called `tag` in the layout to the registry, as `repository:name`.
    ///
    /// # Errors
    /// There is no such image, or the registry refuses.
    pub fn push(&self, tag: &str, registry: &Registry, repository: &str, name: &str) -> anyhow::Result<()> {
        let named =
            |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"].as_str() == Some(tag);
        let entries = self.entries.borrow();
        let entry = entries.iter().rfind(named).with_context(|| format!("no image {tag} in the layout"))?;
        let path = self.path(entry["digest"].as_str().unwrap_or_default());
        let manifest: Value = serde_json::from_slice(&fs::read(&path)?)?;
        let base = format!("http://{}/v2/{repository}", registry.address());
        let layers = manifest["layers"].as_array().into_iter().flatten();
        let blobs = layers.chain([&manifest["config"]]);
        let digests: BTreeSet<&str> = blobs.filter_map(|blob| blob["digest"].as_str()).collect();
        for digest in digests {
            if curl(&["--head"], &format!("{base}/blobs/{digest}"))?.status == 200 {
                continue;
            }
            let begun = curl(&["--request", "POST", "--include"], &format!("{base}/blobs/uploads/"))?.text();
            let (_, place) = begun.split_once("Location: ").context("the registry takes no blobs")?;
            let place = place.lines().next().unwrap_or_default().trim();
            upload(&self.path(digest), "application/octet-stream", &format!("{place}&digest={digest}"))?;
        }
        upload(&path, MANIFEST, &format!("{base}/manifests/{name}"))
    }
}

fn upload(file: &Path, media_type: &str, url: &str) -> anyhow::Result<()> {
    let file = file.display().to_string();
    let answer = curl(&["--upload-file", &file, "--header", &format!("Content-Type: {media_type}")], url)?;
    ensure!(answer.status == 201, "the registry refused {url}: {} {}", answer.status, answer.text());
    Ok(())
}

/// Asks the key provider to wrap the private options of a layer; the annotation's text.
fn wrap(address: &str, kid: &str, private: &Value) -> anyhow::Result<String> {
    let parameter = format!("keyid={kid}::overwrite=true");
    let request = json!({
        "op": "keywrap",
        "keywrapparams": {
            "ec": {"Parameters": {PROVIDER: [encode(parameter)]}}, "optsdata": encode(private.to_string()),
        },
    });
    let input = KeyProviderKeyWrapProtocolInput {
        key_provider_key_wrap_protocol_input: request.to_string().into_bytes(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async {
        let mut provider = KeyProviderServiceClient::connect(address.to_owned()).await?;
        anyhow::Ok(provider.wrap_key(input).await?.into_inner())
    })?;
    let answer: Value = serde_json::from_slice(&answer.key_provider_key_wrap_protocol_output)?;
    let annotation: Vec<u8> = serde_json::from_value(answer["keywrapresults"]["annotation"].clone())
        .context("the key provider gave no annotation")?;
    Ok(encode(annotation))
}

/// `bytes` as one gzip member.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn gzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes)?;
    Ok(out.finish()?)
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// This machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
