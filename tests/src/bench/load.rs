//! A bounded closed-loop load generator: HTTP/1.1 over kept connections, plain or TLS.
//!
//! Each connection sends its next request when it has read the whole answer to the one before, so the
//! numbers say what that many patient clients get; they are not the latency at a fixed arrival rate. A run ends
//! by itself after a number of requests or a time, whichever comes first.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use pin::PinnedCertificate;

mod pin;

/// How long requests that are under way at the end of the time may still take.
const GRACE: Duration = Duration::from_secs(5);

/// What is asked, and of whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub addr: SocketAddr,
    /// Path and query of each request.
    pub path: String,
    /// Headers of each request; a `Host` with the address is added if there is none.
    pub headers: HeaderMap,
    /// PEM of the certificate that the server must present, or of the root that must have signed it; plain HTTP
    /// without.
    pub tls: Option<String>,
}

/// A step that each body goes through within the measured time, such as decrypting it; `false` counts as an error.
pub type Open = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Answers with status 200 whose whole body was read.
    pub requests: u64,
    /// All other requests: another status, a broken connection, an answer that did not come.
    pub errors: u64,
    /// The errors that were answers, by their status.
    pub statuses: BTreeMap<u16, u64>,
    /// From the first request to the last answer, connecting not included.
    pub seconds: f64,
    /// `requests` per second.
    pub rps: f64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// The latency in microseconds that 99 of 100 requests stay within.
    pub p99_us: u64,
    /// The longest latency in microseconds.
    pub max_us: u64,
}

/// Sends up to `total_requests` over `connections` connections, for up to `max_time`.
///
/// # Errors
///
/// If the target cannot be asked at all: a bad path or certificate, or no connection. What goes wrong later is
/// counted in [`Summary::errors`].
pub async fn run(
    target: Target,
    connections: usize,
    total_requests: u64,
    max_time: Duration,
) -> anyhow::Result<Summary> {
    run_with(target, connections, total_requests, max_time, Arc::new(|_: &[u8]| true)).await
}

/// The same as [`run`], with a step that each body goes through.
///
/// # Errors
///
/// See [`run`].
pub async fn run_with(
    target: Target,
    connections: usize,
    total_requests: u64,
    max_time: Duration,
    open: Open,
) -> anyhow::Result<Summary> {
    anyhow::ensure!(connections > 0, "a load needs at least one connection");
    let client = Arc::new(Client::new(target)?);
    // One connection at a time: a burst would measure the server's accept queue.
    let mut warm = Vec::with_capacity(connections);
    for _ in 0..connections {
        warm.push(client.connect().await?);
    }
    let tickets = Arc::new(AtomicU64::new(total_requests));
    let start = Arc::new(Barrier::new(connections + 1));
    let mut tasks = JoinSet::new();
    for connection in warm {
        let worker = Worker {
            client: Arc::clone(&client),
            connection: Some(connection),
            tickets: Arc::clone(&tickets),
            open: Arc::clone(&open),
            tally: Tally::default(),
        };
        let start = Arc::clone(&start);
        tasks.spawn(async move {
            start.wait().await;
            worker.work(Instant::now() + max_time).await
        });
    }
    start.wait().await;
    let began = Instant::now();
    let mut tally = Tally::default();
    while let Some(part) = tasks.join_next().await {
        tally.add(part.context("a worker failed")?);
    }
    Ok(tally.summary(began.elapsed()))
}

/// One connection's share of the run.
struct Worker {
    client: Arc<Client>,
    connection: Option<SendRequest<Empty<Bytes>>>,
    tickets: Arc<AtomicU64>,
    open: Open,
    tally: Tally,
}

impl Worker {
    async fn work(mut self, deadline: Instant) -> Tally {
        let taken = |left: u64| left.checked_sub(1);
        while Instant::now() < deadline
            && self.tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
        {
            let began = Instant::now();
            match tokio::time::timeout_at(deadline + GRACE, self.exchange()).await {
                Ok(Ok(Answered::Good)) => self.tally.latencies.push(began.elapsed()),
                Ok(Ok(Answered::Bad(status))) => {
                    self.tally.errors += 1;
                    *self.tally.statuses.entry(status).or_default() += 1;
                }
                Ok(Err(_)) | Err(_) => {
                    self.tally.errors += 1;
                    self.connection = None;
                }
            }
        }
        self.tally
    }

    /// One request and its whole answer, on a new connection if the last one broke.
    async fn exchange(&mut self) -> anyhow::Result<Answered> {
        let sender = match &mut self.connection {
            Some(sender) => sender,
            broken => broken.insert(self.client.connect().await?),
        };
        sender.ready().await?;
        let response = sender.send_request(self.client.request()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        match status == StatusCode::OK && (self.open)(&body) {
            true => Ok(Answered::Good),
            false => Ok(Answered::Bad(status.as_u16())),
        }
    }
}

/// A whole answer.
enum Answered {
    Good,
    /// Another status, or a 200 with a body that did not open.
    Bad(u16),
}

/// How to reach the target and what to send.
struct Client {
    addr: SocketAddr,
    request: Request<Empty<Bytes>>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Client {
    fn new(target: Target) -> anyhow::Result<Self> {
        let Target { addr, path, mut headers, tls } = target;
        anyhow::ensure!(path.starts_with('/'), "the path {path:?} does not begin with a slash");
        if !headers.contains_key(HOST) {
            headers.insert(HOST, HeaderValue::from_str(&addr.to_string())?);
        }
        let tls = tls.as_deref().map(|pem| connector(pem, addr)).transpose()?;
        let mut request =
            Request::get(&path).body(Empty::new()).with_context(|| format!("the path {path:?}"))?;
        *request.headers_mut() = headers;
        Ok(Self { addr, request, tls })
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        self.request.clone()
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let context = || format!("connecting to {}", self.addr);
        let stream = TcpStream::connect(self.addr).await.with_context(context)?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => speak(TokioIo::new(stream)).await,
            Some((connector, name)) => {
                speak(TokioIo::new(connector.connect(name.clone(), stream).await.with_context(context)?))
                    .await
            }
        }
    }
}

/// Starts HTTP on a stream; its driver ends with the sender.
async fn speak<T>(io: T) -> anyhow::Result<SendRequest<Empty<Bytes>>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn connector(pem: &str, addr: SocketAddr) -> anyhow::Result<(TlsConnector, ServerName<'static>)> {
    let verifier = PinnedCertificate::from_pem(pem)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(verifier.provider()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), ServerName::from(addr.ip())))
}

/// What a worker saw.
#[derive(Default)]
struct Tally {
    latencies: Vec<Duration>,
    errors: u64,
    statuses: BTreeMap<u16, u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.errors += other.errors;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    fn summary(mut self, elapsed: Duration) -> Summary {
        self.latencies.sort_unstable();
        let seconds = elapsed.as_secs_f64();
        let requests = self.latencies.len();
        Summary {
            requests: requests as u64,
            errors: self.errors,
            statuses: std::mem::take(&mut self.statuses),
            seconds,
            rps: if seconds > 0.0 { requests as f64 / seconds } else { 0.0 },
            p50_us: self.percentile(50),
            p99_us: self.percentile(99),
            max_us: self.percentile(100),
        }
    }

    /// The latency in microseconds that `percent` of the requests stay within (nearest rank); 0 without requests.
    fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.latencies.len() * percent).div_ceil(100).saturating_sub(1);
        self.latencies.get(rank).map_or(0, |latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests, {} errors in {:.2} s: {:.0}/s, p50 {} us, p99 {} us, max {} us",
            self.requests, self.errors, self.seconds, self.rps, self.p50_us, self.p99_us, self.max_us
        )
    }
}

#[cfg(test)]
mod tests;
