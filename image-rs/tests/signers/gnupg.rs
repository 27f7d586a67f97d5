//! OpenPGP simple signing with keys and messages of the real `gpg`.

use std::{
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

use image_rs::{
    Digest, Reference,
    policy::{Lookaside, Policy, Subject, Verdict},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    installed,
    registry::{Registry, sha256},
    run,
};

const NAME: &str = "quay.io/team/app:1";
const DAY: Duration = Duration::from_secs(86_400);

/// A key ring of `gpg`, gone with its agent at the end.
struct Gnupg(TempDir);

impl Gnupg {
    fn new() -> Self {
        // Beside the socket of the agent there is not much room for a path.
        Self(tempfile::Builder::new().prefix("gpg").tempdir_in("/tmp").unwrap())
    }

    fn home(&self) -> &Path {
        self.0.path()
    }

    fn command(&self) -> Command {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home()).args([
            "--batch",
            "--yes",
            "--quiet",
            "--pinentry-mode=loopback",
            "--passphrase=",
        ]);
        command
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        run(self.command().args(arguments), input)
    }

    /// Makes a key for `name`; gives its fingerprint.
    fn generate(&self, name: &str, algorithm: &str, usage: &str, expires: &str) -> String {
        self.run(&["--quick-gen-key", name, algorithm, usage, expires], b"");
        let listed = String::from_utf8(self.run(&["--with-colons", "--list-keys", name], b"")).unwrap();
        listed
            .lines()
            .find_map(|line| line.strip_prefix("fpr:::::::::"))
            .unwrap()
            .trim_end_matches(':')
            .to_owned()
    }

    fn export(&self, name: &str) -> Vec<u8> {
        self.run(&["--export", name], b"")
    }

    fn sign(&self, name: &str, payload: &[u8]) -> Vec<u8> {
        self.run(&["--local-user", name, "--sign"], payload)
    }
}

impl Drop for Gnupg {
    fn drop(&mut self) {
        let _ = Command::new("gpgconf").env("GNUPGHOME", self.home()).args(["--kill", "all"]).status();
    }
}

fn image() -> Digest {
    sha256(b"the manifest")
}

fn payload(digest: &Digest, reference: &str) -> Vec<u8> {
    let critical = json!({
        "type": "atomic container signature",
        "image": {"docker-manifest-digest": digest.to_string()},
        "identity": {"docker-reference": reference},
    });
    json!({"critical": critical, "optional": {"creator": "a test", "timestamp": 1}}).to_string().into_bytes()
}

/// The cause of the refusal of the last of `messages`, and the sentence; or the signer.
fn judge(ring: &[u8], messages: &[Vec<u8>], at: SystemTime) -> Result<String, (&'static str, String)> {
    let mut registry = Registry::default();
    registry.files.insert("/ring".to_owned(), ring.to_vec());
    for (i, message) in messages.iter().enumerate() {
        let url = format!("https://sigs.example.com/team/app@sha256={}/signature-{}", image().hex(), i + 1);
        registry.files.insert(url, message.clone());
    }
    let policy = json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/ring"}]});
    let lookaside =
        Lookaside::parse([("a.yaml", "docker: {quay.io: {lookaside: 'https://sigs.example.com'}}")]).unwrap();
    let policy = Policy::parse(policy.to_string().as_bytes()).unwrap().with_lookaside(lookaside);
    let reference: Reference = NAME.parse().unwrap();
    match policy.decide(
        &Subject { reference: Some(&reference), manifest: image(), index: None },
        at,
        &mut registry,
    ) {
        Verdict::Admitted(admitted) => Ok(admitted.proofs()[0].by.clone()),
        Verdict::Refused(refused) => {
            let last = refused.because().last().unwrap();
            Err((last.cause.as_str(), last.why.clone()))
        }
    }
}

#[test]
fn messages_that_the_registry_keeps_count_as_well() {
    if !installed(&["gpg", "gpgconf"]) {
        return;
    }
    let gpg = Gnupg::new();
    let name = "kept@example.com";
    gpg.generate(name, "ed25519", "sign", "never");
    let message = gpg.sign(name, &payload(&image(), NAME));
    let reference: Reference = NAME.parse().unwrap();
    let policy = json!({"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/ring"}]});
    let decide = |kept: &[&[u8]], broken: &str, folders: &str| {
        let mut registry =
            Registry { kept: kept.iter().map(|m| m.to_vec()).collect(), ..Registry::default() };
        registry.files.insert("/ring".to_owned(), gpg.export(name));
        registry.broken.extend((!broken.is_empty()).then(|| broken.to_owned()));
        let policy = Policy::parse(policy.to_string().as_bytes()).unwrap();
        let policy = policy.with_lookaside(Lookaside::parse([("a.yaml", folders)]).unwrap());
        let subject = Subject { reference: Some(&reference), manifest: image(), index: None };
        match policy.decide(&subject, SystemTime::now(), &mut registry) {
            Verdict::Admitted(_) => "admitted",
            Verdict::Refused(refused) => refused.code(),
        }
    };
    let elsewhere = "default-docker: {lookaside: 'https://sigs.example.com'}";
    for folders in ["{}", elsewhere] {
        assert_eq!(decide(&[b"no message", &message], "", folders), "admitted");
        assert_eq!(decide(&[], "", folders), "IMAGE_UNSIGNED");
        assert_eq!(decide(&[b"no message"], "", folders), "IMAGE_SIGNATURE_REFUSED");
        assert_eq!(decide(&[&message], "kept", folders), "IMAGE_SIGNATURE_UNAVAILABLE");
    }
}

fn refused(ring: &[u8], message: &[u8], at: SystemTime, cause: &str, why: &str) {
    let (found, sentence) = judge(ring, &[message.to_vec()], at).unwrap_err();
    assert!(found == cause && sentence.contains(why), "{found}: {sentence}, expected {cause}: {why}");
}

#[test]
fn messages_of_every_kind_of_key_are_verified() {
    if !installed(&["gpg", "gpgconf"]) {
        return;
    }
    let gpg = Gnupg::new();
    let good = payload(&image(), NAME);
    let now = SystemTime::now();
    let mut rings = Vec::new();
    for algorithm in ["rsa3072", "ed25519", "nistp256", "nistp384"] {
        let name = format!("{algorithm}@example.com");
        let fingerprint = gpg.generate(&name, algorithm, "sign", "never").to_lowercase();
        let message = gpg.sign(&name, &good);
        let plain = gpg.run(&["--local-user", &name, "--compress-algo=none", "--sign"], &good);
        let armoured = gpg.run(&["--armor", "--export", &name], b"");
        for (ring, message) in [(gpg.export(&name), message.clone()), (armoured, plain)] {
            let later = now + Duration::from_secs(60);
            assert_eq!(
                judge(&ring, &[message], later),
                Ok(format!("OpenPGP key {fingerprint}")),
                "{algorithm}"
            );
        }
        rings.push((gpg.export(&name), message));
    }
    let later = now + Duration::from_secs(60);
    // Another key's message; then one of several keys in the ring, and one of several messages.
    refused(&rings[0].0, &rings[1].1, later, "signature", "no key of the policy");
    let both = [rings[0].0.clone(), rings[1].0.clone()].concat();
    assert!(judge(&both, &[rings[2].1.clone(), rings[1].1.clone()], later).is_ok());

    let name = "rsa3072@example.com";
    refused(
        &rings[0].0,
        &gpg.sign(name, &payload(&sha256(b"x"), NAME)),
        later,
        "digest",
        "it is a signature of sha256:",
    );
    refused(&rings[0].0, &gpg.sign(name, &payload(&image(), "quay.io/team/app:2")), later, "name", "app:2");
    refused(&rings[0].0, &gpg.sign(name, b"{}"), later, "malformed", "its payload");
    refused(&rings[0].0, &rings[0].1, now - DAY, "signature", "future");

    let mut altered = gpg.run(&["--local-user", name, "--compress-algo=none", "--sign"], &good);
    let at = altered.windows(4).position(|window| window == b"team").unwrap();
    altered[at] = b'x';
    refused(&rings[0].0, &altered, later, "signature", "no key of the policy");
    for (arguments, cause, why) in [
        (&["--detach-sign"][..], "malformed", "one signature around data"),
        (&["--clear-sign"], "malformed", ""),
        (&["--armor", "--sign"], "malformed", ""),
        (&["--digest-algo=SHA1", "--sign"], "signature", "is outdated"),
        (&["--local-user", "ed25519@example.com", "--sign"], "malformed", "packets"),
        (&["--store"], "malformed", "one signature around data"),
    ] {
        let message = gpg.run(&[&["--local-user", name], arguments].concat(), &good);
        refused(&rings[0].0, &message, later, cause, why);
    }
    // A megabyte of zeros is a kilobyte on the wire.
    refused(&rings[0].0, &gpg.sign(name, &vec![b' '; 2 << 20]), later, "malformed", "more than");
}

#[test]
fn keys_must_be_alive_and_for_signing() {
    if !installed(&["gpg", "gpgconf"]) {
        return;
    }
    let gpg = Gnupg::new();
    let good = payload(&image(), NAME);
    let later = SystemTime::now() + Duration::from_secs(60);

    gpg.generate("short@example.com", "ed25519", "sign", "1d");
    let (ring, message) = (gpg.export("short@example.com"), gpg.sign("short@example.com", &good));
    assert!(judge(&ring, std::slice::from_ref(&message), later).is_ok());
    refused(&ring, &message, later + 2 * DAY, "signature", "expired");

    let fingerprint = gpg.generate("gone@example.com", "ed25519", "sign", "never");
    let (ring, message) = (gpg.export("gone@example.com"), gpg.sign("gone@example.com", &good));
    assert!(judge(&ring, std::slice::from_ref(&message), later).is_ok());
    let revocation = gpg.home().join(format!("openpgp-revocs.d/{fingerprint}.rev"));
    let revocation = std::fs::read_to_string(revocation).unwrap().replace(":-----BEGIN", "-----BEGIN");
    gpg.run(&["--import"], revocation.as_bytes());
    refused(&gpg.export("gone@example.com"), &message, later, "signature", "revoked");

    // A primary key that only certifies, and a subkey that signs.
    let fingerprint = gpg.generate("sub@example.com", "ed25519", "cert", "never");
    gpg.run(&["--quick-add-key", &fingerprint, "ed25519", "sign", "1d"], b"");
    let (ring, message) = (gpg.export("sub@example.com"), gpg.sign("sub@example.com", &good));
    assert_eq!(
        judge(&ring, std::slice::from_ref(&message), later),
        Ok(format!("OpenPGP key {}", fingerprint.to_lowercase()))
    );
    refused(&ring, &message, later + 2 * DAY, "signature", "expired");
    let primary_only = {
        let stripped = gpg.run(
            &[
                "--export-options=export-minimal",
                "--export-filter",
                "drop-subkey=usage=~s",
                "--export",
                "sub@example.com",
            ],
            b"",
        );
        assert!(stripped.len() < ring.len());
        stripped
    };
    refused(&primary_only, &message, later, "signature", "no key of the policy");

    gpg.generate("dsa@example.com", "dsa2048", "sign", "never");
    refused(
        &gpg.export("dsa@example.com"),
        &gpg.sign("dsa@example.com", &good),
        later,
        "signature",
        "no key of the policy",
    );
    gpg.generate("weak@example.com", "rsa1024", "sign", "never");
    refused(
        &gpg.export("weak@example.com"),
        &gpg.sign("weak@example.com", &good),
        later,
        "signature",
        "no key of the policy",
    );
    refused(b"no ring", &message, later, "policy", "no OpenPGP keys");
}

#[test]
fn what_skopeo_signs_with_gpg_is_admitted() {
    if !installed(&["gpg", "gpgconf", "skopeo"]) {
        return;
    }
    let gpg = Gnupg::new();
    let fingerprint = gpg.generate("skopeo@example.com", "rsa3072", "sign", "never");
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("manifest.json");
    std::fs::write(&manifest, b"the manifest").unwrap();
    let signature = folder.path().join("signature-1");
    let mut skopeo = Command::new("skopeo");
    skopeo.env("GNUPGHOME", gpg.home()).arg("standalone-sign").args([&manifest]).args([
        NAME,
        &fingerprint,
        "--output",
    ]);
    run(skopeo.arg(&signature), b"");
    let later = SystemTime::now() + Duration::from_secs(60);
    let signer = judge(&gpg.export("skopeo@example.com"), &[std::fs::read(&signature).unwrap()], later);
    assert_eq!(signer, Ok(format!("OpenPGP key {}", fingerprint.to_lowercase())));
}

/// `addrevoker` adds a signature over the key alone, newer than the one over the user's name and without its end.
#[test]
fn a_later_signature_over_the_key_does_not_hide_its_end() {
    if !installed(&["gpg", "gpgconf"]) {
        return;
    }
    let gpg = Gnupg::new();
    let good = payload(&image(), NAME);
    let now = SystemTime::now();
    gpg.generate("officer@example.com", "ed25519", "sign", "never");
    gpg.generate("short@example.com", "ed25519", "sign", "2d");
    // Keys are edited in a dialogue, which there is none of in a batch.
    let mut edit = Command::new("gpg");
    edit.env("GNUPGHOME", gpg.home()).args([
        "--no-tty",
        "--yes",
        "--pinentry-mode=loopback",
        "--passphrase=",
    ]);
    run(
        edit.args(["--command-fd=0", "--edit-key", "short@example.com"]),
        b"addrevoker\nofficer@example.com\ny\nsave\n",
    );
    let message = gpg.sign("short@example.com", &good);
    let ring = gpg.export("short@example.com");
    let listed = gpg.run(&["--list-packets"], &ring);
    assert!(String::from_utf8_lossy(&listed).contains("sigclass 0x1f"), "a signature over the key alone");
    judge(&ring, std::slice::from_ref(&message), now + Duration::from_secs(60)).unwrap();
    refused(&ring, &message, now + 3 * DAY, "signature", "expired");
}
