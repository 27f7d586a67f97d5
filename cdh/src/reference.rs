//! What a secret is called in the configuration: a resource of the key broker, or the text of a sealed secret.
//!
//! Not here: opening either ([`crate::hub`], [`crate::unseal`]).

use std::fmt;

use cc_crypto::Secret;
use cc_kbs::ResourceUri;
use cc_sealed::{Payload, unverified};
use serde::Deserialize;
use tokio::time::Instant;

use crate::audit::Ask;
use crate::error::HubError;
use crate::hub::canonical;
use crate::unseal::{KBS, Unsealer};

/// A reference, checked in its form.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum SecretRef {
    /// A `kbs://` URI.
    Resource(String),
    /// The text of a sealed secret.
    Sealed(String),
}

impl SecretRef {
    /// Gets the secret for whoever asks, by `deadline`.
    ///
    /// # Errors
    /// As [`crate::hub::Hub::fetch_for`] or [`Unsealer::unseal`].
    pub async fn resolve(
        &self,
        unsealer: &Unsealer,
        ask: &Ask,
        deadline: Instant,
    ) -> Result<Secret, HubError> {
        match self {
            Self::Resource(uri) => unsealer.hub().fetch_for(ask, uri, deadline).await,
            Self::Sealed(text) => unsealer.unseal(ask, text.as_bytes(), deadline).await,
        }
    }
}

impl SecretRef {
    /// What the secret is called in rules ([`crate::access`]): the canonical URI, or for a sealed secret that names one in a
    /// store, that name. A sealed envelope leads to none: the key that wraps it may wrap others. Sealed secrets are read without
    /// their signature, which nobody can check before the key broker is there.
    #[must_use]
    pub fn leads_to(&self) -> Option<String> {
        match self {
            Self::Resource(uri) => canonical(uri).ok(),
            Self::Sealed(text) => match unverified(text.as_bytes()).ok()? {
                Payload::Vault(vault) if vault.provider == KBS => canonical(&vault.name).ok(),
                Payload::Vault(vault) => Some(format!("{}:{}", vault.provider, vault.name)),
                Payload::Envelope(_) => None,
            },
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with(cc_sealed::PREFIX) {
            if text.len() > cc_sealed::MAX_SEALED_LEN {
                return Err(format!("a sealed secret has at most {} bytes", cc_sealed::MAX_SEALED_LEN));
            }
            return Ok(Self::Sealed(text));
        }
        match text.parse::<ResourceUri>() {
            Ok(_) => Ok(Self::Resource(text)),
            Err(e) => Err(format!("a secret is a kbs:// URI or a text that begins with \"sealed.\": {e}")),
        }
    }
}

impl fmt::Display for SecretRef {
    /// The URI, or `sealed secret`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(uri) => f.write_str(uri),
            Self::Sealed(_) => f.write_str("sealed secret"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretRef({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_and_sealed_texts_are_told_apart_and_nothing_else_passes() {
        let read = |text: &str| SecretRef::try_from(text.to_owned());
        assert_eq!(read("kbs:///a/b/c").unwrap(), SecretRef::Resource("kbs:///a/b/c".to_owned()));
        assert!(matches!(read("sealed.a.b.c").unwrap(), SecretRef::Sealed(_)));
        assert!(matches!(read("kbs+pkcs11:///a/b/c").unwrap(), SecretRef::Resource(_)));
        let long = format!("sealed.{}", "a".repeat(cc_sealed::MAX_SEALED_LEN));
        for bad in ["", "a/b/c", "kbs:/a/b/c", "https://kbs/a/b/c", long.as_str()] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", read("sealed.a.b.c").unwrap()), "SecretRef(sealed secret)");
    }

    #[test]
    fn references_lead_to_what_rules_are_written_for() {
        use base64::Engine as _;
        let leads_to = |text: String| SecretRef::try_from(text).unwrap().leads_to();
        let sealed = |payload: serde_json::Value| {
            let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload.to_string());
            leads_to(format!("sealed.e30.{text}.e30"))
        };
        let vault = |provider: &str, name: &str| {
            sealed(
                serde_json::json!({"version": "0.1.0", "type": "vault", "provider": provider, "name": name,
                "provider_settings": {}, "annotations": {}}),
            )
        };
        let envelope = sealed(serde_json::json!({"version": "0.1.0", "type": "envelope", "provider": "aws",
            "key_id": "alias/kek", "encrypted_key": "AAAA", "encrypted_data": "AAAA", "wrap_type": "A256GCM",
            "iv": "AAECAwQFBgcICQoL", "provider_settings": {}, "annotations": {}}));
        assert_eq!(leads_to("kbs://host:1/a/b/c?x=1".to_owned()).as_deref(), Some("kbs:///a/b/c"));
        assert_eq!(vault("kbs", "kbs://host/a/b/c").as_deref(), Some("kbs:///a/b/c"));
        assert_eq!(vault("vault", "app/db").as_deref(), Some("vault:app/db"));
        assert_eq!(envelope, None);
    }
}
