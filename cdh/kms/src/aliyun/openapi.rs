//! The public OpenAPI of Alibaba Cloud KMS (version 2016-01-20) in a region, in the RPC style: parameters of a POST to `/`, signed
//! by HMAC-SHA1 with signature version 1.0 ("Request syntax and signature method V2 for RPC APIs").
//!
//! Names stand in the query, wrapped keys and plaintexts in the body; the signature covers both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cc_crypto::{Secret, mac};
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::access_key::{AccessKey, RamRole};
use super::answer::{self, Asked};
use super::place::Region;
use super::{Aliyun, MAX_ANSWER_LEN};
use crate::Wrapped;
use crate::credential::Credential;
use crate::error::KmsError;
use crate::http_server::{Server, read_json, secret_body};
use crate::member::Document;
use crate::secret_text::{SecretText, encode};

const VERSION: &str = "2016-01-20";
const CLIENT: &str = concat!("confidential-data-hub/", env!("CARGO_PKG_VERSION"));
/// Longest answer of the metadata service, in bytes.
const MAX_METADATA_LEN: usize = 32 * 1024;
/// Bytes of a nonce, half of the characters that it is written with.
const NONCE_LEN: usize = 8;

/// Where the access key comes from, and for which region it is.
#[derive(Debug)]
pub(super) enum AccessPath {
    /// A file with `<id>:<secret>:<security token>`.
    StsToken(Credential, Region),
    /// A JSON object with an access key.
    AccessKey(Credential, Region),
    /// A JSON object that names role and region, and the metadata service.
    RamRole(Credential, Arc<Server>),
}

impl AccessPath {
    async fn key(&self, aliyun: &Aliyun, deadline: Instant) -> Result<(AccessKey, Region), KmsError> {
        match self {
            Self::StsToken(credential, region) => {
                let key = AccessKey::of_line(&credential.read(deadline).await?);
                Ok((key.map_err(|why| credential.malformed(why))?, region.clone()))
            }
            Self::AccessKey(credential, region) => {
                let key = AccessKey::of_file(&credential.read(deadline).await?);
                Ok((key.map_err(|why| credential.malformed(why))?, region.clone()))
            }
            Self::RamRole(credential, server) => {
                let role = RamRole::parse(&credential.read(deadline).await?)
                    .map_err(|why| credential.malformed(why))?;
                let region = aliyun.allowed_region(&role.region).map_err(|why| credential.malformed(why))?;
                Ok((of_role(server, &role.name, deadline).await?, region))
            }
        }
    }
}

/// Asks the metadata service for the temporary access key of the role `name`.
async fn of_role(server: &Server, name: &str, deadline: Instant) -> Result<AccessKey, KmsError> {
    let doing = format!("asking the metadata service for the key of the role {name}");
    let refused =
        |e: http::uri::InvalidUri| KmsError::RequestRefused { doing: doing.clone(), told: e.to_string() };
    let mut request = Request::new(Bytes::new());
    *request.uri_mut() =
        Uri::try_from(format!("/latest/meta-data/ram/security-credentials/{name}")).map_err(refused)?;
    let answer = server.ask(&doing, request, MAX_METADATA_LEN, deadline).await?;
    let status = answer.status();
    if status.is_success() {
        return AccessKey::of_metadata(answer.body()).map_err(|why| KmsError::BadAnswer { doing, why });
    }
    if status == StatusCode::NOT_FOUND {
        return Err(KmsError::Absent { doing, told: "the machine has no such role".to_owned() });
    }
    // Its error bodies are pages for people.
    Err(answer::refused(&doing, status, "", ""))
}

pub(super) async fn decrypt(
    aliyun: &Aliyun,
    access: &AccessPath,
    doing: &str,
    key_id: &str,
    ciphertext: &[u8],
    document: &Document<'_>,
    deadline: Instant,
) -> Result<Secret, KmsError> {
    let blob = std::str::from_utf8(ciphertext)
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_graphic()))
        .ok_or_else(|| {
            document.refuse("encrypted_key", "not the text that the service gave as CiphertextBlob")
        })?;
    let context = context(document)?;
    let mut body = vec![("CiphertextBlob", blob)];
    body.extend(context.as_deref().map(|context| ("EncryptionContext", context)));
    let answer = call(aliyun, access, doing, "Decrypt", &[], &body, deadline).await?;
    let answer: answer::Decrypted = read_json(doing, &answer)?;
    answer::check_key(doing, key_id, &answer.key_id)?;
    let bad = || KmsError::BadAnswer { doing: doing.to_owned(), why: "Plaintext is not base64".to_owned() };
    answer.plaintext.decode().ok_or_else(bad)
}

pub(super) async fn encrypt(
    aliyun: &Aliyun,
    access: &AccessPath,
    doing: &str,
    key_id: &str,
    plaintext: &Secret,
    document: &Document<'_>,
    deadline: Instant,
) -> Result<Wrapped, KmsError> {
    let context = context(document)?;
    let text = encode(plaintext);
    let mut body = vec![("Plaintext", text.as_str())];
    body.extend(context.as_deref().map(|context| ("EncryptionContext", context)));
    let answer = call(aliyun, access, doing, "Encrypt", &[("KeyId", key_id)], &body, deadline).await?;
    let answer: answer::Encrypted = read_json(doing, &answer)?;
    answer::check_key(doing, key_id, &answer.key_id)?;
    let ciphertext = answer.ciphertext_blob.into_bytes();
    if !ciphertext.iter().all(u8::is_ascii_graphic) {
        let why = "CiphertextBlob is not one word of visible ASCII characters".to_owned();
        return Err(KmsError::BadAnswer { doing: doing.to_owned(), why });
    }
    Ok(Wrapped { ciphertext, annotations: document.members.clone() })
}

pub(super) async fn secret(
    aliyun: &Aliyun,
    access: &AccessPath,
    doing: &str,
    asked: &Asked<'_>,
    deadline: Instant,
) -> Result<Secret, KmsError> {
    let mut query = vec![("SecretName", asked.name)];
    query.extend(asked.version_id.map(|id| ("VersionId", id)));
    query.extend(asked.version_stage.map(|stage| ("VersionStage", stage)));
    let answer = call(aliyun, access, doing, "GetSecretValue", &query, &[], deadline).await?;
    let answer: answer::SecretValue = read_json(doing, &answer)?;
    answer.into_secret(doing, asked)
}

/// The annotation `encryption_context` as JSON text.
fn context(document: &Document<'_>) -> Result<Option<String>, KmsError> {
    let text = document.texts("encryption_context")?.map(serde_json::to_string).transpose();
    text.map_err(|e| document.refuse("encryption_context", e.to_string()))
}

/// Calls `action` with parameters in the query and in the body.
async fn call(
    aliyun: &Aliyun,
    access: &AccessPath,
    doing: &str,
    action: &'static str,
    query: &[(&str, &str)],
    body: &[(&str, &str)],
    deadline: Instant,
) -> Result<Secret, KmsError> {
    let (key, region) = access.key(aliyun, deadline).await?;
    let server = match &aliyun.config.endpoint {
        Some(endpoint) => aliyun.region_server(endpoint)?,
        None => aliyun.region_server(&region.url())?,
    };
    let failed = |told: String| KmsError::RequestRefused { doing: doing.to_owned(), told };
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|e| failed(format!("no random nonce: {e}")))?;
    let (nonce, time) = (hex::encode(nonce), timestamp(SystemTime::now()));
    let mut query: BTreeMap<&str, &str> = query.iter().copied().collect();
    query.extend([
        ("AccessKeyId", key.id.as_str()),
        ("Action", action),
        ("Format", "json"),
        ("RegionId", region.name()),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", &nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", &time),
        ("Version", VERSION),
    ]);
    query.extend(key.security_token.as_ref().map(|token| ("SecurityToken", token.expose())));
    let body: BTreeMap<&str, &str> = body.iter().copied().collect();
    let all = query.iter().chain(&body).map(|(name, value)| (*name, *value)).collect();
    let signature = sign(&Method::POST, &all, &key.secret);
    query.insert("Signature", &signature);

    let mut request = Request::new(secret_body(Zeroizing::new(form(&body).as_bytes().to_vec())));
    *request.method_mut() = Method::POST;
    *request.uri_mut() =
        Uri::try_from(format!("/?{}", form(&query).as_str())).map_err(|e| failed(e.to_string()))?;
    let headers = request.headers_mut();
    for (name, value) in [
        ("x-acs-action", action),
        ("x-acs-version", VERSION),
        ("x-sdk-client", CLIENT),
        ("x-sdk-invoke-type", "normal"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if !body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    }
    let answer = server.ask(doing, request, MAX_ANSWER_LEN, deadline).await?;
    if answer.status().is_success() {
        return Ok(answer.into_body());
    }
    Err(answer::refusal(doing, answer.status(), answer.body()))
}

/// The signature of a request with these parameters.
pub(super) fn sign(method: &Method, parameters: &BTreeMap<&str, &str>, secret: &SecretText) -> String {
    let canonical = form(parameters);
    let mut text = Zeroizing::new(String::with_capacity(canonical.len() * 3 + 32));
    text.push_str(method.as_str());
    text.push_str("&%2F&");
    escape(&mut text, &canonical);
    let mut key = Vec::with_capacity(secret.expose().len() + 1);
    key.extend_from_slice(secret.expose().as_bytes());
    key.push(b'&');
    STANDARD.encode(mac::hmac_sha1(&Secret::new(key), text.as_bytes()))
}

/// `name=value` of all parameters in the order of their names, with `&` between them.
fn form(parameters: &BTreeMap<&str, &str>) -> Zeroizing<String> {
    // Room for all of it from the start: growing would leave a copy of a plaintext behind.
    let room = parameters.iter().map(|(name, value)| (name.len() + value.len()) * 3 + 2).sum();
    let mut text = Zeroizing::new(String::with_capacity(room));
    for (name, value) in parameters {
        if !text.is_empty() {
            text.push('&');
        }
        escape(&mut text, name);
        text.push('=');
        escape(&mut text, value);
    }
    text
}

/// Percent encoding of all but the unreserved characters (RFC 3986 section 2.3).
fn escape(to: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => to.push(char::from(byte)),
            // Writing to a text does not fail.
            other => drop(write!(to, "%{other:02X}")),
        }
    }
}

/// `time` as `yyyy-MM-ddTHH:mm:ssZ`.
pub(super) fn timestamp(time: SystemTime) -> String {
    let http = http_date(time);
    let parts: Vec<&str> = http.split(' ').collect();
    let [_, day, month, year, clock, _] = parts.as_slice() else { return String::new() };
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| name == month).unwrap_or_default() + 1;
    format!("{year}-{month:02}-{day}T{clock}Z")
}

/// `time` as RFC 7231 section 7.1.1.1 writes it; the ends of what it can write for times beyond them.
pub(super) fn http_date(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    httpdate::fmt_http_date(time.clamp(UNIX_EPOCH, last))
}
