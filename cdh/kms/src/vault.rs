//! The provider `vault`: HashiCorp Vault or OpenBao. Its transit engine unwraps data keys, its key-value engine keeps secrets.
//!
//! Their HTTP API (`/v1/<mount>/decrypt/<key>`, `/v1/<mount>/encrypt/<key>`; `/v1/<mount>/data/<path>` of key-value version 2,
//! `/v1/<mount>/<path>` of version 1), which both share. The token comes from the key broker.
//!
//! Address, namespace and mounts are the operator's. A document chooses a key or a path below these mounts: with a mount of
//! its own choice it could read the token itself, at `auth/token/lookup-self`.

pub(crate) mod answer;

use std::sync::Arc;

use bytes::Bytes;
use cc_crypto::Secret;
use cc_kbs::{BoxFuture, Names};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Uri};
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::{Directories, VaultConfig};
use crate::credential::{Broker, Credential};
use crate::error::{KmsError, quoted};
use crate::http_server::{Place, Server, read_json, secret_body};
use crate::member::Document;
use crate::secret_text::encode;
use crate::{Kms, MAX_KEY_LEN, Members, Wrapped, bounded};

pub(crate) const NAME: &str = "vault";

/// Longest answer about a data key, in bytes.
const MAX_KEY_ANSWER_LEN: usize = 64 * 1024;
/// Longest answer about a secret, in bytes; the services' own limit for a request is 32 MiB, their storage's 1 MiB.
const MAX_SECRET_ANSWER_LEN: usize = 2 * 1024 * 1024;
/// Longest wrapped key, in bytes.
const MAX_CIPHERTEXT_LEN: usize = 16 * 1024;
/// Longest path below a mount, in bytes.
const MAX_PATH_LEN: usize = 512;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Asks a proxy of the service, such as an agent, to pass on only what says that it is meant.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// One server with its mounts.
#[derive(Debug)]
pub(crate) struct Vault {
    server: Server,
    namespace: Option<HeaderValue>,
    token: Credential,
    transit_mount: String,
    kv_mount: String,
    kv_version: u8,
}

impl Vault {
    /// The provider; makes no connection.
    ///
    /// # Errors
    /// [`KmsError::Config`] for an address, a certificate, a namespace, a mount or a version that cannot be used.
    pub(crate) fn new(
        config: &VaultConfig,
        directories: &Directories,
        broker: Option<&Arc<dyn Broker>>,
        names: Option<Arc<dyn Names>>,
    ) -> Result<Self, KmsError> {
        let bad = |key, why: &str| KmsError::Config { key, why: why.to_owned() };
        let server = Server::new(&Place {
            key: "kms.vault.address",
            url: &config.address,
            allow_plain_http: false,
            certificate: config.certificate.as_deref(),
            certificate_mode: config.certificate_mode,
            names: names.as_ref(),
        })?;
        for (key, mount) in
            [("kms.vault.transit_mount", &config.transit_mount), ("kms.vault.kv_mount", &config.kv_mount)]
        {
            check_path(mount).map_err(|why| bad(key, why))?;
        }
        if !matches!(config.kv_version, 1 | 2) {
            return Err(bad("kms.vault.kv_version", "not 1 or 2"));
        }
        let namespace = match &config.namespace {
            Some(namespace) => {
                let key = "kms.vault.namespace";
                check_path(namespace).map_err(|why| bad(key, why))?;
                Some(HeaderValue::from_str(namespace).map_err(|_| bad(key, "not a header's value"))?)
            }
            None => None,
        };
        let token = Credential::new(NAME, config.token.as_ref(), &directories.vault, "token", broker);
        Ok(Self {
            server,
            namespace,
            token,
            transit_mount: config.transit_mount.clone(),
            kv_mount: config.kv_mount.clone(),
            kv_version: config.kv_version,
        })
    }

    /// Sends one request and reads a successful answer.
    async fn call(
        &self,
        doing: &str,
        (method, path): (Method, String),
        body: Bytes,
        limit: usize,
        deadline: Instant,
    ) -> Result<Secret, KmsError> {
        let deadline = bounded(deadline);
        let token = self.token.read_word(deadline).await?;
        let mut token =
            HeaderValue::from_str(&token).map_err(|_| self.token.malformed("it is not a header's value"))?;
        token.set_sensitive(true);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = Uri::try_from(path)
            .map_err(|e| KmsError::RequestRefused { doing: doing.to_owned(), told: e.to_string() })?;
        let headers = request.headers_mut();
        headers.insert(TOKEN, token);
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if !request.body().is_empty() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let answer = self.server.ask(doing, request, limit, deadline).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(answer::refusal(doing, answer.status(), answer.body()))
    }

    /// Asks the transit engine to do `verb` with the key `key_id`.
    async fn transit(
        &self,
        doing: &str,
        verb: &str,
        key_id: &str,
        body: &impl Serialize,
        deadline: Instant,
    ) -> Result<Secret, KmsError> {
        // Room for all of it from the start: growing would leave a copy of a plaintext behind.
        let mut text = Zeroizing::new(Vec::with_capacity(32 * 1024));
        serde_json::to_writer(&mut *text, body)
            .map_err(|e| KmsError::RequestRefused { doing: doing.to_owned(), told: e.to_string() })?;
        let path = format!("/v1/{}/{verb}/{key_id}", self.transit_mount);
        self.call(doing, (Method::POST, path), secret_body(text), MAX_KEY_ANSWER_LEN, deadline).await
    }
}

#[derive(Serialize)]
struct TransitRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    associated_data: Option<&'a str>,
}

impl<'a> TransitRequest<'a> {
    /// The parts that wrapping and unwrapping have in common: both annotations are base64.
    fn new(document: &Document<'a>) -> Result<Self, KmsError> {
        document.bytes("context")?;
        document.bytes("associated_data")?;
        let context = document.text("context")?;
        let associated_data = document.text("associated_data")?;
        Ok(Self { ciphertext: None, plaintext: None, context, associated_data })
    }
}

impl Kms for Vault {
    fn decrypt<'a>(
        &'a self,
        key_id: &'a str,
        ciphertext: &'a [u8],
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            check_key(&document, key_id)?;
            let text = answer::ciphertext(ciphertext).ok_or_else(|| {
                document.refuse("encrypted_key", "not a text of the form vault:v<number>:<base64>")
            })?;
            let request = TransitRequest { ciphertext: Some(text), ..TransitRequest::new(&document)? };
            let doing = format!("decrypting with the transit key {} of Vault", quoted(key_id));
            let answer = self.transit(&doing, "decrypt", key_id, &request, deadline).await;
            let answer: answer::Decrypted = read_json(&doing, &answer.map_err(answer::cannot_decrypt)?)?;
            let bad = |why: &str| KmsError::BadAnswer { doing: doing.clone(), why: why.to_owned() };
            let plaintext = answer.data.plaintext.decode().ok_or_else(|| bad("plaintext is not base64"))?;
            if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
                return Err(bad("plaintext has an impossible length"));
            }
            Ok(plaintext)
        })
    }

    fn encrypt<'a>(
        &'a self,
        key_id: &'a str,
        plaintext: &'a Secret,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Wrapped, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            check_key(&document, key_id)?;
            if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
                return Err(document.refuse("the data key", format!("not 1 to {MAX_KEY_LEN} bytes long")));
            }
            let text = encode(plaintext);
            let request =
                TransitRequest { plaintext: Some(text.as_str()), ..TransitRequest::new(&document)? };
            let doing = format!("encrypting with the transit key {} of Vault", quoted(key_id));
            let answer = self.transit(&doing, "encrypt", key_id, &request, deadline).await?;
            let answer: answer::Encrypted = read_json(&doing, &answer)?;
            let ciphertext = answer.data.ciphertext.into_bytes();
            if answer::ciphertext(&ciphertext).is_none() {
                let why = "ciphertext is not of the form vault:v<number>:<base64>".to_owned();
                return Err(KmsError::BadAnswer { doing, why });
            }
            Ok(Wrapped { ciphertext, annotations: annotations.clone() })
        })
    }

    /// With key-value version 2, the annotation `version` asks for an old version. The annotation `field` names the member;
    /// without it there must be only one.
    fn secret<'a>(
        &'a self,
        name: &'a str,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            check_path(name).map_err(|why| document.refuse("name", why))?;
            let field = document.text("field")?;
            let version = document.text("version")?;
            let number = |text: &str| text.len() <= 9 && text.bytes().all(|b| b.is_ascii_digit());
            let version = match version {
                Some(_) if self.kv_version == 1 => {
                    return Err(
                        document.refuse("version", "the engine is version 1, which keeps no old versions")
                    );
                }
                Some(text) if !number(text) => {
                    return Err(document.refuse("version", "not a number as a text"));
                }
                other => other,
            };
            let path = match (self.kv_version, version) {
                (1, _) => format!("/v1/{}/{name}", self.kv_mount),
                (_, None) => format!("/v1/{}/data/{name}", self.kv_mount),
                (_, Some(version)) => format!("/v1/{}/data/{name}?version={version}", self.kv_mount),
            };
            let doing = format!("reading the secret {} of Vault", quoted(name));
            let answer =
                self.call(&doing, (Method::GET, path), Bytes::new(), MAX_SECRET_ANSWER_LEN, deadline).await?;
            answer::field(&doing, &answer, self.kv_version, version, field)
        })
    }
}

/// Refuses a key's name that is not one segment of a path.
fn check_key(document: &Document<'_>, key_id: &str) -> Result<(), KmsError> {
    check_path(key_id)
        .and_then(|()| if key_id.contains('/') { Err("it has a slash") } else { Ok(()) })
        .map_err(|why| document.refuse("key_id", why))
}

/// Refuses what is not plain segments of letters, digits, `-`, `_` and `.`, none of them beginning with a dot, so that a path has
/// one spelling and stays below its mount.
fn check_path(path: &str) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let segment = |s: &str| !s.is_empty() && !s.starts_with('.') && s.bytes().all(plain);
    if path.len() > MAX_PATH_LEN {
        return Err("longer than 512 bytes");
    }
    if !path.split('/').all(segment) {
        return Err(
            "it is not segments of letters, digits, '-', '_' and '.', of which none begins with a dot",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
