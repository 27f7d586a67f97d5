//! Bundles that refer to an image: by a key alone, with a log and a certificate, with provenance.

use image_rs::{
    Reference,
    policy::{Policy, Subject, Verdict},
};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::{
    NAME, cause, decide, image, is_admitted, policy, refused,
    registry::{Registry, sha256},
    signer::{attestation, key},
};

const TYPE: &str = "guest-services/bundleSigned";
const SOURCE: &str = "https://example.com/team/app";
const BUILDER: &str = "https://example.com/builder";

fn statement(predicate_type: &str, predicate: Value) -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "app", "digest": {"sha256": image().hex()}}],
        "predicateType": predicate_type, "predicate": predicate,
    })
}

fn signature() -> Value {
    statement("https://sigstore.dev/cosign/sign/v1", json!({}))
}

fn provenance() -> Value {
    let workflow =
        json!({"repository": SOURCE, "ref": "refs/tags/v1", "path": ".github/workflows/release.yml"});
    statement(
        "https://slsa.dev/provenance/v1",
        json!({
            "buildDefinition": {"externalParameters": {"workflow": workflow}},
            "runDetails": {"builder": {"id": BUILDER}},
        }),
    )
}

fn by_key(key: &KeyPair, provenance: Option<Value>) -> Policy {
    let mut requirement =
        json!({"type": TYPE, "keyData": key.public_key_pem(), "transparencyLog": "ignored"});
    if let Some(provenance) = provenance {
        requirement["provenance"] = provenance;
    }
    policy(requirement)
}

fn with(bundles: &[Vec<u8>]) -> Registry {
    let mut registry = Registry::default();
    bundles.iter().for_each(|bundle| registry.refer(image(), bundle));
    registry
}

#[test]
fn a_signature_by_the_key_admits_with_and_without_the_call_for_referrers() {
    let (good, other) = (key(), key());
    let bundles = [attestation(&other, &signature()), attestation(&good, &signature())];
    for old in [false, true] {
        let mut registry = with(&bundles);
        registry.old = old;
        let verdict = decide(&by_key(&good, None), NAME, &mut registry);
        assert!(is_admitted(&verdict), "{}", verdict.explain());
        assert_eq!(
            cause(decide(&by_key(&good, None), NAME, &mut Registry { old, ..with(&bundles[..1]) })),
            "signature"
        );
        assert_eq!(
            cause(decide(&by_key(&good, None), NAME, &mut Registry { old, ..with(&[]) })),
            "no-signature"
        );
    }
}

#[test]
fn what_else_a_key_attests_admits_nothing() {
    let key = key();
    let mut another_image = signature();
    another_image["subject"][0]["digest"]["sha256"] = json!(sha256(b"another").hex());
    let good = String::from_utf8(attestation(&key, &signature())).unwrap();
    for (bundle, expected) in [
        (
            attestation(&key, &statement("https://cosign.sigstore.dev/attestation/vuln/v1", json!({}))),
            "provenance",
        ),
        (attestation(&key, &provenance()), "provenance"),
        (attestation(&key, &another_image), "digest"),
        (attestation(&key, &json!({"critical": {}})), "malformed"),
        (good.replace("vnd.in-toto+json", "vnd.in-toto+jsom").into_bytes(), "signature"),
        (good.replacen("\"payload\"", "\"payload\":\"e30=\",\"payload\"", 1).into_bytes(), "malformed"),
        (b"{}".to_vec(), "malformed"),
    ] {
        assert_eq!(cause(decide(&by_key(&key, None), NAME, &mut with(&[bundle]))), expected);
    }
}

#[test]
fn provenance_must_say_what_the_policy_asks() {
    let key = key();
    let wanted = json!({
        "builderId": BUILDER, "sourceUri": SOURCE, "sourceRef": "refs/tags/v1", "workflow": ".github/workflows/release.yml",
    });
    let policy = by_key(&key, Some(wanted.clone()));
    assert!(is_admitted(&decide(&policy, NAME, &mut with(&[attestation(&key, &provenance())]))));
    // A plain signature beside it does not replace it, and what differs is named.
    assert_eq!(cause(decide(&policy, NAME, &mut with(&[attestation(&key, &signature())]))), "provenance");
    for (name, other) in
        [("builderId", "x"), ("sourceUri", "https://example.com/team/app2"), ("workflow", "x.yml")]
    {
        let mut wanted = wanted.clone();
        wanted[name] = json!(other);
        let refused = refused(decide(
            &by_key(&key, Some(wanted)),
            NAME,
            &mut with(&[attestation(&key, &provenance())]),
        ));
        assert_eq!(refused.because()[0].cause.as_str(), "provenance");
        assert!(refused.to_string().contains(&format!("not {other:?}")), "{refused}");
    }
}

/// The conformance suite's own bundles, referring to an "image" whose digest is that of the artifact they are over.
#[test]
fn keyless_bundles_admit_by_identity() {
    const IDENTITY: &str = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main";
    const ISSUER: &str = "https://token.actions.githubusercontent.com";
    let Some(artifact) = cc_vectors::read("sigstore", "a.txt") else { return };
    let judge = |identity: Value, case: &str, root: bool| {
        let bundle = cc_vectors::read("sigstore", &format!("{case}/bundle.sigstore.json")).unwrap();
        let mut registry = Registry::default();
        registry.refer(sha256(&artifact), &bundle);
        let mut requirement = json!({"type": TYPE, "identity": identity});
        if root {
            let text = cc_vectors::read("sigstore", &format!("{case}/trusted_root.json")).unwrap();
            registry.files.insert("kbs:///default/root/1".to_owned(), text);
            requirement["trustedRootPath"] = json!("kbs:///default/root/1");
        }
        let reference: Reference = NAME.parse().unwrap();
        let subject = Subject { reference: Some(&reference), manifest: sha256(&artifact), index: None };
        policy(requirement).decide(&subject, std::time::SystemTime::now(), &mut registry)
    };
    let exact = json!({"issuer": ISSUER, "subject": IDENTITY});
    let prefix = |prefix: &str| json!({"issuer": ISSUER, "subjectPrefix": prefix});
    for (case, root) in [("happy-path-v0.3", false), ("rekor2-happy-path", true)] {
        let verdict = judge(exact.clone(), case, root);
        let Verdict::Admitted(admitted) = verdict else { panic!("{}", verdict.explain()) };
        assert_eq!(admitted.proofs()[0].by, format!("{IDENTITY} ({ISSUER})"));
        assert!(is_admitted(&judge(prefix("https://github.com/sigstore-conformance/"), case, root)));
        assert_eq!(cause(judge(prefix("https://github.com/sigstore/"), case, root)), "signer");
        assert_eq!(
            cause(judge(json!({"issuer": "https://other.example", "subject": IDENTITY}), case, root)),
            "signer"
        );
    }
    assert_eq!(cause(judge(exact.clone(), "inclusion-proof-corrupted-hash_fail", false)), "log");
    assert_eq!(cause(judge(exact.clone(), "rekor2-no-inclusion-proof_fail", true)), "malformed");
    assert_eq!(cause(judge(exact, "managed-key-happy-path", false)), "signer");
}
