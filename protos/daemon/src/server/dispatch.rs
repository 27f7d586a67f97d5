//! What stands around every request, by whatever protocol it came: caller, deadline, log line.

use std::time::Duration;

use bytes::Bytes;
use cc_evidence::blame::Blame;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service as _;

use crate::deadline::{Deadline, grpc_timeout};
use crate::fault::Fault;
use crate::peer::{Caller, Transport};

/// Longest method name in a log line.
const MAX_LOGGED_PATH: usize = 120;

/// The services of a daemon and what holds for each request to them.
#[derive(Debug)]
pub(crate) struct Dispatch {
    routes: Routes,
    hidden_on_ttrpc: Vec<&'static str>,
    deadline: Duration,
    /// Methods that may take another time.
    deadlines: Vec<(&'static str, Duration)>,
}

impl Dispatch {
    pub(crate) fn new(routes: Routes, hidden_on_ttrpc: Vec<&'static str>, deadline: Duration) -> Self {
        Self { routes: routes.prepare(), hidden_on_ttrpc, deadline, deadlines: Vec::new() }
    }

    /// Gives methods another time than the rest.
    pub(crate) fn with_deadlines(mut self, deadlines: Vec<(&'static str, Duration)>) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Answers one gRPC request; failures are in the answer's headers or trailers.
    pub(crate) async fn call<B>(&self, mut request: Request<B>, caller: Caller) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let caller = caller.with_headers(request.headers());
        let own = self.deadlines.iter().find(|(method, _)| *method == request.uri().path());
        let allowed = own.map_or(self.deadline, |(_, time)| *time);
        let deadline = Deadline::from_now(allowed, grpc_timeout(request.headers()));
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(deadline);
        let path = request.uri().path().to_owned();

        let response =
            if caller.transport == Transport::Ttrpc && self.hidden_on_ttrpc.contains(&path.as_str()) {
                Status::unimplemented("").into_http()
            } else {
                let mut routes = self.routes.clone();
                let answer = Box::pin(routes.call(request.map(Body::new)));
                match tokio::time::timeout_at(deadline.instant(), answer).await {
                    Ok(Ok(response)) => response,
                    Ok(Err(never)) => match never {},
                    Err(_) => out_of_time(&path, begun.elapsed()).into_http(),
                }
            };
        log(&path, &caller, response.headers(), begun.elapsed());
        response
    }
}

fn out_of_time(path: &str, spent: Duration) -> Status {
    let message = format!("{path} was given up after {} ms", spent.as_millis());
    let hint = "somebody this daemon waits for is slow; see its log, or give the request more time";
    Fault::new(Blame::Unavailable, "RPC_TIMEOUT", message, hint).into_status_with(Code::DeadlineExceeded, "")
}

/// One line per request: method, caller, outcome, time. Never contents.
fn log(path: &str, caller: &Caller, headers: &HeaderMap, spent: Duration) {
    let method = path.get(..path.floor_char_boundary(MAX_LOGGED_PATH)).unwrap_or_default();
    let milliseconds = spent.as_millis();
    match Status::from_header_map(headers).filter(|status| status.code() != Code::Ok) {
        Some(status) => {
            let (outcome, reason) = (status.code(), reason(status.message()).unwrap_or("-"));
            tracing::warn!(method, %caller, ?outcome, reason, milliseconds, "request failed");
        }
        // Health and reflection are asked all the time by machines.
        None if method.starts_with("/grpc.") => {
            tracing::debug!(method, %caller, milliseconds, "request served");
        }
        None => tracing::info!(method, %caller, milliseconds, "request served"),
    }
}

/// The stable code at the end of a message, `… [CODE]`.
fn reason(message: &str) -> Option<&str> {
    let code = message.strip_suffix(']')?.rsplit_once('[')?.1;
    let known = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    code.bytes().all(known).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_code_is_taken_from_a_message() {
        let cases = [
            ("x failed [KBS_DENIED]", Some("KBS_DENIED")),
            ("[CDH] [ERROR]: x [A_1]", Some("A_1")),
            ("x [not a code]", None),
            ("x", None),
            ("x [A] y", None),
        ];
        for (message, expected) in cases {
            assert_eq!(reason(message), expected, "{message}");
        }
    }

    #[tokio::test]
    async fn unknown_methods_are_unimplemented() {
        let dispatch = Dispatch::new(Routes::default(), Vec::new(), Duration::from_secs(60));
        let request = Request::post("/a.B/C").body(Body::empty()).unwrap();
        let response = dispatch.call(request, Caller::UNKNOWN).await;
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Unimplemented);
    }
}
