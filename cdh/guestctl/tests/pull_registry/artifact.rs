//! `guestctl pull --artifact` of what `skopeo` signed, encrypted and pushed.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{Workshop, run, walk};

const TITLE: &str = "org.opencontainers.image.title";
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes the layout `name`, an artifact with these files and, packed by tar and gzip, the directory `tok`.
fn write_layout(workshop: &Workshop, name: &str, files: &[(&str, &[u8])]) {
    let layout = workshop.path(name);
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = image_rs::Digest::of(image_rs::Algorithm::Sha256, bytes);
        fs::write(layout.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    let mut layers = Vec::new();
    for (title, content) in files {
        let mut layer = blob(TAR, content);
        layer["annotations"] = json!({TITLE: title});
        layers.push(layer);
    }
    let folder = workshop.folder.path();
    fs::create_dir_all(folder.join("tok")).unwrap();
    fs::write(folder.join("tok/vocab.txt"), "vocab").unwrap();
    run(Command::new("tar").args(["--create", "--gzip", "--file", "tok.tgz", "tok"]).current_dir(folder));
    let mut tok = blob(&format!("{TAR}+gzip"), &fs::read(folder.join("tok.tgz")).unwrap());
    tok["annotations"] = json!({TITLE: "tok", "io.deis.oras.content.unpack": "true"});
    layers.push(tok);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": layers,
        "artifactType": "application/vnd.example.model", "config": blob("application/vnd.oci.empty.v1+json", b"{}"),
    });
    let mut entry = blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

fn push(workshop: &Workshop, layout: &str, name: &str, more: &[&str]) -> String {
    let name = format!("{}/{name}", workshop.host);
    let mut copy = workshop.skopeo();
    copy.args(["copy", "--quiet", "--dest-cert-dir", "certificates", "--authfile", "auth.json"]).args(more);
    run(copy.args([&format!("oci:{layout}:1"), &format!("docker://{name}")]));
    name
}

#[test]
fn a_signed_and_encrypted_artifact_is_pulled_and_others_are_not() {
    let Some(workshop) = Workshop::open() else { return };
    workshop.make();
    let weights: Vec<u8> = (0..3_000_000u32).map(|n| n.wrapping_mul(n).to_le_bytes()[1]).collect();
    write_layout(&workshop, "model", &[("model/weights.bin", &weights), ("README.md", b"read me")]);
    write_layout(&workshop, "hostile", &[("../weights.bin", &weights)]);
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(workshop.path("app.pub"), key.public_key_pem()).unwrap();
    fs::write(workshop.path("app.pem"), key.serialize_pem()).unwrap();
    let signing = ["--sign-by-sigstore-private-key", "key.private", "--sign-passphrase-file", "passphrase"];
    let model = push(
        &workshop,
        "model",
        "team/model:7b",
        &[&signing[..], &["--encryption-key", "jwe:app.pub"]].concat(),
    );
    let unsigned = push(&workshop, "model", "team/unsigned:1", &[]);
    let hostile = push(&workshop, "hostile", "team/hostile:1", &signing);
    workshop.push("team/image:1", true);
    let requirement = json!({"type": "sigstoreSigned", "keyPath": workshop.path("key.pub")});
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {format!("{}/team", workshop.host): [requirement]}}});
    fs::write(workshop.path("policy.json"), policy.to_string()).unwrap();

    let reach = ["--cert", "ca.pem", "--authfile", "auth.json", "--policy", "policy.json"];
    let opened = [&reach[..], &["--decryption-key", "app.pem"]].concat();
    let pull = |image: &str, more: &[&str]| workshop.pull(&[&["--artifact", image, "got"], more].concat());
    let refused = |image: &str, more: &[&str], status: i32, code: &str| {
        let (is, _, error) = pull(image, more);
        assert!(is == status && error.contains(&format!("[{code}]")), "{is}: {error}");
        assert!(!workshop.path("got").exists() && !workshop.path(".got.guestctl-partial").exists(), "{code}");
        assert!(!workshop.path("weights.bin").exists());
    };
    refused(&unsigned, &opened, 3, "IMAGE_UNSIGNED");
    refused(&hostile, &opened, 6, "ARTIFACT_TITLE_REFUSED");
    refused(&format!("{}/team/image:1", workshop.host), &opened, 6, "ARTIFACT_INVALID");
    refused(&model, &reach, 2, "LAYER_KEY_UNKNOWN");
    refused(&model, &[&opened[..], &["--max-bytes", "1000000"]].concat(), 6, "LAYER_LIMIT");

    let explained = [&["--artifact", model.as_str(), "--explain", "--json"], &opened[..]].concat();
    let (status, out, error) = workshop.pull(&explained);
    assert_eq!((status, error.as_str()), (0, ""));
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&verdict["admitted"], &verdict["files"][0]["encrypted"]),
        (&json!(true), &json!(true)),
        "{out}"
    );
    assert!(!workshop.path("got").exists());

    fs::create_dir(workshop.path("got")).unwrap();
    let (status, out, error) = pull(&model, &[&opened[..], &["--json"]].concat());
    assert_eq!((status, error.as_str()), (0, ""), "{out}");
    let done: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&done["event"], &done["entries"]),
        (&json!("done"), &json!(4)),
        "two files, a directory with one"
    );
    assert_eq!(done["artifact_type"], json!("application/vnd.example.model"));
    assert!(fs::read(workshop.path("got/model/weights.bin")).unwrap() == weights);
    assert_eq!(fs::read_to_string(workshop.path("got/tok/vocab.txt")).unwrap(), "vocab");
    let (status, _, error) = pull(&model, &opened);
    assert!(status == 2 && error.contains("[IMAGE_TARGET_EXISTS]"), "{status}: {error}");
    assert_eq!(fs::read_to_string(workshop.path("got/README.md")).unwrap(), "read me");
    fs::remove_dir_all(workshop.path("got")).unwrap();

    // The registry's disk changes a byte of what is largest: the weights, encrypted and not.
    for blob in walk(&workshop.path("store")) {
        if fs::metadata(&blob).unwrap().len() == weights.len() as u64 {
            change_a_byte(&blob);
        }
    }
    refused(&model, &opened, 6, "LAYER_DIGEST_MISMATCH");
}

fn change_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}
