//! From a sealed secret to its plaintext, and from an image's wrapped key to the key.
//!
//! The formats are [`cc_sealed`]'s, the keys that may sign [`crate::signing_key`]'s. Here: check, then ask the store or key
//! management service that the checked text names. Nothing is fetched for a text that is not well-formed or whose signer
//! may not sign.

use std::sync::Arc;

use cc_crypto::Secret;
use cc_sealed::{AnnotationPacket, Payload, SealedSecret, Wrapping, key_provider, unverified};
use tokio::time::Instant;

use crate::audit::Ask;
use crate::error::HubError;
use crate::hub::Hub;
use crate::signing_key::SigningKeys;

/// The provider that is the key broker itself.
const KBS: &str = "kbs";

/// What opens sealed secrets and wrapped keys.
#[derive(Debug)]
pub struct Unsealer {
    hub: Arc<Hub>,
    signing_keys: SigningKeys,
}

impl Unsealer {
    /// One over `hub` that believes `signing_keys`.
    #[must_use]
    pub fn new(hub: Arc<Hub>, signing_keys: SigningKeys) -> Self {
        Self { hub, signing_keys }
    }

    /// Opens the text of a sealed secret for whoever asks, by `deadline`.
    ///
    /// # Errors
    /// A malformed text, a key that may not sign, a signature that does not fit, a secret that is not for the caller, and
    /// what the store says.
    pub async fn unseal(&self, ask: &Ask, text: &[u8], deadline: Instant) -> Result<Secret, HubError> {
        match self.payload(text, deadline).await? {
            Payload::Vault(vault) if vault.provider == KBS => {
                self.hub.fetch_for(ask, &vault.name, deadline).await
            }
            other => Err(HubError::UnknownProvider { provider: other.provider().to_owned() }),
        }
    }

    async fn payload(&self, text: &[u8], deadline: Instant) -> Result<Payload, HubError> {
        if self.signing_keys == SigningKeys::NotVerified {
            return Ok(unverified(text)?);
        }
        let sealed = SealedSecret::parse(text)?;
        let key = self.signing_keys.find(sealed.kid(), &self.hub, deadline).await?;
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
            Wrapping::Service { provider, .. } => {
                Err(HubError::UnknownProvider { provider: provider.clone() })
            }
        }
    }
}

/// The reference of a key-encryption key. Old images name it without a scheme, `/repository/type/tag`.
fn key_reference(kid: &str) -> String {
    if kid.starts_with('/') { format!("kbs://{kid}") } else { kid.to_owned() }
}
