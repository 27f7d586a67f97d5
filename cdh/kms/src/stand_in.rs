//! A server for the tests of this crate: it keeps what it is asked and answers as it is told. The services themselves are in
//! the scenarios; this is for the answers that they never give.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Members;

/// What comes back.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// A status and a body.
    Status(u16, String),
    /// Bytes as they are; the connection ends behind them.
    Raw(Vec<u8>),
    /// Nothing, for as long as somebody waits.
    Silence,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct StandIn {
    /// `http://127.0.0.1:<port>`
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl StandIn {
    /// One that gives every request the same reply.
    pub(crate) async fn start(reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, reply.clone(), Arc::clone(&keep)));
            }
        });
        Self { url, seen }
    }

    /// The requests so far, each with its head and body.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, reply: Reply, seen: Arc<Mutex<Vec<String>>>) {
    let mut text = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let Ok(read @ 1..) = stream.read(&mut chunk).await else { return };
        text.extend_from_slice(&chunk[..read]);
        let request = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break;
        }
    }
    seen.lock().unwrap().push(String::from_utf8_lossy(&text).into_owned());
    let answer = match reply {
        Reply::Status(status, body) => format!(
            "HTTP/1.1 {status} x\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
        Reply::Raw(bytes) => bytes,
        Reply::Silence => std::future::pending().await,
    };
    let _ = stream.write_all(&answer).await;
    let _ = stream.shutdown().await;
}

/// A folder of credential files.
pub(crate) fn credentials(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// Directories that are all `folder`.
pub(crate) fn directories(folder: &Path) -> crate::Directories {
    let folder = || folder.into();
    crate::Directories { aliyun: folder(), aws: folder(), vault: folder(), pkcs11: folder() }
}

/// The members of a JSON object.
pub(crate) fn members(object: Value) -> Members {
    match object {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
