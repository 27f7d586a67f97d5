//! The bundles of the Sigstore conformance suite, each with the key or identity, trusted root and artifact that belong to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{collections::BTreeSet, fs, path::Path};

use cc_crypto::verify::PublicKey;
use image_rs::policy::{
    Rejection,
    sigstore::{Artifact, Names, Signed, Signer, TrustRoot},
};
use image_rs::{Algorithm, Digest};

const IDENTITY: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
const ISSUER: &str = "https://token.actions.githubusercontent.com";

/// What a case has, besides the bundle.
struct Case {
    bundle: Vec<u8>,
    artifact: Vec<u8>,
    root: TrustRoot,
    key: Option<PublicKey>,
    identity: String,
    issuer: String,
}

impl Case {
    fn read(folder: &Path) -> Self {
        let optional = |name: &str| fs::read(folder.join(name)).ok();
        let text = |name: &str, default: &str| {
            optional(name)
                .map_or_else(|| default.to_owned(), |text| String::from_utf8(text).unwrap().trim().to_owned())
        };
        let artifact = optional("artifact").unwrap_or_else(|| fs::read(folder.join("../a.txt")).unwrap());
        let root = match optional("trusted_root.json") {
            Some(root) => TrustRoot::from_json(&root),
            None => TrustRoot::public_good(),
        };
        Self {
            bundle: fs::read(folder.join("bundle.sigstore.json")).unwrap(),
            artifact,
            root: root.unwrap(),
            key: optional("key.pub").map(|key| PublicKey::from_pem(&key).unwrap()),
            identity: text("identity", IDENTITY),
            issuer: text("issuer", ISSUER),
        }
    }

    fn signer(&self) -> Signer<'_> {
        match &self.key {
            Some(key) => Signer::Key(key),
            None => Signer::Identity { subject: Names::Exactly(&self.identity), issuer: &self.issuer },
        }
    }

    fn verify(&self, artifact: Artifact<'_>, signer: Signer<'_>) -> Result<Signed, Rejection> {
        self.root.verify(&self.bundle, artifact, signer)
    }

    fn sha256(&self) -> [u8; 32] {
        hex::decode(Digest::of(Algorithm::Sha256, &self.artifact).hex()).unwrap().try_into().unwrap()
    }
}

fn cases() -> Vec<(String, Case)> {
    let Some(folder) = cc_vectors::folder("sigstore") else { return Vec::new() };
    let folders =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut all: Vec<_> = folders
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), Case::read(&path)))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(all.len() >= 38, "only {} cases", all.len());
    all
}

#[test]
fn every_case_is_judged_as_its_name_says() {
    let mut wrong = Vec::new();
    for (name, case) in cases() {
        for artifact in [Artifact::Bytes(&case.artifact), Artifact::Sha256(case.sha256())] {
            let result = case.verify(artifact, case.signer());
            if result.is_ok() == name.ends_with("_fail") {
                wrong.push(format!("{name}: {result:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_good_bundle_is_good_for_another_artifact_or_signer() {
    let stranger = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n-----END PUBLIC KEY-----\n";
    let stranger = PublicKey::from_pem(stranger.as_bytes()).unwrap();
    for (name, case) in cases().into_iter().filter(|(name, _)| !name.ends_with("_fail")) {
        let good = Artifact::Sha256(case.sha256());
        let mut other = case.sha256();
        other[0] ^= 1;
        assert_eq!(
            case.verify(Artifact::Sha256(other), case.signer()).unwrap_err().cause.as_str(),
            "digest",
            "{name}"
        );
        assert!(case.verify(good, Signer::Key(&stranger)).is_err(), "{name}");
        if case.key.is_some() {
            continue;
        }
        for (subject, issuer) in [
            (Names::Exactly("https://example.com/somebody"), case.issuer.as_str()),
            (Names::Exactly(&case.identity), "https://issuer.example.com"),
            (Names::Exactly(&case.identity[..case.identity.len() - 1]), case.issuer.as_str()),
            (Names::Beginning("https://github.com/sigstore/"), case.issuer.as_str()),
            (Names::Mail(&case.identity), case.issuer.as_str()),
        ] {
            let refused = case.verify(good, Signer::Identity { subject, issuer }).unwrap_err();
            assert_eq!(refused.cause.as_str(), "signer", "{name}: {refused}");
        }
        let prefix = Names::Beginning("https://github.com/sigstore-conformance/");
        if case.identity.starts_with("https://github.com/sigstore-conformance/") {
            case.verify(good, Signer::Identity { subject: prefix, issuer: &case.issuer }).unwrap();
        }
    }
}

/// Every proof in a good bundle is needed: without it, or with one byte of it changed, the bundle is refused.
#[test]
fn no_proof_can_be_taken_away_or_changed() {
    let mut kinds = BTreeSet::new();
    for (name, mut case) in cases() {
        if !["happy-path-v0.3", "rekor2-happy-path", "happy-path-intoto-in-dsse-v3"].contains(&name.as_str())
        {
            continue;
        }
        let good: serde_json::Value = serde_json::from_slice(&case.bundle).unwrap();
        let entry = "/verificationMaterial/tlogEntries/0";
        for path in [
            format!("{entry}/inclusionProof"),
            format!("{entry}/inclusionProof/hashes/0"),
            format!("{entry}/inclusionProof/checkpoint/envelope"),
            format!("{entry}/inclusionPromise/signedEntryTimestamp"),
            format!("{entry}/canonicalizedBody"),
            format!("{entry}/integratedTime"),
            "/verificationMaterial/timestampVerificationData/rfc3161Timestamps".to_owned(),
            "/verificationMaterial/certificate/rawBytes".to_owned(),
            "/messageSignature/signature".to_owned(),
            "/dsseEnvelope/payload".to_owned(),
            "/dsseEnvelope/signatures/0/sig".to_owned(),
            "/verificationMaterial/tlogEntries".to_owned(),
        ] {
            // With the promise of a log, whose time counts as well, a timestamp may be missing.
            if path.ends_with("rfc3161Timestamps") && !name.starts_with("rekor2") {
                continue;
            }
            let mut bundle = good.clone();
            let Some(value) = bundle.pointer_mut(&path) else { continue };
            *value = match value {
                // Of a checkpoint only the log's own signature counts, so all of them go.
                serde_json::Value::String(text) if path.ends_with("envelope") => {
                    format!("{}\n\n", text.split_once("\n\n").unwrap().0).into()
                }
                serde_json::Value::String(text) => {
                    let middle = text.len() / 2;
                    let other = if text.as_bytes()[middle] == b'A' { "B" } else { "A" };
                    let mut text = text.clone();
                    text.replace_range(middle..=middle, other);
                    text.into()
                }
                serde_json::Value::Array(_) => serde_json::Value::Array(Vec::new()),
                _ => serde_json::Value::Null,
            };
            case.bundle = bundle.to_string().into_bytes();
            let refused = case.verify(Artifact::Bytes(&case.artifact), case.signer());
            assert!(refused.is_err(), "{name}: {path}");
            kinds.insert(path);
        }
        let twice = String::from_utf8(good.to_string().into_bytes()).unwrap();
        let twice = twice.replacen("\"mediaType\"", "\"mediaType\":\"x\",\"mediaType\"", 1);
        case.bundle = twice.into_bytes();
        let refused = case.verify(Artifact::Bytes(&case.artifact), case.signer()).unwrap_err();
        assert_eq!(refused.cause.as_str(), "malformed");
    }
    assert!(cases().is_empty() || kinds.len() >= 10, "{kinds:?}");
}
