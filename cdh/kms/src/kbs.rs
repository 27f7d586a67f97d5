//! The provider `kbs`: secrets are resources of the key broker, of any of its plugins (`kbs+<plugin>://`).
//!
//! It wraps and unwraps nothing: a data key that the key broker could give needs no wrapping.

use std::sync::Arc;

use cc_crypto::Secret;
use cc_kbs::BoxFuture;
use tokio::time::Instant;

use crate::credential::Broker;
use crate::error::KmsError;
use crate::{Kms, Members, Wrapped};

pub(crate) const NAME: &str = "kbs";

/// The key broker as a service.
#[derive(Debug)]
pub(crate) struct KeyBroker {
    pub(crate) broker: Arc<dyn Broker>,
}

fn unsupported<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, KmsError>> {
    let what = "wrap and unwrap data keys (type envelope)";
    Box::pin(std::future::ready(Err(KmsError::Unsupported { provider: NAME, what })))
}

impl Kms for KeyBroker {
    fn decrypt<'a>(
        &'a self,
        _key_id: &'a str,
        _ciphertext: &'a [u8],
        _annotations: &'a Members,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        unsupported()
    }

    fn encrypt<'a>(
        &'a self,
        _key_id: &'a str,
        _plaintext: &'a Secret,
        _annotations: &'a Members,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Wrapped, KmsError>> {
        unsupported()
    }

    // The key broker's client has deadlines of its own: attestation may come first.
    fn secret<'a>(
        &'a self,
        name: &'a str,
        _annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>> {
        Box::pin(async move { Ok(self.broker.fetch(name, deadline).await?) })
    }
}
