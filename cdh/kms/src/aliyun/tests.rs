//! Signatures that Alibaba Cloud published, answers that it never gives, and documents that it never sees. A stand-in that checks
//! signatures with code of its own is in the scenarios.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use proptest::prelude::*;
use serde_json::json;

use super::access_key::{AccessKey, RamRole};
use super::*;
use crate::http_server::read_json;
use crate::stand_in::{Reply, StandIn, credentials, directories, members};
use crate::{KmsConfig, Providers, Surroundings, TIME_LIMIT};

const KEY: &str = "key-hzz630494463ejqjx1234";
const STS: &str = "STS.NUgYrLnoC37mZZCNnAbez:Hb3Nz7mRyM5kYqy4dWq:CAISjwJ1q6Ft5B2yfSjIr5fdIs==\n";
const ACCESS_KEY: &str = r#"{"access_key_id":"LTAI4F","access_key_secret":"aecret/of+the=key"}"#;
const CLIENT_KEY: &str = "KAAP.1d3a0b6c";
/// A certificate that signs nothing.
const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
    MIIBhDCCASugAwIBAgIUVCNPeeFzQDQeeBHVvPjxwPBuvUAwCgYIKoZIzj0EAwIw\n\
    FzEVMBMGA1UEAwwMYW4gYXV0aG9yaXR5MCAXDTI2MTEyMjIyMDM1M1oYDzIxMjYx\n\
    MDI5MjIwMzUzWjAXMRUwEwYDVQQDDAxhbiBhdXRob3JpdHkwWTATBgcqhkjOPQIB\n\
    BggqhkjOPQMBBwNCAATWcICl0beQRrsb9dubewlNSZitTwwxMSCl0Nt1lWDB4VHe\n\
    3YDEo2UXmjzjv1D/AZ8TK8dMmkfm6qOu6JX9TdiKo1MwUTAdBgNVHQ4EFgQUofkw\n\
    rBwk2ZdrJxBMhvY9v0VKRiowHwYDVR0jBBgwFoAUofkwrBwk2ZdrJxBMhvY9v0VK\n\
    RiowDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNHADBEAiBBlKHPXEQAkOEI\n\
    EBPZr28pDDn49wVuK2vb3R7RS9vK/QIgN4ahwHZi3EaDD+DLzDPOtzmql3pO+I6Y\n\
    qrTwf0RDxUI=\n\
    -----END CERTIFICATE-----\n";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// The provider with all three endpoints at `url`.
fn aliyun(url: &str, folder: &Path) -> Arc<Aliyun> {
    let url = || Some(url.to_owned());
    let config = AliyunConfig {
        endpoint: url(),
        instance_endpoint: url(),
        metadata_endpoint: url(),
        ..AliyunConfig::default()
    };
    Arc::new(Aliyun::new(&config, &directories(folder), None, None).unwrap())
}

fn region(kind: &str) -> Members {
    members(json!({"client_type": kind, "region_id": "cn-hangzhou", "token_path": "sts"}))
}

/// A region at `url`, with an access key.
fn at(url: &str) -> (Service, tempfile::TempDir) {
    let role = r#"{"ecs_ram_role_name": "guest", "region_id": "cn-hangzhou"}"#;
    let folder = credentials(&[("sts", STS), ("credential.json", ACCESS_KEY), ("ecsRamRole.json", role)]);
    (aliyun(url, folder.path()).open(&region("sts_token")).unwrap(), folder)
}

fn status(status: u16, body: serde_json::Value) -> Reply {
    Reply::Status(status, body.to_string())
}

#[test]
fn published_signatures() {
    // The example of "Request syntax and signature method V2 for RPC APIs", and the same as a POST.
    let parameters = BTreeMap::from([
        ("AccessKeyId", "testid"),
        ("Action", "DescribeRegions"),
        ("Format", "XML"),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", "3ee8c1b8-83d3-44af-a94f-4e0ad82fd6cf"),
        ("SignatureVersion", "1.0"),
        ("Timestamp", "2016-02-23T12:46:24Z"),
        ("Version", "2014-05-26"),
    ]);
    let secret = "testsecret".to_owned().into();
    assert_eq!(openapi::sign(&Method::GET, &parameters, &secret), "OLeaidS1JvxuMvnyHOwuJ+uX5qY=");
    let time = UNIX_EPOCH + Duration::from_secs(1_456_231_584);
    assert_eq!(openapi::timestamp(time), "2016-02-23T12:46:24Z");
    assert_eq!(openapi::timestamp(UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00Z");
    let far = UNIX_EPOCH + Duration::from_secs(1 << 42);
    assert_eq!(openapi::timestamp(far), "9999-12-31T23:59:59Z");
}

#[tokio::test]
async fn a_request_names_what_it_asks_for_and_hides_what_is_secret() {
    let server = StandIn::start(status(200, json!({"KeyId": KEY, "Plaintext": "a2V5", "More": 1}))).await;
    let (kms, folder) = at(&server.url);
    let annotations = members(json!({"encryption_context": {"team": "a b"}}));
    assert_eq!(kms.decrypt(KEY, b"blob+/=", &annotations, soon()).await.unwrap().expose(), b"key");
    for kind in ["access_key", "sts_token"] {
        let kms = aliyun(&server.url, folder.path()).open(&region(kind)).unwrap();
        kms.decrypt(KEY, b"blob", &Members::new(), soon()).await.unwrap();
    }
    let seen = server.seen();
    for part in [
        "POST /?AccessKeyId=STS.NUgYrLnoC37mZZCNnAbez&Action=Decrypt&Format=json&RegionId=cn-hangzhou&",
        "&SecurityToken=CAISjwJ1q6Ft5B2yfSjIr5fdIs%3D%3D&Signature=",
        "&SignatureMethod=HMAC-SHA1&SignatureNonce=",
        "&SignatureVersion=1.0&Timestamp=2",
        "&Version=2016-01-20 HTTP/1.1",
        "x-acs-action: Decrypt",
        "x-acs-version: 2016-01-20",
        "x-sdk-invoke-type: normal",
        "x-sdk-client: confidential-data-hub/",
        "\r\n\r\nCiphertextBlob=blob%2B%2F%3D&EncryptionContext=%7B%22team%22%3A%22a%20b%22%7D",
    ] {
        assert!(seen[0].contains(part), "{part} is not in {}", seen[0]);
    }
    assert!(seen[1].contains("AccessKeyId=LTAI4F&") && !seen[1].contains("SecurityToken"));
    assert!(
        seen.iter().all(|request| !request.contains("Hb3Nz7mRyM5kYqy4dWq") && !request.contains("aecret"))
    );
    let nonce = |text: &str| text.split_once("SignatureNonce=").unwrap().1[..16].to_owned();
    assert!(nonce(&seen[0]).bytes().all(|b| b.is_ascii_hexdigit()) && nonce(&seen[0]) != nonce(&seen[2]));
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let good = json!({"KeyId": KEY, "Plaintext": "a2V5"}).to_string();
    let long = "a".repeat(600_000);
    let endless = format!("HTTP/1.1 200 x\r\nconnection: close\r\n\r\n{long}").into_bytes();
    let code = |code: &str| json!({"Code": code, "Message": "no", "RequestId": "1"});
    for (what, reply, expected) in [
        ("no JSON", Reply::Status(200, "<html>".to_owned()), "KMS_BAD_ANSWER"),
        ("a list", Reply::Status(200, format!("[\"{KEY}\",\"a2V5\"]")), "KMS_BAD_ANSWER"),
        ("no plaintext", status(200, json!({"KeyId": KEY})), "KMS_BAD_ANSWER"),
        ("an empty key", status(200, json!({"KeyId": KEY, "Plaintext": ""})), "KMS_BAD_ANSWER"),
        (
            "a long key",
            status(200, json!({"KeyId": KEY, "Plaintext": "aaaa".repeat(1400)})),
            "KMS_BAD_ANSWER",
        ),
        ("no base64", status(200, json!({"KeyId": KEY, "Plaintext": "?"})), "KMS_BAD_ANSWER"),
        ("two keys", Reply::Status(200, good.replacen('{', "{\"KeyId\":\"x\",", 1)), "KMS_BAD_ANSWER"),
        ("another key", status(200, json!({"KeyId": "key-other", "Plaintext": "a2V5"})), "KMS_OTHER_SUBJECT"),
        ("too long", status(200, json!({"KeyId": KEY, "Plaintext": long})), "KMS_ANSWER_TOO_LARGE"),
        ("too long, unannounced", Reply::Raw(endless), "KMS_ANSWER_TOO_LARGE"),
        ("a redirect", Reply::Status(307, String::new()), "KMS_BAD_ANSWER"),
        ("no HTTP", Reply::Raw(b"SSH-2.0-x\r\n".to_vec()), "KMS_BAD_ANSWER"),
        ("nothing", Reply::Raw(Vec::new()), "KMS_UNREACHABLE"),
        ("no reason", Reply::Status(400, "<html>".to_owned()), "KMS_BAD_ANSWER"),
        ("denied by a proxy", Reply::Status(403, "<html>".to_owned()), "KMS_DENIED"),
        ("signature", status(400, code("SignatureDoesNotMatch")), "KMS_DENIED"),
        ("clock", status(400, code("InvalidTimeStamp.Expired")), "KMS_DENIED"),
        ("token", status(400, code("InvalidSecurityToken.Expired")), "KMS_DENIED"),
        ("policy", status(403, code("Forbidden.NoPermission")), "KMS_DENIED"),
        ("unknown access key", status(404, code("InvalidAccessKeyId.NotFound")), "KMS_DENIED"),
        ("access key off", status(403, code("InvalidAccessKeyId.Inactive")), "KMS_DENIED"),
        ("absent key", status(404, code("Forbidden.KeyNotFound")), "KMS_NOT_FOUND"),
        ("absent secret", status(404, code("Forbidden.ResourceNotFound")), "KMS_NOT_FOUND"),
        ("damaged", status(400, code("InvalidCiphertext")), "KMS_CANNOT_DECRYPT"),
        ("throttled", status(400, code("Throttling.User")), "KMS_BUSY"),
        ("broken", Reply::Status(503, String::new()), "KMS_BUSY"),
        ("our fault", status(400, code("InvalidParameter")), "KMS_REQUEST_REFUSED"),
    ] {
        let server = StandIn::start(reply).await;
        let result = at(&server.url).0.decrypt(KEY, b"wrapped", &Members::new(), soon()).await;
        assert_eq!(result.unwrap_err().code(), expected, "{what}");
    }
    let told = status(400, json!({"Code": "Forbidden", "Message": "a\u{1b}[31mb".repeat(200)}));
    let server = StandIn::start(told).await;
    let message =
        at(&server.url).0.decrypt(KEY, b"x", &Members::new(), soon()).await.unwrap_err().to_string();
    assert!(message.len() < 600 && !message.contains('\u{1b}'), "{message}");
    let (kms, _folder) = at("http://127.0.0.1:9");
    let nobody = kms.decrypt(KEY, b"x", &Members::new(), soon()).await;
    assert_eq!(nobody.unwrap_err().code(), "KMS_UNREACHABLE");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline_and_at_the_own_limit() {
    let server = StandIn::start(Reply::Silence).await;
    let (kms, folder) = at(&server.url);
    let role = aliyun(&server.url, folder.path()).open(&region("ecs_ram_role")).unwrap();
    for kms in [&kms, &role] {
        for (deadline, expected) in
            [(Duration::from_secs(3), Duration::from_secs(3)), (TIME_LIMIT * 9, TIME_LIMIT)]
        {
            let start = Instant::now();
            let result = kms.secret("db", &Members::new(), start + deadline).await;
            assert_eq!(result.unwrap_err().code(), "KMS_TIMEOUT");
            assert!(start.elapsed() >= expected && start.elapsed() < expected + Duration::from_secs(1));
        }
    }
}

#[tokio::test]
async fn secrets_are_those_that_were_asked_for() {
    let arn = "acs:kms:cn-hangzhou:1234:secret/db";
    for (name, annotations, change, expected) in [
        ("db", json!({}), json!({}), Ok("päss")),
        (arn, json!({"version_stage": "", "version_id": ""}), json!({}), Ok("päss")),
        (arn, json!({}), json!({"SecretName": arn}), Ok("päss")),
        ("db", json!({"version_id": "v1", "version_stage": "ACSCurrent"}), json!({}), Ok("päss")),
        ("db", json!({}), json!({"SecretName": "other"}), Err("KMS_OTHER_SUBJECT")),
        ("acs:kms:cn-hangzhou:1234:key/db", json!({}), json!({}), Err("KMS_OTHER_SUBJECT")),
        ("db", json!({"version_id": "v2"}), json!({}), Err("KMS_OTHER_SUBJECT")),
        ("db", json!({"version_stage": "ACSPrevious"}), json!({}), Err("KMS_OTHER_SUBJECT")),
        ("db", json!({}), json!({"SecretData": null}), Err("KMS_BAD_ANSWER")),
    ] {
        let mut answer = json!({"SecretName": "db", "VersionId": "v1", "SecretData": "p\u{e4}ss",
            "SecretDataType": "text", "VersionStages": {"VersionStage": ["ACSCurrent"]}});
        for (name, value) in members(change) {
            answer[name] = value;
        }
        let server = StandIn::start(status(200, answer)).await;
        let (kms, _folder) = at(&server.url);
        let result = kms.secret(name, &members(annotations.clone()), soon()).await;
        let text = result.as_ref().map(|s| std::str::from_utf8(s.expose()).unwrap()).map_err(KmsError::code);
        assert_eq!(text, expected, "{name} {annotations}");
        let sent = server.seen().remove(0);
        let version = annotations["version_id"].as_str().is_some_and(|id| !id.is_empty());
        assert_eq!(sent.contains("&VersionId="), version, "empty means not sent: {sent}");
    }
}

#[tokio::test]
async fn documents_and_credentials_that_cannot_be_used_send_nothing() {
    let server = StandIn::start(Reply::Status(200, String::new())).await;
    let (kms, folder) = at(&server.url);
    let none = Members::new();
    for (key_id, ciphertext, annotations) in [
        ("", &b"x"[..], json!({})),
        ("a b", b"x", json!({})),
        (KEY, b"", json!({})),
        (KEY, b"\x01\x02", json!({})),
        (KEY, &[b'x'; 12_289], json!({})),
        (KEY, b"x", json!({"encryption_context": "team=a"})),
    ] {
        let result = kms.decrypt(key_id, ciphertext, &members(annotations), soon()).await;
        assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED", "{key_id}");
    }
    let aliyun = aliyun(&server.url, folder.path());
    for (kind, file, texts) in [
        ("sts_token", "sts", &["", "a:b", "a:b:c:d", "a b:c:d", "a::c", "a:b:\u{e4}"][..]),
        (
            "access_key",
            "credential.json",
            &["", "{}", "[\"a\",\"b\",null]", r#"{"access_key_id":"a b","access_key_secret":"x"}"#],
        ),
        (
            "ecs_ram_role",
            "ecsRamRole.json",
            &[
                "{}",
                r#"{"ecs_ram_role_name":"a/b","region_id":"cn-hangzhou"}"#,
                r#"{"ecs_ram_role_name":"a","region_id":"x.evil"}"#,
            ],
        ),
    ] {
        let kms = aliyun.open(&region(kind)).unwrap();
        for text in texts {
            std::fs::write(folder.path().join(file), text).unwrap();
            let error = kms.secret("db", &none, soon()).await.unwrap_err();
            assert_eq!(error.code(), "KMS_CREDENTIAL_MALFORMED", "{kind} {text}: {error}");
        }
        std::fs::remove_file(folder.path().join(file)).unwrap();
        assert_eq!(kms.secret("db", &none, soon()).await.unwrap_err().code(), "KMS_CREDENTIAL_MISSING");
    }
    assert!(server.seen().is_empty());
}

#[test]
fn a_document_chooses_names_and_nothing_else() {
    let config = AliyunConfig { regions: Some(vec!["cn-hangzhou".to_owned()]), ..AliyunConfig::default() };
    let aliyun = Arc::new(Aliyun::new(&config, &directories("/nonexistent".as_ref()), None, None).unwrap());
    for settings in [
        json!({}),
        json!({"client_type": "client_key"}),
        json!({"client_type": "client_key", "client_key_id": "a/b", "kms_instance_id": "kst-1"}),
        json!({"client_type": "client_key", "client_key_id": "a", "kms_instance_id": "kst.evil.example"}),
        json!({"client_type": "sts_token", "region_id": "cn-hangzhou"}),
        json!({"client_type": "sts_token", "region_id": "cn-hangzhou", "token_path": "/etc/shadow"}),
        json!({"client_type": "sts_token", "region_id": "cn-beijing", "token_path": "t"}),
        json!({"client_type": "access_key", "region_id": "x.evil.example#"}),
        json!({"client_type": "access_key", "region_id": 1}),
        json!({"client_type": "ram"}),
    ] {
        let result = aliyun.open(&members(settings.clone()));
        assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED", "{settings}");
    }
    let role = aliyun.open(&members(json!({"client_type": "ecs_ram_role"}))).unwrap_err();
    assert_eq!(role.code(), "KMS_NOT_CONFIGURED");
    assert!(role.to_string().contains("kms.aliyun.metadata_endpoint"), "{role}");
    for (name, good) in [
        ("http://kms.example", false),
        ("https://kms.example/prefix", false),
        ("https://kms-vpc.cn-hangzhou.aliyuncs.com", true),
        ("http://100.100.100.200", false),
    ] {
        let config = AliyunConfig { endpoint: Some(name.to_owned()), ..AliyunConfig::default() };
        let config = KmsConfig { aliyun: config, ..KmsConfig::default() };
        assert_eq!(Providers::new(&config, Surroundings::default()).is_ok(), good, "{name}");
    }
    for (url, good) in [
        ("http://100.100.100.200", true),
        ("http://100.100.100.201", false),
        ("https://metadata.example", true),
    ] {
        let config = AliyunConfig { metadata_endpoint: Some(url.to_owned()), ..AliyunConfig::default() };
        assert_eq!(Aliyun::new(&config, &directories("/x".as_ref()), None, None).is_ok(), good, "{url}");
    }
}

#[allow(clippy::disallowed_methods, reason = "another program makes the client's key")]
fn client_key() -> tempfile::TempDir {
    let folder = credentials(&[
        ("password_KAAP.1d3a0b6c.json", "a password\n"),
        ("PrivateKmsCA_kst-1.pem", AUTHORITY),
    ]);
    for arguments in [
        &["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "key.pem"][..],
        &[
            "pkcs12",
            "-export",
            "-nocerts",
            "-inkey",
            "key.pem",
            "-passout",
            "pass:a password",
            "-out",
            "key.p12",
        ],
    ] {
        let mut openssl = Command::new("openssl");
        let status =
            openssl.args(arguments).current_dir(folder.path()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{arguments:?}");
    }
    let container = STANDARD.encode(std::fs::read(folder.path().join("key.p12")).unwrap());
    write_client_key(folder.path(), CLIENT_KEY, &container);
    folder
}

fn write_client_key(folder: &Path, id: &str, container: &str) {
    let text = json!({"KeyId": id, "PrivateKeyData": container}).to_string();
    std::fs::write(folder.join(format!("clientKey_{CLIENT_KEY}.json")), text).unwrap();
}

fn instance(url: &str, folder: &Path) -> Service {
    let settings =
        json!({"client_type": "client_key", "client_key_id": CLIENT_KEY, "kms_instance_id": "kst-1"});
    aliyun(url, folder).open(&members(settings)).unwrap()
}

fn raw(status: u16, message: &impl prost::Message) -> Reply {
    let body = message.encode_to_vec();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    Reply::Raw([head.into_bytes(), body].concat())
}

#[tokio::test]
async fn an_instance_is_asked_with_a_client_key() {
    let folder = client_key();
    let iv = members(json!({"iv": "AAECAwQFBgcICQoL"}));
    let answer = |key: &str, plaintext: &[u8]| {
        raw(200, &message::DecryptResponse { key_id: key.to_owned(), plaintext: plaintext.to_vec() })
    };
    let error = |code: &str| message::Error {
        status_code: 400,
        error_code: code.to_owned(),
        error_message: "no".to_owned(),
    };
    for (what, reply, expected) in [
        ("good", answer(KEY, b"key"), Ok(&b"key"[..])),
        ("another key", answer("key-other", b"key"), Err("KMS_OTHER_SUBJECT")),
        ("no key's name", answer("", b"key"), Err("KMS_OTHER_SUBJECT")),
        ("an empty key", answer(KEY, b""), Err("KMS_BAD_ANSWER")),
        ("a long key", answer(KEY, &[1; 4097]), Err("KMS_BAD_ANSWER")),
        ("beyond the bound", answer(KEY, &vec![1; 600_000]), Err("KMS_ANSWER_TOO_LARGE")),
        ("no message", Reply::Status(200, "{\"KeyId\":1}".to_owned()), Err("KMS_BAD_ANSWER")),
        ("denied", raw(403, &error("Forbidden.NoPermission")), Err("KMS_DENIED")),
        ("clock", raw(400, &error("RequestTimeTooSkewed")), Err("KMS_DENIED")),
        ("unknown access key", raw(404, &error("InvalidAccessKeyId.NotFound")), Err("KMS_DENIED")),
        ("unknown client key", raw(404, &error("InvalidClientKeyId.NotFound")), Err("KMS_DENIED")),
        ("absent", raw(404, &error("Forbidden.KeyNotFound")), Err("KMS_NOT_FOUND")),
        ("our fault", raw(400, &error("InvalidParam")), Err("KMS_REQUEST_REFUSED")),
        ("no reason", Reply::Status(400, "\u{7f}".to_owned()), Err("KMS_BAD_ANSWER")),
        ("broken", Reply::Status(500, String::new()), Err("KMS_BUSY")),
    ] {
        let server = StandIn::start(reply).await;
        let kms = instance(&server.url, folder.path());
        let result = kms.decrypt(KEY, b"wrapped", &iv, soon()).await;
        assert_eq!(result.as_ref().map(Secret::expose).map_err(KmsError::code), expected, "{what}");
        let sent = server.seen().remove(0);
        for part in [
            "POST / HTTP/1.1",
            "x-kms-acccesskeyid: KAAP.1d3a0b6c",
            "x-kms-apiname: Decrypt",
            "x-kms-apiversion: dkms-gcs-0.2",
            "x-kms-signaturemethod: RSA_PKCS1_SHA_256",
            "content-type: application/x-protobuf",
            "authorization: Bearer ",
        ] {
            assert!(sent.contains(part), "{part} is not in {sent}");
        }
    }
    let server = StandIn::start(answer(KEY, b"key")).await;
    let kms = instance(&server.url, folder.path());
    for annotations in [json!({}), json!({"iv": "?"}), json!({"iv": "A".repeat(100)})] {
        let result = kms.decrypt(KEY, b"wrapped", &members(annotations), soon()).await;
        assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED");
    }
    let container = STANDARD.encode(std::fs::read(folder.path().join("key.p12")).unwrap());
    for (id, container) in [("KAAP.other", container.as_str()), (CLIENT_KEY, "?"), (CLIENT_KEY, "AAAA")] {
        write_client_key(folder.path(), id, container);
        let result = kms.decrypt(KEY, b"wrapped", &iv, soon()).await;
        assert_eq!(result.unwrap_err().code(), "KMS_CREDENTIAL_MALFORMED", "{id} {container}");
    }
    write_client_key(folder.path(), CLIENT_KEY, &container);
    std::fs::write(folder.path().join("password_KAAP.1d3a0b6c.json"), "another").unwrap();
    let error = kms.decrypt(KEY, b"wrapped", &iv, soon()).await.unwrap_err();
    assert_eq!(error.code(), "KMS_CREDENTIAL_MALFORMED");
    assert!(!error.to_string().contains("another password"), "{error}");
    std::fs::write(folder.path().join("PrivateKmsCA_kst-1.pem"), "no PEM").unwrap();
    assert_eq!(kms.decrypt(KEY, b"x", &iv, soon()).await.unwrap_err().code(), "KMS_CREDENTIAL_MALFORMED");
    assert!(server.seen().is_empty());
}

#[test]
fn keys_in_answers() {
    let arn = "acs:kms:cn-hangzhou:1234:key/key-hzz630494463ejqjx1234";
    for (asked, answered, same) in [
        (KEY, KEY, true),
        (arn, KEY, true),
        (KEY, arn, true),
        (arn, arn, true),
        ("alias/team", KEY, true),
        ("acs:kms:cn-hangzhou:1234:alias/team", KEY, true),
        ("alias/team", "", false),
        ("key-hzz", KEY, false),
        (KEY, "", false),
        ("acs:kms:x", "acs:kms:x", false),
    ] {
        assert_eq!(answer::check_key("x", asked, answered).is_ok(), same, "{asked} {answered}");
    }
}

#[test]
fn messages_with_secrets_do_not_print_them() {
    let decrypted = message::DecryptResponse { key_id: "k".to_owned(), plaintext: b"hunter2".to_vec() };
    assert_eq!(format!("{decrypted:?}"), "DecryptResponse { key_id: \"k\", .. }");
    let key = AccessKey::of_line(&Secret::new(STS.as_bytes().to_vec())).unwrap();
    let text = format!("{key:?}");
    assert!(!text.contains("Hb3Nz7") && !text.contains("CAISjw"), "{text}");
}

proptest! {
    #[test]
    fn answers_and_credentials_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = Secret::new(bytes);
        let _ = AccessKey::of_file(&text);
        let _ = AccessKey::of_line(&text);
        let _ = AccessKey::of_metadata(&text);
        let _ = RamRole::parse(&text);
        let _ = answer::refusal("x", StatusCode::BAD_REQUEST, &text);
        let _ = instance::refusal("x", StatusCode::BAD_REQUEST, &text);
        let _ = read_json::<answer::Decrypted>("x", &text);
        let _ = read_json::<answer::SecretValue>("x", &text);
        let _ = instance::read::<message::DecryptResponse>("x", &text);
        let _ = instance::read::<message::GetSecretValueResponse>("x", &text);
    }
}
