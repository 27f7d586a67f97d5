//! One attestation, many secrets.
//!
//! A [`Session`] owns the key pair, the token that vouches for it, and the one warm HTTP client. However many
//! calls ask at once, one handshake runs for all of them and one result or error is handed to each. It runs in
//! a task of its own, so a caller that goes away takes nothing from the others.
//!
//! Rules:
//! * the key pair is new for every handshake and never leaves [`Attested`] except as its PEM text;
//! * a token's life is `exp − iat` on the monotonic clock, because the guest's wall clock is the host's;
//! * from 80 % of its life on, the next call renews it in the background and is served with the old one;
//! * only `unavailable` is retried, with growing scattered waits, within the deadline of those who wait;
//! * a denial is final. A refused *token* costs one new handshake and one more request.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use cc_crypto::{Error as CryptoError, KeyAlgorithm, Secret, TeeKeyPair};
use cc_evidence::blame::Blame;
use cc_evidence::initdata::InitData;
use cc_evidence::summary;
use http::{HeaderValue, Request};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::backoff::Backoff;
use crate::client::Client;
use crate::config::KbsConfig;
use crate::devices;
use crate::error::{KbsError, Reason};
use crate::handshake::{self, Start, Token};
use crate::names::{Lookup, Names};
use crate::resource::{self, Rejection};
use crate::source::EvidenceSource;
use crate::uri::ResourceUri;

mod borrowed;
mod flight;

use flight::{Boarding, Flight};

/// A client of one KBS.
pub struct Session {
    core: Arc<Core>,
}

/// A token and the key pair it vouches for. Cheap to clone.
#[derive(Clone)]
pub struct Attested(Arc<Grant>);

/// State of a session for people and programs; no secret in it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionStatus {
    /// Base URL of the KBS.
    pub url: String,
    /// Whether there is a token that lives.
    pub attested: bool,
    /// Seconds that it still lives, 0 if there is none.
    pub seconds_left: u64,
    /// Handshakes that ended with a token since this session was made.
    pub handshakes: u64,
    /// The last time the KBS said no.
    pub last_denial: Option<Denial>,
    /// Why requests are being tried again, with code and next step; none once one ended.
    pub trouble: Option<String>,
}

/// One denial.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// When, by the wall clock.
    pub at: SystemTime,
    /// Code of the error.
    pub code: String,
    /// Its message: what was refused, what the KBS told, what this machine had sent.
    pub message: String,
}

impl Session {
    /// A session with the KBS that `config` names, with evidence from `source`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`KbsError::Config`] or [`KbsError::PlainHttp`].
    pub fn new(config: KbsConfig, source: Arc<dyn EvidenceSource>) -> Result<Self, KbsError> {
        Ok(Self::over(Client::new(&config)?, &config, source))
    }

    /// As [`Session::new`], for a program that cannot leave the lookup of host names to the C library.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn with_names(
        config: KbsConfig,
        source: Arc<dyn EvidenceSource>,
        names: Arc<dyn Names>,
    ) -> Result<Self, KbsError> {
        Ok(Self::over(Client::with_lookup(&config, Lookup::Own(names))?, &config, source))
    }

    fn over(client: Client, config: &KbsConfig, source: Arc<dyn EvidenceSource>) -> Self {
        let (algorithm, denial_pause) = (config.key_algorithm, config.denial_pause);
        let longest_wait = config.pace.longest_wait;
        let state = Mutex::default();
        Self { core: Arc::new(Core { client, source, algorithm, denial_pause, longest_wait, state }) }
    }

    /// Fetches and opens the resource called `uri`, attesting first if there is no token that lives.
    ///
    /// # Errors
    /// As told by [`Error::blame`](crate::Error::blame); at `deadline` the last reason for trying again, or
    /// [`KbsError::Timeout`].
    pub async fn fetch(&self, uri: &ResourceUri, deadline: Instant) -> Result<Secret, KbsError> {
        let mut backoff = Backoff::new(self.core.longest_wait);
        let mut renewed = false;
        let mut earlier = None;
        loop {
            let failure = match self.try_fetch(uri, deadline, &mut renewed).await {
                Ok(secret) => {
                    self.core.lock().trouble = None;
                    return Ok(secret);
                }
                Err(e) => e.or_earlier(earlier.take()),
            };
            self.core.note_trouble(&failure);
            if failure.blame() != Blame::Unavailable || !backoff.wait(deadline).await {
                self.core.note_denial(&failure);
                return Err(failure);
            }
            tracing::warn!(code = failure.code(), error = %failure, %uri, "trying again");
            earlier = Some(failure);
        }
    }

    /// A token that lives and its key pair, attesting first if there is none.
    ///
    /// # Errors
    /// As for [`Session::fetch`].
    pub async fn token(&self, deadline: Instant) -> Result<Attested, KbsError> {
        let mut backoff = Backoff::new(self.core.longest_wait);
        let mut earlier = None;
        loop {
            match self.attested(deadline).await.map_err(|e| e.or_earlier(earlier.take())) {
                Err(e) if e.blame() == Blame::Unavailable && backoff.wait(deadline).await => {
                    earlier = Some(e)
                }
                result => return result,
            }
        }
    }

    /// What there is to know about this session.
    #[must_use]
    pub fn status(&self) -> SessionStatus {
        let state = self.core.lock();
        let left = state.current.as_ref().map_or(Duration::ZERO, Attested::left);
        SessionStatus {
            url: self.core.client.base().to_owned(),
            attested: !left.is_zero(),
            seconds_left: left.as_secs(),
            handshakes: state.handshakes,
            last_denial: state.last_denial.clone(),
            trouble: state.trouble.clone(),
        }
    }

    /// Base URL of the KBS.
    pub(crate) fn url(&self) -> &str {
        self.core.client.base()
    }

    /// How long the KBS has owed an answer; zero if it owes none.
    pub(crate) fn silence(&self) -> Duration {
        self.core.client.silence().lasts()
    }

    /// Whether the last request to the KBS failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.core.client.silence().is_failing()
    }

    /// Whether a KBS of our protocol version answers: one request to `healthz`, one `auth`. No evidence is
    /// made, no token fetched, nothing retried.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self, deadline: Instant) -> Result<(), KbsError> {
        let core = &self.core;
        // Any answer will do: servers of this protocol need not have the path.
        let health = Request::get("/healthz")
            .body(bytes::Bytes::new())
            .map_err(|e| KbsError::bad("probe", e.to_string()))?;
        core.client.send("asking for health", health, handshake::MAX_ANSWER_LEN, deadline).await?;
        let tee = within(deadline, "asking for the TEE type", core.source.tee()).await?;
        let (start, request) = Start::new(&tee, Value::Null)?;
        let answer = core.client.send("auth", request, handshake::MAX_ANSWER_LEN, deadline).await?;
        start.on_answer(&answer).map(|_| ())
    }

    /// Drops token and key pair, and the result of a handshake that is running: the machine's measurement
    /// changed, so the evidence behind them is old. The next call attests again.
    pub fn forget(&self) {
        let mut state = self.core.lock();
        state.current = None;
        state.denied_until = None;
        state.no_renewal_until = None;
        // Those who already wait for it still get its result; nobody else does.
        state.flight = None;
    }

    async fn try_fetch(
        &self,
        uri: &ResourceUri,
        deadline: Instant,
        renewed: &mut bool,
    ) -> Result<Secret, KbsError> {
        loop {
            let attested = self.attested(deadline).await?;
            let Attested(grant) = &attested;
            let request = resource::request(uri, &grant.bearer)?;
            let doing = format!("fetching {uri}");
            let answer = self.core.client.send(&doing, request, resource::MAX_ANSWER_LEN, deadline).await?;
            let rejection = match resource::on_answer(uri, &answer, &grant.sent) {
                Ok(jwe) => match grant.key.open(&jwe) {
                    Ok(secret) => return Ok(secret),
                    Err(cause) => Rejection::unopened(uri, cause),
                },
                Err(rejection) => rejection,
            };
            let again = rejection.renew && self.core.may_renew(renewed);
            if !again {
                return Err(rejection.error);
            }
            tracing::info!(code = rejection.error.code(), error = %rejection.error, "the token is of no use, attesting again");
            self.core.discard(&attested);
        }
    }

    /// A token that lives, from memory or from the one handshake that runs.
    async fn attested(&self, deadline: Instant) -> Result<Attested, KbsError> {
        let boarding = match Flight::board(&self.core, deadline) {
            Boarding::Unneeded(attested) => return Ok(attested),
            Boarding::Denied(e) => return Err(e),
            Boarding::On(progress) => progress,
        };
        flight::arrival(boarding, deadline).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(flight) = self.core.lock().flight.take() {
            flight.abort();
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Attested {
    /// A `token` for `key` whose life counts from `issued`. `sent` says what the evidence contained.
    fn new(
        token: Token,
        key: TeeKeyPair,
        sent: Vec<(String, String)>,
        issued: Instant,
    ) -> Result<Self, KbsError> {
        Ok(Self(Arc::new(Grant {
            bearer: bearer(&token.text)?,
            token: token.text,
            key,
            sent,
            renew_from: issued + token.life.mul_f64(0.8),
            expires: issued + token.life,
        })))
    }

    /// The token text (a JWT).
    #[must_use]
    pub fn token(&self) -> &Secret {
        &self.0.token
    }

    /// The private key as PEM text, for callers that open resources themselves.
    ///
    /// # Errors
    /// [`KbsError::Key`].
    pub fn private_pem(&self) -> Result<Secret, KbsError> {
        self.0.key.private_pem().map_err(KbsError::Key)
    }

    /// How long the token still lives.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.0.expires.saturating_duration_since(Instant::now())
    }

    fn is_alive(&self) -> bool {
        Instant::now() < self.0.expires
    }

    fn wants_renewal(&self) -> bool {
        Instant::now() >= self.0.renew_from
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Attested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attested")
            .field("token", &self.0.token)
            .field("left", &self.left())
            .finish_non_exhaustive()
    }
}

struct Grant {
    token: Secret,
    bearer: HeaderValue,
    key: TeeKeyPair,
    sent: Vec<(String, String)>,
    renew_from: Instant,
    expires: Instant,
}

struct Core {
    client: Client,
    source: Arc<dyn EvidenceSource>,
    algorithm: KeyAlgorithm,
    denial_pause: Duration,
    longest_wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Attested>,
    /// A renewal of `current` failed for good: it is used up without another try.
    renewal_refused: bool,
    flight: Option<Flight>,
    /// Flights so far, which is the number of the last one.
    flights: u64,
    handshakes: u64,
    last_denial: Option<Denial>,
    trouble: Option<String>,
    /// The last handshake was denied: until then newcomers get the same answer without another quote.
    denied_until: Option<(Instant, KbsError)>,
    /// A fresh token was as useless as the one before it: until then none is replaced.
    no_renewal_until: Option<Instant>,
}

impl Core {
    /// Why requests are being tried again, for who asks meanwhile.
    fn note_trouble(&self, failure: &KbsError) {
        let trouble = || format!("{failure} [{}]; {}", failure.code(), failure.hint());
        self.lock().trouble = (failure.blame() == Blame::Unavailable).then(trouble);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a token that proved useless may be replaced: once for each call, and not again soon after a
    /// replacement that was of no use either. Otherwise one resource that no token opens would cost a handshake
    /// and a quote for each request.
    fn may_renew(&self, renewed: &mut bool) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        if *renewed {
            state.no_renewal_until = Some(now + self.denial_pause);
        }
        !std::mem::replace(renewed, true) && state.no_renewal_until.is_none_or(|until| now >= until)
    }

    /// Forgets `attested`, unless another token has taken its place already.
    fn discard(&self, attested: &Attested) {
        let mut state = self.lock();
        if state.current.as_ref().is_some_and(|current| current.is(attested)) {
            state.current = None;
        }
    }

    fn note_denial(&self, e: &KbsError) {
        if e.blame() == Blame::Denied {
            let denial = Denial { at: SystemTime::now(), code: e.code().to_owned(), message: e.to_string() };
            self.lock().last_denial = Some(denial);
        }
    }

    /// Runs the handshake; once more if the evidence took so long that the KBS had dropped its session.
    async fn handshake(&self, deadline: Instant) -> Result<Attested, KbsError> {
        let opened = Instant::now();
        match self.handshake_once(deadline).await {
            Err(e @ KbsError::Denied { reason: Reason::Attestation, .. })
                if opened.elapsed() >= handshake::COOKIE_LIFE =>
            {
                tracing::warn!(error = %e, "the session at the KBS was too old, attesting again");
                self.handshake_once(deadline).await
            }
            result => result,
        }
    }

    async fn handshake_once(&self, deadline: Instant) -> Result<Attested, KbsError> {
        match self.attest(deadline).await {
            Err(KbsError::Source(why)) => self.borrow_token(why, deadline).await,
            result => result,
        }
    }

    async fn attest(&self, deadline: Instant) -> Result<Attested, KbsError> {
        let source = &self.source;
        let tee = within(deadline, "asking for the TEE type", source.tee()).await?;
        let key = self.new_key().await?;
        let (start, request) = Start::new(&tee, key.public_jwk())?;
        let answer = self.client.send("auth", request, handshake::MAX_ANSWER_LEN, deadline).await?;
        let challenged = start.on_answer(&answer)?;

        let report_data = challenged.device_report_data()?;
        let additional =
            within(deadline, "collecting device evidence", source.additional(report_data)).await?;
        let gpus = devices::gpus_in(&additional);
        let devices = summary::additional_essentials(&additional);
        let bound = challenged.with_devices(additional);
        let primary = within(deadline, "collecting evidence", source.primary(bound.report_data()?)).await?;
        let init_data = within(deadline, "asking for the init-data", source.init_data()).await?;
        let sent = summary_of(&tee, &primary, devices, init_data.as_deref());

        let (attesting, request) = bound.attest(&primary, init_data.as_deref())?;
        // The token is made after this moment, so a life counted from here ends early rather than late.
        let issued = Instant::now();
        let answer = self.client.send("attest", request, handshake::MAX_ANSWER_LEN, deadline).await?;
        let token = attesting.on_answer(&answer, &sent)?;
        self.tell_devices(gpus, devices::gpus_affirmed_by(&token.text));
        Attested::new(token, key, sent, issued)
    }

    /// Lets the source's GPUs know if as many are `affirmed` as evidence was `sent` of. In a task of its own: secrets do not
    /// wait for devices that are slow to take notice, and those are not left half way.
    fn tell_devices(&self, sent: usize, affirmed: usize) {
        if sent == 0 {
            return;
        }
        if affirmed != sent {
            tracing::info!(sent, affirmed, "the token does not vouch for every GPU: they are not told so");
            return;
        }
        let source = Arc::clone(&self.source);
        tokio::spawn(async move {
            source.devices_accepted().await;
            tracing::debug!(gpus = sent, "the GPUs were told that they are accepted");
        });
    }

    /// A new key pair, made on a blocking thread: RSA takes its time.
    async fn new_key(&self) -> Result<TeeKeyPair, KbsError> {
        let algorithm = self.algorithm;
        tokio::task::spawn_blocking(move || TeeKeyPair::generate(algorithm))
            .await
            .unwrap_or(Err(CryptoError::Library { doing: "generating a key pair" }))
            .map_err(KbsError::Key)
    }
}

/// Waits for an evidence source until `deadline`.
pub(crate) async fn within<T>(
    deadline: Instant,
    doing: &str,
    work: impl Future<Output = Result<T, KbsError>>,
) -> Result<T, KbsError> {
    timeout_at(deadline, work).await.unwrap_or_else(|_| Err(KbsError::Timeout { doing: doing.to_owned() }))
}

/// What the KBS is told about this machine, for people.
fn summary_of(
    tee: &str,
    primary: &str,
    devices: Vec<(String, String)>,
    init_data: Option<&str>,
) -> Vec<(String, String)> {
    let mut sent = summary::essentials(tee, primary);
    sent.extend(devices);
    // A document that does not parse is the KBS's to refuse; then there is no digest to show.
    if let Some(document) = init_data.and_then(|body| InitData::parse(body).ok()) {
        sent.push(("init-data digest".to_owned(), hex::encode(document.digest())));
    }
    sent
}

fn bearer(token: &Secret) -> Result<HeaderValue, KbsError> {
    let mut header = HeaderValue::from_bytes(&[b"Bearer ", token.expose()].concat())
        .map_err(|_| KbsError::bad("the answer to attest", "a token that cannot be a header"))?;
    header.set_sensitive(true);
    Ok(header)
}
