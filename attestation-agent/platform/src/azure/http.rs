//! One bounded request over plain HTTP/1.1 (RFC 9112) to an address of the machine itself.
//!
//! The platforms block, so this does: a connection per request, one deadline over all of it, an answer of limited size.
//! It follows no redirect, knows no proxy, no names to resolve, no cookies and no encodings, and it is NOT for any server
//! beyond the machine's own: the only one is the metadata service of the cloud. `httparse`, which hyper is built on,
//! reads the head; what is left to do here is the framing of the body.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest head of an answer, in bytes.
const MAX_HEAD_LEN: usize = 16 * 1024;

/// Longest body, in bytes: the largest TDX quote in base64, in JSON.
const MAX_BODY_LEN: usize = 256 * 1024;

/// Most header fields of an answer.
const MAX_FIELDS: usize = 64;

/// Room for the sizes of chunks beside what they carry.
const MAX_FRAMED_LEN: usize = 2 * MAX_BODY_LEN;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Where.
    pub(super) address: SocketAddr,
    /// Path with a leading slash, without spaces or line ends.
    pub(super) path: &'a str,
    /// JSON to send with POST; GET without.
    pub(super) body: Option<&'a str>,
    /// When the whole exchange must be over.
    pub(super) deadline: Instant,
}

/// Why there is no body.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection, or it broke before an answer.
    Connection(io::Error),
    /// The deadline passed.
    Timeout,
    /// Another status than 200.
    Status(u16),
    /// An answer that is none, or too large.
    Malformed(String),
}

/// Asks, and gives the body of an answer with status 200.
pub(super) fn ask(request: &Request<'_>) -> Result<Vec<u8>, Failure> {
    let mut stream =
        TcpStream::connect_timeout(&request.address, left(request.deadline)?).map_err(connection)?;
    send(&mut stream, request)?;
    let mut answer = Answer { stream, bytes: Vec::new(), deadline: request.deadline };
    let head = answer.head()?;
    answer.body(&head)
}

fn send(stream: &mut TcpStream, request: &Request<'_>) -> Result<(), Failure> {
    let Request { address, path, body, .. } = request;
    let method = if body.is_some() { "POST" } else { "GET" };
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nMetadata: true\r\nAccept: application/json\r\n\
         Connection: close\r\n"
    );
    if let Some(body) = body {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    } else {
        text += "\r\n";
    }
    stream.set_write_timeout(Some(left(request.deadline)?)).map_err(Failure::Connection)?;
    stream.write_all(text.as_bytes()).map_err(connection)
}

/// What the head of an answer with status 200 says of the body.
struct Head {
    /// Length of the head in bytes.
    len: usize,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

struct Answer {
    stream: TcpStream,
    /// Everything received so far.
    bytes: Vec<u8>,
    deadline: Instant,
}

impl Answer {
    fn head(&mut self) -> Result<Head, Failure> {
        loop {
            if let Some(head) = read_head(&self.bytes)? {
                return Ok(head);
            }
            if self.bytes.len() > MAX_HEAD_LEN {
                return Err(malformed(format!("its head is longer than {MAX_HEAD_LEN} bytes")));
            }
            if !self.more()? {
                return Err(malformed("it ends within its head"));
            }
        }
    }

    fn body(mut self, head: &Head) -> Result<Vec<u8>, Failure> {
        loop {
            let received = self.bytes.get(head.len..).unwrap_or_default();
            let done = match head.framing {
                Framing::Length(length) => received.get(..length).map(<[u8]>::to_vec),
                Framing::Chunked => unchunk(received)?,
                Framing::UntilClosed => None,
            };
            if let Some(body) = done {
                return Ok(body);
            }
            let limit = if head.framing == Framing::Chunked { MAX_FRAMED_LEN } else { MAX_BODY_LEN };
            if received.len() > limit {
                return Err(too_large());
            }
            if !self.more()? {
                return match head.framing {
                    Framing::UntilClosed => Ok(self.bytes.split_off(head.len)),
                    _ => Err(malformed("it ends within its body")),
                };
            }
        }
    }

    /// Receives some more; false at the end.
    fn more(&mut self) -> Result<bool, Failure> {
        let mut part = [0; 8192];
        self.stream.set_read_timeout(Some(left(self.deadline)?)).map_err(Failure::Connection)?;
        let length = match self.stream.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            other => other.map_err(connection)?,
        };
        self.bytes.extend_from_slice(part.get(..length).unwrap_or_default());
        Ok(length > 0)
    }
}

/// The head at the beginning of `bytes`; none while it is not whole; another status than 200 is a failure.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => {
            let status = head.code.unwrap_or_default();
            // Only the body of a good answer is read: what another one carries is for people with a browser.
            if status != 200 {
                return Err(Failure::Status(status));
            }
            Ok(Some(Head { len, framing: framing(head.headers)? }))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(malformed(format!("it is not HTTP ({error})"))),
    }
}

/// How the body ends, RFC 9112 section 6.3. Two answers to that question are none.
fn framing(fields: &[httparse::Header<'_>]) -> Result<Framing, Failure> {
    let named = |name: &'static str| fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    let encodings: Vec<_> = named("transfer-encoding").collect();
    let lengths: Vec<_> = named("content-length").collect();
    match (encodings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(Framing::UntilClosed),
        ([encoding], []) if encoding.value.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([], [length]) => {
            let number = str::from_utf8(length.value)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok());
            match number {
                Some(length) if length <= MAX_BODY_LEN => Ok(Framing::Length(length)),
                Some(_) => Err(too_large()),
                None => Err(malformed("its length is no number")),
            }
        }
        _ => Err(malformed("the length of its body is ambiguous")),
    }
}

/// The body in `bytes` without its chunks; none while it is not whole.
fn unchunk(bytes: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    let mut rest = bytes;
    loop {
        let (begin, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(malformed("the size of a chunk is no number")),
        };
        // The last chunk; what may follow it are fields that nobody needs.
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > MAX_BODY_LEN - body.len() {
            return Err(too_large());
        }
        let Some((chunk, after)) = rest.get(begin..).and_then(|from| from.split_at_checked(size)) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        rest = match after {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(malformed("a chunk is longer than its size")),
        };
    }
}

/// The time that is left; at least a millisecond, as zero would mean no limit.
fn left(deadline: Instant) -> Result<Duration, Failure> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Failure::Timeout),
        left => Ok(left.max(Duration::from_millis(1))),
    }
}

fn connection(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Timeout,
        _ => Failure::Connection(error),
    }
}

fn malformed(why: impl Into<String>) -> Failure {
    Failure::Malformed(why.into())
}

fn too_large() -> Failure {
    Failure::Malformed(format!("its body is longer than {MAX_BODY_LEN} bytes"))
}

#[cfg(test)]
mod tests;
