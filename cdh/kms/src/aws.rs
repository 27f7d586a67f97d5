//! The provider `aws`: AWS KMS unwraps data keys, AWS Secrets Manager keeps secrets.
//!
//! Their JSON interfaces (AWS KMS API Reference: `Decrypt`, `Encrypt`; AWS Secrets Manager API Reference: `GetSecretValue`), each
//! request signed by Signature Version 4 ([`sign`]). The access key comes from the key broker; no profile, environment variable
//! or metadata service is asked.
//!
//! A document chooses the region, which is checked ([`region`]) before it becomes part of a host name of AWS, so that no
//! document sends the session token of the access key anywhere else.

pub(crate) mod answer;
mod region;
mod sign;

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use cc_crypto::Secret;
use cc_kbs::{BoxFuture, Names};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request};
use serde::Serialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::config::{AwsConfig, Directories};
use crate::credential::{Broker, Credential};
use crate::error::{KmsError, quoted};
use crate::http_server::{Place, Server, Servers, read_json, secret_body};
use crate::member::Document;
use crate::secret_text::encode;
use crate::{Kms, MAX_KEY_LEN, Members, Wrapped, bounded};
use region::Region;
use sign::AccessKey;

pub(crate) const NAME: &str = "aws";

/// Longest answer read, in bytes: a secret has at most 64 KiB, in JSON six times as many.
const MAX_ANSWER_LEN: usize = 512 * 1024;
/// Longest wrapped key, in bytes; AWS KMS gives and takes 6144.
const MAX_CIPHERTEXT_LEN: usize = 6144;
/// Longest name or key id, in bytes.
const MAX_NAME_LEN: usize = 2048;

/// The two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    Kms,
    SecretsManager,
}

impl Service {
    /// The name in signatures and host names.
    fn name(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::SecretsManager => "secretsmanager",
        }
    }

    /// The configuration key of the address that stands in for it.
    fn endpoint_key(self) -> &'static str {
        match self {
            Self::Kms => "kms.aws.kms_endpoint",
            Self::SecretsManager => "kms.aws.secrets_manager_endpoint",
        }
    }
}

/// AWS, as the operator configured it.
#[derive(Debug)]
pub(crate) struct Aws {
    config: AwsConfig,
    credential: Credential,
    names: Option<Arc<dyn Names>>,
    servers: Servers,
}

impl Aws {
    /// The provider; makes no connection.
    ///
    /// # Errors
    /// [`KmsError::Config`] for a region, an endpoint or a certificate that cannot be used.
    pub(crate) fn new(
        config: &AwsConfig,
        directories: &Directories,
        broker: Option<&Arc<dyn Broker>>,
        names: Option<Arc<dyn Names>>,
    ) -> Result<Self, KmsError> {
        for name in config.regions.iter().flatten() {
            Region::parse(name)
                .map_err(|why| KmsError::Config { key: "kms.aws.regions", why: why.to_owned() })?;
        }
        let credential =
            Credential::new(NAME, config.credential.as_ref(), &directories.aws, "credential.json", broker);
        let aws = Self { config: config.clone(), credential, names, servers: Servers::default() };
        for service in [Service::Kms, Service::SecretsManager] {
            if let Some(endpoint) = aws.endpoint(service) {
                aws.server(service, endpoint)?;
            }
        }
        Ok(aws)
    }

    /// The services in the region that a document's settings name.
    ///
    /// # Errors
    /// [`KmsError::Document`].
    pub(crate) fn open(self: &Arc<Self>, settings: &Members) -> Result<InRegion, KmsError> {
        let settings = Document { provider: NAME, members: settings };
        let name = settings.text("region")?.ok_or_else(|| settings.refuse("region", "it is missing"))?;
        let region = Region::parse(name)
            .map_err(|why| settings.refuse("region", format!("{} {why}", quoted(name))))?;
        if self.config.regions.as_ref().is_some_and(|allowed| !allowed.iter().any(|one| one == name)) {
            let why = format!("{} is not among kms.aws.regions", quoted(name));
            return Err(settings.refuse("region", why));
        }
        Ok(InRegion { aws: Arc::clone(self), region })
    }

    fn endpoint(&self, service: Service) -> Option<&str> {
        match service {
            Service::Kms => self.config.kms_endpoint.as_deref(),
            Service::SecretsManager => self.config.secrets_manager_endpoint.as_deref(),
        }
    }

    /// The server at `url`.
    fn server(&self, service: Service, url: &str) -> Result<Arc<Server>, KmsError> {
        // For the configured endpoints alone: at AWS's own hosts nobody but the public authorities is believed.
        let certificate = self.config.certificate.as_deref().filter(|_| self.endpoint(service) == Some(url));
        self.servers.at(&Place {
            key: service.endpoint_key(),
            url,
            allow_plain_http: false,
            certificate,
            certificate_mode: self.config.certificate_mode,
            names: self.names.as_ref(),
        })
    }
}

/// AWS in one region.
#[derive(Debug)]
pub(crate) struct InRegion {
    aws: Arc<Aws>,
    region: Region,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CryptRequest<'a> {
    key_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext_blob: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_context: Option<&'a Members>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SecretRequest<'a> {
    secret_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_stage: Option<&'a str>,
}

impl InRegion {
    /// Calls the operation `target` of `service` with a JSON body.
    async fn call(
        &self,
        doing: &str,
        service: Service,
        target: &'static str,
        body: &impl Serialize,
        deadline: Instant,
    ) -> Result<Secret, KmsError> {
        let deadline = bounded(deadline);
        let server = match self.aws.endpoint(service) {
            Some(endpoint) => self.aws.server(service, endpoint)?,
            None => {
                let host = self.region.host(service.name()).ok_or_else(|| KmsError::NotConfigured {
                    provider: NAME,
                    needs: service.endpoint_key(),
                })?;
                self.aws.server(service, &format!("https://{host}"))?
            }
        };
        // Room for all of it from the start: growing would leave a copy of a plaintext behind.
        let mut text = Zeroizing::new(Vec::with_capacity(16 * 1024));
        serde_json::to_writer(&mut *text, body)
            .map_err(|e| KmsError::RequestRefused { doing: doing.to_owned(), told: e.to_string() })?;
        let mut request = Request::new(secret_body(text));
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        headers.insert("x-amz-target", HeaderValue::from_static(target));
        let host = HeaderValue::from_str(server.authority())
            .map_err(|_| KmsError::Config { key: service.endpoint_key(), why: "no host name".to_owned() })?;
        headers.insert(HOST, host);
        self.sign(doing, &mut request, &server, service, deadline).await?;
        let answer = server.ask(doing, request, MAX_ANSWER_LEN, deadline).await?;
        if answer.status().is_success() {
            return Ok(answer.into_body());
        }
        Err(answer::refusal(doing, answer.status(), answer.body()))
    }

    async fn sign(
        &self,
        doing: &str,
        request: &mut Request<Bytes>,
        server: &Server,
        service: Service,
        deadline: Instant,
    ) -> Result<(), KmsError> {
        let credential = &self.aws.credential;
        let key =
            AccessKey::parse(&credential.read(deadline).await?).map_err(|why| credential.malformed(why))?;
        sign::sign(request, server.base(), service.name(), self.region.name(), &key, SystemTime::now())
            .map_err(|told| KmsError::RequestRefused { doing: doing.to_owned(), told })
    }
}

impl Kms for InRegion {
    fn decrypt<'a>(
        &'a self,
        key_id: &'a str,
        ciphertext: &'a [u8],
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            check_name(&document, "key_id", key_id)?;
            if ciphertext.is_empty() || ciphertext.len() > MAX_CIPHERTEXT_LEN {
                let why = format!("{} bytes, AWS KMS takes 1 to {MAX_CIPHERTEXT_LEN}", ciphertext.len());
                return Err(document.refuse("encrypted_key", why));
            }
            let doing = format!("decrypting with the key {} of AWS KMS", quoted(key_id));
            let blob = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ciphertext);
            let request = CryptRequest {
                key_id,
                ciphertext_blob: Some(&blob),
                plaintext: None,
                encryption_context: document.texts("encryption_context")?,
            };
            let answer = self.call(&doing, Service::Kms, "TrentService.Decrypt", &request, deadline).await?;
            let answer: answer::Decrypted = read_json(&doing, &answer)?;
            answer::check_key(&doing, key_id, &answer.key_id)?;
            let bad = |why: &str| KmsError::BadAnswer { doing: doing.clone(), why: why.to_owned() };
            let plaintext = answer.plaintext.decode().ok_or_else(|| bad("Plaintext is not base64"))?;
            if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
                return Err(bad("Plaintext has an impossible length"));
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
            check_name(&document, "key_id", key_id)?;
            if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
                return Err(document.refuse("the data key", format!("not 1 to {MAX_KEY_LEN} bytes long")));
            }
            let doing = format!("encrypting with the key {} of AWS KMS", quoted(key_id));
            let text = encode(plaintext);
            let request = CryptRequest {
                key_id,
                ciphertext_blob: None,
                plaintext: Some(text.as_str()),
                encryption_context: document.texts("encryption_context")?,
            };
            let answer = self.call(&doing, Service::Kms, "TrentService.Encrypt", &request, deadline).await?;
            let answer: answer::Encrypted = read_json(&doing, &answer)?;
            answer::check_key(&doing, key_id, &answer.key_id)?;
            let ciphertext = answer.ciphertext(&doing)?;
            Ok(Wrapped { ciphertext, annotations: annotations.clone() })
        })
    }

    fn secret<'a>(
        &'a self,
        name: &'a str,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            check_name(&document, "name", name)?;
            let request = SecretRequest {
                secret_id: name,
                version_id: document.text("version_id")?,
                version_stage: document.text("version_stage")?,
            };
            let doing = format!("reading the secret {} of AWS Secrets Manager", quoted(name));
            let target = "secretsmanager.GetSecretValue";
            let answer = self.call(&doing, Service::SecretsManager, target, &request, deadline).await?;
            let answer: answer::SecretValue = read_json(&doing, &answer)?;
            answer.check(&doing, name, request.version_id)?;
            answer.into_secret(&doing)
        })
    }
}

/// Refuses a name that no key and no secret of AWS has.
fn check_name(document: &Document<'_>, what: &'static str, name: &str) -> Result<(), KmsError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(document.refuse(what, format!("not 1 to {MAX_NAME_LEN} visible ASCII characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
