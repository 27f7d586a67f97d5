//! One HTTP/1.1 connection, driven by the thread that reads from it.
//!
//! Each connection has a small runtime of its own, which runs only while a thread waits for its bytes: no thread in the
//! background, no hop between threads for each piece of a blob. Whoever holds the connection may give it to another
//! thread. Everything waits with a limit, and wakes up to look whether it was stopped.

use std::{error::Error as StdError, fmt, future::Future, pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, timeout_at},
};
use url::Url;

use crate::{
    RegistryError, Stop,
    dial::{Dialer, Origin, ReadingProxy},
    reach::Reach,
};

const AGENT: &str = concat!("image-registry/", env!("CARGO_PKG_VERSION"));
/// Most header lines of an answer, and most bytes of them.
const MAX_HEADERS: usize = 100;
const MAX_HEAD: usize = 64 << 10;
/// Bytes of a connection's read buffer.
const BUFFER: usize = 256 << 10;
/// Bytes that have to come within the idle limit, so that nobody keeps a pull alive by a byte now and then.
const PACE: usize = 32 << 10;
/// How often a wait looks whether it was stopped.
const GLANCE: Duration = Duration::from_millis(100);

/// Why nothing came.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The other side, or the way there.
    Registry(RegistryError),
    /// What was read is not the image.
    Image(Box<image_rs::Error>),
    /// A kept connection was closed before it answered: nothing is known about the request.
    Stale,
    /// Whoever waited does not any more.
    Stopped,
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<image_rs::Error> for Fault {
    fn from(error: image_rs::Error) -> Self {
        Self::Image(Box::new(error))
    }
}

/// An open connection with no answer under way.
pub(crate) struct Connection {
    // Dropped before the runtime that drives it.
    sender: SendRequest<Empty<Bytes>>,
    runtime: Driver,
    origin: Origin,
    reach: Reach,
    proxy: Option<ReadingProxy>,
    answers: u32,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// A runtime that may be dropped anywhere, also inside another one.
struct Driver(Option<Runtime>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Driver {
    fn start() -> Result<Self, RegistryError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let start = |source| RegistryError::Start { step: "open a connection", source };
        runtime.map(|runtime| Self(Some(runtime))).map_err(start)
    }

    /// Runs `work` for at most `limit`. `late` is the error of who takes longer.
    fn run<T>(
        &self,
        work: impl Future<Output = T>,
        until: Instant,
        stop: &Stop,
        late: impl FnOnce() -> RegistryError,
    ) -> Result<T, Fault> {
        let Some(runtime) = &self.0 else { return Err(Fault::Stale) };
        runtime.block_on(async {
            let mut work = pin!(work);
            loop {
                let now = Instant::now();
                match timeout_at(until.min(now + GLANCE), &mut work).await {
                    Ok(done) => return Ok(done),
                    Err(_) if stop.is_stopped() => return Err(Fault::Stopped),
                    Err(_) if now >= until => return Err(late().into()),
                    Err(_) => {}
                }
            }
        })
    }
}

/// What one request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// For the head, and for each piece of the body.
    pub(crate) idle: Duration,
    /// For all of it.
    pub(crate) until: Option<Instant>,
}

impl Waits {
    fn end(&self, start: Instant, limit: Duration) -> Instant {
        let end = start + limit;
        self.until.map_or(end, |until| until.min(end))
    }
}

impl Connection {
    /// Connects to `origin` within `limit`; where `from` sends us there, it must be allowed to.
    pub(crate) fn open(
        dialer: &Dialer,
        origin: &Origin,
        from: Option<Reach>,
        limit: Duration,
        stop: &Stop,
    ) -> Result<Self, Fault> {
        let runtime = Driver::start()?;
        let late =
            || RegistryError::Timeout { host: origin.authority(), doing: "connecting".to_owned(), limit };
        let opening = async {
            let dialed = dialer.dial(origin, from).await?;
            let handshake = http1::Builder::new()
                .max_headers(MAX_HEADERS)
                .max_header_size(MAX_HEAD)
                .max_buf_size(BUFFER)
                .handshake(TokioIo::new(dialed.stream));
            let (sender, connection) =
                handshake.await.map_err(|e| RegistryError::unreachable(&origin.authority(), &causes(&e)))?;
            // Ends with the runtime, or with the connection; whoever sends or reads is told then.
            tokio::spawn(async move { drop(connection.await) });
            Ok::<_, RegistryError>((sender, dialed.reach, dialed.proxy))
        };
        let (sender, reach, proxy) = runtime.run(opening, Instant::now() + limit, stop, late)??;
        Ok(Self { sender, runtime, origin: origin.clone(), reach, proxy, answers: 0 })
    }

    pub(crate) const fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) const fn reach(&self) -> Reach {
        self.reach
    }

    /// Sends one GET for `url`, which is of this origin, and waits for the head of the answer.
    pub(crate) fn get(
        mut self,
        url: &Url,
        headers: &[(header::HeaderName, HeaderValue)],
        waits: Waits,
        stop: &Stop,
    ) -> Result<Answer, Fault> {
        let host = self.origin.authority();
        let request =
            self.request(url, headers).map_err(|e| RegistryError::bad(&host, "a URL", &e.to_string()))?;
        let until = waits.end(Instant::now(), waits.idle);
        let late = || late(&host, "answering", waits.idle);
        let fresh = self.answers == 0;
        let sender = &mut self.sender;
        let exchange = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        let response = self.runtime.run(exchange, until, stop, late)?.map_err(|e| {
            if !fresh && (e.is_closed() || e.is_canceled() || e.is_incomplete_message() || is_reset(&e)) {
                return Fault::Stale;
            }
            failure(&host, &e).into()
        })?;
        self.answers += 1;
        let (head, body) = response.into_parts();
        Ok(Answer { head: Response::from_parts(head, ()), body: Some(body), connection: self, waits })
    }

    fn request(
        &self,
        url: &Url,
        headers: &[(header::HeaderName, HeaderValue)],
    ) -> Result<Request<Empty<Bytes>>, http::Error> {
        let target = match (&self.proxy, url.query()) {
            (Some(_), _) => url.as_str().split('#').next().unwrap_or_default().to_owned(),
            (None, Some(query)) => format!("{}?{query}", url.path()),
            (None, None) => url.path().to_owned(),
        };
        let mut request = Request::get(target)
            .header(header::HOST, self.origin.authority())
            .header(header::USER_AGENT, AGENT)
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(authorization) = self.proxy.as_ref().and_then(|proxy| proxy.authorization.as_ref()) {
            request = request.header(header::PROXY_AUTHORIZATION, authorization);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.body(Empty::new())
    }
}

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) head: Response<()>,
    // Dropped before the connection that it comes from; gone when it was read to its end.
    body: Option<Incoming>,
    connection: Connection,
    waits: Waits,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.head.status()).finish_non_exhaustive()
    }
}

impl Answer {
    pub(crate) const fn origin(&self) -> &Origin {
        self.connection.origin()
    }

    pub(crate) const fn reach(&self) -> Reach {
        self.connection.reach()
    }

    /// The value of a header, if there is just one and it is plain text.
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        let mut values = self.head.headers().get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    /// The announced length of the body.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Whether the end of the body is told apart from a broken connection.
    pub(crate) fn is_delimited(&self) -> bool {
        let headers = self.head.headers();
        headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
    }

    /// The next bytes of the body; `None` at its end.
    pub(crate) fn next(&mut self, pace: &mut Pace, stop: &Stop) -> Result<Option<Bytes>, Fault> {
        loop {
            // Also where something comes all the time: whoever drips keeps nobody from giving up.
            if stop.is_stopped() {
                return Err(Fault::Stopped);
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            let host = self.connection.origin.authority();
            let start = Instant::now();
            let until = self.waits.end(start, self.waits.idle.saturating_sub(pace.waited));
            let late = || late(&host, "sending", self.waits.idle);
            let frame = self.connection.runtime.run(body.frame(), until, stop, late)?;
            pace.waited += start.elapsed();
            match frame {
                None => {
                    self.body = None;
                    return Ok(None);
                }
                Some(Err(e)) => {
                    self.body = None;
                    let why = format!("the connection broke in the middle of an answer: {}", causes(&e));
                    return Err(RegistryError::unreachable(&host, &why).into());
                }
                Some(Ok(frame)) => {
                    // Trailers are not looked at.
                    let Ok(data) = frame.into_data() else { continue };
                    pace.count(data.len());
                    return Ok(Some(data));
                }
            }
        }
    }

    /// Reads the body, of which at most `most` bytes are taken; `None` if it is longer.
    pub(crate) fn bytes(&mut self, most: usize, stop: &Stop) -> Result<Option<Vec<u8>>, Fault> {
        if self.length().is_some_and(|length| length > most as u64) {
            return Ok(None);
        }
        let (mut bytes, mut pace) = (Vec::new(), Pace::default());
        while let Some(data) = self.next(&mut pace, stop)? {
            if bytes.len() + data.len() > most {
                return Ok(None);
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Some(bytes))
    }

    /// The connection, if it can take another request.
    pub(crate) fn into_connection(self) -> Option<Connection> {
        (self.body.is_none() && !self.connection.sender.is_closed()).then_some(self.connection)
    }

    /// Another limit for all of the rest.
    pub(crate) fn limit(&mut self, limit: Duration) {
        self.waits.until = Some(self.waits.end(Instant::now(), limit));
    }
}

/// How long the piece that is under way was waited for. What the reader does in between does not count.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    waited: Duration,
    bytes: usize,
}

impl Pace {
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes >= PACE {
            *self = Self::default();
        }
    }
}

fn late(host: &str, doing: &str, limit: Duration) -> RegistryError {
    RegistryError::Timeout { host: host.to_owned(), doing: doing.to_owned(), limit }
}

fn is_reset(e: &hyper::Error) -> bool {
    chain(e)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|e| matches!(e.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

fn failure(host: &str, e: &hyper::Error) -> RegistryError {
    if e.is_parse() {
        return RegistryError::bad(host, "a request", &e.to_string());
    }
    let tls = chain(e).find_map(|cause| cause.downcast_ref::<rustls::Error>());
    match tls {
        Some(why) => RegistryError::bad(host, "TLS", &why.to_string()),
        None => RegistryError::unreachable(host, &causes(e)),
    }
}

/// All messages of the chain, each once.
fn causes(e: &(dyn StdError + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in chain(e) {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}

/// `e` and its causes. An I/O error does not count what it wraps among its causes, so it is unwrapped here.
fn chain<'a>(e: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |&e| {
        let wrapped = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        wrapped.map_or_else(|| e.source(), |inner| Some(inner))
    })
}
