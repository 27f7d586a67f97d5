//! The keys that may sign sealed secrets, and where their public halves come from.
//!
//! A sealed secret names its key (`kid`) itself, and the secret comes from the host: the name proves nothing. So the
//! configuration says which names may sign (`[sealed_secrets] signing_keys`); what is not listed is refused before anything
//! is fetched. Without the list every key that the key broker or the local folder holds may sign, as in the existing stack.
//!
//! A `kid` that is a `kbs://` URI is a resource of the key broker; any other is a file name in the local folder.

use std::path::Path;

use cc_crypto::es256::VerifyingKey;
use cc_daemon::confined::read_below;
use cc_kbs::ResourceUri;
use tokio::time::Instant;

use crate::credential::SEALED_SECRET_DIR;
use crate::error::HubError;
use crate::hub::Hub;
use crate::pattern::Pattern;

/// Longest key file read, in bytes; a JWK has 300.
const MAX_KEY_LEN: usize = 8 * 1024;

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
    /// The public key called `kid`.
    ///
    /// # Errors
    /// [`HubError::SigningKeyRefused`] if it may not sign, [`HubError::SigningKey`] if it cannot be read, and what the
    /// hub says of a resource.
    pub async fn find(&self, kid: &str, hub: &Hub, deadline: Instant) -> Result<VerifyingKey, HubError> {
        if let Self::Listed(patterns) = self
            && !patterns.iter().any(|pattern| pattern.covers(kid))
        {
            return Err(HubError::SigningKeyRefused { kid: kid.to_owned() });
        }
        let failed = |why: String| HubError::SigningKey { kid: kid.to_owned(), why };
        let text = if kid.parse::<ResourceUri>().is_ok() {
            hub.fetch(kid, deadline).await?.into_exposed()
        } else {
            read_below(Path::new(SEALED_SECRET_DIR), Path::new(kid), MAX_KEY_LEN)
                .map_err(|e| failed(e.to_string()))?
        };
        VerifyingKey::from_jwk(&text).map_err(|e| failed(e.to_string()))
    }
}
