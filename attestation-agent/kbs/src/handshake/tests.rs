//! The state machine step by step, without a network.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_crypto::Secret;
use http::Response;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Bound, Challenged, MAX_NONCE_LEN, Start, UNSTATED_TOKEN_LIFE, other_version};
use crate::error::KbsError;

fn pubkey() -> Value {
    json!({
        "kty": "EC", "crv": "P-256", "alg": "ECDH-ES+A256KW",
        "x": "ba6dhVZMQpM00nfC05nss0_5OQofKMQ8QgiXx3qU_1U",
        "y": "4cLtTuwNiGopbVTbE1oaUyNXPWmRpweTs7DTUdxS6yE",
    })
}

fn answer(status: u16, body: impl AsRef<[u8]>) -> Response<Secret> {
    Response::builder()
        .status(status)
        .header("set-cookie", "kbs-session-id=c00k1e")
        .body(Secret::new(body.as_ref().to_vec()))
        .unwrap()
}

fn start() -> Start {
    Start::new("snp", pubkey()).unwrap().0
}

fn challenged(extra: &Value) -> Result<Challenged, KbsError> {
    start().on_answer(&answer(200, json!({"nonce": "bm9uY2U=", "extra-params": extra}).to_string()))
}

fn bound(additional: &str, hash: &str) -> Bound {
    challenged(&json!({"selected-hash-algorithm": hash})).unwrap().with_devices(additional.to_owned())
}

fn jwt(claims: &Value) -> String {
    let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
    format!("{}.{}.c2ln", part(&json!({"alg": "ES256"})), part(claims))
}

fn attest(answer: &Response<Secret>) -> Result<super::Token, KbsError> {
    let sent = [("measurement".to_owned(), "aa55".to_owned())];
    bound("", "sha384").attest("{}", None).unwrap().0.on_answer(answer, &sent)
}

#[test]
fn auth_request() {
    let (_, request) = Start::new("az-tdx-vtpm", pubkey()).unwrap();
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/kbs/v0/auth"));
    assert_eq!(request.headers()["content-type"], "application/json");
    assert!(!request.headers().contains_key("cookie"));
    assert_eq!(
        std::str::from_utf8(request.body()).unwrap(),
        r#"{"version":"0.4.0","tee":"az-tdx-vtpm","extra-params":{"supported-hash-algorithms":["sha256","sha384","sha512","sm3"]}}"#
    );
}

#[test]
fn challenges_that_are_accepted() {
    for extra in [
        json!(""),
        json!({}),
        json!(null),
        json!({"other": 1}),
        json!({"selected-hash-algorithm": "sha384"}),
        json!({"selected-hash-algorithm": "SHA384"}),
    ] {
        let report_data = challenged(&extra).unwrap().device_report_data().unwrap();
        assert_eq!(
            hex::encode(report_data),
            "68ef206a37585620b030b486cddfacb686cfce982518a221014a61da88cd1c229414044463751bc2a0e95d42044a9773",
            "{extra}"
        );
    }
    for (hash, len) in [("sha256", 32), ("Sha512", 64), ("SM3", 32)] {
        let challenged = challenged(&json!({"selected-hash-algorithm": hash})).unwrap();
        assert_eq!(challenged.device_report_data().unwrap().len(), len);
    }
    let without = start().on_answer(&answer(200, r#"{"nonce":"n","unknown":[1]}"#)).unwrap();
    assert_eq!(without.device_report_data().unwrap().len(), 48);
}

#[test]
fn challenges_that_are_refused() {
    for extra in [
        json!("sha384"),
        json!(1),
        json!([]),
        json!(true),
        json!({"selected-hash-algorithm": ""}),
        json!({"selected-hash-algorithm": "sha-384"}),
        json!({"selected-hash-algorithm": "md5"}),
        json!({"selected-hash-algorithm": null}),
        json!({"selected-hash-algorithm": 384}),
        json!({"selected-hash-algorithm": ["sha384"]}),
    ] {
        assert_eq!(challenged(&extra).unwrap_err().code(), "KBS_BAD_RESPONSE", "{extra}");
    }
    let long = json!({"nonce": "n".repeat(MAX_NONCE_LEN + 1)}).to_string();
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"nonce":1}"#,
        r#"{"nonce":""}"#,
        r#"{"nonce":"a","nonce":"b"}"#,
        r#"{"nonce":"a","extra-params":{},"extra-params":""}"#,
        r#" ["a",""]"#,
        r#"{"nonce":"a","extra-params":{"selected-hash-algorithm":"sha256","selected-hash-algorithm":"sha512"}}"#,
        "<html>",
        &long,
    ] {
        assert_eq!(
            start().on_answer(&answer(200, body)).unwrap_err().code(),
            "KBS_BAD_RESPONSE",
            "{body:.40}"
        );
    }
    let no_cookie = Response::builder().body(Secret::new(br#"{"nonce":"n"}"#.to_vec())).unwrap();
    assert_eq!(start().on_answer(&no_cookie).unwrap_err().code(), "KBS_BAD_RESPONSE");
}

#[test]
fn refusals_of_auth() {
    let mismatch = "KBS Client Protocol Version Mismatch: expect 0.5.1 while the request is 0.4.0";
    for (status, kind, detail, code, text) in [
        (401, "AttestationError", mismatch, "KBS_PROTOCOL_VERSION", "0.5.1"),
        (401, "AttestationError", "version 1.2.3 wanted", "KBS_PROTOCOL_VERSION", "1.2.3"),
        (401, "AttestationError", "Protocol version unknown", "KBS_PROTOCOL_VERSION", "another one"),
        (401, "AttestationError", "tee is unknown", "KBS_DENIED_AUTH", "tee=snp"),
        (401, "SerdeError", "", "KBS_DENIED_AUTH", "SerdeError"),
        (401, "", "", "KBS_DENIED_AUTH", "status 401"),
        (403, "", "", "KBS_DENIED_AUTH", "status 403"),
        (400, "AttestationError", "no", "KBS_DENIED_AUTH", "no"),
        (404, "PluginNotFound", "plugin auth", "KBS_BAD_RESPONSE", "plugin auth"),
        (404, "", "", "KBS_BAD_RESPONSE", "404"),
        (500, "", "", "KBS_SERVER_ERROR", "500"),
        (503, "", "", "KBS_SERVER_ERROR", "503"),
        (302, "", "", "KBS_REDIRECT", "302"),
        (204, "", "", "KBS_BAD_RESPONSE", "204"),
    ] {
        let body =
            if kind.is_empty() { String::new() } else { json!({"type": kind, "detail": detail}).to_string() };
        let e = start().on_answer(&answer(status, body)).unwrap_err();
        assert_eq!(e.code(), code, "{status} {kind} {detail}");
        assert!(e.to_string().contains(text), "{e}");
        if code == "KBS_PROTOCOL_VERSION" {
            assert!(e.to_string().contains("0.4.0"), "{e}");
        }
    }
}

#[test]
fn versions_in_foreign_text() {
    for (text, expected) in [
        ("version mismatch: expected 0.2.0, got 0.4.0", Some(Some("0.2.0"))),
        ("Version 0.5.0.", Some(Some("0.5.0"))),
        ("protocol version", Some(None)),
        ("version 0.4.0", None),
        ("version 1.2", None),
        ("1.2.3", None),
        ("policy version 7", None),
        ("version 1.2.3.4 or 99999999.1.1", None),
        ("", None),
    ] {
        assert_eq!(other_version(text), expected.map(|v| v.map(str::to_owned)), "{text}");
    }
}

/// The check values of the protocol's description.
#[test]
fn primary_report_data() {
    let device = r#"{"sampledevice":{"report_data":"AA==","svn":"2"}}"#;
    for (additional, hash, expected) in [
        (
            "",
            "sha384",
            "e91cbd30655ccae73957607bb3c3f3e7c70897873a176c84c3b61588ee7d337ac33a16d4cdced5ba589bea50290609d6",
        ),
        ("", "sha256", "f34712533876a2b69f7ec48242fd0a1b2d6d8b33b2a24154691e6d56d418a0b0"),
        (
            device,
            "sha384",
            "96a333a3d5ad3bf1494539e70f93fa128dfda9aded4abe39757833b6eef9c11f985901ba21f15c98998a81d54da3ef91",
        ),
    ] {
        assert_eq!(hex::encode(bound(additional, hash).report_data().unwrap()), expected);
    }
}

#[test]
fn attest_request_carries_everything_as_it_is() {
    // Order, spacing and escapes of the evidence are not ours to change.
    let primary = r#"{ "b":1.0, "a":"\u00e9" }"#;
    let device = r#"{"sampledevice": {}}"#;
    let (_, request) = bound(device, "sha384").attest(primary, Some("version = \"0.1.0\"\n")).unwrap();
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/kbs/v0/attest"));
    assert_eq!(request.headers()["cookie"], "kbs-session-id=c00k1e");
    assert!(!format!("{request:?}").contains("c00k1e"));
    let body = std::str::from_utf8(request.body()).unwrap();
    assert!(body.contains(&format!(r#""primary_evidence":{primary}"#)), "{body}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        body,
        json!({
            "init-data": {"format": "toml", "body": "version = \"0.1.0\"\n"},
            "runtime-data": {"nonce": "bm9uY2U=", "tee-pubkey": pubkey()},
            "tee-evidence": {"primary_evidence": {"b": 1.0, "a": "é"}, "additional_evidence": device},
        })
    );
    let (_, request) = bound("", "sha384").attest("{}", None).unwrap();
    assert!(request.body().starts_with(br#"{"init-data":null,"runtime-data":"#));
    assert!(request.body().ends_with(br#""tee-evidence":{"primary_evidence":{},"additional_evidence":""}}"#));
}

#[test]
fn evidence_that_is_not_json_is_not_sent() {
    for bad in ["", "{", "{} {}", "hunter2"] {
        let e = bound("", "sha384").attest(bad, None).unwrap_err();
        assert_eq!(e.code(), "EVIDENCE_NOT_JSON");
    }
}

#[test]
fn tokens_and_their_lives() {
    let minute = Duration::from_secs(60);
    for (claims, life) in [
        (json!({"iat": 1000, "exp": 1300}), minute * 5),
        (json!({"iat": 1000, "exp": 1300, "nbf": 1299}), minute * 5),
        (json!({"exp": 1300}), UNSTATED_TOKEN_LIFE),
        (json!({"iat": 1000}), UNSTATED_TOKEN_LIFE),
        (json!({}), UNSTATED_TOKEN_LIFE),
        (json!({"iat": 0, "exp": u64::MAX}), minute * 60 * 24),
    ] {
        let text = jwt(&claims);
        let token = attest(&answer(200, json!({"token": text}).to_string())).unwrap();
        assert_eq!(token.life, life, "{claims}");
        assert_eq!(token.text.expose(), text.as_bytes());
        assert!(!format!("{token:?}").contains(&text));
    }
}

#[test]
fn answers_to_attest_that_are_refused() {
    for (claims, why) in
        [(json!({"iat": 10, "exp": 10}), "expires"), (json!({"iat": 11, "exp": 10}), "expires")]
    {
        let e = attest(&answer(200, json!({"token": jwt(&claims)}).to_string())).unwrap_err();
        assert!(e.to_string().contains(why), "{e}");
    }
    for body in [
        "",
        "null",
        "{}",
        "\"hunter2\"",
        r#"{"token":"hunter2"}"#,
        r#"{"token":["hunter2"]}"#,
        r#"{"token":"hunter2.hunter2.hunter2"}"#,
    ] {
        let e = attest(&answer(200, body)).unwrap_err();
        assert_eq!(e.code(), "KBS_BAD_RESPONSE", "{body}");
        assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
    }
}

#[test]
fn refusals_of_evidence_say_what_was_sent() {
    for (status, kind) in [(401, "AttestationError"), (401, ""), (403, ""), (400, "AttestationError")] {
        let body =
            if kind.is_empty() { "oops".into() } else { json!({"type": kind, "detail": "bad"}).to_string() };
        let e = attest(&answer(status, body)).unwrap_err();
        assert_eq!(e.code(), "KBS_DENIED_ATTESTATION");
        assert!(
            e.to_string().contains("measurement=aa55") && e.to_string().contains(&status.to_string()),
            "{e}"
        );
    }
    for (status, code) in [(500, "KBS_SERVER_ERROR"), (413, "KBS_BAD_RESPONSE"), (308, "KBS_REDIRECT")] {
        assert_eq!(attest(&answer(status, "")).unwrap_err().code(), code);
    }
}

proptest! {
    #[test]
    fn answers_never_panic(status in 200..600u16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = start().on_answer(&answer(status, &body));
        let _ = attest(&answer(status, &body));
    }

    #[test]
    fn foreign_versions_never_panic(text in any::<String>()) {
        let _ = other_version(&text);
    }
}
