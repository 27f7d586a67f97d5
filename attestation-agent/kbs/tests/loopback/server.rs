//! A scripted KBS: honest by default, and whatever a test asks for otherwise.
//!
//! It speaks HTTP/1.1 by hand, because it must also speak it wrongly.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cc_crypto::jwe;
use cc_evidence::{HashAlgorithm, binding};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

/// A text that must never appear in an error, a log line or a debug print.
pub(crate) const CANARY: &str = "c4n4ry";

#[derive(Debug, Clone)]
pub(crate) struct Req {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Req {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What to do instead of the honest thing.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status, extra header lines, body.
    Answer(u16, Vec<String>, Vec<u8>),
    /// These bytes as they are, then close.
    Raw(Vec<u8>),
    /// These bytes, then the second ones again and again; if those are none, silence.
    Endless(Vec<u8>, Vec<u8>),
    /// Nothing, for ever.
    Hang,
}

impl Reply {
    pub(crate) fn status(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self::Answer(status, Vec::new(), body.as_ref().to_vec())
    }

    pub(crate) fn problem(status: u16, kind: &str, detail: &str) -> Self {
        let kind = format!("https://github.com/confidential-containers/kbs/errors/{kind}");
        Self::status(status, json!({"type": kind, "detail": detail}).to_string())
    }
}

/// The three requests of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Auth,
    Attest,
    Resource,
}

#[derive(Debug, Default)]
struct State {
    scripts: HashMap<Step, VecDeque<Reply>>,
    always: HashMap<Step, Reply>,
    delays: HashMap<Step, Duration>,
    seen: Vec<Req>,
    /// Cookie → nonce.
    sessions: HashMap<String, String>,
    /// Token → key.
    tokens: HashMap<String, Value>,
    last_attest: Option<Value>,
    /// GPUs that tokens vouch for.
    gpus: usize,
    connections: usize,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Kbs {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
    secure: bool,
}

impl Drop for Kbs {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Kbs {
    pub(crate) async fn start() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), None)
    }

    pub(crate) fn on(listener: TcpListener, tls: Option<TlsAcceptor>) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let secure = tls.is_some();
        let task = tokio::spawn(accept(listener, Arc::clone(&state), tls)).abort_handle();
        Self { address, state, task, secure }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Answers the next requests of `step` with `replies`, then honestly again.
    pub(crate) fn script(&self, step: Step, replies: impl IntoIterator<Item = Reply>) {
        self.state.lock().unwrap().scripts.entry(step).or_default().extend(replies);
    }

    /// Answers every request of `step` with `reply`.
    pub(crate) fn always(&self, step: Step, reply: Reply) {
        self.state.lock().unwrap().always.insert(step, reply);
    }

    /// Takes `delay` for every request of `step`.
    pub(crate) fn slow_down(&self, step: Step, delay: Duration) {
        self.state.lock().unwrap().delays.insert(step, delay);
    }

    /// Vouches for so many GPUs in each token.
    pub(crate) fn affirm_gpus(&self, count: usize) {
        self.state.lock().unwrap().gpus = count;
    }

    /// Honest again, and quick.
    pub(crate) fn behave(&self) {
        let mut state = self.state.lock().unwrap();
        state.delays.clear();
        state.always.clear();
        state.scripts.clear();
    }

    /// Refuses every token issued so far.
    pub(crate) fn revoke(&self) {
        self.state.lock().unwrap().tokens.clear();
    }

    pub(crate) fn count(&self, step: Step) -> usize {
        self.seen().iter().filter(|r| step_of(r) == Some(step)).count()
    }

    pub(crate) fn seen(&self) -> Vec<Req> {
        self.state.lock().unwrap().seen.clone()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().unwrap().connections
    }

    /// Body of the last honest `attest`.
    pub(crate) fn last_attest(&self) -> Value {
        self.state.lock().unwrap().last_attest.clone().unwrap()
    }
}

fn step_of(req: &Req) -> Option<Step> {
    match req.path.as_str() {
        "/kbs/v0/auth" => Some(Step::Auth),
        "/kbs/v0/attest" | "/attestation" => Some(Step::Attest),
        path if path.starts_with("/kbs/v0/") => Some(Step::Resource),
        _ => None,
    }
}

async fn accept(listener: TcpListener, state: Arc<Mutex<State>>, tls: Option<TlsAcceptor>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        state.lock().unwrap().connections += 1;
        let (state, tls) = (Arc::clone(&state), tls.clone());
        connections.spawn(async move {
            match tls {
                // A client that does not like our certificate hangs up.
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => serve(stream, state).await,
                    Err(_) => None,
                },
                None => serve(stream, state).await,
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, state: Arc<Mutex<State>>) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let req = receive(&mut stream, &mut buffer).await?;
        let reply = reply(&state, &req);
        let delay = step_of(&req).and_then(|step| state.lock().unwrap().delays.get(&step).copied());
        tokio::time::sleep(delay.unwrap_or_default()).await;
        match reply {
            Reply::Answer(status, headers, body) => {
                let mut text = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n", body.len());
                for header in headers {
                    text += &format!("{header}\r\n");
                }
                text += "\r\n";
                stream.write_all(&[text.as_bytes(), &body].concat()).await.ok()?;
            }
            Reply::Raw(bytes) => {
                stream.write_all(&bytes).await.ok()?;
                stream.shutdown().await.ok()?;
                return None;
            }
            Reply::Endless(head, again) => {
                stream.write_all(&head).await.ok()?;
                if again.is_empty() {
                    std::future::pending::<()>().await;
                }
                loop {
                    stream.write_all(&again).await.ok()?;
                }
            }
            Reply::Hang => std::future::pending().await,
        }
    }
}

async fn receive<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut Vec<u8>) -> Option<Req> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        (stream.read_buf(buffer).await.ok()? > 0).then_some(())?;
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|l| l.split_once(": ").map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
    while buffer.len() < length {
        (stream.read_buf(buffer).await.ok()? > 0).then_some(())?;
    }
    Some(Req { method, path, headers, body: buffer.drain(..length).collect() })
}

fn reply(state: &Mutex<State>, req: &Req) -> Reply {
    let mut state = state.lock().unwrap();
    state.seen.push(req.clone());
    let Some(step) = step_of(req) else { return Reply::status(404, "") };
    if let Some(reply) = state.scripts.get_mut(&step).and_then(VecDeque::pop_front) {
        return reply;
    }
    if let Some(reply) = state.always.get(&step) {
        return reply.clone();
    }
    match step {
        Step::Auth => auth(&mut state),
        Step::Attest => attest(&mut state, req),
        Step::Resource => resource(&state, req),
    }
}

fn auth(state: &mut State) -> Reply {
    let number = state.seen.len();
    let cookie = format!("{CANARY}{number}");
    let nonce = STANDARD.encode(format!("nonce {number}"));
    state.sessions.insert(cookie.clone(), nonce.clone());
    let headers = vec![
        format!("set-cookie: kbs-session-id={cookie}; Path=/kbs/v0; HttpOnly"),
        "set-cookie: tracker=1".to_owned(),
    ];
    Reply::Answer(200, headers, json!({"nonce": nonce, "extra-params": ""}).to_string().into_bytes())
}

/// Checks cookie, nonce and binding, then issues a token of 100 s.
fn attest(state: &mut State, req: &Req) -> Reply {
    let session = req.header("cookie").and_then(|c| c.strip_prefix("kbs-session-id="));
    let Some(nonce) = session.and_then(|s| state.sessions.remove(s)) else {
        return Reply::problem(401, "AttestationError", "no such session");
    };
    let body = req.json();
    let key = body["runtime-data"]["tee-pubkey"].clone();
    let additional = body["tee-evidence"]["additional_evidence"].as_str().unwrap();
    let expected = binding::primary_report_data(&nonce, &key, additional, HashAlgorithm::Sha384).unwrap();
    if body["runtime-data"]["nonce"] != nonce
        || body["tee-evidence"]["primary_evidence"]["report_data"] != STANDARD.encode(expected)
    {
        return Reply::problem(401, "AttestationError", "report data mismatch");
    }
    let gpus: serde_json::Map<String, Value> =
        (0..state.gpus).map(|n| (format!("gpu{n}"), json!({"ear.status": "affirming"}))).collect();
    let token = token(&json!({"iat": 1000, "exp": 1100, "n": state.seen.len(), "submods": gpus}));
    state.tokens.insert(token.clone(), key);
    state.last_attest = Some(body);
    Reply::status(200, json!({"token": token}).to_string())
}

pub(crate) fn token(claims: &Value) -> String {
    let signature = URL_SAFE_NO_PAD.encode(CANARY);
    format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn resource(state: &State, req: &Req) -> Reply {
    let token = req.header("authorization").and_then(|a| a.strip_prefix("Bearer "));
    match token.and_then(|t| state.tokens.get(t)) {
        Some(key) => {
            let secret = format!("{CANARY} secret of {}", req.path);
            Reply::status(200, jwe::seal(key, secret.as_bytes()).unwrap())
        }
        None => Reply::problem(401, "TokenVerifierError", "token expired"),
    }
}

/// What the honest server has under `path`.
pub(crate) fn secret(path: &str) -> Vec<u8> {
    format!("{CANARY} secret of {path}").into_bytes()
}

/// An address that nobody else gets, and where nobody listens yet: whoever connects is refused.
pub(crate) struct Reserved(TcpSocket);

impl Reserved {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// From now on somebody does.
    pub(crate) fn listen(self) -> TcpListener {
        self.0.listen(64).unwrap()
    }
}

/// Waits until `done`, and panics after five seconds.
pub(crate) async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}
