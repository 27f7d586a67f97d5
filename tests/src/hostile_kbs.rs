//! A key broker that keeps to the protocol up to a chosen point and then misbehaves.
//!
//! Without a script it is an honest broker of the sample TEE that verifies nothing but the binding: nonce, cookie,
//! the digest in the evidence, the bearer token; resources go out sealed to the attested key. A script replaces the
//! answer to one [`Step`] by anything that can be written to a socket. It speaks HTTP/1.1 by hand, because an HTTP
//! library would refuse to send most of it.
//!
//! Protocol: KBS attestation protocol 0.4.0 of Trustee. It is NOT `dev-kbs`, which is the honest relying party.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cc_crypto::jwe;
use cc_evidence::{HashAlgorithm, binding};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

pub use identity::Identity;
pub use reply::Reply;

use wire::Request;

mod identity;
mod reply;
mod wire;

/// Prefix of every error type of the protocol.
pub const ERROR_TYPE: &str = "https://github.com/confidential-containers/kbs/errors/";
/// Life of a token that the honest half issues, in seconds.
const TOKEN_LIFE: u64 = 300;

/// A step of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `POST /kbs/v0/auth`.
    Auth,
    /// `POST /kbs/v0/attest`.
    Attest,
    /// `GET /kbs/v0/<plugin>/…`.
    Resource,
}

impl Step {
    /// All of them in the order in which a guest takes them.
    pub const ALL: [Self; 3] = [Self::Auth, Self::Attest, Self::Resource];

    fn of(request: &Request) -> Option<Self> {
        match (request.method.as_str(), request.path.strip_prefix("/kbs/v0/")?) {
            ("POST", "auth") => Some(Self::Auth),
            ("POST", "attest") => Some(Self::Attest),
            ("GET", _) => Some(Self::Resource),
            _ => None,
        }
    }
}

/// What a script knows when it answers.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// How often this step was asked since the script was set, this time included.
    pub number: usize,
    /// Public key of the last guest that attested; null before that.
    pub tee_pubkey: Value,
    /// Name of the TEE that opened the session.
    pub tee: String,
}

type Script = Arc<dyn Fn(&Exchange) -> Reply + Send + Sync>;

/// One step's script and how often it was asked.
#[derive(Default, Clone)]
struct Act {
    script: Option<Script>,
    asked: usize,
}

#[derive(Default)]
struct State {
    auth: Act,
    attest: Act,
    resource: Act,
    nonces: u64,
    nonce: String,
    cookie: String,
    tee: String,
    tee_pubkey: Value,
    token: String,
    /// Hash by which the evidence of the last `attest` was bound.
    bound_by: Option<HashAlgorithm>,
    tls: Option<TlsAcceptor>,
}

impl State {
    fn act(&mut self, step: Step) -> &mut Act {
        match step {
            Step::Auth => &mut self.auth,
            Step::Attest => &mut self.attest,
            Step::Resource => &mut self.resource,
        }
    }
}

/// What the accepting tasks share.
struct Shared {
    secret: Vec<u8>,
    state: Mutex<State>,
    connections: AtomicUsize,
    /// Bytes written, of all connections.
    sent: AtomicU64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running broker on a loopback port; dropping it closes the port.
pub struct HostileKbs {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HostileKbs {
    /// An honest broker for `secret`, which is what it gives for every path, on a free port.
    ///
    /// # Errors
    /// No port, no thread.
    pub fn start(secret: &[u8]) -> anyhow::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), secret)
    }

    /// The same at `address`.
    ///
    /// # Errors
    /// The address is taken, no thread.
    pub fn start_at(address: SocketAddr, secret: &[u8]) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            secret: secret.to_vec(),
            state: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address)).context("binding the hostile broker")?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let accepting = accept(listener, Arc::clone(&shared));
        let thread = std::thread::Builder::new().name("hostile-kbs".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
            // Whatever still trickles or is silent ends here.
            runtime.shutdown_background();
        })?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL for plain HTTP.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops listening and drops all connections.
    pub fn close(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Answers `step` by `script` from now on, and counts it anew.
    pub fn on(&self, step: Step, script: impl Fn(&Exchange) -> Reply + Send + Sync + 'static) {
        *self.shared.lock().act(step) = Act { script: Some(Arc::new(script)), asked: 0 };
    }

    /// Is honest in all steps from now on, and counts them anew.
    pub fn behave(&self) {
        for step in Step::ALL {
            *self.shared.lock().act(step) = Act::default();
        }
    }

    /// Forgets the token that it issued, as a broker that was restarted without its state.
    pub fn lose_sessions(&self) {
        let mut state = self.shared.lock();
        state.token.clear();
        state.cookie.clear();
    }

    /// Speaks TLS as `identity` with connections from now on; plain HTTP with `None`.
    ///
    /// # Errors
    /// The certificate or the key cannot be used.
    pub fn present(&self, identity: Option<&Identity>) -> anyhow::Result<()> {
        self.shared.lock().tls = identity.map(Identity::acceptor).transpose()?;
        Ok(())
    }

    /// How often `step` was asked since its script was set.
    pub fn asked(&self, step: Step) -> usize {
        self.shared.lock().act(step).asked
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Hash by which the last attested evidence was bound to nonce and key.
    pub fn bound_by(&self) -> Option<HashAlgorithm> {
        self.shared.lock().bound_by
    }
}

impl Drop for HostileKbs {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for HostileKbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostileKbs").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let tls = shared.lock().tls.clone();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A peer that goes away, or refuses our certificate, is what these tests are about.
            let _ = match tls {
                None => wire::converse(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => wire::converse(stream, &shared).await,
                    Err(e) => Err(e),
                },
            };
        });
    }
}

/// The answer to `request`: the script's, or the honest one.
fn answer(shared: &Shared, request: &Request) -> Reply {
    let Some(step) = Step::of(request) else { return Reply::http(404, "") };
    let (script, exchange) = {
        let mut state = shared.lock();
        if step == Step::Auth {
            state.tee = request.json().get("tee").and_then(Value::as_str).unwrap_or_default().to_owned();
        }
        if step == Step::Attest {
            // Known to the script too: it may want to seal to the key.
            state.tee_pubkey =
                request.json().pointer("/runtime-data/tee-pubkey").cloned().unwrap_or_default();
        }
        let act = state.act(step);
        act.asked += 1;
        let (script, number) = (act.script.clone(), act.asked);
        (script, Exchange { number, tee_pubkey: state.tee_pubkey.clone(), tee: state.tee.clone() })
    };
    match script.map_or(Reply::Honest, |script| script(&exchange)) {
        Reply::Honest => honest(shared, step, request),
        Reply::Challenge(body) => challenge(&mut shared.lock(), &body),
        Reply::Token(claims) => issue(&mut shared.lock(), jwt(&claims)),
        other => other,
    }
}

fn honest(shared: &Shared, step: Step, request: &Request) -> Reply {
    let mut state = shared.lock();
    match step {
        Step::Auth if request.json().get("version") != Some(&json!("0.4.0")) => {
            Reply::problem(401, "AttestationError", "protocol version mismatch: expect 0.4.0")
        }
        Step::Auth => challenge(&mut state, r#"{"nonce":"NONCE","extra-params":""}"#),
        Step::Attest => attest(&mut state, request),
        Step::Resource => {
            let bearer = request.header("authorization").and_then(|v| v.strip_prefix("Bearer "));
            if state.token.is_empty() || bearer != Some(state.token.as_str()) {
                return Reply::problem(401, "TokenNotFound", "attestation token not found");
            }
            match jwe::seal(&state.tee_pubkey, &shared.secret) {
                Ok(sealed) => Reply::http(200, sealed),
                Err(_) => Reply::problem(401, "JweError", "the key cannot be used"),
            }
        }
    }
}

/// A challenge whose body is `body` with a fresh nonce in the place of `NONCE`, and a fresh cookie.
fn challenge(state: &mut State, body: &str) -> Reply {
    state.nonces += 1;
    let mut raw = [0x5a; 32];
    raw.iter_mut().zip(state.nonces.to_be_bytes()).for_each(|(to, from)| *to = from);
    state.nonce = STANDARD.encode(raw);
    state.cookie = format!("kbs-session-id={:032x}", state.nonces);
    let set_cookie = format!("{}; Path=/kbs/v0; HttpOnly", state.cookie);
    Reply::http(200, body.replace("NONCE", &state.nonce)).with("Set-Cookie", &set_cookie)
}

fn attest(state: &mut State, request: &Request) -> Reply {
    let refused = |detail: &str| Reply::problem(401, "AttestationError", detail);
    if state.cookie.is_empty() || request.header("cookie") != Some(state.cookie.as_str()) {
        return refused("no such session");
    }
    let body = request.json();
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    // A script may have given another nonce; then only the script knows it.
    let nonce = text("/runtime-data/nonce");
    let additional = text("/tee-evidence/additional_evidence");
    let Ok(found) = STANDARD.decode(text("/tee-evidence/primary_evidence/report_data")) else {
        return refused("the evidence is not of the sample TEE");
    };
    state.bound_by = HashAlgorithm::ALL.into_iter().find(|hash| {
        binding::primary_report_data(nonce, &state.tee_pubkey, additional, *hash)
            .is_ok_and(|expected| expected == found)
    });
    if state.bound_by.is_none() {
        return refused("report_data mismatch");
    }
    let now = unix_now();
    issue(state, jwt(&json!({"iat": now, "exp": now + TOKEN_LIFE, "jti": state.nonces})))
}

fn issue(state: &mut State, token: String) -> Reply {
    let reply = Reply::http(200, json!({ "token": token }).to_string());
    state.token = token;
    reply
}

/// A token with `claims` whose signature is nobody's: guests do not look at it.
pub fn jwt(claims: &Value) -> String {
    let part = |text: String| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2lnbmF0dXJl", part(r#"{"alg":"ES256","typ":"JWT"}"#.to_owned()), part(claims.to_string()))
}

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
