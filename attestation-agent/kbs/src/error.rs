//! Everything that can go wrong between a resource URI and its secret, split by who has to act.
//!
//! | blame | what the caller does |
//! |---|---|
//! | unavailable | may try again; [`Session`](crate::Session) already did, up to the deadline |
//! | denied | nothing: a policy said no, and will again |
//! | absent | nothing: there is no such resource |
//! | misbehaved | tells the operator: the KBS or something in front of it broke the protocol |
//! | misused | corrects configuration or argument |
//! | platform | looks at the machine that makes the evidence |
//!
//! No variant holds a token, a cookie, a key or a byte of a resource. Text from the KBS is cut and cleaned
//! before it enters.

use std::fmt;

use cc_crypto::Error as CryptoError;
use cc_evidence::Error as EvidenceError;
use cc_evidence::blame::Blame;
use thiserror::Error;

use crate::PROTOCOL_VERSION;
use crate::source::SourceFault;

/// Failure of a KBS operation. `Clone`, because one handshake answers many waiters.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum KbsError {
    /// No answer: name not resolved, connection refused or lost.
    #[error("cannot reach the KBS at {url}: {why}")]
    Unreachable {
        /// Base URL of the KBS.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// The deadline passed first.
    #[error("time ran out while {doing}")]
    Timeout {
        /// What was being waited for.
        doing: String,
    },
    /// The handshake that this call waited for ended without a result.
    #[error("the handshake was interrupted")]
    Interrupted,
    /// The server says it cannot answer now: 5xx or 429.
    #[error("{what} failed with status {status}: {detail}")]
    ServerError {
        /// The request.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the server says, cleaned.
        detail: String,
    },
    /// The KBS said no.
    #[error("{refusal}")]
    Denied {
        /// At which step.
        reason: Reason,
        /// What was told and what had been sent.
        refusal: Box<Refusal>,
    },
    /// The KBS has no such resource.
    #[error("the KBS has no {uri}: {detail}")]
    NotFound {
        /// The resource.
        uri: String,
        /// What the KBS says, cleaned.
        detail: String,
    },
    /// The KBS speaks another version of the protocol.
    #[error(
        "the KBS does not speak protocol version {PROTOCOL_VERSION} but {}: {detail}",
        theirs.as_deref().unwrap_or("another one")
    )]
    ProtocolVersion {
        /// Its version, if it says so.
        theirs: Option<String>,
        /// What the KBS says, cleaned.
        detail: String,
    },
    /// An answer that the protocol does not allow.
    #[error("{what}: {why}")]
    BadResponse {
        /// The answer in question.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// An answer longer than we read.
    #[error("{what} is longer than {limit} bytes")]
    ResponseTooLarge {
        /// The answer in question.
        what: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The server sends us elsewhere. A redirect could lead evidence and token to another host.
    #[error("{what} was answered with a redirect (status {status}), which is not followed")]
    Redirect {
        /// The request.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// A resource answer is no JWE for our key.
    #[error("the answer for {uri} cannot be opened: {cause}")]
    Jwe {
        /// The resource.
        uri: String,
        /// What is wrong with the JWE.
        cause: CryptoError,
    },
    /// The server's certificate is not one that the configuration trusts.
    #[error("the certificate of the KBS at {url} is not trusted: {why}")]
    UntrustedTls {
        /// Base URL of the KBS.
        url: String,
        /// The verifier's reason.
        why: String,
    },
    /// Plain http to a host that is not this machine.
    #[error("refusing plain http to {url}")]
    PlainHttp {
        /// Base URL of the KBS.
        url: String,
    },
    /// A configuration value that cannot be used.
    #[error("{what} of the KBS configuration: {why}")]
    Config {
        /// The value in question.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A text that is no resource URI.
    #[error("{uri} is not a resource URI: {why}")]
    ResourceUri {
        /// The text, cut, cleaned and quoted.
        uri: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The offline store has no such resource.
    #[error("the offline store has no {uri}")]
    OfflineNotFound {
        /// The resource.
        uri: String,
    },
    /// A file of the offline store cannot be used.
    #[error("offline store file {path}: {why}")]
    OfflineStore {
        /// Path of the file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The evidence source failed; its error, unchanged.
    #[error(transparent)]
    Source(Box<SourceFault>),
    /// The evidence source gave evidence that is not JSON.
    #[error("the evidence of this machine is not JSON: {why}")]
    Evidence {
        /// Where it stops being JSON.
        why: String,
    },
    /// The key could not be bound to the evidence.
    #[error("cannot bind the session key to the evidence: {0}")]
    Binding(Box<EvidenceError>),
    /// The session key could not be made or written.
    #[error("the session key: {0}")]
    Key(CryptoError),
}

/// The step at which the KBS said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Opening a session.
    Auth,
    /// The evidence.
    Attestation,
    /// The policy for this resource.
    Policy,
    /// A resource, for another reason.
    Other,
    /// What only an administrator may.
    Admin,
}

/// A denial in full: what the KBS told, and beside it what it had been told about this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// What was refused: a resource URI or a step of the handshake.
    pub subject: String,
    /// HTTP status.
    pub status: u16,
    /// Error type named by the KBS, cleaned.
    pub kind: Option<String>,
    /// Explanation given by the KBS, cleaned; empty if none.
    pub detail: String,
    /// Name and value of what the evidence said (platform, measurement, TCB, init-data digest).
    pub sent: Vec<(String, String)>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the KBS refused {} (status {}", self.subject, self.status)?;
        if let Some(kind) = &self.kind {
            write!(f, ", {kind}")?;
        }
        f.write_str(")")?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        for (i, (name, value)) in self.sent.iter().enumerate() {
            f.write_str(if i == 0 { "; this machine sent " } else { ", " })?;
            write!(f, "{name}={value}")?;
        }
        Ok(())
    }
}

impl KbsError {
    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Interrupted
            | Self::ServerError { .. } => Blame::Unavailable,
            Self::Denied { .. } => Blame::Denied,
            Self::NotFound { .. } | Self::OfflineNotFound { .. } => Blame::Absent,
            Self::ProtocolVersion { .. }
            | Self::BadResponse { .. }
            | Self::ResponseTooLarge { .. }
            | Self::Redirect { .. }
            | Self::Jwe { .. }
            | Self::UntrustedTls { .. } => Blame::Misbehaved,
            Self::PlainHttp { .. }
            | Self::Config { .. }
            | Self::ResourceUri { .. }
            | Self::OfflineStore { .. } => Blame::Misused,
            Self::Source(fault) => fault.blame,
            Self::Binding(cause) => cause.blame(),
            Self::Evidence { .. } | Self::Key(_) => Blame::Platform,
        }
    }

    /// Stable name of the failure, for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "KBS_UNREACHABLE",
            Self::Timeout { .. } => "KBS_TIMEOUT",
            Self::Interrupted => "KBS_INTERRUPTED",
            Self::ServerError { .. } => "KBS_SERVER_ERROR",
            Self::Denied { reason: Reason::Auth, .. } => "KBS_DENIED_AUTH",
            Self::Denied { reason: Reason::Attestation, .. } => "KBS_DENIED_ATTESTATION",
            Self::Denied { reason: Reason::Policy, .. } => "KBS_DENIED_POLICY",
            Self::Denied { reason: Reason::Other, .. } => "KBS_DENIED",
            Self::Denied { reason: Reason::Admin, .. } => "KBS_DENIED_ADMIN",
            Self::NotFound { .. } => "KBS_NOT_FOUND",
            Self::ProtocolVersion { .. } => "KBS_PROTOCOL_VERSION",
            Self::BadResponse { .. } => "KBS_BAD_RESPONSE",
            Self::ResponseTooLarge { .. } => "KBS_RESPONSE_TOO_LARGE",
            Self::Redirect { .. } => "KBS_REDIRECT",
            Self::Jwe { .. } => "KBS_JWE_INVALID",
            Self::UntrustedTls { .. } => "KBS_TLS_UNTRUSTED",
            Self::PlainHttp { .. } => "KBS_PLAIN_HTTP",
            Self::Config { .. } => "KBS_CONFIG",
            Self::ResourceUri { .. } => "RESOURCE_URI_INVALID",
            Self::OfflineNotFound { .. } => "OFFLINE_NOT_FOUND",
            Self::OfflineStore { .. } => "OFFLINE_STORE_INVALID",
            Self::Source(fault) => &fault.code,
            Self::Evidence { .. } => "EVIDENCE_NOT_JSON",
            Self::Binding(cause) => cause.code(),
            Self::Key(cause) => cause.code(),
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Unreachable { .. } => "check the URL of the KBS, the network and that the KBS runs",
            Self::Timeout { .. } => "check the load of the KBS and of this machine, then try again",
            Self::Interrupted => "try again",
            Self::ServerError { .. } => "look into the log of the KBS or of the proxy in front of it",
            Self::Denied { reason: Reason::Auth, .. } => {
                "check that the KBS accepts this kind of TEE; its log says why it refused"
            }
            Self::Denied { reason: Reason::Attestation, .. } => {
                "compare what this machine sent with the trusted roots and reference values of the KBS; its log \
                 names the check that failed"
            }
            Self::Denied { reason: Reason::Policy, .. } => {
                "compare what this machine sent with the reference values and the resource policy of the KBS"
            }
            Self::Denied { reason: Reason::Other, .. } => {
                "look into the log of the KBS: it refused a token that it had issued itself or could not \
                 evaluate its policy"
            }
            Self::Denied { reason: Reason::Admin, .. } => {
                "tell the KBS the public half of the administrator's key, and compare the clocks of both machines"
            }
            Self::NotFound { .. } => "upload the resource to the KBS or correct the URI",
            Self::ProtocolVersion { .. } => "use a KBS and a guest of the same protocol version",
            Self::BadResponse { .. } | Self::Jwe { .. } => {
                "check that the URL is that of a KBS and that no proxy rewrites its answers"
            }
            Self::ResponseTooLarge { .. } => "check that the URL is that of a KBS; store smaller resources",
            Self::Redirect { .. } => "configure the URL that the KBS finally answers on",
            Self::UntrustedTls { .. } => {
                "configure the certificate of the KBS or of its CA, for the name that is in the URL; if it is \
                 expired or not valid yet, check the clock of this machine too"
            }
            Self::PlainHttp { .. } => "use an https URL, or allow plain http by name in the configuration",
            Self::Config { .. } => "correct the configuration",
            Self::ResourceUri { .. } => "write kbs:///<repository>/<type>/<tag>",
            Self::OfflineNotFound { .. } => "add the resource to a file of the offline store",
            Self::OfflineStore { .. } => {
                "make the file one JSON object of \"<repository>/<type>/<tag>\" to standard base64"
            }
            Self::Source(fault) => return fault.hint.clone(),
            Self::Evidence { .. } => "check the version of the attestation agent",
            Self::Binding(cause) => return cause.hint(),
            Self::Key(cause) => return cause.hint(),
        }
        .to_owned()
    }

    /// This error, or `earlier` if this one only says that time ran out while trying again: what went wrong
    /// before tells more.
    pub(crate) fn or_earlier(self, earlier: Option<Self>) -> Self {
        match (self, earlier) {
            (Self::Timeout { .. }, Some(earlier)) => earlier,
            (this, _) => this,
        }
    }

    /// A [`KbsError::BadResponse`].
    pub(crate) fn bad(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::BadResponse { what: what.into(), why: why.into() }
    }
}

impl From<SourceFault> for KbsError {
    fn from(fault: SourceFault) -> Self {
        Self::Source(Box::new(fault))
    }
}

impl From<EvidenceError> for KbsError {
    fn from(cause: EvidenceError) -> Self {
        Self::Binding(Box::new(cause))
    }
}
