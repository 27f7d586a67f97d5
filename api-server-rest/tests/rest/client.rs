//! A client that sends exactly the bytes it is told and reads one answer at a time.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(addr).await.unwrap()) }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        // The server may have answered and closed already; what it said is what counts.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Reads one answer; `None` if the connection ends first.
    pub(crate) async fn reply(&mut self, to_head: bool) -> Option<Reply> {
        tokio::time::timeout(Duration::from_secs(20), self.read(to_head)).await.expect("no answer in time")
    }

    async fn read(&mut self, to_head: bool) -> Option<Reply> {
        let line = self.line().await.filter(|line| !line.is_empty())?;
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").unwrap();
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        let mut reply = Reply { status, headers, body: Vec::new() };
        if !to_head {
            let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
            reply.body = vec![0; length];
            self.stream.read_exact(&mut reply.body).await.ok()?;
        }
        Some(reply)
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.ok()?;
        Some(line.trim_end().to_owned())
    }

    /// Whether the server has closed, or closes within the time of an answer.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(5), self.stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }
}

/// Sends one request on a connection of its own.
pub(crate) async fn exchange(addr: SocketAddr, request: &str) -> Reply {
    let mut client = Client::connect(addr).await;
    client.send(request.as_bytes()).await;
    client.reply(request.starts_with("HEAD ")).await.expect("the connection ended without an answer")
}

/// A request without a body and without extra headers.
pub(crate) async fn ask(addr: SocketAddr, method: &str, target: &str) -> Reply {
    exchange(addr, &format!("{method} {target} HTTP/1.1\r\nHost: localhost:8006\r\n\r\n")).await
}

/// `GET` without extra headers.
pub(crate) async fn get(addr: SocketAddr, target: &str) -> Reply {
    ask(addr, "GET", target).await
}

/// `POST` of a body.
pub(crate) async fn post(addr: SocketAddr, target: &str, body: &str) -> Reply {
    let head =
        format!("POST {target} HTTP/1.1\r\nHost: 127.0.0.1:8006\r\nContent-Length: {}\r\n\r\n", body.len());
    exchange(addr, &(head + body)).await
}
