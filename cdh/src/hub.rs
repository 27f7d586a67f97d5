//! The hub itself: from a resource reference to a secret.
//!
//! One backend per process, chosen by `kbc.name`: the key broker with its one warm session (or several that stand in for
//! each other), or the offline store of the image. Not here: the wire ([`crate::service`]) and files to fill ([`crate::credential`]).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cc_crypto::Secret;
use cc_daemon::notify::StatusLine;
use cc_daemon::peer::Caller;
use cc_evidence::blame::Blame;
use cc_kbs::offline::OfflineStore;
use cc_kbs::params::{CC_KBC, OFFLINE_FS_KBC};
use cc_kbs::{BoxFuture, EvidenceSource, Group, ResourceUri, SessionStatus};
use cc_kms::Broker;
use tokio::time::Instant;

use crate::access::AccessTable;
use crate::agent::AgentEvidence;
use crate::audit::Ask;
use crate::config::Config;
use crate::error::HubError;

/// How long one caller waits for one secret; callers of the existing stack give up after 50 seconds.
pub const FETCH_TIME_LIMIT: Duration = Duration::from_secs(45);

/// What the status line calls what comes from key brokers.
const SECRETS: &str = "secrets";

/// How often the status of a fetch is looked at that takes its time.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

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
    access: AccessTable,
    line: StatusLine,
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
        let mut access = config.access.clone();
        for volume in &config.volumes {
            match volume.key.leads_to() {
                Some(reference) => access.keep(reference),
                None => tracing::warn!(
                    volume = volume.name,
                    "the key is in a sealed envelope, which the hub opens for whoever has its text: give [access] a rule for the \
                     key of the key management service that wraps it"
                ),
            }
        }
        Ok(Self { backend, access, line: StatusLine::default() })
    }

    /// Fetches what `reference` (a `kbs://` URI) names for whoever asks, if he may have it. Otherwise as [`Hub::fetch`].
    ///
    /// # Errors
    /// As [`Hub::admit`], then as [`Hub::fetch`].
    pub async fn fetch_for(&self, ask: &Ask, reference: &str, deadline: Instant) -> Result<Secret, HubError> {
        self.admit(ask, reference)?;
        self.fetch(reference, deadline).await
    }

    /// Decides whether whoever asks may have what `reference` (a `kbs://` URI) names. The configuration may have what it
    /// names.
    ///
    /// # Errors
    /// A reference that is not one; [`HubError::AccessDenied`].
    pub fn admit(&self, ask: &Ask, reference: &str) -> Result<(), HubError> {
        let canonical = canonical(reference).inspect_err(|_| ask.concerns(reference))?;
        self.check_access(ask, &canonical)
    }

    /// Whether the access table gives what `reference` (canonical, or `<provider>:<name>` in another store) names to
    /// whoever asks.
    ///
    /// # Errors
    /// [`HubError::AccessDenied`].
    pub fn check_access(&self, ask: &Ask, reference: &str) -> Result<(), HubError> {
        ask.concerns(reference);
        self.check_caller(ask, reference)
    }

    /// As [`Hub::admit`], for what is fetched on the way to what is asked for: the audit line is about it only if it ends there.
    ///
    /// # Errors
    /// As [`Hub::admit`].
    pub fn admit_as_means(&self, ask: &Ask, reference: &str) -> Result<(), HubError> {
        let canonical = canonical(reference)?;
        self.check_caller(ask, &canonical).inspect_err(|_| ask.concerns(&canonical))
    }

    fn check_caller(&self, ask: &Ask, reference: &str) -> Result<(), HubError> {
        ask.caller().map_or(Ok(()), |caller| self.access.check(ask.door(), caller, reference))
    }

    /// Whether a rule of `[access]` says that what `reference` (as for [`Hub::check_access`]) leads to is for `caller`, and none that it is
    /// for everybody.
    pub fn vouches(&self, caller: &Caller, reference: &str) -> bool {
        self.access.vouches(caller, reference)
    }

    /// Whether whoever no rule allows gets nothing.
    pub fn is_strict(&self) -> bool {
        self.access.strict
    }

    /// Fetches what `reference` (a `kbs://` URI) names, by `deadline` and never longer than
    /// [`FETCH_TIME_LIMIT`].
    ///
    /// # Errors
    /// A reference that is not one, and whatever the backend says; see [`cc_kbs::Error`].
    pub async fn fetch(&self, reference: &str, deadline: Instant) -> Result<Secret, HubError> {
        Ok(self.fetch_resource(reference, deadline).await?)
    }

    async fn fetch_resource(&self, reference: &str, deadline: Instant) -> Result<Secret, cc_kbs::Error> {
        let deadline = deadline.min(Instant::now() + FETCH_TIME_LIMIT);
        let uri: ResourceUri = reference.parse()?;
        tracing::debug!(%uri, "fetching a resource");
        match &self.backend {
            Backend::Broker(group) => self.fetch_and_tell(group, &uri, deadline).await,
            Backend::Offline(store) => store.fetch(&uri),
        }
    }

    /// Fetches from the key broker; while it is tried again, and after it has failed, the status says what is missing.
    async fn fetch_and_tell(
        &self,
        group: &Group,
        uri: &ResourceUri,
        deadline: Instant,
    ) -> Result<Secret, cc_kbs::Error> {
        let mut fetching = pin!(group.fetch(uri, deadline));
        let fetched = loop {
            tokio::select! {
                fetched = &mut fetching => break fetched,
                () = tokio::time::sleep(BETWEEN_LOOKS) => {
                    if let Some(trouble) = group.status().into_iter().find_map(|session| session.trouble) {
                        self.line.missing(SECRETS, trouble);
                    }
                }
            }
        };
        match &fetched {
            Err(e) if matches!(e.blame(), Blame::Unavailable | Blame::Misbehaved | Blame::Platform) => {
                self.line.missing(SECRETS, format_args!("{e} [{}]; {}", e.code(), e.hint()));
            }
            // A refusal is an answer: nothing is missing on this machine.
            _ => self.line.nothing_missing(SECRETS),
        }
        fetched
    }

    /// Has the status say what this machine lacks for images or block devices (`for_what`), until one is served.
    pub(crate) fn tell_outcome<T>(&self, for_what: &'static str, result: &Result<T, HubError>) {
        match result {
            Err(e) if matches!(e.blame(), Blame::Unavailable | Blame::Platform) => {
                self.line.missing(for_what, format_args!("no {for_what}: {e} [{}]; {}", e.code(), e.hint()));
            }
            _ => self.line.nothing_missing(for_what),
        }
    }

    /// What the service manager shows.
    pub fn line(&self) -> &StatusLine {
        &self.line
    }

    /// Drops the tokens of all sessions: the machine's measurement changed, so the evidence behind them is old.
    pub fn forget_sessions(&self) {
        if let Backend::Broker(group) = &self.backend {
            group.forget();
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

/// Key management services get their credentials from here.
impl Broker for Hub {
    fn fetch<'a>(
        &'a self,
        reference: &'a str,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Secret, cc_kbs::Error>> {
        Box::pin(self.fetch_resource(reference, deadline))
    }
}

/// The reference as rules are written for it: path alone, without the address, which is ignored, and
/// without a query, so that no spelling gets around a rule.
///
/// # Errors
/// A reference that is not one.
pub fn canonical(reference: &str) -> Result<String, HubError> {
    let uri: ResourceUri = reference.parse()?;
    let text = uri.to_string();
    let (scheme, rest) = text.split_once("://").unwrap_or((text.as_str(), ""));
    let rest = rest.split('?').next().unwrap_or_default();
    let path = rest.find('/').and_then(|slash| rest.get(slash..)).unwrap_or_default();
    Ok(format!("{scheme}://{path}"))
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn every_spelling_of_a_resource_has_one_canonical_form() {
        for spelling in
            ["kbs:///a/b/c", "kbs://kbs.example:8080/a/b/c", "kbs:///a/b/c?x=1", "KBS://other/a/b/c"]
        {
            assert_eq!(canonical(spelling).unwrap(), "kbs:///a/b/c", "{spelling}");
        }
        assert_eq!(canonical("kbs+pkcs11:///a/b/c?x=1").unwrap(), "kbs+pkcs11:///a/b/c");
        assert_eq!(canonical("kbs:///a/%c3%bc").unwrap(), canonical("kbs:///a/%C3%BC").unwrap());
        assert!(canonical("a/b/c").is_err());
        assert!(canonical("kbs:///a/%62/c").is_err(), "the key broker would read kbs:///a/b/c");
    }
}
