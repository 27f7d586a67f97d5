//! What can go wrong between this machine and a registry, by who has to act.
//!
//! Text that a registry chose is cut and cleaned before it gets here; credentials and tokens never do.

use std::time::Duration;

use cc_evidence::blame::Blame;
use cc_kbs::foreign::clean;
use image_rs::SourceFault;

use crate::client::leading;

/// Longest part of a sentence that somebody else wrote, in bytes.
const MAX_FOREIGN: usize = 300;

/// Why a registry did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No connection, or it broke and did not come back.
    #[error("cannot reach {host}: {why}")]
    Unreachable {
        /// Whom.
        host: String,
        /// The cause.
        why: String,
    },
    /// Nothing came in time.
    #[error("{host} sent too little in {} s while {doing}", limit.as_secs())]
    Timeout {
        /// Who.
        host: String,
        /// What was being done.
        doing: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The registry answers that it cannot answer now.
    #[error("{host} is busy (status {status}) and stays so")]
    Busy {
        /// Who.
        host: String,
        /// Status of the last answer.
        status: u16,
        /// How long it asked to be left alone.
        pause: Option<Duration>,
    },
    /// The proxy does not let us through.
    #[error("the proxy {proxy} gives no way to {host}: {why}")]
    Proxy {
        /// Host and port of the proxy.
        proxy: String,
        /// Whom it should have connected to.
        host: String,
        /// The cause.
        why: String,
    },
    /// The registry or its token service does not let this user read it.
    #[error("{host} refuses {what}: {why}")]
    Denied {
        /// Who.
        host: String,
        /// What was asked for.
        what: String,
        /// Its own words, or what is missing.
        why: String,
    },
    /// Nobody whom we trust says that this is the registry.
    #[error("the certificate of {host} is not trusted: {why}")]
    UntrustedTls {
        /// Who.
        host: String,
        /// The cause.
        why: String,
    },
    /// The registry sends us to where we do not go.
    #[error("{host} {why}")]
    Redirect {
        /// Who.
        host: String,
        /// Where it sends us, and why not.
        why: String,
    },
    /// An answer breaks HTTP or the protocol of registries.
    #[error("the answer of {host} to {what} makes no sense: {why}")]
    BadAnswer {
        /// Who.
        host: String,
        /// What was asked for.
        what: String,
        /// Which rule it breaks.
        why: String,
    },
    /// A rule of the registry configuration forbids the name.
    #[error("{reference} is blocked by a rule of the registry configuration")]
    Blocked {
        /// The name.
        reference: String,
    },
    /// A setting cannot be used.
    #[error("{what}: {why}")]
    Config {
        /// Which.
        what: String,
        /// Why not, without its secrets.
        why: String,
    },
    /// The process could not be set up for network work.
    #[error("cannot {step}: {source}")]
    Start {
        /// What was being set up.
        step: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The image was looked for in several places and could not be had from any.
    #[error("none of {} places gave the image: {}", attempts.len(), list(attempts))]
    Everywhere {
        /// Each name that was tried, and what happened. Never empty; which one counts says [`leading`].
        attempts: Vec<(String, image_rs::Error)>,
    },
}

fn list(attempts: &[(String, image_rs::Error)]) -> String {
    let told = attempts.iter().map(|(name, error)| format!("{name}: {error} [{}]", error.code()));
    told.collect::<Vec<_>>().join("; ")
}

fn lead(attempts: &[(String, image_rs::Error)]) -> Option<&image_rs::Error> {
    let blames: Vec<Blame> = attempts.iter().map(|(_, error)| error.blame()).collect();
    attempts.get(leading(&blames)?).map(|(_, error)| error)
}

impl RegistryError {
    pub(crate) fn config(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Config { what: what.into(), why: clean(&why.into(), MAX_FOREIGN) }
    }

    pub(crate) fn unreachable(host: &str, why: &str) -> Self {
        Self::Unreachable { host: host.to_owned(), why: clean(why, MAX_FOREIGN) }
    }

    pub(crate) fn redirect(host: &str, why: &str) -> Self {
        Self::Redirect { host: host.to_owned(), why: clean(why, MAX_FOREIGN) }
    }

    pub(crate) fn bad(host: &str, what: &str, why: &str) -> Self {
        Self::BadAnswer { host: host.to_owned(), what: what.to_owned(), why: clean(why, MAX_FOREIGN) }
    }

    pub(crate) fn denied(host: &str, what: &str, why: &str) -> Self {
        Self::Denied { host: host.to_owned(), what: what.to_owned(), why: clean(why, MAX_FOREIGN) }
    }

    /// Whether the same question may get an answer in a moment.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Timeout { .. } | Self::Busy { .. })
    }

    /// Stable code, in capitals.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "REGISTRY_UNREACHABLE",
            Self::Timeout { .. } => "REGISTRY_TIMEOUT",
            Self::Busy { .. } => "REGISTRY_BUSY",
            Self::Proxy { .. } => "REGISTRY_PROXY",
            Self::Denied { .. } => "REGISTRY_DENIED",
            Self::UntrustedTls { .. } => "REGISTRY_TLS_UNTRUSTED",
            Self::Redirect { .. } => "REGISTRY_REDIRECT",
            Self::BadAnswer { .. } => "REGISTRY_BAD_ANSWER",
            Self::Blocked { .. } => "REGISTRY_BLOCKED",
            Self::Config { .. } => "REGISTRY_CONFIG",
            Self::Start { .. } => "REGISTRY_START",
            Self::Everywhere { attempts } => lead(attempts).map_or("IMAGE_NOT_FOUND", image_rs::Error::code),
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::Busy { .. } | Self::Proxy { .. } => {
                Blame::Unavailable
            }
            Self::Denied { .. } | Self::Blocked { .. } => Blame::Denied,
            Self::UntrustedTls { .. } | Self::Redirect { .. } | Self::BadAnswer { .. } => Blame::Misbehaved,
            Self::Config { .. } => Blame::Misused,
            Self::Start { .. } => Blame::Platform,
            Self::Everywhere { attempts } => lead(attempts).map_or(Blame::Absent, image_rs::Error::blame),
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Unreachable { .. } => {
                "check the registry's name, the network, and whether a proxy is needed"
            }
            Self::Timeout { .. } => "try again; check the network and the registry's load",
            Self::Busy { .. } => "try again later; registries limit how much they serve to whom",
            Self::Proxy { .. } => {
                "check address and credentials of the proxy, or exempt the registry from it"
            }
            Self::Denied { .. } => "check the name, and the credentials for this registry",
            Self::UntrustedTls { .. } => {
                "give the certificate of the authority that issued it; a certificate marked as CA cannot be a server's"
            }
            Self::Redirect { .. } => "whoever runs the registry has to correct where it keeps its blobs",
            Self::BadAnswer { .. } => "check that the address is that of a registry, and not of a login page",
            Self::Blocked { .. } => {
                "name an image that the registry configuration allows, or change its rule"
            }
            Self::Config { .. } => "correct it; docs/images.md has examples",
            Self::Start { .. } => "check the limits of this process: threads, open files",
            Self::Everywhere { attempts } => lead(attempts).map_or("", image_rs::Error::hint),
        }
    }
}

impl SourceFault for RegistryError {
    fn code(&self) -> &'static str {
        self.code()
    }

    fn blame(&self) -> Blame {
        self.blame()
    }

    fn hint(&self) -> &str {
        self.hint()
    }

    fn may_go_on(&self) -> bool {
        match self {
            // A token that has expired comes anew with the next pull, and what answers for a registry is not always the registry.
            Self::Denied { .. }
            | Self::BadAnswer { .. }
            | Self::UntrustedTls { .. }
            | Self::Redirect { .. } => true,
            Self::Everywhere { attempts } => {
                let goes_on = |error: &image_rs::Error| error.may_go_on();
                let is_no_answer = |error: &image_rs::Error| goes_on(error) || error.blame() == Blame::Absent;
                attempts.iter().all(|(_, error)| is_no_answer(error))
                    && attempts.iter().any(|(_, error)| goes_on(error))
            }
            other => other.blame() == Blame::Unavailable,
        }
    }
}

impl From<RegistryError> for image_rs::Error {
    fn from(error: RegistryError) -> Self {
        Self::Source(Box::new(error))
    }
}
