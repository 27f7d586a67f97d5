//! `auth` and `attest`: what is refused, and that the refusal names the failed check.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::{KeyAlgorithm, TeeKeyPair};
use cc_evidence::{HashAlgorithm, binding, sample};
use dev_kbs::server::{BODY_LIMIT, Rules};
use serde_json::{Value, json};

use crate::guest::{Broker, Guest, auth, claims, rules, token};

#[tokio::test]
async fn another_version_is_refused_and_both_are_named() {
    let broker = Broker::start(rules());
    for version in ["0.1.0", "0.4.1", "", "x"] {
        let detail = broker.post("auth", "", &auth(version, "sample")).await.refusal(401, "AttestationError");
        assert!(detail.contains("0.4.0") && detail.contains(version), "{detail}");
    }
}

#[tokio::test]
async fn a_tee_that_is_not_verified_here_is_refused_at_once() {
    let broker = Broker::start(Rules { allow_sample: false, ..rules() });
    for (tee, why) in [
        ("se", "no verifier for se"),
        ("sample", "--allow-sample"),
        ("sampledevice", "--allow-sample"),
        ("x", "x"),
    ] {
        let detail = broker.post("auth", "", &auth("0.4.0", tee)).await.refusal(401, "AttestationError");
        assert!(detail.contains(why), "{detail}");
    }
}

#[tokio::test]
async fn the_challenge_has_a_nonce_and_a_cookie() {
    let broker = Broker::start(rules());
    let answer = broker.post("auth", "", &auth("0.4.0", "snp")).await.good();
    assert_eq!(answer.json()["nonce"].as_str().unwrap().len(), 44);
    assert_eq!(answer.json()["extra-params"], "");
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.starts_with("kbs-session-id=") && cookie.ends_with("SameSite=Strict; Secure"), "{cookie}");
}

#[tokio::test]
async fn a_selected_hash_is_said_and_used() {
    for hash in HashAlgorithm::ALL {
        let broker = Broker::start(Rules { hash_algorithm: Some(hash), ..rules() });
        let guest = Guest::arrive(&broker, "sample").await;
        assert_eq!(guest.hash, hash);
        guest.attest_as_sample(&broker).await;
    }
    let broker = Broker::start(Rules { hash_algorithm: Some(HashAlgorithm::Sm3), ..rules() });
    let mut request = auth("0.4.0", "sample");
    request["extra-params"] = json!({ "supported-hash-algorithms": ["sha384"] });
    let detail = broker.post("auth", "", &request).await.refusal(401, "AttestationError");
    assert!(detail.contains("sm3"), "{detail}");
}

#[tokio::test]
async fn attest_needs_a_session_that_is_known_and_not_expired() {
    let broker = Broker::start(rules());
    let guest = Guest::arrive(&broker, "sample").await;
    let body = guest.sample_request();
    let detail = broker.post("attest", "", &body).await.refusal(401, "AttestationError");
    assert!(detail.contains("no session cookie"), "{detail}");
    let stranger = format!("kbs-session-id={}", "0".repeat(32));
    let detail = broker.post("attest", &stranger, &body).await.refusal(401, "AttestationError");
    assert!(detail.contains("unknown"), "{detail}");

    let hasty = Broker::start(Rules { session_lifetime: Duration::ZERO, ..rules() });
    let guest = Guest::arrive(&hasty, "sample").await;
    let detail = guest.attest(&hasty, &guest.sample_request()).await.refusal(401, "AttestationError");
    assert!(detail.contains("older than 0 s"), "{detail}");
}

#[tokio::test]
async fn a_session_is_good_for_one_attest() {
    let broker = Broker::start(rules());
    let guest = Guest::arrive(&broker, "sample").await;
    let first = guest.attest(&broker, &guest.sample_request()).await.good();
    let again = first.headers[header::SET_COOKIE].to_str().unwrap();
    assert!(again.starts_with(&guest.cookie), "the same cookie comes back");
    let detail = guest.attest(&broker, &guest.sample_request()).await.refusal(401, "AttestationError");
    assert!(detail.contains("session already used"), "{detail}");
    assert!(guest.ask(&broker, "a/b/c").await.status.as_u16() == 403, "the first attest still counts");

    // A failed attempt uses the nonce up as well.
    let guest = Guest::arrive(&broker, "sample").await;
    let bad = guest.request(&sample::evidence_json(b"other"), "");
    guest.attest(&broker, &bad).await.refusal(401, "AttestationError");
    let detail = guest.attest(&broker, &guest.sample_request()).await.refusal(401, "AttestationError");
    assert!(detail.contains("session already used"), "{detail}");
}

#[tokio::test]
async fn evidence_is_bound_to_nonce_and_key() {
    let broker = Broker::start(rules());
    let earlier = Guest::arrive(&broker, "sample").await;
    let replayed = earlier.sample_request()["tee-evidence"].clone();

    // Evidence of another session, under the new session's nonce.
    let guest = Guest::arrive(&broker, "sample").await;
    let mut body = guest.sample_request();
    body["tee-evidence"] = replayed.clone();
    let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
    assert!(detail.starts_with("evidence: sample.report_data: "), "{detail}");
    assert!(detail.contains(&hex::encode(guest.report_data())), "what was expected: {detail}");
    assert!(detail.contains(&hex::encode(earlier.report_data())), "what was found: {detail}");

    // The other session's nonce with its evidence.
    let guest = Guest::arrive(&broker, "sample").await;
    let detail = guest.attest(&broker, &earlier.sample_request()).await.refusal(401, "AttestationError");
    assert!(detail.contains("nonce"), "{detail}");
    assert!(!detail.contains(&guest.nonce) && !detail.contains(&earlier.nonce), "{detail}");

    // A key that the evidence does not know.
    let guest = Guest::arrive(&broker, "sample").await;
    let mut body = guest.sample_request();
    body["runtime-data"]["tee-pubkey"] = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap().public_jwk();
    let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
    assert!(detail.starts_with("evidence: sample.report_data: "), "{detail}");
}

#[tokio::test]
async fn only_good_keys_of_the_exact_members_are_taken() {
    let broker = Broker::start(rules());
    let changes: [(&str, Value, &str); 4] = [
        ("kid", json!("1"), "kid"),
        ("d", json!("AAAA"), "unknown member"),
        ("alg", json!("ECDH-ES"), "alg"),
        ("y", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"), ""),
    ];
    for (member, value, why) in changes {
        let guest = Guest::arrive(&broker, "sample").await;
        let mut body = guest.sample_request();
        body["runtime-data"]["tee-pubkey"][member] = value;
        let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
        assert!(detail.starts_with("runtime-data: tee-pubkey: ") && detail.contains(why), "{detail}");
        // A request that never reached the evidence did not use the session up.
        guest.attest_as_sample(&broker).await;
    }
}

#[tokio::test]
async fn additional_evidence_is_hashed_as_text() {
    let broker = Broker::start(rules());
    let guest = Guest::arrive(&broker, "sample").await;
    let (nonce, key) = (&guest.nonce, guest.key.public_jwk());
    let device = binding::device_report_data(nonce, &key, guest.hash).unwrap();
    let additional = format!("{{\"sampledevice\":{}}}", sample::device_evidence_json(&device));
    let primary = binding::primary_report_data(nonce, &key, &additional, guest.hash).unwrap();
    let evidence = sample::evidence_json(&primary);

    let good = guest.attest(&broker, &guest.request(&evidence, &additional)).await.good();
    let claims = claims(&token(&good));
    assert_eq!(claims["submods"].as_object().unwrap().keys().collect::<Vec<_>>(), ["cpu0", "gpu0"]);
    let bound = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["runtime_data_claims"];
    assert_eq!(bound, &json!({ "nonce": nonce, "tee-pubkey": key }));

    // One space more: the same JSON, another text.
    let guest = Guest::arrive(&broker, "sample").await;
    let key = guest.key.public_jwk();
    let device = binding::device_report_data(&guest.nonce, &key, guest.hash).unwrap();
    let additional = format!("{{\"sampledevice\":{}}}", sample::device_evidence_json(&device));
    let primary = binding::primary_report_data(&guest.nonce, &key, &additional, guest.hash).unwrap();
    let body = guest.request(&sample::evidence_json(&primary), &format!("{additional} "));
    let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
    assert!(detail.starts_with("evidence: sample.report_data: "), "{detail}");

    // A device with evidence of another session.
    let guest = Guest::arrive(&broker, "sample").await;
    let primary =
        binding::primary_report_data(&guest.nonce, &guest.key.public_jwk(), &additional, guest.hash).unwrap();
    let body = guest.request(&sample::evidence_json(&primary), &additional);
    let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
    assert!(detail.starts_with("evidence: sampledevice.report_data: "), "{detail}");
}

#[tokio::test]
async fn devices_without_a_verifier_and_evidence_that_is_none_are_refused() {
    let broker = Broker::start(rules());
    for (additional, why) in [
        ("{\"hygondcu\":{}}", "no verifier for hygondcu"),
        ("{\"nvidia\":{}}", "NVIDIA evidence is not valid JSON of its format"),
        ("{\"nvidia\":{\"device_evidence_list\":[]}}", "evidence of no device proves nothing"),
        ("{\"x\":{}}", "x"),
        ("{\"sampledevice\":{},\"sampledevice\":{}}", "named twice"),
        ("[]", "expected a JSON object"),
    ] {
        let guest = Guest::arrive(&broker, "sample").await;
        let primary =
            binding::primary_report_data(&guest.nonce, &guest.key.public_jwk(), additional, guest.hash)
                .unwrap();
        let body = guest.request(&sample::evidence_json(&primary), additional);
        let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
        assert!(detail.contains(why), "{detail}");
    }
}

#[tokio::test]
async fn init_data_is_read_and_shown_in_the_token() {
    let broker = Broker::start(rules());
    let document = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"aa.toml\" = \"[a]\\nb = 1\"\n";
    let guest = Guest::arrive(&broker, "sample").await;
    let mut body = guest.sample_request();
    body["init-data"] = json!({ "format": "toml", "body": document });
    let answer = guest.attest(&broker, &body).await.good();
    let evidence = &claims(&token(&answer))["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
    assert_eq!(
        evidence["init_data"],
        STANDARD.encode(HashAlgorithm::Sha384.digest(document.as_bytes())).as_str()
    );
    assert_eq!(evidence["init_data_claims"], json!({ "aa.toml": { "a": { "b": 1 } } }));

    for (format, text, why) in [("json", document, "must be toml"), ("toml", "nonsense", "init-data")] {
        let guest = Guest::arrive(&broker, "sample").await;
        let mut body = guest.sample_request();
        body["init-data"] = json!({ "format": format, "body": text });
        let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
        assert!(detail.contains(why), "{detail}");
    }
}

#[tokio::test]
async fn malformed_bodies_are_refused_and_unknown_members_ignored() {
    let broker = Broker::start(rules());
    for body in ["", "[]", "{}", "{\"version\":\"0.4.0\",\"tee\":\"snp\"}"] {
        broker.send(Method::POST, "auth", &[], body).await.refusal(400, "SerdeError");
    }
    let mut request = auth("0.4.0", "snp");
    request["more"] = json!(1);
    request["extra-params"] = json!("");
    broker.post("auth", "", &request).await.good();

    let guest = Guest::arrive(&broker, "sample").await;
    for member in ["runtime-data", "tee-evidence"] {
        let mut body = guest.sample_request();
        body.as_object_mut().unwrap().remove(member);
        let detail = guest.attest(&broker, &body).await.refusal(400, "SerdeError");
        assert!(detail.contains(member), "{detail}");
    }
    let mut body = guest.sample_request();
    body.as_object_mut().unwrap().remove("init-data");
    body["more"] = json!(1);
    guest.attest(&broker, &body).await.good();
}

#[tokio::test]
async fn a_body_above_the_limit_is_413() {
    let broker = Broker::start(rules());
    let answer = broker.send(Method::POST, "auth", &[], vec![b' '; BODY_LIMIT + 1]).await;
    assert_eq!(answer.status.as_u16(), 413);
    let largest = broker.administer(Method::POST, "resource/a/b/c", vec![0; BODY_LIMIT]).await;
    assert_eq!(largest.status.as_u16(), 200);
}

#[tokio::test]
async fn what_is_no_endpoint_is_a_plugin_that_is_not_there() {
    let broker = Broker::start(rules());
    for (path, plugin) in [("auth", "auth"), ("pkcs11/wrap-key", "pkcs11"), ("", "")] {
        let detail = broker.get(path, &[]).await.refusal(404, "PluginNotFound");
        assert_eq!(detail, format!("plugin {plugin:?} not found"));
    }
    for (method, path) in [(Method::PATCH, "auth"), (Method::OPTIONS, "x"), (Method::PUT, "resource/a/b/c")] {
        let answer = broker.send(method, path, &[], Body::empty()).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (405, 0));
    }
}

#[tokio::test]
async fn strict_statuses_are_those_of_trustee() {
    let broker = Broker::start(Rules { strict_upstream_status: true, ..rules() });
    broker.send(Method::POST, "auth", &[], "").await.refusal(401, "SerdeError");
    broker.get("nothing", &[]).await.refusal(404, "PluginNotFound");
    let guest = Guest::arrive(&broker, "sample").await;
    guest.attest_as_sample(&broker).await;
    guest.ask(&broker, "default/key/1").await.refusal(401, "PolicyDeny");
    broker.know_the_sample().await;
    let guest = Guest::arrive(&broker, "sample").await;
    guest.attest_as_sample(&broker).await;
    guest.ask(&broker, "default/key/1").await.refusal(401, "PluginInternalError");
    guest.ask(&broker, "default/key").await.refusal(401, "PluginInternalError");
}
