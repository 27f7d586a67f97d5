//! The hub itself: from a resource reference to a secret.
//!
//! One backend per process, chosen by `kbc.name`: the key broker with its one warm session (or several that stand in for
//! each other), or the offline store of the image. Not here: the wire ([`crate::service`]) and files to fill ([`crate::credential`]).

use std::sync::Arc;
use std::time::Duration;

use cc_crypto::Secret;
use cc_kbs::offline::OfflineStore;
use cc_kbs::params::{CC_KBC, OFFLINE_FS_KBC};
use cc_kbs::{EvidenceSource, Group, ResourceUri, SessionStatus};
use tokio::time::Instant;

use crate::agent::AgentEvidence;
use crate::config::Config;
use crate::error::HubError;

/// How long one caller waits for one secret; callers of the existing stack give up after 50 seconds.
pub const FETCH_TIME_LIMIT: Duration = Duration::from_secs(45);

/// Where secrets come from.
#[derive(Debug)]
enum Backend {
    Broker(Box<Group>),
    Offline(OfflineStore),
}

/// The hub: what every handler works on.
#[derive(Debug)]
pub struct Hub {
    backend: Backend,
}

impl Hub {
    /// The backend that the configuration names. Nothing is contacted yet.
    ///
    /// # Errors
    /// An unknown backend, a URL or certificate that cannot be used, or a malformed offline store.
    pub fn new(config: &Config) -> Result<Self, HubError> {
        let backend = match config.kbc_name.as_str() {
            CC_KBC => {
                let agent: Arc<dyn EvidenceSource> = Arc::new(AgentEvidence::new(config.aa_address.clone()));
                Backend::Broker(Box::new(Group::new(config.kbs.clone(), config.head_start, &agent)?))
            }
            OFFLINE_FS_KBC => Backend::Offline(OfflineStore::load(&config.offline_files)?),
            other => return Err(HubError::UnknownKbc(other.to_owned())),
        };
        Ok(Self { backend })
    }

    /// Fetches what `reference` (a `kbs://` URI) names, by `deadline` and never longer than
    /// [`FETCH_TIME_LIMIT`].
    ///
    /// # Errors
    /// A reference that is not one, and whatever the backend says; see [`cc_kbs::Error`].
    pub async fn fetch(&self, reference: &str, deadline: Instant) -> Result<Secret, HubError> {
        let deadline = deadline.min(Instant::now() + FETCH_TIME_LIMIT);
        let uri: ResourceUri = reference.parse()?;
        tracing::debug!(%uri, "fetching a resource");
        match &self.backend {
            Backend::Broker(group) => Ok(group.fetch(&uri, deadline).await?),
            Backend::Offline(store) => Ok(store.fetch(&uri)?),
        }
    }

    /// State of the session with each key broker, in the order in which they are asked; none with the offline store.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        match &self.backend {
            Backend::Broker(group) => group.status(),
            Backend::Offline(_) => Vec::new(),
        }
    }

    /// Asks each key broker whether it is there and speaks our protocol version: its URL and why not. None are asked with the
    /// offline store.
    pub async fn probe(&self, time_limit: Duration) -> Vec<(String, Result<(), cc_kbs::Error>)> {
        match &self.backend {
            Backend::Broker(group) => group.probe(Instant::now() + time_limit).await,
            Backend::Offline(_) => Vec::new(),
        }
    }
}
