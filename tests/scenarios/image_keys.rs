//! Encrypted images: real skopeo has keys wrapped by `coco_keyprovider`, and unwrapped by the data hub of an attested machine.

mod pull;

use std::path::{Path, PathBuf};
use std::process::Output;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_tests::container::Tree;
use cc_tests::process::{Process, command, own_binary};
use cc_tests::stack::{Options, Stack, address, skip};
use serde_json::{Value, json};

use crate::sealed::independent;
use crate::stack;

/// Name of the key of the image.
const KID: &str = "kbs:///default/image-kek/app";
const PREFIX: &str = "org.opencontainers.image.enc.";

/// A program of the Debian 13 tree, with that tree's libraries: Debian 12's skopeo knows no key providers.
pub(crate) fn of_tree(program: &str) -> Option<std::process::Command> {
    let tree = Tree::Trixie.folder();
    let program = tree.join("usr/bin").join(program);
    let inside =
        |folder: &Path| std::fs::read_dir(folder).ok().map(|entries| entries.map(|e| e.unwrap().path()));
    let libraries = inside(&tree.join("usr/lib"))?.find(|path| path.join("libc.so.6").exists())?;
    let is_loader = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("ld-linux");
    let loader = inside(&libraries)?.find(is_loader)?;
    if !program.exists() {
        return None;
    }
    let mut command = command(loader);
    command.arg("--library-path").arg(libraries).arg(program);
    Some(command)
}

/// A stack, a key provider that registers what it makes, and an image of two layers.
struct Workshop {
    stack: Stack,
    key_dir: PathBuf,
    provider: String,
    process: Process,
}

impl Workshop {
    fn open(more: &[&str]) -> Option<Self> {
        if of_tree("skopeo").is_none() || of_tree("umoci").is_none() {
            skip("encrypting images needs the tree that tests/trees/make makes, with skopeo and umoci");
            return None;
        }
        let stack = stack(Options::default())?;
        let key_dir = stack.folder().join("keys");
        std::fs::create_dir(&key_dir).unwrap();
        let port = cc_tests::port::claim().unwrap();
        let socket = format!("127.0.0.1:{port}");
        let mut provider = own_binary("coco_keyprovider").unwrap();
        provider.arg("--socket").arg(&socket).arg("--key-dir").arg(&key_dir);
        provider.args(["--kbs", stack.kbs_url(), "--cert-file"]).arg(stack.kbs_certificate());
        provider.arg("--auth-private-key").arg(stack.kbs_state().join("admin.key")).args(more);
        let mut process = Process::start(
            "coco_keyprovider",
            {
                provider.env("RUST_LOG", "trace");
                provider
            },
            stack.folder(),
        )
        .unwrap();
        process.wait_for_port(port).unwrap();
        let workshop = Self { stack, key_dir, provider: socket, process };
        workshop.make_image();
        Some(workshop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stack.folder().join(name)
    }

    /// Image `oci:plain:v1` with two layers.
    fn make_image(&self) {
        let umoci = |arguments: &[&str]| {
            let mut umoci = of_tree("umoci").unwrap();
            let out = umoci.args(arguments).current_dir(self.stack.folder()).output().unwrap();
            assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        };
        umoci(&["init", "--layout", "plain"]);
        umoci(&["new", "--image", "plain:v1"]);
        for (name, content) in
            [("one", "first layer ".repeat(20_000)), ("two", "second layer ".repeat(30_000))]
        {
            std::fs::write(self.path(name), content).unwrap();
            umoci(&["insert", "--image", "plain:v1", name, &format!("/{name}")]);
        }
    }

    /// Runs `skopeo copy` with the key provider at `grpc`.
    fn copy(&self, grpc: &str, arguments: &[&str]) -> Output {
        let config = self.path("ocicrypt.conf");
        let text = json!({"key-providers": {"attestation-agent": {"grpc": grpc}}}).to_string();
        std::fs::write(&config, text).unwrap();
        let mut skopeo = of_tree("skopeo").unwrap();
        skopeo.args(["--insecure-policy", "copy"]).args(arguments).current_dir(self.stack.folder());
        skopeo.env("OCICRYPT_KEYPROVIDER_CONFIG", config).output().unwrap()
    }

    fn encrypt(&self, parameters: &str, to: &str) -> Output {
        let recipient = format!("provider:attestation-agent{parameters}");
        self.copy(&self.provider, &["--encryption-key", &recipient, "oci:plain:v1", to])
    }

    /// The layers of the image in the layout `name`.
    fn layers(&self, name: &str) -> Vec<Value> {
        let read = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
        let layout = self.path(name);
        let index = read(&layout.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
        read(&layout.join("blobs").join(digest))["layers"].as_array().unwrap().clone()
    }

    /// The annotation packet of an encrypted layer.
    fn packet(layer: &Value) -> Value {
        let text = layer["annotations"][format!("{PREFIX}keys.provider.attestation-agent")].as_str().unwrap();
        serde_json::from_slice(&STANDARD.decode(text).unwrap()).unwrap()
    }

    /// Decrypts with keys that the data hub unwraps; the digests of the layers.
    fn decrypt(&self, from: &str) -> Result<Vec<Value>, String> {
        let hub = address(&self.stack.hub_socket());
        let to = format!("{from}-decrypted");
        let arguments = [
            "--decryption-key",
            "provider:attestation-agent",
            &format!("oci:{from}:v1"),
            &format!("oci:{to}:v1"),
        ];
        let out = self.copy(&hub, &arguments);
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        Ok(self.layers(&to).iter().map(|layer| layer["digest"].clone()).collect())
    }

    fn plain(&self) -> Vec<Value> {
        self.layers("plain").iter().map(|layer| layer["digest"].clone()).collect()
    }
}

#[test]
fn skopeo_encrypts_and_the_hub_of_an_attested_machine_decrypts() {
    let Some(shop) = Workshop::open(&[]) else { return };
    let key: Vec<u8> = (1..=32).collect();
    std::fs::write(shop.key_dir.join("app"), &key).unwrap();
    let absolute = shop.key_dir.join("app").display().to_string();
    for (name, parameters, algorithm, kid) in [
        ("gcm", format!(":keypath={absolute}::keyid={KID}::algorithm=A256GCM"), "A256GCM", Some(KID)),
        ("ctr", format!(":keypath=app::keyid={KID}::algorithm=A256CTR"), "A256CTR", Some(KID)),
        // One key for all layers of the image, made and registered when the first one asks.
        (
            "made",
            ":keyid=/default/image-kek/made::overwrite=true".to_owned(),
            "A256GCM",
            Some("kbs:///default/image-kek/made"),
        ),
        ("random", String::new(), "A256GCM", None),
    ] {
        let out = shop.encrypt(&parameters, &format!("oci:{name}:v1"));
        assert!(
            out.status.success(),
            "{name}: {}\n{}",
            String::from_utf8_lossy(&out.stderr),
            shop.process.log()
        );
        let layers = shop.layers(name);
        assert_eq!(layers.len(), 2);
        for layer in &layers {
            assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "{name}");
            let packet = Workshop::packet(layer);
            let found = packet["kid"].as_str().unwrap();
            assert_eq!(packet["wrap_type"], algorithm, "{name}");
            assert!(
                found == kid.unwrap_or(found) && found.starts_with("kbs:///default/image-kek/"),
                "{found}"
            );
            assert_eq!(packet.as_object().unwrap().len(), 4, "packet version 1: {packet}");
            if kid == Some(KID) {
                let options = independent(&["open-packet", &hex::encode(&key), &packet.to_string()]);
                let options: Value = serde_json::from_str(&options).unwrap();
                assert!(options["symkey"].is_string() && options["digest"].is_string(), "{name}");
            }
        }
        let plain = shop.plain();
        let kept: Vec<_> =
            layers.iter().map(|layer| layer["digest"].clone()).filter(|d| plain.contains(d)).collect();
        assert!(kept.is_empty(), "{name}: encrypted layers are not the plain ones");
        assert_eq!(shop.decrypt(name).unwrap(), plain, "{name}: byte for byte what went in");
    }
    // Another key under a name that images were encrypted with, however the name is spelled.
    std::fs::write(shop.key_dir.join("other"), [7; 32]).unwrap();
    for keyid in [KID, "kbs://kbs.example/default/image-kek/app", "/default/image-kek/made"] {
        let out = shop.encrypt(&format!(":keypath=other::keyid={keyid}"), "oci:other:v1");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && error.contains("[KEY_ID_TAKEN]"), "{keyid}: {error}");
    }
    assert_eq!(shop.decrypt("gcm").unwrap(), shop.plain(), "the key is what it was");
    assert_eq!(shop.stack.quotes().unwrap(), 1, "one attestation unwraps the keys of every image");
    let log = shop.process.log();
    assert!(!log.contains("eyJ") && !log.contains("symkey"), "neither token nor key is logged: {log}");
}

#[test]
fn what_would_not_be_decryptable_or_was_not_asked_for_is_refused() {
    let Some(shop) = Workshop::open(&[]) else { return };
    std::fs::write(shop.path("outside"), [1; 32]).unwrap();
    for (parameters, code) in [
        (":keypath=../outside", "KEY_FILE_UNUSABLE"),
        (":keypath=/etc/hostname", "KEY_FILE_UNUSABLE"),
        (":algorithm=A128GCM", "SEALED_UNSUPPORTED"),
        (":keyid=kbs:///a", "KEY_ID_INVALID"),
        (":key_id=kbs:///a/b/c", "SEALED_UNSUPPORTED"),
        // Another run may have registered one, and the key broker does not tell.
        (":keyid=kbs:///default/image-kek/new", "KEY_ID_MAYBE_TAKEN"),
        (":keypath=app::keyid=kbs:///default/image-kek/new::overwrite=true", "SEALED_MALFORMED"),
        (":sample=true", "SAMPLE_KEY_REFUSED"),
        (":keyid=kbs+pkcs11:///default/image-kek/c::overwrite=true", "RESOURCE_URI_INVALID"),
        // The administrator may write everywhere, and callers have no identity.
        (":keyid=kbs:///default/key/1", "KEY_ID_INVALID"),
    ] {
        let out = shop.encrypt(parameters, "oci:refused:v1");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && error.contains(&format!("[{code}]")), "{parameters}: {error}");
    }
}

#[test]
fn a_key_that_the_key_broker_did_not_take_encrypts_nothing() {
    let Some(shop) = Workshop::open(&[]) else { return };
    // An administrator of another key broker.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(shop.path("other.pem"), key.serialize_pem()).unwrap();
    let socket = shop.path("other.sock");
    let mut other = own_binary("coco_keyprovider").unwrap();
    other.arg("--socket").arg(address(&socket)).args(["--kbs", shop.stack.kbs_url(), "--cert-file"]);
    other.arg(shop.stack.kbs_certificate()).arg("--auth-private-key").arg(shop.path("other.pem"));
    let mut process = Process::start("other-keyprovider", other, shop.stack.folder()).unwrap();
    process.wait_for_path(&socket).unwrap();
    let recipient = format!("provider:attestation-agent:keyid={KID}::overwrite=true");
    let out =
        shop.copy(&address(&socket), &["--encryption-key", &recipient, "oci:plain:v1", "oci:denied:v1"]);
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && error.contains("[KBS_DENIED_ADMIN]"), "{error}");
    assert!(process.log().contains("KBS_DENIED_ADMIN"), "{}", process.log());
}

#[test]
fn the_sample_key_works_where_it_was_allowed_by_name() {
    let Some(shop) = Workshop::open(&["--allow-sample"]) else { return };
    let out = shop.encrypt(":sample=true", "oci:sample:v1");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let packet = Workshop::packet(&shop.layers("sample")[0]);
    assert_eq!(packet["kid"], "kbs:///default/test-key/1");
    // It is not registered, so the hub has to be refused.
    assert!(shop.decrypt("sample").unwrap_err().contains("KBS_NOT_FOUND"));
}
