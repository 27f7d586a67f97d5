//! A server that answers what a test tells it to, down to the byte.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use image_rs::{Algorithm, Digest};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// First and last byte of the range that is asked for.
    pub(crate) fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().unwrap(), last.parse().ok()))
    }
}

pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// What is written as an answer; the connection is closed after `false`.
pub(crate) type Answer = dyn Fn(&Request, &mut dyn Stream) -> bool + Send + Sync;

pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl StandIn {
    pub(crate) fn plain(answer: impl Fn(&Request, &mut dyn Stream) -> bool + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(answer))
    }

    pub(crate) fn tls(
        authority: &Authority,
        answer: impl Fn(&Request, &mut dyn Stream) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(authority.server()), Arc::new(answer))
    }

    fn start(tls: Option<Arc<ServerConfig>>, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, ended) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::new(AtomicBool::new(false)));
        let (log, end) = (Arc::clone(&requests), Arc::clone(&ended));
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), tls) = (stream, tls.clone()) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || match tls {
                    None => serve(stream, &log, &*answer),
                    Some(tls) => {
                        serve(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream), &log, &*answer);
                    }
                });
            }
        });
        Self { address, requests, connections, ended }
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(stream: impl Stream, log: &Mutex<Vec<Request>>, answer: &Answer) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        log.lock().unwrap().push(request.clone());
        if !answer(&request, reader.get_mut()) {
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines.first()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header =
        |line: &String| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Some(Request { method, target, headers: lines.iter().skip(1).filter_map(header).collect() })
}

/// Writes a whole answer and keeps the connection.
pub(crate) fn reply(stream: &mut dyn Stream, status: &str, headers: &[(&str, &str)], body: &[u8]) -> bool {
    let mut head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body)).is_ok()
}

/// Waits until the other side goes away.
pub(crate) fn hang(stream: &mut dyn Stream) -> bool {
    while stream.read(&mut [0; 1]).is_ok_and(|read| read > 0) {}
    false
}

/// A certificate authority, and a server's certificate of it for `localhost`, 127.0.0.1 and two names of others.
pub(crate) struct Authority {
    pub(crate) pem: String,
    chain: String,
    key: String,
    tls: Arc<ServerConfig>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let names = ["localhost", "127.0.0.1", "registry.example", "cdn.example"].map(str::to_owned).to_vec();
        let key = rcgen::KeyPair::generate().unwrap();
        let issuer = rcgen::Issuer::new(params, ca_key);
        let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let tls =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![leaf.der().clone()],
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
                )
                .unwrap();
        Self { pem: ca.pem(), chain: leaf.pem(), key: key.serialize_pem(), tls: Arc::new(tls) }
    }

    fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    /// Writes the server's certificate and key for another program.
    pub(crate) fn write(&self, folder: &std::path::Path) {
        std::fs::write(folder.join("server.pem"), &self.chain).unwrap();
        std::fs::write(folder.join("server.key"), &self.key).unwrap();
        std::fs::write(folder.join("ca.pem"), &self.pem).unwrap();
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Documents and blobs of a repository, by their place below `/v2/<name>/`.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) manifests: BTreeMap<String, (String, Vec<u8>)>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": sha256(bytes).to_string(), "size": bytes.len()})
}

impl Content {
    /// An image `1` of plain layers.
    pub(crate) fn image(layers: &[&[u8]]) -> Self {
        let mut content = Self::default();
        let ids: Vec<String> = layers.iter().map(|layer| sha256(layer).to_string()).collect();
        let config =
            json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}});
        let config = config.to_string().into_bytes();
        let kinds = layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": kinds.collect::<Vec<_>>(),
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        });
        for blob in layers.iter().copied().chain([&config[..]]) {
            content.blobs.insert(sha256(blob).to_string(), blob.to_vec());
        }
        content.tag("1", MANIFEST, manifest.to_string().as_bytes());
        content
    }

    /// Puts a document under a name and its digest.
    pub(crate) fn tag(&mut self, name: &str, media_type: &str, bytes: &[u8]) {
        for name in [name.to_owned(), sha256(bytes).to_string()] {
            self.manifests.insert(name, (media_type.to_owned(), bytes.to_vec()));
        }
    }

    /// Answers as a registry does.
    pub(crate) fn answer(&self, request: &Request, stream: &mut dyn Stream) -> bool {
        let name = request.target.rsplit('/').next().unwrap();
        if request.target.contains("/manifests/") {
            return match self.manifests.get(name) {
                Some((media_type, bytes)) => {
                    let digest = sha256(bytes).to_string();
                    reply(
                        stream,
                        "200 OK",
                        &[("Content-Type", media_type), ("Docker-Content-Digest", &digest)],
                        bytes,
                    )
                }
                None => {
                    reply(stream, "404 Not Found", &[], b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}")
                }
            };
        }
        match (self.blobs.get(name), request.range()) {
            (None, _) => reply(stream, "404 Not Found", &[], b""),
            (Some(blob), None) => reply(stream, "200 OK", &[], blob),
            (Some(blob), Some((first, last))) => {
                let last = last.unwrap_or(blob.len() - 1).min(blob.len() - 1);
                let range = format!("bytes {first}-{last}/{}", blob.len());
                reply(stream, "206 Partial Content", &[("Content-Range", &range)], &blob[first..=last])
            }
        }
    }
}
