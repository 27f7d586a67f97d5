//! Answers that the service never gives, and documents that it never sees. What it does give is tested against OpenBao in the
//! scenarios.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::TIME_LIMIT;
use crate::stand_in::{Reply, StandIn, credentials, directories, members};

const WRAPPED: &[u8] = b"vault:v1:d3JhcHBlZA==";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn config(url: &str, more: &str) -> VaultConfig {
    toml::from_str(&format!("address = {url:?}\n{more}")).unwrap()
}

fn vault(url: &str, more: &str) -> (Vault, tempfile::TempDir) {
    let folder = credentials(&[("token", "hvs.SECRETTOKEN\n")]);
    (Vault::new(&config(url, more), &directories(folder.path()), None, None).unwrap(), folder)
}

fn ok(body: &Value) -> Reply {
    Reply::Status(200, body.to_string())
}

fn text(result: &Result<Secret, KmsError>) -> Result<&str, &str> {
    result.as_ref().map(|s| std::str::from_utf8(s.expose()).unwrap()).map_err(KmsError::code)
}

#[tokio::test]
async fn requests_carry_token_and_namespace_and_stay_below_the_mounts() {
    let server = StandIn::start(ok(&json!({"data": {"plaintext": "a2V5"}}))).await;
    let (kms, _folder) = vault(&server.url, "namespace = \"team/a\"\ntransit_mount = \"kms/transit\"");
    let annotations = members(json!({"context": "Y3R4"}));
    assert_eq!(kms.decrypt("kek-1", WRAPPED, &annotations, soon()).await.unwrap().expose(), b"key");
    let request = server.seen().remove(0);
    for part in [
        "POST /v1/kms/transit/decrypt/kek-1 HTTP/1.1",
        "x-vault-token: hvs.SECRETTOKEN",
        "x-vault-namespace: team/a",
        r#"{"ciphertext":"vault:v1:d3JhcHBlZA==","context":"Y3R4"}"#,
    ] {
        assert!(request.contains(part), "{part} is not in {request}");
    }
}

#[tokio::test]
async fn a_document_cannot_leave_the_mounts() {
    let server = StandIn::start(ok(&json!({"data": {"id": "hvs.SECRETTOKEN"}}))).await;
    let (kms, _folder) = vault(&server.url, "kv_version = 1");
    let (none, plain) = (Members::new(), Secret::new(vec![1]));
    for name in [
        "",
        "/x",
        "x/",
        "a//b",
        "../auth/token/lookup-self",
        "a/../../sys/seal",
        "./a",
        "a/.b",
        "%2e%2e/sys",
        "a?list=true",
        "a#b",
        "a b",
        "ä",
        "a\r\nb",
        &"a".repeat(513),
    ] {
        for result in [
            kms.secret(name, &none, soon()).await.map(drop),
            kms.decrypt(name, WRAPPED, &none, soon()).await.map(drop),
            kms.encrypt(name, &plain, &none, soon()).await.map(drop),
        ] {
            assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED", "{name}");
        }
    }
    assert_eq!(kms.decrypt("a/b", WRAPPED, &none, soon()).await.unwrap_err().code(), "KMS_DOCUMENT_REFUSED");
    for wrapped in [&b""[..], b"x", b"vault:v:eA==", b"vault:v1:", b"vault:v1:\"}", b"vault:vx:eA==", b"\xff"]
    {
        assert_eq!(
            kms.decrypt("k", wrapped, &none, soon()).await.unwrap_err().code(),
            "KMS_DOCUMENT_REFUSED"
        );
    }
    for annotations in [json!({"context": "?"}), json!({"associated_data": 1})] {
        let result = kms.decrypt("k", WRAPPED, &members(annotations), soon()).await;
        assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED");
    }
    let result = kms.secret("a", &members(json!({"version": "1"})), soon()).await;
    assert_eq!(
        result.unwrap_err().code(),
        "KMS_DOCUMENT_REFUSED",
        "version 1 of the engine keeps no versions"
    );
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let errors = |errors: Value| json!({"errors": errors}).to_string();
    for (what, reply, code) in [
        ("no JSON", Reply::Status(200, "<html>".to_owned()), "KMS_BAD_ANSWER"),
        ("a list", Reply::Status(200, "[[\"a2V5\"]]".to_owned()), "KMS_BAD_ANSWER"),
        ("no data", ok(&json!({})), "KMS_BAD_ANSWER"),
        ("no base64", ok(&json!({"data": {"plaintext": "?"}})), "KMS_BAD_ANSWER"),
        ("an empty key", ok(&json!({"data": {"plaintext": ""}})), "KMS_BAD_ANSWER"),
        ("too long", ok(&json!({"data": {"plaintext": "a".repeat(70_000)}})), "KMS_ANSWER_TOO_LARGE"),
        ("a redirect to the active node", Reply::Status(307, String::new()), "KMS_BAD_ANSWER"),
        ("denied", Reply::Status(403, errors(json!(["permission denied"]))), "KMS_DENIED"),
        ("absent", Reply::Status(404, errors(json!([]))), "KMS_NOT_FOUND"),
        ("no such key", Reply::Status(400, errors(json!(["encryption key not found"]))), "KMS_NOT_FOUND"),
        ("does not open", Reply::Status(400, errors(json!(["invalid ciphertext"]))), "KMS_CANNOT_DECRYPT"),
        ("sealed", Reply::Status(503, errors(json!(["Vault is sealed"]))), "KMS_BUSY"),
        ("too often", Reply::Status(429, String::new()), "KMS_BUSY"),
    ] {
        let server = StandIn::start(reply).await;
        let (kms, _folder) = vault(&server.url, "");
        let result = kms.decrypt("k", WRAPPED, &Members::new(), soon()).await;
        assert_eq!(result.unwrap_err().code(), code, "{what}");
    }
    let server = StandIn::start(ok(&json!({"data": {"ciphertext": "plain"}}))).await;
    let (kms, _folder) = vault(&server.url, "");
    let result = kms.encrypt("k", &Secret::new(vec![1]), &Members::new(), soon()).await;
    assert_eq!(result.unwrap_err().code(), "KMS_BAD_ANSWER");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_own_limit() {
    let server = StandIn::start(Reply::Silence).await;
    let (kms, _folder) = vault(&server.url, "");
    let start = Instant::now();
    let result = kms.secret("db", &Members::new(), start + TIME_LIMIT * 9).await;
    assert_eq!(result.unwrap_err().code(), "KMS_TIMEOUT");
    assert!(start.elapsed() >= TIME_LIMIT && start.elapsed() < TIME_LIMIT + Duration::from_secs(1));
}

#[tokio::test]
async fn the_member_that_was_asked_for_and_no_other() {
    let data = json!({"user": "app", "password": "p\u{e4}ss", "port": 5432, "none": null});
    let nested =
        |data: Value, version: u64| json!({"data": {"data": data, "metadata": {"version": version}}});
    for (answer, annotations, expected) in [
        (nested(json!({"password": "x"}), 3), json!({}), Ok("x")),
        (nested(data.clone(), 3), json!({"field": "password"}), Ok("päss")),
        (nested(data.clone(), 3), json!({"field": "password", "version": "3"}), Ok("päss")),
        (nested(data.clone(), 3), json!({"field": "password", "version": "2"}), Err("KMS_OTHER_SUBJECT")),
        (
            nested(data.clone(), 3),
            json!({"field": "password", "version": "two"}),
            Err("KMS_DOCUMENT_REFUSED"),
        ),
        (nested(data.clone(), 3), json!({}), Err("KMS_REQUEST_REFUSED")),
        (nested(data.clone(), 3), json!({"field": "absent"}), Err("KMS_NOT_FOUND")),
        (nested(data.clone(), 3), json!({"field": "port"}), Err("KMS_REQUEST_REFUSED")),
        (nested(data.clone(), 3), json!({"field": "none"}), Err("KMS_REQUEST_REFUSED")),
        (nested(Value::Null, 3), json!({}), Err("KMS_NOT_FOUND")),
        (nested(json!({}), 3), json!({}), Err("KMS_REQUEST_REFUSED")),
        (json!({"data": data}), json!({}), Err("KMS_BAD_ANSWER")),
    ] {
        let server = StandIn::start(ok(&answer)).await;
        let (kms, _folder) = vault(&server.url, "");
        let result = kms.secret("app/db", &members(annotations.clone()), soon()).await;
        assert_eq!(text(&result), expected, "{annotations} {answer}");
    }
    let server = StandIn::start(ok(&json!({"data": {"password": "x"}}))).await;
    let (kms, _folder) = vault(&server.url, "kv_version = 1\nkv_mount = \"kv\"");
    assert_eq!(text(&kms.secret("app/db", &Members::new(), soon()).await), Ok("x"));
    assert!(server.seen()[0].starts_with("GET /v1/kv/app/db HTTP/1.1"));
}

#[test]
fn configuration_that_cannot_be_used_is_refused() {
    for (url, more) in [
        ("http://vault.example", ""),
        ("https://vault.example/prefix", ""),
        ("https://vault", "kv_version = 3"),
        ("https://vault", "kv_mount = \"\""),
        ("https://vault", "transit_mount = \"../sys\""),
        ("https://vault", "namespace = \"a\\nb\""),
        ("https://vault", "certificate = \"none\""),
    ] {
        let result = Vault::new(&config(url, more), &directories("/x".as_ref()), None, None);
        assert_eq!(result.unwrap_err().code(), "KMS_CONFIG", "{url} {more}");
    }
}

proptest! {
    #[test]
    fn answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), engine in 1..=2u8) {
        let _ = answer::ciphertext(&bytes);
        let answer = Secret::new(bytes);
        let _ = answer::field("x", &answer, engine, Some("1"), Some("x"));
        let _ = answer::refusal("x", http::StatusCode::BAD_REQUEST, &answer);
    }

    #[test]
    fn every_accepted_path_is_itself_in_a_uri(path in "[a-zA-Z0-9./%?#_-]{0,20}") {
        if check_path(&path).is_ok() {
            let uri: Uri = format!("/v1/secret/data/{path}").parse().unwrap();
            prop_assert_eq!(uri.path(), format!("/v1/secret/data/{path}"));
            prop_assert!(!path.contains(".."));
        }
    }
}
