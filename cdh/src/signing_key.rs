//! The keys that may sign sealed secrets, and where their public halves come from.
//!
//! A sealed secret names its key (`kid`) itself, and the secret comes from the host: the name proves nothing. So the
//! configuration says which names may sign (`[sealed_secrets] signing_keys`); what is not listed is refused before anything
//! is fetched. Without the list every key that the key broker or the local folder holds may sign, as in the existing stack;
//! but then whoever makes the secret chooses which resource is fetched, so the caller must be one who may have it.
//!
//! A `kid` that is a `kbs://` URI is a resource of the key broker; any other is a file name in the local folder. Why what is
//! there cannot be a key is told without a word of it: it may be another secret.

use std::path::Path;

use cc_crypto::es256::VerifyingKey;
use cc_daemon::confined::read_below;
use cc_kbs::ResourceUri;
use tokio::time::Instant;

use crate::audit::Ask;
use crate::credential::SEALED_SECRET_DIR;
use crate::error::HubError;
use crate::hub::Hub;
use crate::pattern::Pattern;

/// Longest key file read, in bytes; a JWK has 300.
const MAX_KEY_LEN: usize = 8 * 1024;
/// How much of a key's name errors show, in characters.
const SHOWN_LEN: usize = 256;

/// Which keys may sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningKeys {
    /// Signatures are not looked at.
    NotVerified,
    /// Every key that is found.
    Any,
    /// Keys whose names one of the patterns covers.
    Listed(Vec<Pattern>),
}

impl SigningKeys {
    /// The public key called `kid`, for whoever asks.
    ///
    /// # Errors
    /// [`HubError::SigningKeyRefused`] if it may not sign, [`HubError::AccessDenied`] if no list says so and it is a resource
    /// that the caller may not have, [`HubError::SigningKey`] if it cannot be read, and what the hub says of a resource.
    pub async fn find(
        &self,
        ask: &Ask,
        kid: &str,
        hub: &Hub,
        deadline: Instant,
    ) -> Result<VerifyingKey, HubError> {
        let resource = kid.parse::<ResourceUri>().ok().map(|uri| uri.to_string());
        // A resource is looked for under the name that its URI comes down to, and so it is in the list.
        let name = resource.as_deref().unwrap_or(kid);
        match (self, &resource) {
            (Self::Listed(patterns), _) if !patterns.iter().any(|pattern| pattern.covers(name)) => {
                return Err(HubError::SigningKeyRefused { kid: shown(kid) });
            }
            (Self::Any, Some(resource)) => hub.admit_as_means(ask, resource)?,
            _ => {}
        }
        let failed = |why: String| HubError::SigningKey { kid: shown(kid), why };
        let text = match &resource {
            Some(resource) => hub.fetch(resource, deadline).await?.into_exposed(),
            None => read_below(Path::new(SEALED_SECRET_DIR), Path::new(kid), MAX_KEY_LEN)
                .map_err(|e| failed(e.to_string()))?,
        };
        VerifyingKey::from_jwk(&text).map_err(|_| failed("it is no JWK of a public key for ES256".to_owned()))
    }
}

/// `kid`, cut: it is as long as the host likes.
fn shown(kid: &str) -> String {
    kid.chars().take(SHOWN_LEN).collect()
}
