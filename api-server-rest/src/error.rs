//! Every way a request is refused or fails, with its HTTP status, a stable code, a sentence and a next step.
//!
//! The texts that old clients compare (`URL NOT FOUND`, `Forbidden`, …) are kept as the whole plain-text
//! body; see [`crate::answer`] for the two forms of an error body. No variant carries a secret.

use std::net::IpAddr;
use std::time::Duration;

use cc_daemon::Blame;
use cc_daemon::fault::Fault;
use http::StatusCode;

use crate::host::HostError;
use crate::routes::Root;
use crate::target::TargetError;

/// Why a request got no 200.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The connection does not come from this machine.
    #[error("the peer {0} is not a loopback address")]
    ForeignPeer(IpAddr),
    /// `Host` or `Origin` was refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The request target was refused.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No route has this path.
    #[error("no such path")]
    UnknownPath,
    /// The route exists with another method.
    #[error("the path answers {allow} only")]
    WrongMethod {
        /// Value of the `Allow` header.
        allow: &'static str,
    },
    /// `--features` switched this root off.
    #[error("{} is switched off by --features", root_name(*.0))]
    FeatureOff(Root),
    /// `--strict` closed `/aa`.
    #[error("attestation over HTTP is closed in strict mode")]
    Strict,
    /// `--allow-path` does not list this resource.
    #[error("the resource path is not one that this server was told to serve")]
    PathNotAllowed,
    /// A required query parameter is absent.
    #[error("the query parameter {0} is missing")]
    ParameterMissing(&'static str),
    /// A query parameter has a value that cannot be used.
    #[error("the query parameter {name} {problem}")]
    ParameterMalformed {
        /// Its key.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The path of a resource ends with a slash.
    #[error("the resource path ends with an empty segment")]
    ResourcePath,
    /// The body of `/aa/aael` is not the JSON object wanted.
    #[error("the body is not a JSON object with the strings domain, operation and content: {0}")]
    EventMalformed(serde_json::Error),
    /// The request body is larger than the limit, in bytes.
    #[error("the request body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The request body did not arrive in time.
    #[error("the request body did not arrive within {} seconds", .0.as_secs())]
    BodyLate(Duration),
    /// The request body broke off or was framed wrongly.
    #[error("the request body could not be read")]
    BodyBroken,
    /// Events come faster than they may; the time to wait.
    #[error("events come faster than this server passes them on")]
    EventPace(Duration),
    /// The attestation agent or the data hub refused or failed.
    #[error("{}", .0.message)]
    Upstream(Fault),
    /// The agent gave no token. Old clients know 500 for a token type that does not exist, and a type that is not
    /// configured is no fault of theirs.
    #[error("{}", .0.message)]
    Token(Fault),
    /// The attestation agent failed while `/info` was put together.
    #[error("{}", .0.message)]
    Info(Fault),
    /// The attestation agent's answer is not what its method promises.
    #[error("the attestation agent answered {0}")]
    AgentMisbehaved(&'static str),
}

impl RequestError {
    /// The HTTP status: denied 403, absent 404, misuse 400, an outage behind us 502 to 504, else 500.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::ForeignPeer(_) | Self::Strict | Self::PathNotAllowed => StatusCode::FORBIDDEN,
            Self::Host(HostError::ForeignHost(_) | HostError::ForeignOrigin(_)) => StatusCode::FORBIDDEN,
            Self::UnknownPath | Self::FeatureOff(_) => StatusCode::NOT_FOUND,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host(_)
            | Self::Target(_)
            | Self::ParameterMissing(_)
            | Self::ParameterMalformed { .. }
            | Self::ResourcePath
            | Self::EventMalformed(_)
            | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyLate(_) => StatusCode::REQUEST_TIMEOUT,
            Self::EventPace(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Token(fault) if fault.blame == Blame::Misused => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Upstream(fault) | Self::Token(fault) => {
                StatusCode::from_u16(fault.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }
            // Old clients of `/info` know 200 and 500.
            Self::Info(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::AgentMisbehaved(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// The stable code of the error.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::ForeignPeer(_) => "PEER_NOT_LOCAL",
            Self::Host(HostError::ForeignHost(_)) => "HOST_FOREIGN",
            Self::Host(HostError::ForeignOrigin(_)) => "ORIGIN_FOREIGN",
            Self::Host(_) => "HOST_MALFORMED",
            Self::Target(TargetError::NotUtf8) => "QUERY_MALFORMED",
            Self::Target(_) | Self::ResourcePath => "TARGET_MALFORMED",
            Self::UnknownPath => "URL_NOT_FOUND",
            Self::WrongMethod { .. } => "METHOD_NOT_ALLOWED",
            Self::FeatureOff(_) => "FEATURE_OFF",
            Self::Strict => "LOCAL_DOOR_STRICT",
            Self::PathNotAllowed => "LOCAL_DOOR_PATH",
            Self::ParameterMissing(_) => "PARAMETER_MISSING",
            Self::ParameterMalformed { .. } => "PARAMETER_MALFORMED",
            Self::EventMalformed(_) => "EVENT_MALFORMED",
            Self::BodyTooLarge(_) => "BODY_TOO_LARGE",
            Self::BodyLate(_) => "BODY_TIMEOUT",
            Self::BodyBroken => "BODY_BROKEN",
            Self::EventPace(_) => "EVENT_RATE",
            Self::Upstream(fault) | Self::Token(fault) | Self::Info(fault) => &fault.code,
            Self::AgentMisbehaved(_) => "AA_MISBEHAVED",
        }
    }

    /// What the caller or the operator can do next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::ForeignPeer(_) => "call this server from the same machine or pod, at 127.0.0.1",
            Self::Host(HostError::ForeignHost(_)) => {
                "use 127.0.0.1, localhost or [::1], or add the name with --allow-host"
            }
            Self::Host(HostError::ForeignOrigin(_)) => {
                "call this server from a program, or add the page's host name with --allow-host"
            }
            Self::Host(_) => "send exactly one Host header, such as 127.0.0.1:8006",
            Self::Target(TargetError::NotUtf8) => {
                "send text as UTF-8; binary report data goes with encoding=base64 (URL-safe, no padding)"
            }
            Self::Target(_) | Self::ResourcePath => {
                "write the path as /cdh/resource/<repository>/<type>/<tag> without dot segments, encoded \
                 slashes or trailing slashes, and encode a literal percent sign as %25"
            }
            Self::UnknownPath => "GET /openapi.json lists the paths",
            Self::WrongMethod { allow } => return format!("use {allow}"),
            Self::FeatureOff(_) => "start the server with --features all, or with the feature named",
            Self::Strict => {
                "attestation is for the confidential data hub; remove --strict only if every process of \
                 this machine may prove the machine's identity as its own"
            }
            Self::PathNotAllowed => "add the path to the server's --allow-path options",
            Self::ParameterMissing(name) => return format!("add ?{name}=… to the URL"),
            Self::ParameterMalformed { .. } => {
                "leave encoding out for text, or send encoding=base64 with URL-safe base64 without padding"
            }
            Self::EventMalformed(_) => r#"send {"domain":"…","operation":"…","content":"…"}"#,
            Self::BodyTooLarge(_) => "send a shorter event, for example a digest of the content",
            Self::BodyLate(_) | Self::BodyBroken => "send the request again",
            Self::EventPace(_) => "wait for the time in Retry-After, or put several events into one",
            Self::Upstream(fault) | Self::Token(fault) | Self::Info(fault) => return fault.hint.clone(),
            Self::AgentMisbehaved(_) => {
                "check that the attestation agent is of a version that fits this server"
            }
        }
        .to_owned()
    }

    /// The whole plain-text body where the interface fixes it.
    #[must_use]
    pub fn fixed_text(&self) -> Option<&'static str> {
        match self {
            Self::ForeignPeer(_) => Some("Forbidden"),
            Self::UnknownPath => Some("URL NOT FOUND"),
            Self::WrongMethod { .. } => Some("Method Not Allowed"),
            Self::FeatureOff(Root::Aa) => Some("Attestation Feature Not Enabled"),
            Self::FeatureOff(_) => Some("Resource Feature Not Enabled"),
            Self::ParameterMissing(_) => Some("BAD REQUEST"),
            _ => None,
        }
    }

    /// Whether the connection ends with this answer: the rest of the request may still be on its way, or the
    /// peer gets nothing else anyway.
    #[must_use]
    pub fn ends_connection(&self) -> bool {
        matches!(self, Self::BodyTooLarge(_) | Self::BodyLate(_) | Self::BodyBroken | Self::ForeignPeer(_))
    }
}

/// The name of a root for people.
fn root_name(root: Root) -> &'static str {
    match root {
        Root::Aa => "attestation (/aa)",
        Root::Cdh => "resource (/cdh)",
        Root::Open => "the path",
    }
}
