//! Debian's `docker-registry` with TLS and passwords, filled by `skopeo`.

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use image_registry::{AuthFile, Login, Ranges};
use image_rs::{Image, Platform, Pointer, Source, policy::Signatures, source::Layout};

use crate::{
    assert_code, attempts, noise, pull, pull_as,
    stand_in::{Authority, Content, sha256},
    trusting,
};

/// `open:sesame`, bcrypt.
const PASSWORDS: &str = "open:$2b$05$bZRHYXfmM./.qqWVOKTda.ZoRudHbJd.jeRagbEthdhmo.aNQKWHG\n";

struct Registry {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Registry {
    /// Starts one; gives nothing where there is none.
    fn start() -> Option<Self> {
        let there = |program: &str| Command::new(program).arg("--version").output().is_ok();
        if !there("docker-registry") || !there("skopeo") {
            cc_vectors::skip("needs docker-registry and skopeo");
            return None;
        }
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let path = |name: &str| folder.path().join(name);
        authority.write(folder.path());
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
        command.arg("serve").arg(path("registry.yml")).stdout(Stdio::null()).stderr(log);
        let mut registry = Self { child: command.spawn().unwrap(), port: 0, folder, authority };
        let end = Instant::now() + Duration::from_secs(60);
        while registry.port == 0 {
            let log = fs::read_to_string(registry.folder.path().join("log")).unwrap();
            assert!(Instant::now() < end, "the registry does not listen: {log}");
            std::thread::sleep(Duration::from_millis(20));
            let told = log.split_once("listening on 127.0.0.1:");
            registry.port = told.map_or(0, |(_, rest)| {
                rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
            });
        }
        Some(registry)
    }

    fn name(&self, image: &str) -> String {
        format!("localhost:{}/{image}", self.port)
    }

    fn skopeo(&self, arguments: &[&str]) {
        let certificates = self.folder.path().join("certificates");
        fs::create_dir_all(&certificates).unwrap();
        fs::copy(self.folder.path().join("ca.pem"), certificates.join("ca.crt")).unwrap();
        let mut command = Command::new("skopeo");
        command.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--preserve-digests",
            "--dest-creds",
            "open:sesame",
            "--dest-cert-dir",
        ]);
        let out = command.arg(certificates).args(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes an image layout.
fn write_layout(folder: &Path, content: &Content) {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let (media_type, manifest) = &content.manifests["1"];
    for blob in content.blobs.values().chain([manifest]) {
        fs::write(blobs.join(sha256(blob).hex()), blob).unwrap();
    }
    let mut entry = crate::stand_in::descriptor(media_type, manifest);
    entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "1"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
}

#[test]
fn images_come_out_as_they_went_in() {
    let Some(registry) = Registry::start() else { return };
    let (small, large) = (noise(100_000), noise(20 << 20));
    let layout = registry.folder.path().join("layout");
    write_layout(&layout, &Content::image(&[&small, &large]));
    let (from, to) =
        (format!("oci:{}:1", layout.display()), format!("docker://{}", registry.name("team/app:1.0")));
    registry.skopeo(&[&from, &to]);
    let login = Login::parse(b"open:sesame").unwrap();
    let mut options = trusting(&registry.authority);
    let name = registry.name("team/app:1.0");
    assert!(pull_as(&options, &name, Some(&login)).unwrap() == [small.clone(), large.clone()]);
    options.ranges = Ranges { from: 1 << 20, below: u64::MAX, ..Ranges::default() };
    assert!(pull_as(&options, &name, Some(&login)).unwrap() == [small, large]);
    let manifest = Layout::open(&layout).unwrap().document(&Pointer::Tag("1".into())).unwrap();
    let by_digest = registry.name(&format!("team/app@{}", sha256(&manifest.bytes)));
    assert_eq!(pull_as(&options, &by_digest, Some(&login)).unwrap().len(), 2);

    assert_code(pull_as(&options, &registry.name("team/other:1"), Some(&login)), "IMAGE_NOT_FOUND");
    assert_code(pull(&options, &name), "REGISTRY_DENIED");
    let wrong = Login::parse(b"open:barley").unwrap();
    assert_code(pull_as(&options, &name, Some(&wrong)), "REGISTRY_DENIED");
    assert_code(pull_as(&crate::options(None), &name, Some(&login)), "REGISTRY_TLS_UNTRUSTED");

    // What `skopeo login` writes.
    let auth = registry.folder.path().join("auth.json");
    let mut command = Command::new("skopeo");
    command.args(["login", "--username", "open", "--password", "sesame", "--cert-dir"]);
    command.arg(registry.folder.path().join("certificates")).arg("--authfile").arg(&auth);
    let out = command.arg(registry.name("")[..].trim_end_matches('/')).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    options.auth_file = AuthFile::parse(&fs::read(&auth).unwrap()).unwrap();
    assert_eq!(pull(&options, &name).unwrap().len(), 2);

    // This registry is older than the call for referrers.
    let attempts = attempts(&options, &name, None);
    let repository = attempts.iter().next().unwrap();
    let mut signatures = repository.signatures(|_| unreachable!());
    assert_code(signatures.referrers(&sha256(b"x")), "IMAGE_NOT_FOUND");
    assert!(signatures.kept_by_registry(&sha256(b"x")).unwrap().is_empty());
}

#[test]
fn many_threads_read_one_repository() {
    let Some(registry) = Registry::start() else { return };
    let layers: Vec<Vec<u8>> = (0..12).map(|i| noise(200_000 + i)).collect();
    let layout = registry.folder.path().join("layout");
    write_layout(&layout, &Content::image(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>()));
    let (from, to) = (format!("oci:{}:1", layout.display()), format!("docker://{}", registry.name("many:1")));
    registry.skopeo(&[&from, &to]);
    let login = Login::parse(b"open:sesame").unwrap();
    let attempts = attempts(&trusting(&registry.authority), &registry.name("many:1"), Some(&login));
    let repository = attempts.iter().next().unwrap();
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let image = Arc::new(Image::resolve(repository, &repository.reference().pointer(), &platform).unwrap());
    std::thread::scope(|scope| {
        for (layer, expected) in image.layers().iter().zip(&layers) {
            scope.spawn(move || {
                let mut bytes = Vec::new();
                repository.blob(&layer.descriptor).unwrap().read_to_end(&mut bytes).unwrap();
                assert!(&bytes == expected);
            });
        }
    });
}
