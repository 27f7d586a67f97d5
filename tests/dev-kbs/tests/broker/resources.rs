//! Resources: who gets them, and that they come encrypted to the attested key.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use cc_crypto::{KeyAlgorithm, TeeKeyPair};
use dev_kbs::server::Rules;

use crate::guest::{Broker, Guest, ask_with, claims, rules};

const PATH: &str = "default/key/1";

#[tokio::test]
async fn denied_with_reasons_then_given_once_reference_values_are_set() {
    let broker = Broker::start(rules());
    broker.store(PATH, b"the secret").await;

    let guest = Guest::arrive(&broker, "sample").await;
    let token = guest.attest_as_sample(&broker).await;
    assert_eq!(claims(&token)["submods"]["cpu0"]["ear.status"], "contraindicated");
    let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
    assert!(
        detail.contains("cpu0 (sample) is contraindicated") && detail.contains("launch_digest"),
        "{detail}"
    );
    let detail = ask_with(&broker, &token, PATH).await.refusal(403, "PolicyDeny");
    assert!(detail.contains("launch_digest"), "with the token as with the session: {detail}");

    broker.know_the_sample().await;
    ask_with(&broker, &token, PATH).await.refusal(403, "PolicyDeny");
    let guest = Guest::arrive(&broker, "sample").await;
    let token = guest.attest_as_sample(&broker).await;
    let claims = claims(&token);
    assert_eq!(claims["submods"]["cpu0"]["ear.status"], "affirming");
    assert!(claims["submods"]["cpu0"].get("dev-kbs.reasons").is_none());
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 300);
    assert_eq!(guest.fetch(&broker, PATH).await, b"the secret");
    assert_eq!(guest.open(&ask_with(&broker, &token, PATH).await.good().body), b"the secret");
}

#[tokio::test]
async fn a_contraindicated_guest_gets_nothing_under_any_policy() {
    let broker = Broker::start(rules());
    broker.store(PATH, b"the secret").await;
    broker
        .set_policy("default = \"affirming\"\n[[allow]]\nresource = \"*/*/*\"\nstatus = \"warning\"")
        .await
        .good();
    let guest = Guest::arrive(&broker, "sample").await;
    guest.attest_as_sample(&broker).await;
    guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
}

#[tokio::test]
async fn a_sample_token_opens_nothing_without_the_flag() {
    let broker = Broker::start(rules());
    broker.store(PATH, b"the secret").await;
    broker.know_the_sample().await;
    let guest = Guest::arrive(&broker, "sample").await;
    let token = guest.attest_as_sample(&broker).await;
    ask_with(&broker, &token, PATH).await.good();
    let broker = broker.restart(Rules { allow_sample: false, ..rules() });
    let detail = ask_with(&broker, &token, PATH).await.refusal(403, "PolicyDeny");
    assert!(detail.contains("--allow-sample"), "{detail}");
}

#[tokio::test]
async fn every_kind_of_key_opens_its_answer() {
    let broker = Broker::start(rules());
    broker.store(PATH, b"the secret").await;
    broker.know_the_sample().await;
    for algorithm in [KeyAlgorithm::EcdhP256, KeyAlgorithm::EcdhP521, KeyAlgorithm::RsaOaep256] {
        let guest = Guest::arrive_with(&broker, "sample", algorithm).await;
        guest.attest_as_sample(&broker).await;
        assert_eq!(guest.fetch(&broker, PATH).await, b"the secret");
    }
}

#[tokio::test]
async fn a_missing_resource_is_not_a_denial() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    let guest = Guest::arrive(&broker, "sample").await;
    guest.attest_as_sample(&broker).await;
    let detail = guest.ask(&broker, "default/key/none").await.refusal(404, "PluginInternalError");
    assert!(detail.contains("default/key/none"), "{detail}");
    for path in ["default/key", "default/key/1/2", "default/key/%31", "default/key/.x", "default//1"] {
        guest.ask(&broker, path).await.refusal(400, "PluginInternalError");
    }
}

#[tokio::test]
async fn without_a_verified_token_or_session_there_is_nothing() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    broker.store(PATH, b"the secret").await;
    let path = format!("resource/{PATH}");
    broker.get(&path, &[]).await.refusal(401, "TokenNotFound");
    let guest = Guest::arrive(&broker, "sample").await;
    guest.ask(&broker, PATH).await.refusal(401, "TokenNotFound");
    for token in ["x", "a.b.c", &broker.admin_token] {
        ask_with(&broker, token, PATH).await.refusal(401, "TokenVerifierError");
    }
    // Another broker's token has the same claims and another key.
    let other = Broker::start(rules());
    other.know_the_sample().await;
    let token = Guest::arrive(&other, "sample").await.attest_as_sample(&other).await;
    let detail = ask_with(&broker, &token, PATH).await.refusal(401, "TokenVerifierError");
    assert!(detail.contains("signature"), "{detail}");
}

#[tokio::test]
async fn tokens_outlive_a_restart_and_end_with_their_life() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    broker.store(PATH, b"the secret").await;
    let guest = Guest::arrive(&broker, "sample").await;
    let token = guest.attest_as_sample(&broker).await;
    let broker = broker.restart(Rules { token_lifetime: Duration::ZERO, ..rules() });
    assert_eq!(guest.open(&ask_with(&broker, &token, PATH).await.good().body), b"the secret");
    guest.ask(&broker, PATH).await.refusal(401, "TokenNotFound");

    let late = Guest::arrive(&broker, "sample").await;
    let short = late.attest_as_sample(&broker).await;
    let detail = late.ask(&broker, PATH).await.refusal(401, "TokenVerifierError");
    assert!(detail.contains("expired"), "the session lives, its token does not: {detail}");
    let detail = ask_with(&broker, &short, PATH).await.refusal(401, "TokenVerifierError");
    assert!(detail.contains("expired"), "{detail}");
}

#[tokio::test]
async fn an_answer_is_for_the_attested_key_alone() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    broker.store(PATH, b"the secret").await;
    let guest = Guest::arrive(&broker, "sample").await;
    let token = guest.attest_as_sample(&broker).await;
    let answer = ask_with(&broker, &token, PATH).await.good();
    let other = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    assert!(other.open(&cc_crypto::Jwe::parse(&answer.body).unwrap()).is_err());
    assert!(!answer.body.windows(10).any(|window| window == b"the secret"));
}

#[tokio::test]
async fn rules_of_an_uploaded_policy_are_followed_and_kept() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    broker.store(PATH, b"one").await;
    broker.store("default/key/2", b"two").await;
    broker
        .set_policy("[[allow]]\nresource = \"default/key/*\"\n[[deny]]\nresource = \"default/key/2\"")
        .await
        .good();
    let broker = broker.restart(rules());
    let guest = Guest::arrive(&broker, "sample").await;
    guest.attest_as_sample(&broker).await;
    assert_eq!(guest.fetch(&broker, PATH).await, b"one");
    let detail = guest.ask(&broker, "default/key/2").await.refusal(403, "PolicyDeny");
    assert!(detail.contains("deny rule"), "{detail}");
    let detail = guest.ask(&broker, "other/key/1").await.refusal(403, "PolicyDeny");
    assert!(detail.contains("no allow rule"), "the path is denied before it is looked for: {detail}");
}

#[tokio::test]
async fn a_removed_resource_is_gone() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    broker.store(PATH, b"the secret").await;
    let guest = Guest::arrive(&broker, "sample").await;
    guest.attest_as_sample(&broker).await;
    guest.fetch(&broker, PATH).await;
    let path = format!("resource/{PATH}");
    broker.administer(Method::DELETE, &path, Body::empty()).await.good();
    guest.ask(&broker, PATH).await.refusal(404, "PluginInternalError");
    broker.administer(Method::DELETE, &path, Body::empty()).await.refusal(404, "PluginInternalError");
}

#[tokio::test]
async fn an_unaffirmed_device_closes_the_door() {
    let broker = Broker::start(rules());
    broker.know_the_sample().await;
    broker.store(PATH, b"the secret").await;
    let guest = Guest::arrive(&broker, "sample").await;
    let key = guest.key.public_jwk();
    let device = cc_evidence::binding::device_report_data(&guest.nonce, &key, guest.hash).unwrap();
    let additional = format!("{{\"sampledevice\":{}}}", cc_evidence::sample::device_evidence_json(&device));
    let primary =
        cc_evidence::binding::primary_report_data(&guest.nonce, &key, &additional, guest.hash).unwrap();
    let body = guest.request(&cc_evidence::sample::evidence_json(&primary), &additional);
    guest.attest(&broker, &body).await.good();
    let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
    assert!(detail.contains("gpu0 (sampledevice)"), "{detail}");
}
