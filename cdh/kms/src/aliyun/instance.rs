//! The protocol of a KMS instance (KMS Instance API Reference, version `dkms-gcs-0.2`): messages of Protocol Buffers in a POST to `/`,
//! signed with the RSA key of a client (`RSA_PKCS1_SHA_256`).
//!
//! An instance shows a certificate of its own authority, which lies beside the client key; with it alone it is believed, unless
//! `kms.aliyun.certificate_mode` is `add`.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::Secret;
use cc_crypto::rsa::SigningKey;
use cc_kbs::foreign::json_fault;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderName};
use http::{HeaderValue, Method, Request};
use prost::Message;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::answer::{self, Asked};
use super::message::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, Error, GetSecretValueRequest,
    GetSecretValueResponse,
};
use super::openapi::http_date;
use super::place::{ClientKeyId, InstanceId};
use super::{Aliyun, MAX_ANSWER_LEN};
use crate::Wrapped;
use crate::credential::Credential;
use crate::error::KmsError;
use crate::http_server::{read_json, secret_body};
use crate::member::Document;
use crate::secret_text::SecretText;

const PROTOBUF: &str = "application/x-protobuf";
const API_VERSION: &str = "dkms-gcs-0.2";
const ALGORITHM: &str = "AES_GCM";
/// Longest initialization vector, in bytes.
const MAX_IV_LEN: usize = 64;

/// Which instance is asked, and as which client.
#[derive(Debug)]
pub(super) struct ClientKey {
    pub(super) instance: InstanceId,
    pub(super) id: ClientKeyId,
}

/// `clientKey_<id>.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    key_id: String,
    private_key_data: SecretText,
}

pub(super) async fn decrypt(
    aliyun: &Aliyun,
    client: &ClientKey,
    doing: &str,
    key_id: &str,
    ciphertext: &[u8],
    document: &Document<'_>,
    deadline: Instant,
) -> Result<Secret, KmsError> {
    let iv = document.bytes("iv")?.ok_or_else(|| document.refuse("iv", "it is missing"))?;
    if iv.len() > MAX_IV_LEN {
        return Err(document.refuse("iv", format!("longer than {MAX_IV_LEN} bytes")));
    }
    let request = DecryptRequest {
        ciphertext_blob: ciphertext.to_vec(),
        key_id: key_id.to_owned(),
        algorithm: ALGORITHM.to_owned(),
        iv,
        ..DecryptRequest::default()
    };
    let mut answer: DecryptResponse = call(aliyun, client, doing, "Decrypt", &request, deadline).await?;
    answer::check_key(doing, key_id, &answer.key_id)?;
    Ok(Secret::new(std::mem::take(&mut answer.plaintext)))
}

pub(super) async fn encrypt(
    aliyun: &Aliyun,
    client: &ClientKey,
    doing: &str,
    key_id: &str,
    plaintext: &Secret,
    document: &Document<'_>,
    deadline: Instant,
) -> Result<Wrapped, KmsError> {
    if document.members.contains_key("iv") {
        return Err(document.refuse("iv", "the instance chooses it"));
    }
    let request = EncryptRequest {
        key_id: key_id.to_owned(),
        plaintext: plaintext.expose().to_vec(),
        algorithm: ALGORITHM.to_owned(),
        aad: Vec::new(),
        iv: Vec::new(),
        padding_mode: String::new(),
    };
    let answer: EncryptResponse = call(aliyun, client, doing, "Encrypt", &request, deadline).await?;
    answer::check_key(doing, key_id, &answer.key_id)?;
    if answer.iv.is_empty() || answer.iv.len() > MAX_IV_LEN {
        let why = "it has no initialization vector, or a very long one".to_owned();
        return Err(KmsError::BadAnswer { doing: doing.to_owned(), why });
    }
    let mut annotations = document.members.clone();
    annotations.insert("iv".to_owned(), STANDARD.encode(&answer.iv).into());
    Ok(Wrapped { ciphertext: answer.ciphertext_blob, annotations })
}

pub(super) async fn secret(
    aliyun: &Aliyun,
    client: &ClientKey,
    doing: &str,
    asked: &Asked<'_>,
    deadline: Instant,
) -> Result<Secret, KmsError> {
    let request = GetSecretValueRequest {
        secret_name: asked.name.to_owned(),
        version_stage: asked.version_stage.unwrap_or_default().to_owned(),
        version_id: asked.version_id.unwrap_or_default().to_owned(),
        fetch_extended_config: true,
    };
    let mut answer: GetSecretValueResponse =
        call(aliyun, client, doing, "GetSecretValue", &request, deadline).await?;
    asked.check(doing, &answer.secret_name, &answer.version_id, Some(&answer.version_stages))?;
    Ok(Secret::new(std::mem::take(&mut answer.secret_data).into_bytes()))
}

/// Calls `name` of the instance.
async fn call<T: Message + Default>(
    aliyun: &Aliyun,
    client: &ClientKey,
    doing: &str,
    name: &'static str,
    message: &impl Message,
    deadline: Instant,
) -> Result<T, KmsError> {
    let config = &aliyun.config;
    let authority =
        aliyun.credential(config.instance_certificate.as_ref(), &client.instance.certificate_file());
    let certificate = authority.read(deadline).await?;
    let certificate =
        std::str::from_utf8(certificate.expose()).map_err(|_| authority.malformed("it is no PEM text"))?;
    let url = config.instance_endpoint.clone().unwrap_or_else(|| client.instance.url());
    let server =
        aliyun.instance_server(&url, Some(certificate)).map_err(|e| authority.malformed(e.to_string()))?;
    let file = aliyun.credential(config.client_key.as_ref(), &client.id.key_file());
    let password = aliyun.credential(config.client_key_password.as_ref(), &client.id.password_file());
    let key = signing_key(client, &file, &password, deadline).await?;

    // Room for all of it from the start: growing would leave a copy of a plaintext behind.
    let mut body = Zeroizing::new(Vec::with_capacity(message.encoded_len()));
    let failed = |told: String| KmsError::RequestRefused { doing: doing.to_owned(), told };
    message.encode(&mut *body).map_err(|e| failed(e.to_string()))?;
    let head = Head { api_name: name, client_key_id: client.id.name(), body: &body, time: SystemTime::now() };
    let signed = head.signed(&key).map_err(failed)?;
    let mut request = Request::new(secret_body(body));
    *request.method_mut() = Method::POST;
    for (name, value) in signed {
        let mut value = HeaderValue::from_str(&value).map_err(|e| failed(e.to_string()))?;
        value.set_sensitive(name == AUTHORIZATION);
        request.headers_mut().insert(name, value);
    }
    let answer = server.ask(doing, request, MAX_ANSWER_LEN, deadline).await?;
    if !answer.status().is_success() {
        return Err(refusal(doing, answer.status(), answer.body()));
    }
    read(doing, answer.body())
}

/// Reads a message; bytes of it are not quoted.
pub(super) fn read<T: Message + Default>(doing: &str, answer: &Secret) -> Result<T, KmsError> {
    T::decode(answer.expose()).map_err(|_| KmsError::BadAnswer {
        doing: doing.to_owned(),
        why: "it is not the message of the protocol that was expected".to_owned(),
    })
}

/// What it means that an instance answered with `status` and `body`.
pub(crate) fn refusal(doing: &str, status: http::StatusCode, body: &Secret) -> KmsError {
    let error = Error::decode(body.expose()).unwrap_or_default();
    answer::refused(doing, status, &error.error_code, &error.error_message)
}

/// What the readers of both protocols make of `body`.
pub(crate) fn read_all(doing: &str, asked: &str, body: &Secret) -> Vec<Result<Secret, KmsError>> {
    let secret = Asked { name: asked, version_id: None, version_stage: Some("ACSCurrent") };
    let bad = || KmsError::BadAnswer { doing: doing.to_owned(), why: "not base64".to_owned() };
    vec![
        read_json::<answer::Decrypted>(doing, body).and_then(|read| {
            answer::check_key(doing, asked, &read.key_id)?;
            read.plaintext.decode().ok_or_else(bad)
        }),
        read_json::<answer::Encrypted>(doing, body).and_then(|read| {
            answer::check_key(doing, asked, &read.key_id)?;
            Ok(Secret::new(read.ciphertext_blob.into_bytes()))
        }),
        read_json::<answer::SecretValue>(doing, body).and_then(|read| read.into_secret(doing, &secret)),
        read::<DecryptResponse>(doing, body).and_then(|mut read| {
            answer::check_key(doing, asked, &read.key_id)?;
            Ok(Secret::new(std::mem::take(&mut read.plaintext)))
        }),
        read::<EncryptResponse>(doing, body).and_then(|read| {
            answer::check_key(doing, asked, &read.key_id)?;
            Ok(Secret::new(read.ciphertext_blob))
        }),
        read::<GetSecretValueResponse>(doing, body).and_then(|mut read| {
            secret.check(doing, &read.secret_name, &read.version_id, Some(&read.version_stages))?;
            Ok(Secret::new(std::mem::take(&mut read.secret_data).into_bytes()))
        }),
    ]
}

async fn signing_key(
    client: &ClientKey,
    file: &Credential,
    password: &Credential,
    deadline: Instant,
) -> Result<SigningKey, KmsError> {
    let text = file.read(deadline).await?;
    let File { key_id, private_key_data } =
        serde_json::from_slice(text.expose()).map_err(|e| file.malformed(json_fault(&e)))?;
    if key_id != client.id.name() {
        return Err(file.malformed("its KeyId is that of another client key"));
    }
    let container =
        private_key_data.decode().ok_or_else(|| file.malformed("PrivateKeyData is not base64"))?;
    let password = Secret::new(password.read(deadline).await?.expose().trim_ascii_end().to_vec());
    // Deriving its key takes thousands of rounds of a hash.
    let opened = tokio::task::spawn_blocking(move || SigningKey::from_pkcs12(container.expose(), &password));
    match opened.await {
        Ok(opened) => opened.map_err(|e| file.malformed(format!("PrivateKeyData: {e}"))),
        Err(_) => Err(file.malformed("PrivateKeyData: the thread that opened it died")),
    }
}

/// What is signed of a request.
pub(super) struct Head<'a> {
    pub(super) api_name: &'static str,
    pub(super) client_key_id: &'a str,
    pub(super) body: &'a [u8],
    pub(super) time: SystemTime,
}

impl Head<'_> {
    /// The headers of the request, among them its signature.
    pub(super) fn signed(&self, key: &SigningKey) -> Result<Vec<(HeaderName, String)>, String> {
        let date = http_date(self.time);
        let digest = hex::encode_upper(Sha256::digest(self.body));
        // In the order of their names, as they are signed. The third c is the protocol's.
        let own = [
            ("x-kms-acccesskeyid", self.client_key_id),
            ("x-kms-apiname", self.api_name),
            ("x-kms-apiversion", API_VERSION),
            ("x-kms-signaturemethod", "RSA_PKCS1_SHA_256"),
        ];
        let lines: String = own.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let signature = key
            .sign(format!("POST\n{digest}\n{PROTOBUF}\n{date}\n{lines}/").as_bytes())
            .map_err(|e| e.to_string())?;
        let mut headers: Vec<_> =
            own.map(|(name, value)| (HeaderName::from_static(name), value.to_owned())).into();
        headers.extend([
            (ACCEPT, PROTOBUF.to_owned()),
            (CONTENT_TYPE, PROTOBUF.to_owned()),
            (DATE, date),
            (HeaderName::from_static("content-sha256"), digest),
            (AUTHORIZATION, format!("Bearer {}", STANDARD.encode(signature))),
        ]);
        Ok(headers)
    }
}
