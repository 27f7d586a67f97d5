//! A failure as it crosses a process boundary: blame, stable code, sentence, next step.
//!
//! On gRPC it travels as status `INTERNAL` (what callers of this contract expect for every failure) whose
//! details hold a `google.rpc.ErrorInfo` with the code; on ttrpc as the same status and details. Both messages
//! end with the code in brackets, for people who see nothing but the text.
//!
//! It is NOT the error type of any library: those have enums of their own and become a fault at the rim.

use std::collections::HashMap;
use std::error::Error;

use cc_evidence::blame::Blame;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `ErrorInfo.domain` of every fault made by these daemons.
pub const DOMAIN: &str = "guest-services";

/// Code of a fault that says: the peer does not serve the method.
pub const PEER_LACKS_METHOD: &str = "PEER_LACKS_METHOD";

/// Longest message on the wire in bytes. Message and details travel in HTTP/2 headers, which peers bound.
const MAX_MESSAGE: usize = 2048;
/// Longest hint on the wire in bytes.
const MAX_HINT: usize = 1024;
/// Longest code in bytes.
const MAX_CODE: usize = 64;

/// One failure, told so that people and programs can act on it. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} [{code}]")]
pub struct Fault {
    /// Who has to act.
    pub blame: Blame,
    /// Stable code in capitals, for instance `KBS_DENIED_POLICY`.
    pub code: String,
    /// What was being done to which named thing, and why it failed. Lower case, no full stop.
    pub message: String,
    /// The next step for the operator; may be empty.
    pub hint: String,
}

impl Fault {
    /// Makes a fault of its four parts.
    #[must_use]
    pub fn new(
        blame: Blame,
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self { blame, code: code.into(), message: message.into(), hint: hint.into() }
    }

    /// The gRPC status of this fault: `INTERNAL`, message `<prefix><message> [CODE]`, details with
    /// `ErrorInfo { reason: CODE, domain: "guest-services", metadata: { blame, hint, prefix } }`.
    ///
    /// `prefix` is what the contract puts before the messages of a daemon, for instance `[CDH] [ERROR]: `.
    /// Messages longer than 2048 bytes and hints longer than 1024 bytes are cut.
    #[must_use]
    pub fn into_status(self, prefix: &str) -> Status {
        self.into_status_with(Code::Internal, prefix)
    }

    /// As [`Fault::into_status`], with another status code.
    pub(crate) fn into_status_with(self, status: Code, prefix: &str) -> Status {
        let code = cut(&self.code, MAX_CODE);
        let text = format!("{prefix}{} [{code}]", cut(&self.message, MAX_MESSAGE));
        let mut metadata = HashMap::from([
            ("blame".to_owned(), self.blame.as_str().to_owned()),
            ("hint".to_owned(), cut(&self.hint, MAX_HINT).to_owned()),
        ]);
        if !prefix.is_empty() {
            metadata.insert("prefix".to_owned(), prefix.to_owned());
        }
        let details = ErrorDetails::with_error_info(code, DOMAIN, metadata);
        Status::with_error_details(status, text, details)
    }

    /// Reads back what [`Fault::into_status`] wrote. A status from elsewhere (an older daemon, the transport)
    /// becomes a fault with one of these codes:
    ///
    /// * `PEER_UNREACHABLE` (unavailable): nobody answers at the address, or the connection broke;
    /// * `PEER_TIMEOUT` (unavailable): no answer within the deadline;
    /// * `PEER_LACKS_METHOD` (misused): the peer does not serve the method;
    /// * `PEER_REFUSED` (denied): the peer does not serve this caller;
    /// * `PEER_FAILED` (platform): the peer failed and gave no code.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        if let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) {
            let part = |name: &str| info.metadata.get(name).map_or("", String::as_str);
            let text = status.message();
            let text = text.strip_suffix(&format!(" [{}]", info.reason)).unwrap_or(text);
            let text = text.strip_prefix(part("prefix")).unwrap_or(text);
            return Self::new(
                part("blame").parse().unwrap_or(Blame::Misbehaved),
                cut(&info.reason, MAX_CODE),
                cut(text, MAX_MESSAGE),
                cut(part("hint"), MAX_HINT),
            );
        }
        let (blame, code, hint) = match status.code() {
            // What came over the wire has no source: with one, the connection broke under the call.
            code if code == Code::Unavailable || broke_off(status) => (
                Blame::Unavailable,
                "PEER_UNREACHABLE",
                "check that the daemon runs and that its socket is the configured one",
            ),
            // A client's own deadline shows as `Cancelled` in tonic; see `broke_off` for the other cancelled calls.
            Code::DeadlineExceeded | Code::Cancelled => (
                Blame::Unavailable,
                "PEER_TIMEOUT",
                "the daemon is busy or waits for somebody else; see its log",
            ),
            Code::Unimplemented => {
                (Blame::Misused, PEER_LACKS_METHOD, "the daemon is older or another program; see its version")
            }
            Code::PermissionDenied | Code::Unauthenticated => {
                (Blame::Denied, "PEER_REFUSED", "name this caller in the daemon's configuration")
            }
            _ => (Blame::Platform, "PEER_FAILED", "see the daemon's log"),
        };
        Self::new(blame, code, cut(&root_cause(status), MAX_MESSAGE), hint)
    }

    /// The HTTP status that a local HTTP server answers with for this fault.
    #[must_use]
    pub fn http_status(&self) -> u16 {
        match self.blame {
            Blame::Denied => 403,
            Blame::Absent => 404,
            Blame::Unavailable if self.code.ends_with("_TIMEOUT") => 504,
            Blame::Unavailable => 503,
            Blame::Misbehaved => 502,
            Blame::Misused => 400,
            Blame::Platform => 500,
        }
    }
}

/// Whether the transport made this status up because a connection that had been there went away: under the call, or
/// before the call was sent, which is "cancelled" too, as a deadline is.
fn broke_off(status: &Status) -> bool {
    match status.code() {
        Code::Unknown | Code::Internal => status.source().is_some(),
        Code::Cancelled => causes(status)
            .any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)),
        _ => false,
    }
}

/// The errors that this status comes from, the innermost last.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// The text of the innermost error: a transport error's own text says little more than "transport error".
fn root_cause(status: &Status) -> String {
    causes(status).last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// At most `limit` bytes of `text`, cut at a character boundary.
fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn denied() -> Fault {
        Fault::new(Blame::Denied, "KBS_DENIED_POLICY", "the policy refused default/key/1", "see the policy")
    }

    #[test]
    fn a_status_carries_code_text_and_details() {
        let status = denied().into_status("[CDH] [ERROR]: ");
        assert_eq!(status.code(), Code::Internal);
        assert_eq!(status.message(), "[CDH] [ERROR]: the policy refused default/key/1 [KBS_DENIED_POLICY]");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("KBS_DENIED_POLICY", "guest-services"));
        assert_eq!(info.metadata["blame"], "denied");
        assert_eq!(info.metadata["hint"], "see the policy");
        assert_eq!(Fault::from_status(&status), denied());
    }

    #[test]
    fn foreign_statuses_get_a_code_by_their_kind() {
        let cases = [
            (Status::unavailable("x"), "PEER_UNREACHABLE", 503),
            (Status::deadline_exceeded("x"), "PEER_TIMEOUT", 504),
            (Status::cancelled("x"), "PEER_TIMEOUT", 504),
            (Status::unimplemented("x"), "PEER_LACKS_METHOD", 400),
            (Status::permission_denied("x"), "PEER_REFUSED", 403),
            (Status::internal("[ERROR:attestation-agent] x"), "PEER_FAILED", 500),
            (Status::not_found("x"), "PEER_FAILED", 500),
        ];
        for (status, code, http) in cases {
            let fault = Fault::from_status(&status);
            assert_eq!((fault.code.as_str(), fault.http_status()), (code, http));
            assert_eq!(fault.message, status.message());
        }
    }

    #[test]
    fn a_connection_that_broke_under_the_call_is_an_outage() {
        let broken = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "broken pipe");
        let status = Status::from_error(Box::new(transport(broken)));
        assert_eq!(status.code(), Code::Unknown);
        let fault = Fault::from_status(&status);
        assert_eq!((fault.code.as_str(), fault.http_status()), ("PEER_UNREACHABLE", 503));
        assert_eq!(fault.message, "broken pipe");
    }

    /// What a call gets that was not sent yet when the connection went away.
    #[tokio::test]
    async fn a_connection_that_closed_before_the_call_is_an_outage() {
        let (near, far) = tokio::io::duplex(1024);
        let executor = hyper_util::rt::TokioExecutor::new();
        let io = hyper_util::rt::TokioIo::new(near);
        let ((mut sender, connection), _far) =
            (hyper::client::conn::http2::handshake(executor, io).await.unwrap(), far);
        drop(connection);
        let request = http::Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        let status = Status::from_error(Box::new(sender.send_request(request).await.unwrap_err()));
        assert_eq!(status.code(), Code::Cancelled);
        let fault = Fault::from_status(&status);
        assert_eq!((fault.code.as_str(), fault.http_status()), ("PEER_UNREACHABLE", 503), "{fault}");

        let late = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert_eq!(late.code(), Code::Cancelled);
        assert_eq!(Fault::from_status(&late).code, "PEER_TIMEOUT");
    }

    /// An error of a transport around `cause`.
    fn transport(cause: std::io::Error) -> impl Error + Send + Sync + 'static {
        #[derive(Debug, thiserror::Error)]
        #[error("transport")]
        struct Transport(#[source] std::io::Error);
        Transport(cause)
    }

    #[test]
    fn details_of_another_domain_are_not_ours() {
        let details = ErrorDetails::with_error_info("STOCKOUT", "example.com", HashMap::new());
        let status = Status::with_error_details(Code::Internal, "x", details);
        assert_eq!(Fault::from_status(&status).code, "PEER_FAILED");
    }

    #[test]
    fn blame_decides_the_http_status() {
        let cases = [
            (Blame::Unavailable, "KBS_UNREACHABLE", 503),
            (Blame::Unavailable, "KBS_TIMEOUT", 504),
            (Blame::Denied, "X", 403),
            (Blame::Absent, "X", 404),
            (Blame::Misbehaved, "X", 502),
            (Blame::Misused, "X", 400),
            (Blame::Platform, "X_TIMEOUT", 500),
        ];
        for (blame, code, http) in cases {
            assert_eq!(Fault::new(blame, code, "", "").http_status(), http, "{blame} {code}");
        }
    }

    proptest! {
        #[test]
        fn any_fault_round_trips_and_fits_into_headers(
            message in ".{0,3000}", hint in ".{0,3000}", code in "[A-Z_]{1,40}", which in 0usize..6,
        ) {
            let fault = Fault::new(Blame::ALL[which], code, message, hint);
            let status = fault.clone().into_status("[x] ");
            let back = Fault::from_status(&status);
            prop_assert_eq!((&back.blame, &back.code), (&fault.blame, &fault.code));
            prop_assert!(fault.message.starts_with(&back.message) && fault.hint.starts_with(&back.hint));
            let mut headers = http::HeaderMap::new();
            status.add_header(&mut headers).unwrap();
            let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
            prop_assert!(size < 16 * 1024, "{} bytes", size);
        }
    }
}
