//! What a secret is called in the configuration: a resource of the key broker, or the text of a sealed secret.
//!
//! Not here: opening either ([`crate::hub`], [`crate::unseal`]).

use std::fmt;

use cc_crypto::Secret;
use cc_kbs::ResourceUri;
use serde::Deserialize;
use tokio::time::Instant;

use crate::audit::Ask;
use crate::error::HubError;
use crate::unseal::Unsealer;

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
}
