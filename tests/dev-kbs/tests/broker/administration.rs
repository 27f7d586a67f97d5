//! The administrator's endpoints.

use axum::body::Body;
use axum::http::{Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use dev_kbs::admin::Admin;
use dev_kbs::clock::unix_now;
use dev_kbs::state::StateDir;
use serde_json::json;

use crate::guest::{Broker, rules};

const ENDPOINTS: [(Method, &str); 7] = [
    (Method::POST, "resource/a/b/c"),
    (Method::DELETE, "resource/a/b/c"),
    (Method::POST, "resource-policy"),
    (Method::GET, "resource-policy"),
    (Method::POST, "attestation-policy"),
    (Method::POST, "reference-value"),
    (Method::GET, "reference-value/svn"),
];

#[tokio::test]
async fn every_endpoint_needs_a_good_token() {
    let broker = Broker::start(rules());
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Admin::load_or_create(&StateDir::open(elsewhere.path()).unwrap()).unwrap();
    let own = Admin::load_or_create(&StateDir::open(broker.place.path()).unwrap()).unwrap();
    for (method, path) in ENDPOINTS {
        for (token, why) in [
            (String::new(), "no bearer token"),
            (stranger.token(unix_now(), 60), "not signed"),
            (own.token(unix_now() - 60, 60), "expired"),
        ] {
            let bearer = format!("Bearer {token}");
            let headers: &[_] =
                if token.is_empty() { &[] } else { &[(header::AUTHORIZATION, bearer.as_str())] };
            let answer = broker.send(method.clone(), path, headers, "{}").await;
            let detail = answer.refusal(401, "AdminAuthAccess");
            assert!(detail.contains(why), "{method} {path}: {detail}");
        }
    }
    let stored = broker.administer(Method::DELETE, "resource/a/b/c", Body::empty()).await;
    stored.refusal(404, "PluginInternalError");
}

#[tokio::test]
async fn reference_values_are_set_and_read() {
    let broker = Broker::start(rules());
    let read = |name: &'static str| broker.administer(Method::GET, name, Body::empty());
    read("reference-value/svn").await.refusal(404, "RvpsError");
    broker.set_reference_values(&json!({ "svn": ["1"], "a/b": { "c": 1 } })).await;
    broker.set_reference_values(&json!({ "svn": ["1", "2"] })).await;
    assert_eq!(read("reference-value/svn").await.good().json(), json!(["1", "2"]));
    assert_eq!(read("reference-value/a/b").await.good().json(), json!({ "c": 1 }));
    let wrong = json!({ "version": "0.2.0", "type": "sample", "payload": STANDARD.encode("{}") });
    let answer = broker.administer(Method::POST, "reference-value", wrong.to_string()).await;
    assert!(answer.refusal(400, "RvpsError").contains("0.1.0"));
}

#[tokio::test]
async fn policies_of_another_kind_are_refused_with_the_form_of_ours() {
    let broker = Broker::start(rules());
    let detail =
        broker.set_policy("package policy\ndefault allow = true").await.refusal(400, "ParsePolicyError");
    assert!(detail.contains("rule document in TOML") && detail.contains("[[allow]]"), "{detail}");
    for body in ["{}", "{\"policy\":\"*\"}", "{\"policy\":\"_w\"}"] {
        let answer = broker.administer(Method::POST, "resource-policy", body).await;
        answer.refusal(400, "ParsePolicyError");
    }
    let listed = broker.administer(Method::GET, "resource-policy", Body::empty()).await.good();
    assert_eq!(listed.json(), json!(["resource-policy"]));

    let body = json!({ "policy_id": "default_cpu", "policy": URL_SAFE_NO_PAD.encode("package policy") });
    let answer = broker.administer(Method::POST, "attestation-policy", body.to_string()).await;
    assert!(answer.refusal(400, "ParsePolicyError").contains("reference values"));
}

#[tokio::test]
async fn accepted_writes_are_answered_as_the_protocol_has_it() {
    let broker = Broker::start(rules());
    let answer = broker.administer(Method::POST, "resource/a/b/c", "x").await.good();
    assert_eq!((answer.headers[header::CONTENT_TYPE].to_str().unwrap(), answer.body.len()), ("text/xml", 0));
    let answer = broker.set_policy("default = \"deny\"").await.good();
    assert!(answer.body.is_empty());
    for path in ["resource/a/b", "resource/a/b/c/d", "resource/a/..%2fb/c"] {
        broker.administer(Method::POST, path, "x").await.refusal(400, "PluginInternalError");
    }
}
