//! A stack whose hub pulls, images for it, and kata-agent's side of the call.
//!
//! The hub and its halves work in a mount namespace of their own, so that no mount outlives its test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cc_evidence::HashAlgorithm;
use cc_protos::api;
use cc_tests::process::{command, own_binary};
use cc_tests::stack::{Options, Part, Stack, address};
use serde_json::{Value, json};

use crate::measurement::runtime;
use crate::rpc::{ttrpc, ttrpc_client};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A stack, and a layout of images in its folder.
pub(super) struct Pulls {
    pub(super) stack: Stack,
    manifests: Vec<Value>,
}

type Answer = Result<String, (i32, String)>;

impl Pulls {
    /// The stack without its hub, which is started by [`Pulls::configure`].
    pub(super) fn start(options: Options) -> Option<Self> {
        let mut stack = crate::stack(Options { hub_own_mounts: true, ..options })?;
        stack.stop_part(Part::Hub).unwrap();
        let folder = stack.folder();
        fs::create_dir_all(folder.join("images/blobs/sha256")).unwrap();
        fs::write(folder.join("images/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let script = format!(
            "#!/bin/sh\necho $$ >{folder}/$1.pid\nexec {program} \"$@\"\n",
            folder = folder.display(),
            program = own_binary("cdh-storage").unwrap().get_program().to_str().unwrap(),
        );
        let program = folder.join("cdh-storage");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self { stack, manifests: Vec::new() })
    }

    /// Starts the hub with this in its table `[image]`.
    pub(super) fn configure(&mut self, image: &str) {
        let folder = self.stack.folder().display().to_string();
        let text = format!(
            "{}\n[image]\nwork_dir = \"{folder}/store\"\nlayouts = [\"{folder}/images\"]\n{image}\n\
             [image.storage]\nprogram = \"{folder}/cdh-storage\"\n",
            self.stack.hub_config()
        );
        self.stack.start_hub_with(&text).unwrap();
    }

    pub(super) fn open_socket_to_all(&self) {
        fs::set_permissions(self.stack.hub_socket(), fs::Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(self.stack.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let hex = hex::encode(HashAlgorithm::Sha256.digest(bytes));
        fs::write(self.stack.folder().join("images/blobs/sha256").join(&hex), bytes).unwrap();
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
    }

    /// Puts an image of these layers, the lowest first, under `name` into the layout; the digest of its manifest.
    pub(super) fn image(&mut self, name: &str, layers: &[Vec<u8>], config: &Value) -> String {
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, layer)).collect();
        let ids: Vec<Value> = layers.iter().map(|layer| layer["digest"].clone()).collect();
        self.manifest(name, &layers, &ids, config)
    }

    fn manifest(&mut self, name: &str, layers: &[Value], ids: &[Value], config: &Value) -> String {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "os": "linux", "architecture": architecture, "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = self.blob(CONFIG, config.to_string().as_bytes());
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let mut manifest = self.blob(MANIFEST, manifest.to_string().as_bytes());
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.manifests.retain(|other| other["annotations"] != manifest["annotations"]);
        self.manifests.push(manifest);
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.stack.folder().join("images/index.json"), index.to_string()).unwrap();
        digest
    }

    /// Puts an image of one encrypted layer with an annotation of that text beside under `name` into the layout.
    pub(super) fn annotate(&mut self, name: &str, text: &str) {
        let public = json!({
            "cipher": "AES_256_CTR_HMAC_SHA256", "hmac": STANDARD.encode([0; 32]), "cipheroptions": {},
        });
        let mut layer = self.blob(&format!("{LAYER}+encrypted"), b"cipher text");
        layer["annotations"] = json!({
            "org.opencontainers.image.enc.keys.provider.attestation-agent": STANDARD.encode("{}"),
            "org.opencontainers.image.enc.pubopts": STANDARD.encode(public.to_string()),
            "of.the.builder": text,
        });
        let id = layer["digest"].clone();
        self.manifest(name, &[layer], &[id], &json!({}));
    }

    /// Changes a byte of the topmost layer of the image called `name`.
    pub(super) fn damage_last_layer(&self, name: &str) {
        let blob = |digest: &Value| {
            let hex = digest.as_str().unwrap().trim_start_matches("sha256:").to_owned();
            self.stack.folder().join("images/blobs/sha256").join(hex)
        };
        let named = |m: &&Value| m["annotations"]["org.opencontainers.image.ref.name"] == name;
        let manifest = self.manifests.iter().find(named).unwrap();
        let manifest: Value = serde_json::from_slice(&fs::read(blob(&manifest["digest"])).unwrap()).unwrap();
        let layer = blob(&manifest["layers"].as_array().unwrap().last().unwrap()["digest"]);
        let mut bytes = fs::read(&layer).unwrap();
        let at = bytes.iter().position(|b| *b == b'4').unwrap();
        bytes[at] ^= 1;
        fs::write(layer, bytes).unwrap();
    }

    /// How the hub is asked for the image called `name`.
    pub(super) fn reference(&self, name: &str) -> String {
        format!("oci:{}/images:{name}", self.stack.folder().display())
    }

    /// Pulls as kata-agent does; the digest, or status and message.
    pub(super) fn pull(&self, name: &str, bundle: &str) -> Answer {
        self.call(&self.reference(name), bundle)
    }

    pub(super) fn call(&self, image: &str, bundle: &str) -> Answer {
        let request = api::ImagePullRequest {
            image_url: image.to_owned(),
            bundle_path: self.stack.folder().join(bundle).display().to_string(),
        };
        let answer: Result<api::ImagePullResponse, _> = runtime().block_on(async {
            let client = ttrpc_client(&self.stack.hub_socket()).await;
            ttrpc(&client, "api.ImagePullService", "PullImage", request).await
        });
        answer.map(|answer| answer.manifest_digest)
    }

    /// Pulls at the same time.
    pub(super) fn pull_all(&self, pulls: &[(&str, &str)]) -> Vec<Answer> {
        std::thread::scope(|scope| {
            let pull = |(name, bundle): &(&str, &str)| {
                let (name, bundle) = ((*name).to_owned(), (*bundle).to_owned());
                scope.spawn(move || self.pull(&name, &bundle))
            };
            let threads: Vec<_> = pulls.iter().map(pull).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// What a process without privileges is answered.
    pub(super) fn pull_as_nobody(&self, name: &str, bundle: &str) -> String {
        let mut ask = command("setpriv");
        ask.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        ask.arg(own_binary("guestctl").unwrap().get_program()).arg("pull").arg(self.reference(name));
        ask.arg("--bundle").arg(self.stack.folder().join(bundle));
        ask.args(["--cdh", &address(&self.stack.hub_socket())]);
        let output = ask.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn pid(&self, mode: &str) -> Option<String> {
        let pid = fs::read_to_string(self.stack.folder().join(format!("{mode}.pid"))).ok()?.trim().to_owned();
        PathBuf::from("/proc").join(&pid).exists().then_some(pid)
    }

    /// A path as the half that mounts sees it.
    pub(super) fn seen(&self, path: &str) -> PathBuf {
        let inside = self.stack.folder().join(path);
        let pid = self.pid("mount").expect("the half that mounts is not there");
        PathBuf::from("/proc").join(pid).join("root").join(inside.strip_prefix("/").unwrap())
    }

    /// Overlays of this store that are mounted.
    pub(super) fn mounts(&self) -> usize {
        let Some(pid) = self.pid("mount") else { return 0 };
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap_or_default();
        let folder = self.stack.folder().display().to_string();
        mounts.lines().filter(|line| line.starts_with("overlay ") && line.contains(&folder)).count()
    }

    fn entries(&self, folder: &str) -> usize {
        let folder = self.stack.folder().join("store").join(folder);
        fs::read_dir(folder).map_or(0, |entries| {
            entries.filter(|e| !e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')).count()
        })
    }

    pub(super) fn overlays(&self) -> usize {
        self.entries("overlay")
    }

    /// Images that are listed as pulled.
    pub(super) fn records(&self) -> usize {
        self.entries("images")
    }

    pub(super) fn layers(&self) -> usize {
        self.entries("layers")
    }

    /// Kills the half of the program that works in this mode.
    pub(super) fn kill(&self, mode: &str) {
        let pid = self.pid(mode).unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

/// An archive with these files.
pub(super) fn layer(_what: &str, files: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    tar(folder.path(), &names)
}

/// An archive of what `script` makes, with entries for `names` alone.
pub(super) fn archive(script: &str, names: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let made = command("sh").args(["-ec", script]).current_dir(folder.path()).status().unwrap();
    assert!(made.success());
    tar(folder.path(), names)
}

fn tar(folder: &std::path::Path, names: &[&str]) -> Vec<u8> {
    let options = ["--format=ustar", "--numeric-owner", "--owner=0", "--group=0", "--no-recursion", "-c"];
    let output = command("tar").args(options).args(names).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
