//! HTTP/1.1 by hand, so that an answer may be as wrong as it likes.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Reply, Shared, answer};

/// Longest request that is read, in bytes.
const REQUEST_LIMIT: usize = 8 << 20;
/// What [`Reply::Trickle`] and [`Reply::Cut`] promise, in bytes.
const PROMISED: u64 = 1 << 20;
/// Where [`Reply::Endless`] ends after all, in bytes.
const ENDLESS: u64 = 2 << 30;
static PIECE: [u8; 64 * 1024] = [b'a'; 64 * 1024];

/// A request with its whole body; all empty if it was none.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// The body as JSON; null if it is something else.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The first header of this lower-case name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Answers the requests of one connection until either side ends it.
pub(super) async fn converse<S>(mut stream: S, shared: &Shared) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut buffer = Vec::new();
    while let Some(request) = receive(&mut stream, &mut buffer).await? {
        if request.method.is_empty() {
            stream.write_all(b"HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n").await?;
            return stream.shutdown().await;
        }
        let reply = answer(shared, &request);
        let mut speaker = Speaker { stream: &mut stream, shared };
        if !speaker.say(reply).await? {
            return stream.shutdown().await;
        }
    }
    Ok(())
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        // A TLS greeting at a plain port is answered, as web servers do.
        if buffer.first().is_some_and(|first| !first.is_ascii_uppercase()) {
            return Ok(Some(Request::default()));
        }
        if buffer.len() > REQUEST_LIMIT || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    while buffer.len() < end + length {
        if length > REQUEST_LIMIT || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let rest = buffer.split_off(end + length);
    let body = buffer.split_off(end);
    *buffer = rest;
    Ok(Some(Request { method, path, headers, body }))
}

struct Speaker<'a, S> {
    stream: &'a mut S,
    shared: &'a Shared,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Speaker<'_, S> {
    /// Whether the connection can be used again.
    async fn say(&mut self, reply: Reply) -> io::Result<bool> {
        match reply {
            Reply::Http { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                self.write(head.as_bytes()).await?;
                self.write(&body).await?;
                return Ok(true);
            }
            Reply::Raw(bytes) => self.write(&bytes).await?,
            Reply::Cut(status) => {
                self.promise(status, PROMISED).await?;
                self.write(&[b'a'; 100]).await?;
            }
            Reply::Trickle(status) => {
                self.promise(status, PROMISED).await?;
                for _ in 0..PROMISED {
                    self.write(b"a").await?;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Reply::Announced { status, length } => {
                self.promise(status, length).await?;
                for _ in 0..length / PIECE.len() as u64 {
                    self.write(&PIECE).await?;
                }
            }
            Reply::Endless(status) => {
                let head = format!("HTTP/1.1 {status} x\r\nTransfer-Encoding: chunked\r\n\r\n");
                self.write(head.as_bytes()).await?;
                for _ in 0..ENDLESS / PIECE.len() as u64 {
                    self.write(format!("{:x}\r\n", PIECE.len()).as_bytes()).await?;
                    self.write(&PIECE).await?;
                    self.write(b"\r\n").await?;
                }
            }
            // Those of the protocol were made into answers before.
            Reply::Silence | Reply::Honest | Reply::Challenge(_) | Reply::Token(_) => {
                while self.stream.read(&mut [0; 64]).await? > 0 {}
            }
        }
        Ok(false)
    }

    async fn promise(&mut self, status: u16, length: u64) -> io::Result<()> {
        self.write(format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        self.shared.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
