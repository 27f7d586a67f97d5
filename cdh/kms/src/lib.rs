//! Key management services: what unwraps data keys and keeps secrets outside of the machine, behind one trait.
//!
//! A sealed secret or a wrapped image key names a provider. [`Providers`] knows them by name and gives a [`Kms`] for the
//! settings that the document carries; what opens the service (access keys, tokens, PINs) comes from the key broker.
//!
//! | provider | decrypt and encrypt | secret |
//! |---|---|---|
//! | `kbs` | – | a resource of the key broker, of any of its plugins |
//! | `aliyun` | Alibaba Cloud KMS: a region's, or an instance of its own | the same |
//! | `aws` | AWS KMS | AWS Secrets Manager |
//! | `vault` | transit engine of HashiCorp Vault or OpenBao | its key-value engine, version 1 or 2 |
//! | `pkcs11` | a key of a PKCS#11 token: RSA-OAEP, AES-GCM | a data object of the token |
//!
//! A document may come from the host. So it chooses among names and regions, and never an address: which servers are asked,
//! which module is loaded and where credentials lie is [`KmsConfig`]'s, that is, the operator's.
//!
//! Not here: the formats that carry wrapped keys, who may have what, and the content ciphers.
#![forbid(unsafe_code)]

mod aliyun;
#[doc(hidden)]
pub mod answers;
mod aws;
mod config;
mod credential;
mod error;
mod http_server;
mod kbs;
mod member;
mod pkcs11;
mod providers;
mod secret_text;
#[cfg(test)]
mod stand_in;
mod vault;

use std::fmt;
use std::time::Duration;

use cc_crypto::Secret;
use serde_json::{Map, Value};
use tokio::time::Instant;

pub use cc_kbs::BoxFuture;
pub use config::{
    AliyunConfig, AwsConfig, CredentialPlace, Directories, KmsConfig, Pkcs11Config, VaultConfig,
};
pub use credential::Broker;
pub use error::KmsError;
pub use providers::{Providers, SUPPORTED, Surroundings};

/// How long one operation of a service may take, whatever the caller's own deadline.
pub const TIME_LIMIT: Duration = Duration::from_secs(20);

/// Longest key or plaintext that is wrapped or unwrapped, in bytes; AWS KMS takes 4096.
pub const MAX_KEY_LEN: usize = 4096;

/// Members of a JSON object in a document: provider settings or annotations.
pub type Members = Map<String, Value>;

/// A data key wrapped by a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrapped {
    /// What only the service opens.
    pub ciphertext: Vec<u8>,
    /// The annotations that [`Kms::decrypt`] needs beside it: those that were given, and what the service added.
    pub annotations: Members,
}

/// One key management service, opened with the settings of one document.
///
/// All methods end by `deadline`; a service other than the key broker, which may have to attest first, is waited for
/// [`TIME_LIMIT`] at most.
pub trait Kms: Send + Sync + fmt::Debug {
    /// Unwraps `ciphertext` with the service's key `key_id`: at most [`MAX_KEY_LEN`] bytes.
    ///
    /// # Errors
    /// See [`KmsError`].
    fn decrypt<'a>(
        &'a self,
        key_id: &'a str,
        ciphertext: &'a [u8],
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>>;

    /// Wraps `plaintext`, at most [`MAX_KEY_LEN`] bytes, with the service's key `key_id`. For tools that seal; the guest
    /// only unwraps.
    ///
    /// # Errors
    /// See [`KmsError`].
    fn encrypt<'a>(
        &'a self,
        key_id: &'a str,
        plaintext: &'a Secret,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Wrapped, KmsError>>;

    /// Reads the secret called `name`.
    ///
    /// # Errors
    /// See [`KmsError`].
    fn secret<'a>(
        &'a self,
        name: &'a str,
        annotations: &'a Members,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, KmsError>>;
}

/// `deadline`, but not later than [`TIME_LIMIT`] from now.
fn bounded(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + TIME_LIMIT)
}
