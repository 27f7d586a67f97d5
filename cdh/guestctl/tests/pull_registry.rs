//! `guestctl pull` from Debian's `docker-registry` with TLS and passwords, of images that `skopeo` signed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test fails loudly and starts programs"
)]

#[path = "pull_registry/artifact.rs"]
mod artifact;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// `open:sesame`, bcrypt.
const PASSWORDS: &str = "open:$2b$05$bZRHYXfmM./.qqWVOKTda.ZoRudHbJd.jeRagbEthdhmo.aNQKWHG\n";

/// The `skopeo` of the Debian 13 tree, run by the tree's own loader: that of Debian 12 makes no Sigstore signatures.
fn skopeo() -> Option<Command> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/trees/trixie");
    let inside =
        |folder: &str| fs::read_dir(tree.join(folder)).ok().map(|all| all.map(|e| e.unwrap().path()));
    let libraries = inside("usr/lib")?.find(|path| path.join("libc.so.6").exists())?;
    let is_loader = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("ld-linux");
    let loader = fs::read_dir(&libraries).unwrap().map(|entry| entry.unwrap().path()).find(is_loader)?;
    let program = tree.join("usr/bin/skopeo");
    if !program.exists() {
        return None;
    }
    let mut command = Command::new(loader);
    command.arg("--library-path").arg(libraries).arg(program).stdin(Stdio::null());
    Some(command)
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A registry, and what was made for it.
struct Workshop {
    registry: Child,
    host: String,
    folder: tempfile::TempDir,
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

impl Workshop {
    fn open() -> Option<Self> {
        let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !rustix::process::geteuid().is_root() {
            cc_vectors::skip("pulling needs root");
            return None;
        }
        if !there("docker-registry") || !there("umoci") || skopeo().is_none() {
            cc_vectors::skip(
                "needs docker-registry, umoci, and the tree that tests/trees/make makes, with skopeo",
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        write_certificates(folder.path());
        fs::write(path("htpasswd"), PASSWORDS).unwrap();
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\n\
             auth: {{htpasswd: {{realm: x, path: {:?}}}}}\nhttp: {{addr: '127.0.0.1:0', tls: {{certificate: {:?}, key: {:?}}}}}\n",
            path("store"),
            path("htpasswd"),
            path("server.pem"),
            path("server.key")
        );
        fs::write(path("registry.yml"), text).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let mut command = Command::new("docker-registry");
        let child =
            command.arg("serve").arg(path("registry.yml")).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut workshop = Self { registry: child, host: String::new(), folder };
        let end = Instant::now() + Duration::from_secs(60);
        while workshop.host.is_empty() {
            let log = fs::read_to_string(workshop.path("log")).unwrap();
            assert!(Instant::now() < end, "the registry does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
            if let Some((_, rest)) = log.split_once("listening on 127.0.0.1:") {
                let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                workshop.host = format!("localhost:{port}");
            }
        }
        Some(workshop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An image of one file, in the layout `it`; and the credentials that `skopeo login` writes.
    fn make(&self) {
        let (work, at) = (self.folder.path(), |name: &str| self.path(name));
        fs::create_dir_all(at("root/etc")).unwrap();
        fs::write(at("root/etc/motd"), "hello\n".repeat(100_000)).unwrap();
        fs::set_permissions(at("root/etc/motd"), PermissionsExt::from_mode(0o640)).unwrap();
        run(Command::new("tar")
            .args(["--create", "--file", "root.tar", "--directory", "root", "."])
            .current_dir(work));
        for arguments in [
            &["init", "--layout", "it"][..],
            &["new", "--image", "it:1"],
            &["raw", "add-layer", "--image", "it:1", "root.tar"],
        ] {
            run(Command::new("umoci").args(arguments).current_dir(work));
        }
        fs::create_dir_all(at("registries.d")).unwrap();
        let attachments = format!("docker: {{'{}': {{use-sigstore-attachments: true}}}}\n", self.host);
        fs::write(at("registries.d/a.yaml"), attachments).unwrap();
        fs::create_dir(at("certificates")).unwrap();
        fs::copy(at("ca.pem"), at("certificates/ca.crt")).unwrap();
        run(self
            .skopeo()
            .args(["login", "--username", "open", "--password", "sesame", "--authfile", "auth.json"])
            .args(["--cert-dir", "certificates", &self.host]));
        fs::write(at("passphrase"), "a passphrase").unwrap();
        run(self.skopeo().args([
            "generate-sigstore-key",
            "--output-prefix",
            "key",
            "--passphrase-file",
            "passphrase",
        ]));
    }

    fn skopeo(&self) -> Command {
        let mut command = skopeo().unwrap();
        command.current_dir(self.folder.path()).args(["--insecure-policy", "--registries.d", "registries.d"]);
        command
    }

    /// Pushes the image under a name, perhaps signed.
    fn push(&self, name: &str, signed: bool) {
        let mut copy = self.skopeo();
        copy.args(["copy", "--quiet", "--dest-cert-dir", "certificates", "--authfile", "auth.json"]);
        if signed {
            copy.args([
                "--sign-by-sigstore-private-key",
                "key.private",
                "--sign-passphrase-file",
                "passphrase",
            ]);
        }
        run(copy.args(["oci:it:1", &format!("docker://{}/{name}", self.host)]));
    }

    /// Pulls; gives exit status and what was said.
    fn pull(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
        command.arg("pull").args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(name);
        }
        let out = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str], status: i32, code: &str) -> String {
        let (is, _, error) = self.pull(&[arguments, &["--rootfs", "refused"]].concat());
        assert!(is == status && error.contains(&format!("[{code}]")), "{is}: {error}");
        assert!(!self.path("refused").exists() && !self.path(".refused.guestctl-partial").exists());
        error
    }
}

/// An authority `ca.pem`, and a server's certificate of it.
fn write_certificates(folder: &Path) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(params, ca_key)).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    fs::write(folder.join("server.pem"), leaf.pem()).unwrap();
    fs::write(folder.join("server.key"), key.serialize_pem()).unwrap();
}

#[test]
fn a_signed_image_is_pulled_from_a_registry_and_an_unsigned_one_is_not() {
    let Some(workshop) = Workshop::open() else { return };
    workshop.make();
    workshop.push("team/signed:1", true);
    workshop.push("team/unsigned:1", false);
    let (signed, unsigned) =
        (format!("{}/team/signed:1", workshop.host), format!("{}/team/unsigned:1", workshop.host));
    let requirement = json!({"type": "sigstoreSigned", "keyPath": workshop.path("key.pub"), "signedIdentity": {"type": "matchRepository"}});
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {format!("{}/team", workshop.host): [requirement]}}});
    fs::write(workshop.path("policy.json"), policy.to_string()).unwrap();
    let reach = ["--cert", "ca.pem", "--authfile", "auth.json"];
    let judged = [&reach[..], &["--policy", "policy.json"]].concat();

    let (status, out, error) =
        workshop.pull(&[&[signed.as_str(), "--rootfs", "signed", "--json"], &judged[..]].concat());
    assert_eq!((status, error.as_str()), (0, ""), "{out}");
    let done: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["image"]), (&json!("done"), &json!(signed)));
    assert_eq!(fs::read_to_string(workshop.path("signed/etc/motd")).unwrap(), "hello\n".repeat(100_000));
    assert_eq!(fs::metadata(workshop.path("signed/etc/motd")).unwrap().permissions().mode() & 0o7777, 0o640);
    let (status, out, _) = workshop.pull(&[&[signed.as_str(), "--explain", "--json"], &judged[..]].concat());
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &verdict["admitted"]), (0, &json!(true)), "{out}");
    workshop.refused(&[&[unsigned.as_str()], &judged[..]].concat(), 3, "IMAGE_UNSIGNED");

    // Who may read, and whom we believe.
    workshop.refused(&[&signed, "--cert", "ca.pem"], 3, "REGISTRY_DENIED");
    workshop.refused(&[&signed, "--authfile", "auth.json"], 6, "REGISTRY_TLS_UNTRUSTED");
    fs::write(workshop.path("creds"), "open:sesame\n").unwrap();
    let by_file = ["--cert", "ca.pem", "--creds-file", "creds", "--rootfs", "by-file"];
    assert_eq!(workshop.pull(&[&[unsigned.as_str()], &by_file[..]].concat()).0, 0);
    fs::write(workshop.path("creds"), "open:hunter2\n").unwrap();
    let error =
        workshop.refused(&[&signed, "--cert", "ca.pem", "--creds-file", "creds"], 3, "REGISTRY_DENIED");
    assert!(!error.contains("hunter2"));
    fs::write(workshop.path("creds"), "hunter2\n").unwrap();
    let error =
        workshop.refused(&[&signed, "--cert", "ca.pem", "--creds-file", "creds"], 2, "REGISTRY_CONFIG");
    assert!(!error.contains("hunter2"));

    // Another name, and one that must not be.
    let rules = format!(
        "[[registry]]\nprefix = 'images.example/app'\nlocation = 'nobody.invalid/app'\n[[registry.mirror]]\nlocation = '{}/team'\n\
         [[registry]]\nlocation = 'images.example/blocked'\nblocked = true\n",
        workshop.host
    );
    fs::write(workshop.path("registries.conf"), rules).unwrap();
    let moved = [
        &["images.example/app/signed:1", "--registries-conf", "registries.conf", "--rootfs", "moved"],
        &judged[..],
    ]
    .concat();
    let (status, _, error) = workshop.pull(&moved);
    assert_eq!(status, 0, "{error}");
    workshop.refused(
        &["images.example/blocked:1", "--registries-conf", "registries.conf"],
        3,
        "REGISTRY_BLOCKED",
    );
    let error = workshop.refused(
        &[&["images.example/app/none:1", "--registries-conf", "registries.conf"], &reach[..]].concat(),
        5,
        "REGISTRY_UNREACHABLE",
    );
    assert!(
        error.contains("/team/none:1: there is no manifest") && error.contains("nobody.invalid/app/none:1"),
        "{error}"
    );

    // What is refused at a mirror may be admitted at the next place: it is explained as it is pulled.
    workshop.push("other/signed:1", false);
    let rules = format!(
        "[[registry]]\nprefix = 'images.example/app'\nlocation = '{0}/team'\n[[registry.mirror]]\nlocation = '{0}/other'\n",
        workshop.host
    );
    fs::write(workshop.path("registries.conf"), rules).unwrap();
    let explain = |image: &str, json: bool| {
        let json = if json { &["--json"][..] } else { &[] };
        workshop
            .pull(&[&[image, "--registries-conf", "registries.conf", "--explain"], json, &judged].concat())
    };
    let (status, out, error) = explain("images.example/app/signed:1", true);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (status, &told["admitted"], &told["place"]),
        (0, &json!(true), &json!(signed)),
        "{out}{error}"
    );
    let layer = &told["layers"][0];
    let digest = layer["digest"].as_str().unwrap();
    assert!(layer["size"].as_u64().unwrap() > 0 && digest.starts_with("sha256:"), "{out}");
    let (status, out, _) = explain("images.example/app/signed:1", false);
    assert!(status == 0 && out.contains(&format!(" bytes from {signed}:\n  {digest}: ")), "{out}");
    // Where no place admits it, all of them are told.
    workshop.push("other/unsigned:1", false);
    let (status, out, error) = explain("images.example/app/unsigned:1", true);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &told["admitted"]), (3, &json!(false)), "{out}");
    assert!(error.contains("/other/unsigned:1: ") && error.contains("/team/unsigned:1: "), "{error}");

    // The registry's disk changes a byte of the layer.
    let blobs = walk(&workshop.path("store"));
    let largest = blobs.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).unwrap();
    workshop.refused(&[&[signed.as_str()], &judged[..]].concat(), 6, "LAYER_DIGEST_MISMATCH");
}

#[test]
fn an_archive_is_read_as_it_is() {
    let Some(workshop) = Workshop::open() else { return };
    workshop.make();
    run(workshop.skopeo().args(["copy", "--quiet", "oci:it:1", "oci-archive:it.tar:1"]));
    for (image, target) in [("oci-archive:it.tar", "only"), ("oci-archive:it.tar:1", "named")] {
        let (status, _, error) = workshop.pull(&[image, "--rootfs", target]);
        assert_eq!(status, 0, "{error}");
        let motd = fs::read_to_string(workshop.path(target).join("etc/motd")).unwrap();
        assert!(motd == "hello\n".repeat(100_000));
    }
    workshop.refused(&["oci-archive:it.tar:2"], 4, "IMAGE_NOT_FOUND");
    workshop.refused(&["oci-archive:root.tar"], 4, "IMAGE_NOT_FOUND");
    workshop.refused(&["oci-archive:ca.pem"], 6, "IMAGE_DOCUMENT_INVALID");
}

/// All regular files below `folder`.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}
