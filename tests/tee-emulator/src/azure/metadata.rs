//! The metadata service on the loopback: `GET /metadata/THIM/amd/certification` and `POST /acc/tdquote`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

use super::paravisor::{Answer, Paravisor};
use crate::machine::AzureFault;
use crate::{Error, pem};

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(10);
/// Length of a huge answer.
const HUGE_LEN: usize = 10_000_000;
/// Longest question.
const MAX_ASKED: u64 = 16 * 1024;

/// What a client asks.
struct Asked {
    line: String,
    /// Whether the header is there that keeps redirected requests out.
    marked: bool,
    body: Vec<u8>,
}

/// Serves on a port of the loopback that is free; gives its base URL.
pub(super) fn serve(paravisor: Arc<Paravisor>) -> Result<String, Error> {
    let failed = |source| Error::File {
        step: "listening for the metadata service at",
        path: "127.0.0.1".into(),
        source,
    };
    let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let url = format!("http://{}", listener.local_addr().map_err(failed)?);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let paravisor = Arc::clone(&paravisor);
            thread::spawn(move || {
                // A client that goes away is its own business.
                let _ = answer(&stream, &paravisor);
            });
        }
    });
    Ok(url)
}

fn answer(stream: &TcpStream, paravisor: &Paravisor) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let asked = read(stream)?;
    let fault = paravisor.fault().unwrap_or(AzureFault::MetadataError);
    let (status, fields, body) = match fault {
        AzureFault::MetadataHang => {
            // Until the client has had enough.
            let mut stream = stream;
            return stream.set_read_timeout(None).and_then(|()| stream.read(&mut [0]).map(drop));
        }
        AzureFault::MetadataNotFound => ("404 Not Found", String::new(), String::new()),
        AzureFault::MetadataError => ("500 Internal Server Error", String::new(), "no\n".to_owned()),
        AzureFault::MetadataGarbage => ("200 OK", String::new(), "<html>".to_owned()),
        AzureFault::MetadataHuge => ("200 OK", String::new(), " ".repeat(HUGE_LEN)),
        AzureFault::MetadataRedirect => {
            ("302 Found", "Location: http://127.0.0.1:1/\r\n".to_owned(), String::new())
        }
        _ => match say(&asked, paravisor) {
            Some(body) => ("200 OK", String::new(), body),
            None => ("400 Bad Request", String::new(), String::new()),
        },
    };
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\n{fields}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = stream;
    stream.write_all(text.as_bytes())
}

fn read(stream: &TcpStream) -> io::Result<Asked> {
    let mut reader = BufReader::new(stream.take(MAX_ASKED));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let (mut marked, mut length) = (false, 0);
    loop {
        let mut field = String::new();
        reader.read_line(&mut field)?;
        let field = field.trim().to_ascii_lowercase();
        match field.split_once(": ") {
            Some(("metadata", value)) => marked = value == "true",
            Some(("content-length", value)) => length = value.parse().unwrap_or_default(),
            _ => {}
        }
        if field.is_empty() {
            break;
        }
    }
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body)?;
    Ok(Asked { line: line.trim().to_owned(), marked, body })
}

/// The answer to a good question.
fn say(asked: &Asked, paravisor: &Paravisor) -> Option<String> {
    if !asked.marked {
        return None;
    }
    let td_report = match asked.line.as_str() {
        "GET /metadata/THIM/amd/certification HTTP/1.1" => None,
        "POST /acc/tdquote HTTP/1.1" => {
            let body: serde_json::Value = serde_json::from_slice(&asked.body).ok()?;
            Some(BASE64_URL_SAFE_NO_PAD.decode(body.get("report")?.as_str()?).ok()?)
        }
        _ => return None,
    };
    let answer = paravisor
        .answer(td_report.as_deref())
        .inspect_err(|error| tracing::error!(%error, "no answer"))
        .ok()?;
    match answer {
        Answer::Certificate(der) => {
            let certificate = pem::certificates(&[&der]).ok()?;
            Some(
                json!({"vcekCert": certificate, "tcbm": "", "certificateChain": "", "cacheControl": "86400"})
                    .to_string(),
            )
        }
        Answer::Quote(quote) => Some(json!({"quote": BASE64_URL_SAFE_NO_PAD.encode(quote)}).to_string()),
        Answer::None => None,
    }
}
