//! The provider `aliyun`: Alibaba Cloud KMS unwraps data keys and keeps secrets.
//!
//! Two ways lead to it. A *region* is asked by the public OpenAPI ([`openapi`]; KMS API Reference, version 2016-01-20:
//! `Decrypt`, `Encrypt`, `GetSecretValue`), with an access key. An *instance*, a machine of one customer, is asked by its own
//! protocol ([`instance`]; KMS Instance API), with a client key and a private authority. The setting `client_type` of a document
//! says which, and with what credential:
//!
//! | `client_type` | way | credential |
//! |---|---|---|
//! | `client_key` | instance | an RSA key in a PKCS#12 container, its password and the instance's authority, three files |
//! | `sts_token` | region | a file with a temporary access key |
//! | `ecs_ram_role` | region | the temporary access key that the metadata service of the machine gives |
//! | `access_key` | region | an access key (not known to the existing stack) |
//!
//! A document chooses a region, an instance and a client key by names, which are checked ([`place`]) before they become part of a
//! host or file name. The metadata service is the host's: asking it is switched on by the operator alone, and what it gives
//! decides whose account answers.

mod access_key;
pub(crate) mod answer;
pub(crate) mod instance;
mod message;
mod openapi;
mod place;

use std::path::PathBuf;
use std::sync::Arc;

use cc_crypto::Secret;
use cc_kbs::{BoxFuture, Names};
use tokio::time::Instant;

use crate::config::{AliyunConfig, CredentialPlace, Directories};
use crate::credential::{Broker, Credential};
use crate::error::{KmsError, quoted};
use crate::http_server::{Place, Server, Servers};
use crate::member::Document;
use crate::{Kms, MAX_KEY_LEN, Members, Wrapped, bounded};
use instance::ClientKey;
use openapi::AccessPath;
use place::{ClientKeyId, InstanceId, Region};

pub(crate) const NAME: &str = "aliyun";

/// Longest answer read, in bytes: a secret has at most 30 KiB, in JSON six times as many.
const MAX_ANSWER_LEN: usize = 512 * 1024;
/// Longest wrapped key, in bytes: the service wraps 6 KiB, and gives text.
const MAX_CIPHERTEXT_LEN: usize = 12 * 1024;
/// Longest name or key id, in bytes.
const MAX_NAME_LEN: usize = 512;
/// Where the host's metadata service is; the one address for which plain http to another machine can be configured.
const METADATA_SERVICE: &str = "http://100.100.100.200";

/// Alibaba Cloud, as the operator configured it.
#[derive(Debug)]
pub(crate) struct Aliyun {
    config: AliyunConfig,
    directory: PathBuf,
    broker: Option<Arc<dyn Broker>>,
    names: Option<Arc<dyn Names>>,
    servers: Servers,
}

impl Aliyun {
    /// The provider; makes no connection.
    ///
    /// # Errors
    /// [`KmsError::Config`] for a region, an endpoint or a certificate that cannot be used.
    pub(crate) fn new(
        config: &AliyunConfig,
        directories: &Directories,
        broker: Option<&Arc<dyn Broker>>,
        names: Option<Arc<dyn Names>>,
    ) -> Result<Self, KmsError> {
        for name in config.regions.iter().flatten() {
            Region::parse(name)
                .map_err(|why| KmsError::Config { key: "kms.aliyun.regions", why: why.to_owned() })?;
        }
        let (directory, broker) = (directories.aliyun.clone(), broker.cloned());
        let aliyun = Self { config: config.clone(), directory, broker, names, servers: Servers::default() };
        if let Some(url) = &config.endpoint {
            aliyun.region_server(url)?;
        }
        if let Some(url) = &config.instance_endpoint {
            aliyun.instance_server(url, None)?;
        }
        if let Some(url) = &config.metadata_endpoint {
            aliyun.metadata_server(url)?;
        }
        Ok(aliyun)
    }

    /// The service as a document's settings name it.
    ///
    /// # Errors
    /// [`KmsError::Document`], [`KmsError::NotConfigured`] for `ecs_ram_role` without a metadata service.
    pub(crate) fn open(self: &Arc<Self>, settings: &Members) -> Result<Service, KmsError> {
        let settings = Document { provider: NAME, members: settings };
        let way = match settings.text("client_type")? {
            Some("client_key") => Way::Instance(ClientKey {
                instance: InstanceId::parse(required(&settings, "kms_instance_id")?)
                    .map_err(|why| settings.refuse("kms_instance_id", why))?,
                id: ClientKeyId::parse(required(&settings, "client_key_id")?)
                    .map_err(|why| settings.refuse("client_key_id", why))?,
            }),
            Some("sts_token") => {
                let path = place::token_path(&self.directory, required(&settings, "token_path")?)
                    .map_err(|why| settings.refuse("token_path", why))?;
                let credential = CredentialPlace::File(path);
                Way::Region(AccessPath::StsToken(
                    self.credential(Some(&credential), ""),
                    self.region(&settings)?,
                ))
            }
            Some("access_key") => {
                let credential = self.credential(self.config.credential.as_ref(), "credential.json");
                Way::Region(AccessPath::AccessKey(credential, self.region(&settings)?))
            }
            Some("ecs_ram_role") => {
                let missing =
                    KmsError::NotConfigured { provider: NAME, needs: "kms.aliyun.metadata_endpoint" };
                let url = self.config.metadata_endpoint.as_deref().ok_or(missing)?;
                let server = self.metadata_server(url)?;
                Way::Region(AccessPath::RamRole(self.credential(None, "ecsRamRole.json"), server))
            }
            Some(other) => {
                let why = format!(
                    "{} is none of client_key, sts_token, ecs_ram_role and access_key",
                    quoted(other)
                );
                return Err(settings.refuse("client_type", why));
            }
            None => return Err(settings.refuse("client_type", "it is missing")),
        };
        Ok(Service { aliyun: Arc::clone(self), way })
    }

    fn region(&self, settings: &Document<'_>) -> Result<Region, KmsError> {
        self.allowed_region(required(settings, "region_id")?).map_err(|why| settings.refuse("region_id", why))
    }

    /// The region `name`, if it is one and may be asked; else why not.
    fn allowed_region(&self, name: &str) -> Result<Region, String> {
        let region = Region::parse(name).map_err(|why| format!("{} {why}", quoted(name)))?;
        match &self.config.regions {
            Some(allowed) if !allowed.iter().any(|one| one == name) => {
                Err(format!("{} is not among kms.aliyun.regions", quoted(name)))
            }
            _ => Ok(region),
        }
    }

    fn credential(&self, place: Option<&CredentialPlace>, name: &str) -> Credential {
        Credential::new(NAME, place, &self.directory, name, self.broker.as_ref())
    }

    fn region_server(&self, url: &str) -> Result<Arc<Server>, KmsError> {
        // For the configured endpoint alone: elsewhere nobody but the public authorities is believed.
        let configured = self.config.endpoint.as_deref() == Some(url);
        let certificate = self.config.certificate.as_deref().filter(|_| configured);
        self.server("kms.aliyun.endpoint", url, certificate, false)
    }

    fn instance_server(&self, url: &str, certificate: Option<&str>) -> Result<Arc<Server>, KmsError> {
        self.server("kms.aliyun.instance_endpoint", url, certificate, false)
    }

    fn metadata_server(&self, url: &str) -> Result<Arc<Server>, KmsError> {
        self.server("kms.aliyun.metadata_endpoint", url, None, url == METADATA_SERVICE)
    }

    fn server(
        &self,
        key: &'static str,
        url: &str,
        certificate: Option<&str>,
        allow_plain_http: bool,
    ) -> Result<Arc<Server>, KmsError> {
        self.servers.at(&Place {
            key,
            url,
            allow_plain_http,
            certificate,
            certificate_mode: self.config.certificate_mode,
            names: self.names.as_ref(),
        })
    }
}

/// Alibaba Cloud KMS on the way that one document names.
#[derive(Debug)]
pub(crate) struct Service {
    aliyun: Arc<Aliyun>,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Instance(ClientKey),
    Region(AccessPath),
}

impl Kms for Service {
    /// For an instance, the annotation `iv` is base64 of what the instance encrypted with. For a region, `ciphertext` is the
    /// text that the service gave, and the annotation `encryption_context` an object of texts.
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
                let why = format!("{} bytes, not 1 to {MAX_CIPHERTEXT_LEN}", ciphertext.len());
                return Err(document.refuse("encrypted_key", why));
            }
            let doing = format!("decrypting with the key {} of Alibaba Cloud KMS", quoted(key_id));
            let deadline = bounded(deadline);
            let plaintext = match &self.way {
                Way::Instance(client) => {
                    instance::decrypt(&self.aliyun, client, &doing, key_id, ciphertext, &document, deadline)
                        .await?
                }
                Way::Region(access) => {
                    openapi::decrypt(&self.aliyun, access, &doing, key_id, ciphertext, &document, deadline)
                        .await?
                }
            };
            if plaintext.is_empty() || plaintext.len() > MAX_KEY_LEN {
                return Err(KmsError::BadAnswer {
                    doing,
                    why: "the plaintext has an impossible length".to_owned(),
                });
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
            let doing = format!("encrypting with the key {} of Alibaba Cloud KMS", quoted(key_id));
            let deadline = bounded(deadline);
            let wrapped = match &self.way {
                Way::Instance(client) => {
                    instance::encrypt(&self.aliyun, client, &doing, key_id, plaintext, &document, deadline)
                        .await?
                }
                Way::Region(access) => {
                    openapi::encrypt(&self.aliyun, access, &doing, key_id, plaintext, &document, deadline)
                        .await?
                }
            };
            if wrapped.ciphertext.is_empty() || wrapped.ciphertext.len() > MAX_CIPHERTEXT_LEN {
                return Err(KmsError::BadAnswer {
                    doing,
                    why: "the ciphertext has an impossible length".to_owned(),
                });
            }
            Ok(wrapped)
        })
    }

    /// The annotations `version_id` and `version_stage` choose a version; empty ones do not.
    fn secret<'a>(
        &'a self,
        name: &'a str,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move {
            let document = Document { provider: NAME, members: annotations };
            check_name(&document, "name", name)?;
            let asked = answer::Asked {
                name,
                version_id: document.text("version_id")?,
                version_stage: document.text("version_stage")?,
            };
            let doing = format!("reading the secret {} of Alibaba Cloud KMS", quoted(name));
            let deadline = bounded(deadline);
            match &self.way {
                Way::Instance(client) => {
                    instance::secret(&self.aliyun, client, &doing, &asked, deadline).await
                }
                Way::Region(access) => openapi::secret(&self.aliyun, access, &doing, &asked, deadline).await,
            }
        })
    }
}

fn required<'a>(settings: &Document<'a>, name: &'static str) -> Result<&'a str, KmsError> {
    settings.text(name)?.ok_or_else(|| settings.refuse(name, "it is missing"))
}

/// Refuses a name that no key and no secret has.
fn check_name(document: &Document<'_>, what: &'static str, name: &str) -> Result<(), KmsError> {
    if name.is_empty() || name.len() > MAX_NAME_LEN || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(document.refuse(what, format!("not 1 to {MAX_NAME_LEN} visible ASCII characters")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
