//! `guestctl pull --policy` on an image layout that holds an image and its signature.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use guestctl::{Console, Exit};
use image_rs::{Algorithm, Digest, Platform};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with an image layout, a policy and a key.
struct Folder(TempDir);

impl Folder {
    /// The image `app`, signed by a key under the name quay.io/team/app.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(folder.path("layout/blobs/sha256")).unwrap();
        fs::write(folder.path("layout/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layer = vec![0; 1024];
        let platform = Platform::of_this_machine();
        let config = json!({
            "os": platform.os, "architecture": platform.architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(&layer).to_string()]},
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": folder.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
            "layers": [folder.blob("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let payload = json!({"optional": null, "critical": {
            "type": "cosign container image signature",
            "image": {"docker-manifest-digest": sha256(&manifest).to_string()},
            "identity": {"docker-reference": "quay.io/team/app"},
        }});
        let payload = payload.to_string().into_bytes();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        fs::write(folder.path("key.pub"), key.public_key_pem()).unwrap();
        let mut signed = folder.blob("application/vnd.dev.cosign.simplesigning.v1+json", &payload);
        let signature = BASE64_STANDARD.encode(key.sign(&payload).unwrap());
        signed["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        let signatures = json!({"schemaVersion": 2, "layers": [signed]}).to_string().into_bytes();
        let tag = format!("sha256-{}.sig", sha256(&manifest).hex());
        let mut entries = Vec::new();
        for (name, bytes) in [("app", &manifest), (tag.as_str(), &signatures)] {
            let mut entry = folder.blob("application/vnd.oci.image.manifest.v1+json", bytes);
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            entries.push(entry);
        }
        let index = json!({"schemaVersion": 2, "manifests": entries});
        fs::write(folder.path("layout/index.json"), index.to_string()).unwrap();
        let requirement = json!({"type": "sigstoreSigned", "keyPath": folder.path("key.pub")});
        let policy = json!({
            "default": [{"type": "reject"}],
            "transports": {"docker": {"quay.io/team": [requirement]}},
        });
        fs::write(folder.path("policy.json"), policy.to_string()).unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        fs::write(self.path(&format!("layout/blobs/sha256/{}", digest.hex())), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    async fn pull(&self, more: &[&str]) -> (Exit, String, String) {
        let image = format!("oci:{}:app", self.path("layout"));
        let policy = self.path("policy.json");
        let arguments = [&["guestctl", "pull", &image, "--policy", &policy], more].concat();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err)).await;
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

#[tokio::test]
async fn the_rule_that_decides_is_shown() {
    let folder = Folder::new();
    let (exit, out, err) = folder.pull(&["--name", "quay.io/team/app:1", "--explain"]).await;
    assert_eq!((exit, err.as_str()), (Exit::Success, ""));
    assert!(out.starts_with("admitted by docker \"quay.io/team\": manifest sha256:"), "{out}");
    assert!(out.contains("\n  requirement 0 (sigstoreSigned): ECDSA P-256 key sha256:"), "{out}");

    let (exit, out, err) = folder.pull(&["--name", "quay.io/team/other:1", "--explain", "--json"]).await;
    assert_eq!(exit, Exit::Denied);
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&verdict["admitted"], &verdict["scope"], &verdict["because"][0]["cause"]),
        (&json!(false), &json!("docker \"quay.io/team\""), &json!("name"))
    );
    assert!(err.contains("[IMAGE_SIGNATURE_REFUSED]\nhint: "), "{err}");
}

#[tokio::test]
async fn what_is_not_admitted_is_not_unpacked() {
    let folder = Folder::new();
    let rootfs = folder.path("rootfs");
    for (arguments, exit, code) in [
        (&["--rootfs", &rootfs][..], Exit::Denied, "[IMAGE_REJECTED]"),
        (&["--rootfs", &rootfs, "--name", "docker.io/team/app"], Exit::Denied, "[IMAGE_REJECTED]"),
        (&["--rootfs", &rootfs, "--name", "quay.io/team/app2"], Exit::Denied, "[IMAGE_SIGNATURE_REFUSED]"),
        (&["--rootfs", &rootfs, "--name", "quay.io//x"], Exit::Usage, "[USAGE]"),
        (&[], Exit::Usage, "[USAGE]"),
    ] {
        let (found, _, err) = folder.pull(arguments).await;
        assert!(found == exit && err.contains(code), "{found:?} {err}");
        assert!(!Path::new(&rootfs).exists());
    }
    fs::remove_file(folder.path("key.pub")).unwrap();
    let (exit, _, err) = folder.pull(&["--rootfs", &rootfs, "--name", "quay.io/team/app"]).await;
    assert!(exit == Exit::Usage && err.contains("[IMAGE_POLICY_KEY_UNUSABLE]"), "{exit:?} {err}");
    fs::write(folder.path("policy.json"), r#"{"default":[]}"#).unwrap();
    let (exit, _, err) = folder.pull(&["--rootfs", &rootfs]).await;
    assert!(exit == Exit::Usage && err.contains("default: an empty list of requirements"), "{exit:?} {err}");
    assert!(err.contains("[IMAGE_POLICY_INVALID]"), "{err}");
}
