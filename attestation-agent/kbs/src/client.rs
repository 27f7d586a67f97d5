//! The HTTP driver: sends what the state machines ask for and reads bounded answers.
//!
//! HTTP/1.1 with kept connections, no redirects, no proxy, no cookie store, no content encodings. It decides
//! nothing about the protocol: every status is an answer. Limits, all of them against a server that means
//! harm: 60 s per request, 10 s to connect unless told otherwise, 64 header lines in 64 KiB, the caller's limit for the body (64 KiB
//! for an error body, of which the rest is dropped), 32 requests at a time.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cc_crypto::Secret;
use http::header::{CONTENT_LENGTH, USER_AGENT};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HyperClient, Error as HyperError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::KbsConfig;
use crate::error::KbsError;
use crate::names::{Lookup, Names};
use crate::silence::Silence;
use crate::{foreign, trust};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an answer may take before it is the server's fault that a deadline passes.
const PATIENCE: Duration = Duration::from_millis(500);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests at a time, and connections kept: as many as were in use.
const MAX_IN_FLIGHT: usize = 32;
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// How long each part of an error body is waited for.
const ERROR_BODY_PATIENCE: Duration = Duration::from_secs(2);
/// Longest error body read, in bytes.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// Longest chain of causes in an error message, in bytes.
const MAX_CAUSE: usize = 300;
const AGENT: &str = concat!("attestation-agent-kbs-client/", env!("CARGO_PKG_VERSION"));

/// One warm client for one server: a KBS, or a key management service that credentials from the KBS open.
#[derive(Debug)]
pub struct Client {
    base: String,
    http: HyperClient<HttpsConnector<HttpConnector<Lookup>>, Full<Bytes>>,
    in_flight: Semaphore,
    silence: Silence,
}

impl Client {
    /// A client for the server that `config` names. Nothing is connected yet.
    ///
    /// # Errors
    /// [`KbsError::Config`] or [`KbsError::PlainHttp`].
    pub fn new(config: &KbsConfig) -> Result<Self, KbsError> {
        Self::with_lookup(config, Lookup::system())
    }

    /// As [`Client::new`], for a program that looks names up in its own way.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_names(config: &KbsConfig, names: Arc<dyn Names>) -> Result<Self, KbsError> {
        Self::with_lookup(config, Lookup::Own(names))
    }

    /// As [`Client::new`], with names looked up as told.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub(crate) fn with_lookup(config: &KbsConfig, lookup: Lookup) -> Result<Self, KbsError> {
        let base = config.base_url()?;
        let mut tcp = HttpConnector::new_with_resolver(lookup);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(config.pace.connecting));
        let tls = trust::client_config(config)?;
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = HyperClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IN_FLIGHT)
            .http1_max_headers(MAX_HEADERS)
            .http1_max_buf_size(MAX_HEADER_BYTES)
            .build(connector);
        Ok(Self { base, http, in_flight: Semaphore::new(MAX_IN_FLIGHT), silence: Silence::default() })
    }

    /// The base URL, without a slash at its end.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What the server owes.
    pub(crate) fn silence(&self) -> &Silence {
        &self.silence
    }

    /// Sends `request`, whose URI is a path below the base URL, and reads the answer: a success of at most
    /// `limit` bytes, or any other status with what of its body fits. `doing` names the request in errors; without a
    /// `User-Agent` it gets the one of this client.
    ///
    /// # Errors
    /// [`KbsError::Unreachable`], [`KbsError::Timeout`] (at `deadline` or after 60 s), [`KbsError::UntrustedTls`],
    /// [`KbsError::ResponseTooLarge`] or [`KbsError::BadResponse`].
    pub async fn send(
        &self,
        doing: &str,
        mut request: Request<Bytes>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Response<Secret>, KbsError> {
        *request.uri_mut() = self.absolute(request.uri())?;
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let deadline = deadline.min(Instant::now() + REQUEST_TIMEOUT);
        let late = || KbsError::Timeout { doing: format!("{doing} at {}", self.base) };
        // Never closed; if it were, the request would just not be counted.
        let _place = timeout_at(deadline, self.in_flight.acquire()).await.map_err(|_| late())?;
        let question = self.silence.ask();
        let exchange = async {
            let answer = self.http.request(request.map(Full::new)).await.map_err(|e| self.failure(&e))?;
            self.read(doing, answer, limit).await
        };
        let result = timeout_at(deadline, exchange).await.unwrap_or_else(|_| Err(late()));
        match &result {
            Ok(answer) => question.answered(answer.status()),
            // A caller in a hurry proves nothing.
            Err(KbsError::Timeout { .. }) if question.lasts() < PATIENCE => {}
            Err(_) => question.failed(),
        }
        result
    }

    fn absolute(&self, path: &Uri) -> Result<Uri, KbsError> {
        format!("{}{path}", self.base).parse().map_err(|_| KbsError::Config {
            what: "URL",
            why: "it cannot be part of an HTTP request".to_owned(),
        })
    }

    async fn read(
        &self,
        doing: &str,
        answer: Response<Incoming>,
        limit: usize,
    ) -> Result<Response<Secret>, KbsError> {
        let (head, mut body) = answer.into_parts();
        let success = head.status.is_success();
        let limit = if success { limit } else { MAX_ERROR_BODY };
        let too_large = || KbsError::ResponseTooLarge { what: format!("the answer to {doing}"), limit };
        let announced = head
            .headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<usize>().ok())
            .unwrap_or(0);
        if success && announced > limit {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(announced.min(limit));
        // A refusal counts by its status: its body is waited for only so long.
        let patience = if success { REQUEST_TIMEOUT } else { ERROR_BODY_PATIENCE };
        while let Ok(Some(frame)) = timeout(patience, body.frame()).await {
            let data = match frame.map(Frame::into_data) {
                Ok(Ok(data)) => data,
                Ok(Err(_)) => continue, // trailers
                // The status is there: a broken error body must not hide it.
                Err(_) if !success => break,
                Err(e) => {
                    return Err(KbsError::Unreachable {
                        url: self.base.clone(),
                        why: format!("the connection broke in the middle of the answer: {}", causes(&e)),
                    });
                }
            };
            let room = limit - bytes.len();
            if data.len() > room {
                if success {
                    return Err(too_large());
                }
                bytes.extend_from_slice(data.get(..room).unwrap_or_default());
                break;
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Response::from_parts(head, Secret::new(bytes)))
    }

    /// What it means that there was no answer.
    fn failure(&self, e: &HyperError) -> KbsError {
        match tls_error(e) {
            Some(rustls::Error::InvalidCertificate(why)) => KbsError::UntrustedTls {
                url: self.base.clone(),
                why: foreign::clean(&why.to_string(), MAX_CAUSE),
            },
            Some(
                why @ (rustls::Error::InvalidMessage(_)
                | rustls::Error::PeerIncompatible(_)
                | rustls::Error::PeerMisbehaved(_)),
            ) => KbsError::bad("the TLS handshake", foreign::clean(&why.to_string(), MAX_CAUSE)),
            _ => match malformed(e) {
                Some(why) => KbsError::bad("the HTTP answer", why),
                None => KbsError::Unreachable { url: self.base.clone(), why: causes(e) },
            },
        }
    }
}

/// The error of rustls inside `e`.
fn tls_error<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    chain(e).find_map(|cause| cause.downcast_ref())
}

/// Why `e` is an answer that is no HTTP, if it is one.
fn malformed(e: &(dyn StdError + 'static)) -> Option<String> {
    chain(e)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .find(|cause| cause.is_parse())
        .map(|cause| foreign::clean(&cause.to_string(), MAX_CAUSE))
}

/// All messages of the chain, each once, on one line.
fn causes(e: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in chain(e) {
        let text = cause.to_string();
        if !parts.iter().any(|p| p.contains(&text)) {
            parts.push(text);
        }
    }
    foreign::clean(&parts.join(": "), MAX_CAUSE)
}

/// `e` and its causes. An I/O error does not count what it wraps among its causes, so it is unwrapped here.
fn chain<'a>(e: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |&e| {
        let wrapped = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        wrapped.map_or_else(|| e.source(), |inner| Some(inner))
    })
}
