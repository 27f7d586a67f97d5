//! The one error type: what the wire says about each refusal, and what the operator should do next.
//!
//! Error bodies follow the key broker protocol of Trustee (`kbs/docs`, error type URIs): a JSON object with `type`
//! and `detail`. The media type is RFC 9457's, which clients that only parse the body do not mind.

use std::io;
use std::path::PathBuf;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// What every `type` member begins with.
const TYPE_BASE: &str = "https://github.com/confidential-containers/kbs/errors/";

/// Why a request was refused, or why the server cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// `auth` or `attest` was refused; the text names the failed check.
    #[error("{0}")]
    Attestation(String),
    /// There are as many open sessions as this server keeps.
    #[error("{0} sessions are open, which is the limit of this server")]
    SessionsFull(usize),
    /// A resource was asked for without an attested session and without a token.
    #[error("no attested session and no bearer token came with the request")]
    TokenNotFound,
    /// The bearer token is malformed, expired, not signed by this server, or holds no key.
    #[error("token: {0}")]
    TokenRefused(String),
    /// The resource policy said no; the text carries the reasons of the appraisal.
    #[error("{0}")]
    PolicyDenied(String),
    /// An uploaded policy is not a document this server understands.
    #[error("{0}")]
    PolicyUnreadable(String),
    /// A resource path that is not `repository/type/tag` of legal characters.
    #[error(
        "resource path {0:?}: three segments of letters, digits, '_', '-' and (not first) '.' are needed"
    )]
    ResourcePath(String),
    /// There is no such resource.
    #[error("resource {0}: there is no such resource")]
    ResourceMissing(String),
    /// The first path segment names nothing this server has.
    #[error("plugin {0:?} not found")]
    PluginNotFound(String),
    /// A secret could not be encrypted to the key in the token.
    #[error("encrypt the resource to the key of the guest: {0}")]
    Encrypt(String),
    /// The admin credentials are missing or wrong.
    #[error("admin credentials: {0}")]
    AdminRefused(&'static str),
    /// A reference value message was refused.
    #[error("reference value: {0}")]
    ReferenceValue(String),
    /// There is no reference value of that name.
    #[error("reference value {0:?}: there is none of that name")]
    ReferenceMissing(String),
    /// A request body is not the JSON that the endpoint takes.
    #[error("read the {what} request: {source}")]
    Malformed {
        /// Which endpoint's body.
        what: &'static str,
        /// What the JSON parser said.
        source: serde_json::Error,
    },
    /// The database failed.
    #[error("{doing} in the database: {source}")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// What the database said.
        source: Box<redb::Error>,
    },
    /// The system or a library failed in a way no request can cause.
    #[error("{0}")]
    Internal(&'static str),
    /// A file of the state directory could not be read or written.
    #[error("{doing} {}: {source}", path.display())]
    State {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key or certificate file holds something else.
    #[error("{}: {reason}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The address could not be listened on.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// One row of the table of refusals.
struct Row {
    /// Last part of the `type` member.
    variant: &'static str,
    status: StatusCode,
    code: &'static str,
    hint: &'static str,
}

impl BrokerError {
    /// A stable name for programs, in capitals.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The next step for the operator, one sentence.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.row().hint
    }

    /// The last part of the error type URI on the wire.
    #[must_use]
    pub fn variant(&self) -> &'static str {
        self.row().variant
    }

    /// The HTTP status: a status of its own for each kind of refusal.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row().status
    }

    /// The HTTP status that Trustee uses: 404 for an unknown plugin, 401 for everything else.
    #[must_use]
    pub fn upstream_status(&self) -> StatusCode {
        match self {
            Self::PluginNotFound(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// The error body, compact JSON.
    #[must_use]
    pub fn body(&self) -> String {
        serde_json::json!({ "type": format!("{TYPE_BASE}{}", self.variant()), "detail": self.to_string() })
            .to_string()
    }

    /// The sentence for the log: what a parser quotes of a body may be a nonce or a key and stays out of it.
    #[must_use]
    pub fn for_log(&self) -> String {
        match self {
            Self::Malformed { what, source } => format!(
                "the {what} request is not the JSON of the protocol, at line {} column {}",
                source.line(),
                source.column()
            ),
            other => other.to_string(),
        }
    }

    fn row(&self) -> Row {
        let row = |variant, status, code, hint| Row { variant, status, code, hint };
        match self {
            Self::Attestation(_) => row(
                "AttestationError",
                StatusCode::UNAUTHORIZED,
                "DEV_KBS_ATTESTATION",
                "compare what the detail names with the guest; start again at auth",
            ),
            Self::SessionsFull(_) => row(
                "HTTPFailed",
                StatusCode::SERVICE_UNAVAILABLE,
                "DEV_KBS_SESSIONS_FULL",
                "wait until sessions expire, or restart the server",
            ),
            Self::TokenNotFound => row(
                "TokenNotFound",
                StatusCode::UNAUTHORIZED,
                "DEV_KBS_TOKEN_NOT_FOUND",
                "attest first, then send the session cookie or the token",
            ),
            Self::TokenRefused(_) => row(
                "TokenVerifierError",
                StatusCode::UNAUTHORIZED,
                "DEV_KBS_TOKEN_REFUSED",
                "attest again with this server",
            ),
            Self::PolicyDenied(_) => row(
                "PolicyDeny",
                StatusCode::FORBIDDEN,
                "DEV_KBS_POLICY_DENIED",
                "if the guest is the right one, set the reference values that the detail names, or change the policy",
            ),
            Self::PolicyUnreadable(_) => row(
                "ParsePolicyError",
                StatusCode::BAD_REQUEST,
                "DEV_KBS_POLICY_UNREADABLE",
                "upload a rule document of the form that the detail shows",
            ),
            Self::ResourcePath(_) => row(
                "PluginInternalError",
                StatusCode::BAD_REQUEST,
                "DEV_KBS_RESOURCE_PATH",
                "ask for resource/<repository>/<type>/<tag>",
            ),
            Self::ResourceMissing(_) => row(
                "PluginInternalError",
                StatusCode::NOT_FOUND,
                "DEV_KBS_RESOURCE_MISSING",
                "store it: POST the bytes to the same path with the admin token",
            ),
            Self::PluginNotFound(_) => row(
                "PluginNotFound",
                StatusCode::NOT_FOUND,
                "DEV_KBS_PLUGIN_NOT_FOUND",
                "this server has the plugin resource only",
            ),
            Self::Encrypt(_) => row(
                "JweError",
                StatusCode::INTERNAL_SERVER_ERROR,
                "DEV_KBS_ENCRYPT",
                "attest again with a key of the kinds that the protocol names",
            ),
            Self::AdminRefused(_) => row(
                "AdminAuthAccess",
                StatusCode::UNAUTHORIZED,
                "DEV_KBS_ADMIN_REFUSED",
                "make a token with dev-kbs admin-token --state DIR and send it as a bearer token",
            ),
            Self::ReferenceValue(_) => row(
                "RvpsError",
                StatusCode::BAD_REQUEST,
                "DEV_KBS_REFERENCE_VALUE",
                "send {\"version\":\"0.1.0\",\"type\":\"sample\",\"payload\":\"<base64 of a JSON object>\"}",
            ),
            Self::ReferenceMissing(_) => row(
                "RvpsError",
                StatusCode::NOT_FOUND,
                "DEV_KBS_REFERENCE_MISSING",
                "set it with POST reference-value",
            ),
            Self::Malformed { .. } => row(
                "SerdeError",
                StatusCode::BAD_REQUEST,
                "DEV_KBS_MALFORMED",
                "send the JSON body that the protocol defines for this endpoint",
            ),
            Self::Store { .. } => row(
                "StorageBackendInitialization",
                StatusCode::INTERNAL_SERVER_ERROR,
                "DEV_KBS_STORE",
                "check the state directory and that no second server uses it",
            ),
            Self::Internal(_) => row(
                "HTTPFailed",
                StatusCode::INTERNAL_SERVER_ERROR,
                "DEV_KBS_INTERNAL",
                "see the log of the server",
            ),
            Self::State { .. } | Self::KeyFile { .. } => row(
                "StorageBackendInitialization",
                StatusCode::INTERNAL_SERVER_ERROR,
                "DEV_KBS_STATE",
                "check owner and mode of the state directory, or remove the file to have it made anew",
            ),
            Self::Options(_) => row(
                "HTTPFailed",
                StatusCode::INTERNAL_SERVER_ERROR,
                "DEV_KBS_OPTIONS",
                "see dev-kbs serve --help",
            ),
            Self::Listen { .. } => row(
                "HTTPFailed",
                StatusCode::INTERNAL_SERVER_ERROR,
                "DEV_KBS_LISTEN",
                "choose a free address with --listen, port 0 for any",
            ),
        }
    }
}

/// Beside the response of an error: the status that Trustee would have used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamStatus(pub(crate) StatusCode);

impl IntoResponse for BrokerError {
    fn into_response(self) -> Response {
        if self.status().is_server_error() {
            tracing::error!(code = self.code(), "{self}");
        }
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        response.extensions_mut().insert(UpstreamStatus(self.upstream_status()));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denial_and_absence_have_statuses_of_their_own() {
        let denied = BrokerError::PolicyDenied("no".into());
        assert_eq!((denied.status().as_u16(), denied.upstream_status().as_u16()), (403, 401));
        assert_eq!(
            denied.body(),
            r#"{"detail":"no","type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny"}"#
        );
        // Not the guest's fault, so not the type that clients take for a verdict.
        let full = BrokerError::SessionsFull(1);
        assert_eq!((full.status().as_u16(), full.variant()), (503, "HTTPFailed"));
        let absent = BrokerError::ResourceMissing("a/b/c".into());
        assert_eq!((absent.status().as_u16(), absent.upstream_status().as_u16()), (404, 401));
        let plugin = BrokerError::PluginNotFound("x".into());
        assert_eq!((plugin.status().as_u16(), plugin.upstream_status().as_u16()), (404, 404));
    }
}
