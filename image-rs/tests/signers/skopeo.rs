//! Sigstore signatures that the real `skopeo` makes while it copies into the real registry of Debian.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image_rs::{
    Descriptor, Digest, Document, Error, Pointer, Reference,
    policy::{Policy, Signatures, Subject, Verdict},
};
use serde_json::{Value, json};

use crate::{installed, registry::sha256, run, write_image};

/// The `skopeo` of the Debian 13 tree; that of Debian 12 is built without Sigstore. Run by the tree's own loader, which
/// needs no root.
fn skopeo() -> Option<Command> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/trees/trixie");
    if !tree.join("usr/bin/skopeo").exists() {
        assert!(std::env::var_os("CI").is_none(), "no {}", tree.display());
        eprintln!("skipped: needs the tree that tests/trees/make makes, with skopeo");
        return None;
    }
    let loaders = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "lib/ld64.so.1"];
    let loader = loaders.iter().map(|loader| tree.join(loader)).find(|loader| loader.exists()).unwrap();
    let libraries = fs::read_dir(tree.join("usr/lib")).unwrap().map(|entry| entry.unwrap().path());
    let libraries = libraries
        .filter(|path| path.to_str().unwrap().ends_with("-linux-gnu"))
        .map(|path| path.display().to_string());
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(libraries.collect::<Vec<_>>().join(":"))
        .arg(tree.join("usr/bin/skopeo"));
    Some(command)
}

/// A running registry, stopped at the end.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(folder: &Path) -> Self {
        let (config, log) = (folder.join("registry.yml"), folder.join("registry.log"));
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            folder.join("registry")
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let mut server = Self { child: command.spawn().unwrap(), address: String::new() };
        let end = Instant::now() + Duration::from_secs(60);
        // It tells in its log which port it got.
        while server.address.is_empty() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(50));
            let text = fs::read_to_string(&log).unwrap();
            let told =
                text.split_once("listening on ").and_then(|(_, rest)| rest.split_once(['"', ',', ' ']));
            server.address = told.map(|(address, _)| address.to_owned()).unwrap_or_default();
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads one repository over plain HTTP.
#[derive(Debug)]
struct Repository {
    address: String,
    name: String,
}

impl Repository {
    fn fetch(&self, path: &str) -> Result<Vec<u8>, Error> {
        let accept = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET /v2/{}/{path} HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\n\r\n", self.name)
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&answer[9..12]).into_owned();
        match status.as_str() {
            "200" => Ok(answer[end + 4..].to_vec()),
            "404" => Err(Error::NotFound { what: path.to_owned() }),
            other => panic!("{path}: {other}"),
        }
    }
}

impl Signatures for Repository {
    fn document(&mut self, pointer: &Pointer) -> Result<Document, Error> {
        self.fetch(&format!("manifests/{pointer}")).map(|bytes| Document { media_type: None, bytes })
    }

    fn referrers(&mut self, subject: &Digest) -> Result<Vec<u8>, Error> {
        self.fetch(&format!("referrers/{subject}"))
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        self.fetch(&format!("blobs/{}", descriptor.digest))
    }

    fn lookaside(&mut self, url: &str) -> Result<Vec<u8>, Error> {
        panic!("{url}");
    }

    fn key(&mut self, location: &str) -> Result<Vec<u8>, Error> {
        panic!("{location}");
    }
}

#[test]
fn what_skopeo_attaches_in_a_registry_is_admitted() {
    let (Some(mut generate), Some(mut copy)) = (skopeo(), skopeo()) else { return };
    if !installed(&["docker-registry"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("image")).unwrap();
    write_image(&path("image"));
    fs::write(path("passphrase"), "a passphrase").unwrap();
    generate.args(["generate-sigstore-key", "--output-prefix"]).arg(path("key")).arg("--passphrase-file");
    run(generate.arg(path("passphrase")), b"");
    let key = fs::read(path("key.pub")).unwrap();
    let server = Server::start(folder.path());
    fs::create_dir(path("registries.d")).unwrap();
    let attachments = format!("docker: {{'{}': {{use-sigstore-attachments: true}}}}\n", server.address);
    fs::write(path("registries.d/a.yaml"), attachments).unwrap();
    let name = format!("{}/team/app:1", server.address);
    copy.args(["--insecure-policy", "--registries.d"]).arg(path("registries.d"));
    copy.args(["copy", "--quiet", "--dest-tls-verify=false", "--sign-by-sigstore-private-key"])
        .arg(path("key.private"));
    copy.arg("--sign-passphrase-file").arg(path("passphrase"));
    run(copy.arg(format!("dir:{}", path("image").display())).arg(format!("docker://{name}")), b"");

    // skopeo compresses the layer on its way, so that the manifest is another than the one it read.
    let repository = || Repository { address: server.address.clone(), name: "team/app".to_owned() };
    let manifest = sha256(&repository().fetch("manifests/1").unwrap());
    let judge = |key: &[u8], name: &str, identity: Value| {
        let requirement = json!({
            "type": "sigstoreSigned", "keyData": BASE64_STANDARD.encode(key), "signedIdentity": identity,
        });
        let policy = Policy::parse(json!({"default": [requirement]}).to_string().as_bytes()).unwrap();
        let reference: Reference = name.parse().unwrap();
        let subject = Subject { reference: Some(&reference), manifest, index: None };
        policy.decide(&subject, SystemTime::now(), &mut repository())
    };
    let cause = |verdict: Verdict| match verdict {
        Verdict::Admitted(admitted) => panic!("{admitted:?}"),
        Verdict::Refused(refused) => refused.because()[0].cause.as_str(),
    };
    // skopeo signs the reference with its tag, so that all rules have what they ask for.
    for identity in ["matchExact", "matchRepoDigestOrExact", "matchRepository"] {
        let verdict = judge(&key, &name, json!({"type": identity}));
        assert!(matches!(verdict, Verdict::Admitted(_)), "{}", verdict.explain());
    }
    let by_digest = format!("{}/team/app@{manifest}", server.address);
    assert!(matches!(
        judge(&key, &by_digest, json!({"type": "matchRepoDigestOrExact"})),
        Verdict::Admitted(_)
    ));
    assert_eq!(cause(judge(&key, &by_digest, json!({"type": "matchExact"}))), "name");
    let elsewhere = json!({"type": "exactRepository", "dockerRepository": "quay.io/team/app"});
    assert_eq!(cause(judge(&key, &name, elsewhere)), "name");
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    assert_eq!(
        cause(judge(stranger.public_key_pem().as_bytes(), &name, json!({"type": "matchRepository"}))),
        "signature"
    );
}
