//! Decisions of a policy over a registry in memory: who may sign, what is missing, which rule decided.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bundles;
mod registry;
mod signer;

use std::time::SystemTime;

use image_rs::{
    Digest, Reference,
    policy::{AbsentIdentity, Policy, Refused, Subject, Verdict},
};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, SanType};
use serde_json::{Value, json};

use registry::{Registry, sha256};
use signer::{Authority, Claims, MAIL, OIDC_ISSUER, THEN, key, payload, signed};

const NAME: &str = "quay.io/team/app:1";

pub(crate) fn image() -> Digest {
    sha256(b"the manifest")
}

pub(crate) fn decide(policy: &Policy, name: &str, registry: &mut Registry) -> Verdict {
    judge(policy, name, None, registry)
}

fn judge(policy: &Policy, name: &str, index: Option<Digest>, registry: &mut Registry) -> Verdict {
    let reference: Reference = name.parse().unwrap();
    let subject = Subject { reference: Some(&reference), manifest: image(), index };
    policy.decide(&subject, SystemTime::now(), registry)
}

pub(crate) fn policy(requirement: Value) -> Policy {
    Policy::parse(
        json!({"default": [{"type": "reject"}], "transports": {"docker": {"": [requirement]}}})
            .to_string()
            .as_bytes(),
    )
    .unwrap()
}

pub(crate) fn refused(verdict: Verdict) -> Box<Refused> {
    match verdict {
        Verdict::Refused(refused) => refused,
        Verdict::Admitted(admitted) => panic!("{admitted:?}"),
    }
}

pub(crate) fn cause(verdict: Verdict) -> &'static str {
    let refused = refused(verdict);
    assert_eq!(refused.because().len(), 1, "{refused}");
    refused.because()[0].cause.as_str()
}

pub(crate) fn is_admitted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Admitted(_))
}

fn by_key(key: &KeyPair) -> Policy {
    policy(json!({"type": "sigstoreSigned", "keyData": key.public_key_pem()}))
}

fn with(signatures: &[(Vec<u8>, Value)]) -> Registry {
    let mut registry = Registry::default();
    registry.attach(image(), signatures);
    registry
}

#[test]
fn the_closest_scope_decides_and_is_named() {
    let text = json!({
        "default": [{"type": "reject"}],
        "transports": {"docker": {
            "quay.io/team": [{"type": "insecureAcceptAnything"}],
            "quay.io/team/app:2": [{"type": "insecureAcceptAnything"}, {"type": "reject"}],
            "*.example.com": [{"type": "insecureAcceptAnything"}],
        }},
    });
    let policy = Policy::parse(text.to_string().as_bytes()).unwrap();
    let mut registry = Registry::default();
    for (name, admitted, scope) in [
        (NAME, true, r#"docker "quay.io/team""#),
        ("quay.io/team/app:2", false, r#"docker "quay.io/team/app:2""#),
        ("quay.io/teams/app:1", false, "default"),
        ("a.b.example.com:5000/x", true, r#"docker "*.example.com""#),
        ("example.com/x", false, "default"),
    ] {
        let explained = decide(&policy, name, &mut registry).explain();
        assert_eq!(
            (&explained["admitted"], explained["scope"].as_str().unwrap()),
            (&json!(admitted), scope),
            "{explained}"
        );
    }
    let refused = refused(decide(&policy, "quay.io/team/app:2", &mut registry));
    assert_eq!(refused.requirement(), Some((1, "reject")));
    assert_eq!((refused.code(), refused.blame().as_str()), ("IMAGE_REJECTED", "denied"));
    assert_eq!(
        refused.to_string(),
        format!(
            "image quay.io/team/app:2 with manifest {} is refused by docker \"quay.io/team/app:2\", requirement 1 (reject): \
             the policy rejects it",
            image()
        )
    );
    assert_eq!(registry.calls, 0);
}

#[test]
fn without_a_policy_all_or_nothing_is_admitted() {
    let mut registry = Registry::default();
    let Verdict::Admitted(admitted) = decide(&Policy::admit_all(), NAME, &mut registry) else { panic!() };
    assert_eq!((admitted.manifest(), admitted.scope().to_string().as_str()), (image(), "no policy"));
    assert!(admitted.proofs().is_empty());
    assert_eq!(cause(decide(&Policy::refuse_all(), NAME, &mut registry)), "rejected");
}

#[test]
fn an_image_without_a_name_is_judged_by_the_default() {
    let text = json!({"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}});
    let policy = Policy::parse(text.to_string().as_bytes()).unwrap();
    let subject = Subject { reference: None, manifest: image(), index: None };
    let verdict = policy.decide(&subject, SystemTime::now(), &mut Registry::default());
    assert_eq!(verdict.explain()["scope"], "default");
    assert!(refused(verdict).to_string().starts_with("the image without a name with manifest sha256:"));
}

#[test]
fn a_name_with_another_digest_is_another_image() {
    let mut registry = Registry::default();
    let right = format!("quay.io/team/app@{}", image());
    assert!(is_admitted(&decide(&Policy::admit_all(), &right, &mut registry)));
    let wrong = format!("quay.io/team/app@{}", sha256(b"x"));
    assert_eq!(cause(decide(&Policy::admit_all(), &wrong, &mut registry)), "digest");
}

#[test]
fn one_good_signature_among_others_is_enough() {
    let (good, other) = (key(), key());
    let ours = payload(&image(), "quay.io/team/app");
    let rows = [signed(&other, &ours), signed(&good, &payload(&sha256(b"x"), NAME)), signed(&good, &ours)];
    let mut registry = with(&rows);
    let Verdict::Admitted(admitted) = decide(&by_key(&good), NAME, &mut registry) else { panic!() };
    assert_eq!(admitted.proofs()[0].requirement, "sigstoreSigned");
    assert!(admitted.proofs()[0].by.starts_with("ECDSA P-256 key sha256:"), "{:?}", admitted.proofs());

    // The signature that fits and the payload that fits are two different ones.
    let refused = refused(decide(&by_key(&good), NAME, &mut with(&rows[..2])));
    let causes: Vec<&str> = refused.because().iter().map(|r| r.cause.as_str()).collect();
    assert_eq!(causes, ["signature", "digest"]);
    assert_eq!(
        (refused.code(), refused.requirement()),
        ("IMAGE_SIGNATURE_REFUSED", Some((0, "sigstoreSigned")))
    );
    assert!(refused.because()[0].what.starts_with("signature 1 of sha256-"), "{refused}");
}

#[test]
fn a_signature_counts_for_its_image_and_name_only() {
    let key = key();
    for (signed_as, digest, expected) in [
        ("quay.io/team/app", image(), None),
        (NAME, image(), None),
        // Without a signedIdentity a signature that names a tag is for that tag.
        ("quay.io/team/app:9", image(), Some("name")),
        ("quay.io/team/other:1", image(), Some("name")),
        ("quay.io/team/app:1", sha256(b"another manifest"), Some("digest")),
    ] {
        let verdict = decide(&by_key(&key), NAME, &mut with(&[signed(&key, &payload(&digest, signed_as))]));
        match expected {
            None => assert!(is_admitted(&verdict), "{}", verdict.explain()),
            Some(expected) => assert_eq!(cause(verdict), expected),
        }
    }
    let lenient = by_key(&key).with_absent_identity(AbsentIdentity::AnyName);
    assert!(is_admitted(&decide(&lenient, NAME, &mut with(&[signed(&key, &payload(&image(), "a.io/b"))]))));
}

#[test]
fn the_index_may_be_signed_instead() {
    let key = key();
    let index = sha256(b"the index");
    let mut registry = Registry::default();
    registry.attach(index, &[signed(&key, &payload(&index, NAME))]);
    assert_eq!(cause(decide(&by_key(&key), NAME, &mut registry)), "no-signature");
    assert!(is_admitted(&judge(&by_key(&key), NAME, Some(index), &mut registry)));
}

#[test]
fn what_is_malformed_or_altered_is_refused() {
    let key = key();
    let good = payload(&image(), NAME);
    let twice = String::from_utf8(good.clone()).unwrap();
    let twice = twice.replacen(
        "\"docker-manifest-digest\"",
        "\"docker-manifest-digest\":\"x\",\"docker-manifest-digest\"",
        1,
    );
    let mut no_annotation = signed(&key, &good);
    no_annotation.1 = json!({});
    let mut not_base64 = signed(&key, &good);
    not_base64.1["dev.cosignproject.cosign/signature"] = json!("!");
    for (signature, expected) in [
        (signed(&key, twice.as_bytes()), "malformed"),
        (signed(&key, b"{}"), "malformed"),
        (no_annotation, "malformed"),
        (not_base64, "malformed"),
        ((good.clone(), signed(&key, b"other").1), "signature"),
    ] {
        assert_eq!(cause(decide(&by_key(&key), NAME, &mut with(&[signature]))), expected);
    }
    // The registry gives other bytes than it promises.
    let mut registry = with(&[signed(&key, &good)]);
    registry.blobs.values_mut().for_each(|blob| blob[0] ^= 1);
    assert_eq!(cause(decide(&by_key(&key), NAME, &mut registry)), "malformed");
    registry.blobs.values_mut().for_each(|blob| blob.push(0));
    assert_eq!(cause(decide(&by_key(&key), NAME, &mut registry)), "malformed");
}

#[test]
fn what_cannot_be_had_may_be_tried_again() {
    let key = key();
    for broken in ["sha256-", "sha256:", "/key"] {
        let mut registry = with(&[signed(&key, &payload(&image(), NAME))]);
        registry.files.insert("/key".to_owned(), key.public_key_pem().into_bytes());
        let policy = policy(json!({"type": "sigstoreSigned", "keyPath": "/key"}));
        assert!(is_admitted(&decide(&policy, NAME, &mut registry)));
        registry.broken.insert(broken.to_owned());
        let refused = refused(decide(&policy, NAME, &mut registry));
        assert_eq!(
            (refused.code(), refused.blame().as_str()),
            ("IMAGE_SIGNATURE_UNAVAILABLE", "unavailable"),
            "{refused}"
        );
    }
    let refused =
        refused(decide(&policy(json!({"type": "sigstoreSigned", "keyPath": "/none"})), NAME, &mut with(&[])));
    assert_eq!((refused.code(), refused.blame().as_str()), ("IMAGE_POLICY_KEY_UNUSABLE", "misused"));
    let refused = self::refused(decide(&by_key(&key), NAME, &mut Registry::default()));
    assert_eq!((refused.code(), refused.blame().as_str()), ("IMAGE_UNSIGNED", "denied"));
}

#[test]
fn a_key_that_is_withheld_is_a_denial_for_good() {
    let key = key();
    let mut registry = with(&[signed(&key, &payload(&image(), NAME))]);
    registry.withheld.insert("kbs:///".to_owned());
    let policy = policy(json!({"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign/team"}));
    let refused = refused(decide(&policy, NAME, &mut registry));
    assert_eq!(
        (refused.code(), refused.blame().as_str()),
        ("IMAGE_POLICY_KEY_WITHHELD", "denied"),
        "{refused}"
    );
    assert!(refused.to_string().contains("the key broker's policy denies it"), "{refused}");
}

#[test]
fn a_key_with_a_log_needs_its_promise() {
    let (key, log, stranger) = (key(), signer::Log(key()), signer::Log(key()));
    let policy = policy(json!({
        "type": "sigstoreSigned", "keyData": key.public_key_pem(), "rekorPublicKeyData": log.0.public_key_pem(),
    }));
    let payload = payload(&image(), NAME);
    let (_, mut annotations) = signed(&key, &payload);
    assert_eq!(cause(decide(&policy, NAME, &mut with(&[(payload.clone(), annotations.clone())]))), "log");
    let raw = base64_of(&annotations["dev.cosignproject.cosign/signature"]);
    let promise = |log: &signer::Log, payload: &[u8], key: &KeyPair, at: i64| {
        json!(log.promise(payload, &raw, &key.public_key_pem(), at).to_string())
    };
    for (promise, expected) in [
        (promise(&log, &payload, &key, THEN), None),
        (promise(&stranger, &payload, &key, THEN), Some("log")),
        (promise(&log, b"another payload", &key, THEN), Some("digest")),
        (promise(&log, &payload, &stranger.0, THEN), Some("log")),
        (promise(&log, &payload, &key, 32_503_680_000), Some("log")),
        (json!("{}"), Some("malformed")),
    ] {
        annotations["dev.sigstore.cosign/bundle"] = promise;
        let verdict = decide(&policy, NAME, &mut with(&[(payload.clone(), annotations.clone())]));
        match expected {
            None => assert!(is_admitted(&verdict), "{}", verdict.explain()),
            Some(expected) => assert_eq!(cause(verdict), expected),
        }
    }
}

fn base64_of(value: &Value) -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn fulcio(authority: &Authority, issuer: &str, mail: &str) -> Policy {
    policy(json!({
        "type": "sigstoreSigned",
        "fulcio": {"caData": authority.pem, "oidcIssuer": issuer, "subjectEmail": mail},
        "rekorPublicKeyData": authority.log.0.public_key_pem(),
    }))
}

#[test]
fn a_certificate_counts_for_the_person_and_the_time_it_was_made_for() {
    let authority = Authority::new();
    let payload = payload(&image(), NAME);
    let policy = fulcio(&authority, OIDC_ISSUER, MAIL);
    let verdict = decide(&policy, NAME, &mut with(&[authority.sign(&payload, &Claims::default())]));
    let Verdict::Admitted(admitted) = verdict else { panic!("{}", verdict.explain()) };
    assert_eq!(admitted.proofs()[0].by, format!("{MAIL} ({OIDC_ISSUER})"));

    let mail = |text: &str| SanType::Rfc822Name(text.try_into().unwrap());
    for (claims, expected) in [
        (Claims { issuer: "https://evil.example.com", ..Claims::default() }, "signer"),
        (Claims { subject: mail("other@example.com"), ..Claims::default() }, "signer"),
        (Claims { subject: mail("release@example.com.evil"), ..Claims::default() }, "signer"),
        (Claims { subject: SanType::URI(MAIL.try_into().unwrap()), ..Claims::default() }, "signer"),
        (Claims { until: THEN - 1, ..Claims::default() }, "certificate"),
        (Claims { usage: ExtendedKeyUsagePurpose::ServerAuth, ..Claims::default() }, "certificate"),
    ] {
        assert_eq!(cause(decide(&policy, NAME, &mut with(&[authority.sign(&payload, &claims)]))), expected);
    }
    let elsewhere = Authority::new();
    let signature = elsewhere.sign(&payload, &Claims::default());
    assert_eq!(cause(decide(&policy, NAME, &mut with(&[signature]))), "log");
}

#[test]
fn an_expired_certificate_is_nothing_without_the_time_of_the_log() {
    let authority = Authority::new();
    let payload = payload(&image(), NAME);
    let policy = fulcio(&authority, OIDC_ISSUER, MAIL);
    // The certificates of these tests expired long ago; the promise says that the signature was made before.
    let (_, annotations) = authority.sign(&payload, &Claims::default());
    for (edit, expected) in [
        (
            (|a: &mut Value| {
                a.as_object_mut().unwrap().remove("dev.sigstore.cosign/bundle");
            }) as fn(&mut Value),
            "log",
        ),
        (
            |a| {
                let promise = a["dev.sigstore.cosign/bundle"].as_str().unwrap();
                a["dev.sigstore.cosign/bundle"] =
                    json!(promise.replace(&THEN.to_string(), &(THEN + 1).to_string()));
            },
            "log",
        ),
        (
            |a| {
                a.as_object_mut().unwrap().remove("dev.sigstore.cosign/certificate");
            },
            "signer",
        ),
        (|a| a["dev.sigstore.cosign/certificate"] = json!("-----BEGIN CERTIFICATE-----"), "malformed"),
    ] {
        let mut annotations = annotations.clone();
        edit(&mut annotations);
        assert_eq!(cause(decide(&policy, NAME, &mut with(&[(payload.clone(), annotations)]))), expected);
    }
    // Another authority's certificate below the promise of the right log.
    let elsewhere = Authority { log: authority.log, ..Authority::new() };
    let signature = elsewhere.sign(&payload, &Claims::default());
    assert_eq!(cause(decide(&policy, NAME, &mut with(&[signature]))), "certificate");
}
