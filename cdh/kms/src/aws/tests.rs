//! Answers that AWS never gives, and documents that it never sees. What it does give is tested against a server of AWS'
//! interfaces in the scenarios.

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::stand_in::{Reply, StandIn, credentials, directories, members};
use crate::{Providers, Surroundings, TIME_LIMIT};

const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const ACCESS_KEY: &str = r#"{"access_key_id":"AKIDEXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG+bPxRfiCY",
    "session_token":"FwoGZXIvYXdzEXAMPLETOKEN=="}"#;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// AWS at `url` for both services, with an access key.
fn kms(url: &str, access_key: &str) -> (Arc<dyn Kms>, tempfile::TempDir) {
    let folder = credentials(&[("credential.json", access_key)]);
    let config = AwsConfig {
        kms_endpoint: Some(url.to_owned()),
        secrets_manager_endpoint: Some(url.to_owned()),
        ..AwsConfig::default()
    };
    let aws = Aws::new(&config, &directories(folder.path()), None, None).unwrap();
    (Arc::new(Arc::new(aws).open(&members(json!({"region": "eu-central-1"}))).unwrap()), folder)
}

async fn decrypt(reply: Reply) -> Result<Secret, KmsError> {
    let server = StandIn::start(reply).await;
    kms(&server.url, ACCESS_KEY).0.decrypt(KEY, b"wrapped", &Members::new(), soon()).await
}

fn status(status: u16, body: serde_json::Value) -> Reply {
    Reply::Status(status, body.to_string())
}

#[tokio::test]
async fn a_request_is_signed_and_its_answer_unwrapped() {
    let server = StandIn::start(status(200, json!({"KeyId": ARN, "Plaintext": "a2V5", "More": 1}))).await;
    let (kms, _folder) = kms(&server.url, ACCESS_KEY);
    let annotations = members(json!({"encryption_context": {"team": "a"}}));
    assert_eq!(kms.decrypt(KEY, b"wrapped", &annotations, soon()).await.unwrap().expose(), b"key");
    let request = server.seen().remove(0);
    for part in [
        "POST / HTTP/1.1",
        "x-amz-target: TrentService.Decrypt",
        "x-amz-security-token: FwoGZXIvYXdzEXAMPLETOKEN==",
        "/eu-central-1/kms/aws4_request",
        "SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target",
        r#"{"KeyId":"1234abcd-12ab-34cd-56ef-1234567890ab","CiphertextBlob":"d3JhcHBlZA==","EncryptionContext":{"team":"a"}}"#,
    ] {
        assert!(request.contains(part), "{part} is not in {request}");
    }
    assert!(!request.contains("wJalrXUtnFEMI"), "the secret key is never sent");
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let good = json!({"KeyId": ARN, "Plaintext": "a2V5"}).to_string();
    let long = "a".repeat(600_000);
    let endless = format!("HTTP/1.1 200 x\r\nconnection: close\r\n\r\n{long}").into_bytes();
    for (what, reply, code) in [
        ("no JSON", Reply::Status(200, "<html>".to_owned()), "KMS_BAD_ANSWER"),
        ("a list", Reply::Status(200, format!("[\"{ARN}\",\"a2V5\"]")), "KMS_BAD_ANSWER"),
        ("no plaintext", status(200, json!({"KeyId": ARN})), "KMS_BAD_ANSWER"),
        ("an empty key", status(200, json!({"KeyId": ARN, "Plaintext": ""})), "KMS_BAD_ANSWER"),
        ("no base64", status(200, json!({"KeyId": ARN, "Plaintext": "?"})), "KMS_BAD_ANSWER"),
        (
            "two plaintexts",
            Reply::Status(200, good.replacen('{', "{\"Plaintext\":\"eA==\",", 1)),
            "KMS_BAD_ANSWER",
        ),
        (
            "another key",
            status(200, json!({"KeyId": format!("{ARN}c"), "Plaintext": "a2V5"})),
            "KMS_OTHER_SUBJECT",
        ),
        ("no key's name", status(200, json!({"KeyId": KEY, "Plaintext": "a2V5"})), "KMS_OTHER_SUBJECT"),
        ("too long", status(200, json!({"KeyId": ARN, "Plaintext": long})), "KMS_ANSWER_TOO_LARGE"),
        ("too long, unannounced", Reply::Raw(endless), "KMS_ANSWER_TOO_LARGE"),
        ("a redirect", Reply::Status(307, String::new()), "KMS_BAD_ANSWER"),
        ("no HTTP", Reply::Raw(b"SSH-2.0-x\r\n".to_vec()), "KMS_BAD_ANSWER"),
        (
            "half an answer",
            Reply::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 9\r\n\r\n{".to_vec()),
            "KMS_UNREACHABLE",
        ),
        ("nothing", Reply::Raw(Vec::new()), "KMS_UNREACHABLE"),
        ("no reason", Reply::Status(400, String::new()), "KMS_BAD_ANSWER"),
        ("denied", status(400, json!({"__type": "AccessDeniedException", "Message": "no"})), "KMS_DENIED"),
        ("denied by a proxy", Reply::Status(403, "<html>".to_owned()), "KMS_DENIED"),
        (
            "signature",
            status(400, json!({"__type": "com.amazon.coral#InvalidSignatureException"})),
            "KMS_DENIED",
        ),
        ("absent", status(400, json!({"__type": "NotFoundException", "message": "no"})), "KMS_NOT_FOUND"),
        ("wrong key", status(400, json!({"__type": "IncorrectKeyException"})), "KMS_CANNOT_DECRYPT"),
        (
            "damaged",
            status(400, json!({"__type": "InvalidCiphertextException:http://x"})),
            "KMS_CANNOT_DECRYPT",
        ),
        ("throttled", status(400, json!({"__type": "ThrottlingException"})), "KMS_BUSY"),
        ("broken", Reply::Status(503, String::new()), "KMS_BUSY"),
        ("our fault", status(400, json!({"__type": "ValidationException"})), "KMS_REQUEST_REFUSED"),
    ] {
        assert_eq!(decrypt(reply).await.unwrap_err().code(), code, "{what}");
    }
    let told = status(400, json!({"__type": "AccessDeniedException", "Message": "a\u{1b}[31mb".repeat(200)}));
    let message = decrypt(told).await.unwrap_err().to_string();
    assert!(message.len() < 600 && !message.contains('\u{1b}'), "{message}");
}

#[tokio::test]
async fn nobody_there() {
    let (kms, _folder) = kms("http://127.0.0.1:9", ACCESS_KEY);
    assert_eq!(kms.decrypt(KEY, b"x", &Members::new(), soon()).await.unwrap_err().code(), "KMS_UNREACHABLE");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_deadline_and_at_the_own_limit() {
    let server = StandIn::start(Reply::Silence).await;
    let (kms, _folder) = kms(&server.url, ACCESS_KEY);
    for (deadline, expected) in
        [(Duration::from_secs(3), Duration::from_secs(3)), (TIME_LIMIT * 9, TIME_LIMIT)]
    {
        let start = Instant::now();
        let result = kms.secret("db", &Members::new(), start + deadline).await;
        assert_eq!(result.unwrap_err().code(), "KMS_TIMEOUT");
        assert!(start.elapsed() >= expected && start.elapsed() < expected + Duration::from_secs(1));
    }
}

#[tokio::test]
async fn secrets_are_those_that_were_asked_for() {
    let arn = "arn:aws:secretsmanager:eu-central-1:1:secret:db-AbCdEf";
    let answer = |change: serde_json::Value| {
        let mut answer = json!({"ARN": arn, "Name": "db", "VersionId": "v1", "SecretString": "p\u{e4}ss"});
        for (name, value) in members(change) {
            answer[name] = value;
        }
        status(200, answer)
    };
    for (name, change, expected) in [
        ("db", json!({}), Ok("päss")),
        (arn, json!({}), Ok("päss")),
        (&arn[..arn.len() - 7], json!({}), Ok("päss")),
        (&arn[..arn.len() - 6], json!({}), Err("KMS_OTHER_SUBJECT")),
        ("d", json!({}), Err("KMS_OTHER_SUBJECT")),
        ("db", json!({"Name": "other"}), Err("KMS_OTHER_SUBJECT")),
        ("db", json!({"SecretString": null, "SecretBinary": "YmluYXJ5"}), Ok("binary")),
        ("db", json!({"SecretBinary": "YmluYXJ5"}), Err("KMS_BAD_ANSWER")),
        ("db", json!({"SecretString": null}), Err("KMS_BAD_ANSWER")),
        ("db", json!({"SecretString": null, "SecretBinary": "?"}), Err("KMS_BAD_ANSWER")),
    ] {
        let server = StandIn::start(answer(change)).await;
        let (kms, _folder) = kms(&server.url, ACCESS_KEY);
        let result = kms.secret(name, &members(json!({"version_stage": ""})), soon()).await;
        let text = result.as_ref().map(|s| std::str::from_utf8(s.expose()).unwrap()).map_err(KmsError::code);
        assert_eq!(text, expected, "{name}");
        assert!(server.seen()[0].ends_with(&json!({"SecretId": name}).to_string()), "empty means not sent");
    }
    let server = StandIn::start(answer(json!({}))).await;
    let (kms, _folder) = kms(&server.url, ACCESS_KEY);
    let other = kms.secret("db", &members(json!({"version_id": "v2"})), soon()).await;
    assert_eq!(other.unwrap_err().code(), "KMS_OTHER_SUBJECT");
}

#[tokio::test]
async fn documents_and_credentials_that_cannot_be_used_send_nothing() {
    let server = StandIn::start(Reply::Status(200, String::new())).await;
    let (kms, _folder) = kms(&server.url, ACCESS_KEY);
    let none = Members::new();
    for (key_id, ciphertext, annotations) in [
        ("", &b"x"[..], json!({})),
        ("a b", b"x", json!({})),
        ("key\r\nx: y", b"x", json!({})),
        (KEY, b"", json!({})),
        (KEY, &[0; 6145], json!({})),
        (KEY, b"x", json!({"encryption_context": "team=a"})),
        (KEY, b"x", json!({"encryption_context": {"team": 1}})),
    ] {
        let result = kms.decrypt(key_id, ciphertext, &members(annotations), soon()).await;
        assert_eq!(result.unwrap_err().code(), "KMS_DOCUMENT_REFUSED", "{key_id}");
    }
    for bad in [
        "",
        "{}",
        "[\"AKID\",\"secret\",null]",
        r#"{"access_key_id":"AK ID","secret_access_key":"x"}"#,
        r#"{"access_key_id":"AKID","secret_access_key":""}"#,
        r#"{"access_key_id":"AKID","secret_access_key":"x","session_token":"a\nb"}"#,
    ] {
        let (kms, _folder) = self::kms(&server.url, bad);
        let error = kms.decrypt(KEY, b"x", &none, soon()).await.unwrap_err();
        assert_eq!(error.code(), "KMS_CREDENTIAL_MALFORMED", "{bad}: {error}");
    }
    let (kms, folder) = self::kms(&server.url, "{}");
    std::fs::remove_file(folder.path().join("credential.json")).unwrap();
    assert_eq!(kms.decrypt(KEY, b"x", &none, soon()).await.unwrap_err().code(), "KMS_CREDENTIAL_MISSING");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_document_chooses_a_region_and_nothing_else() {
    let config = AwsConfig { regions: Some(vec!["eu-central-1".to_owned()]), ..AwsConfig::default() };
    let aws = Arc::new(Aws::new(&config, &directories("/nonexistent".as_ref()), None, None).unwrap());
    for settings in [
        json!({}),
        json!({"region": ""}),
        json!({"region": 1}),
        json!({"region": "eu-west-1"}),
        json!({"region": "x.evil.example#-a-1"}),
        json!({"region": "eu-west-1", "endpoint": "https://evil.example"}),
    ] {
        assert_eq!(aws.open(&members(settings)).unwrap_err().code(), "KMS_DOCUMENT_REFUSED");
    }
    // A region apart from the internet needs an address by configuration; nothing is read before that.
    let aws = Arc::new(Aws::new(&AwsConfig::default(), &directories("/x".as_ref()), None, None).unwrap());
    let kms = aws.open(&members(json!({"region": "us-iso-east-1"}))).unwrap();
    let error = kms.secret("x", &Members::new(), soon()).await.unwrap_err();
    assert_eq!(error.code(), "KMS_NOT_CONFIGURED");
    for bad in ["http://kms.example", "https://kms.example/prefix", "kms.example", "https://u:p@kms.example"]
    {
        let config = AwsConfig { kms_endpoint: Some(bad.to_owned()), ..AwsConfig::default() };
        let providers =
            Providers::new(&crate::KmsConfig { aws: config, ..Default::default() }, Surroundings::default());
        assert_eq!(providers.unwrap_err().code(), "KMS_CONFIG", "{bad}");
    }
}

#[test]
fn keys_in_answers() {
    let mrk = "arn:aws:kms:eu-west-1:1:key/mrk-1234";
    for (asked, answered, same) in [
        (KEY, ARN, true),
        (ARN, ARN, true),
        ("alias/team", ARN, true),
        ("arn:aws:kms:eu-central-1:1:alias/team", ARN, true),
        ("alias/team", "alias/team", false),
        ("1234", ARN, false),
        (&ARN[..ARN.len() - 1], ARN, false),
        (mrk, "arn:aws:kms:eu-central-1:1:key/mrk-1234", true),
        (mrk, "arn:aws:kms:eu-central-1:1:key/mrk-12345", false),
        (ARN, "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", false),
        ("", "", false),
    ] {
        assert_eq!(answer::check_key("x", asked, answered).is_ok(), same, "{asked} {answered}");
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_signing_library_logs_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = StandIn::start(status(200, json!({"KeyId": ARN, "CiphertextBlob": "eA=="}))).await;
    let (kms, _folder) = kms(&server.url, ACCESS_KEY);
    let plaintext = Secret::new(b"the data key".to_vec());
    kms.encrypt(KEY, &plaintext, &Members::new(), soon()).await.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("signing request"), "the library logs at this level: {text}");
    for secret in ["wJalrXUtnFEMI", "FwoGZXIvYXdz", "the data key", "dGhlIGRhdGEga2V5"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

proptest! {
    #[test]
    fn answers_and_credentials_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        asked in "(arn:|alias/)?[a-z:/-]{0,12}",
        answered in "(arn:)?[a-z:/-]{0,12}(:key/)?[a-z-]{0,4}",
    ) {
        let text = Secret::new(bytes);
        let _ = AccessKey::parse(&text);
        let _ = answer::refusal("x", StatusCode::BAD_REQUEST, &text);
        let _ = read_json::<answer::Decrypted>("x", &text);
        if let Ok(value) = read_json::<answer::SecretValue>("x", &text) {
            let _ = value.check("x", &asked, Some("v"));
            let _ = value.into_secret("x");
        }
        // What is believed to be the key that was asked for ends like it, or was asked for by an alias.
        if answer::check_key("x", &asked, &answered).is_ok() && !asked.contains("alias/") {
            let id = asked.rsplit('/').next().unwrap_or_default();
            prop_assert!(answered.ends_with(id), "{asked} {answered}");
        }
    }
}
