//! From a sealed secret to its plaintext, and from an image's wrapped key to the key.
//!
//! The formats are [`cc_sealed`]'s, the keys that may sign [`crate::signing_key`]'s, the stores and key management services
//! [`cc_kms`]'s. Here: check, then ask the one that the checked text names. Nothing is fetched for a text that is not well-formed,
//! whose signer may not sign, or that is not for the caller.

use std::sync::Arc;

use cc_crypto::Secret;
use cc_kms::Providers;
use cc_sealed::{AnnotationPacket, Payload, SealedSecret, Wrapping, key_provider, unverified};
use tokio::time::Instant;

use crate::audit::Ask;
use crate::error::HubError;
use crate::hub::{FETCH_TIME_LIMIT, Hub};
use crate::signing_key::SigningKeys;

/// The provider that is the key broker itself: its names are `kbs://` URIs.
pub(crate) const KBS: &str = "kbs";

/// What opens sealed secrets and wrapped keys.
#[derive(Debug)]
pub struct Unsealer {
    hub: Arc<Hub>,
    signing_keys: SigningKeys,
    providers: Providers,
}

impl Unsealer {
    /// One over `hub` that believes `signing_keys` and asks `providers`.
    #[must_use]
    pub fn new(hub: Arc<Hub>, signing_keys: SigningKeys, providers: Providers) -> Self {
        Self { hub, signing_keys, providers }
    }

    /// The hub below it.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Opens the text of a sealed secret for whoever asks, by `deadline`.
    ///
    /// # Errors
    /// A malformed text, a key that may not sign, a signature that does not fit, a secret that is not for the caller, and
    /// what the store says.
    pub async fn unseal(&self, ask: &Ask, text: &[u8], deadline: Instant) -> Result<Secret, HubError> {
        let payload = self.payload(ask, text, deadline).await?;
        let deadline = deadline.min(Instant::now() + FETCH_TIME_LIMIT);
        match payload {
            Payload::Vault(vault) => {
                match vault.provider.as_str() {
                    KBS => self.hub.admit(ask, &vault.name)?,
                    other => self.hub.check_access(ask, &format!("{other}:{}", vault.name))?,
                }
                let kms = self.providers.open(&vault.provider, &vault.provider_settings)?;
                Ok(kms.secret(&vault.name, &vault.annotations, deadline).await?)
            }
            Payload::Envelope(envelope) => {
                self.admit_key(ask, &envelope.provider, &envelope.key_id)?;
                let kms = self.providers.open(&envelope.provider, &envelope.provider_settings)?;
                let wrapped = &envelope.encrypted_key;
                let data_key =
                    kms.decrypt(&envelope.key_id, wrapped, &envelope.annotations, deadline).await?;
                Ok(envelope.decrypt(&data_key)?)
            }
        }
    }

    /// Decides whether whoever asks may use the key that `provider` knows as `key_id`.
    fn admit_key(&self, ask: &Ask, provider: &str, key_id: &str) -> Result<(), HubError> {
        self.hub.check_access(ask, &format!("{provider}:{key_id}"))
    }

    async fn payload(&self, ask: &Ask, text: &[u8], deadline: Instant) -> Result<Payload, HubError> {
        if self.signing_keys == SigningKeys::NotVerified {
            return Ok(unverified(text)?);
        }
        let sealed = SealedSecret::parse(text)?;
        let key = self.signing_keys.find(ask, sealed.kid(), &self.hub, deadline).await?;
        Ok(sealed.verify(&key)?.into_payload())
    }

    /// Answers a `keyunwrap` request of the key-provider protocol for whoever asks, by `deadline`.
    ///
    /// # Errors
    /// A malformed request or packet, a key that is not for the caller or does not fit, and what the key broker says.
    pub async fn unwrap_key(
        &self,
        ask: &Ask,
        request: &[u8],
        deadline: Instant,
    ) -> Result<Vec<u8>, HubError> {
        let packet = AnnotationPacket::parse(&key_provider::parse_unwrap(request)?)?;
        match &packet.wrapping {
            Wrapping::KeyBroker { .. } => {
                let key = self.hub.fetch_for(ask, &key_reference(&packet.kid), deadline).await?;
                Ok(key_provider::unwrapped(&packet.unwrap(&key)?))
            }
            Wrapping::Service { provider, provider_settings, annotations } => {
                self.admit_key(ask, provider, &packet.kid)?;
                let kms = self.providers.open(provider, provider_settings)?;
                let deadline = deadline.min(Instant::now() + FETCH_TIME_LIMIT);
                let options = kms.decrypt(&packet.kid, &packet.wrapped_data, annotations, deadline).await?;
                Ok(key_provider::unwrapped(&options))
            }
        }
    }
}

/// The reference of a key-encryption key. Old images name it without a scheme, `/repository/type/tag`.
fn key_reference(kid: &str) -> String {
    if kid.starts_with('/') { format!("kbs://{kid}") } else { kid.to_owned() }
}
