//! The routes of the protocol, and what each does.
//!
//! A handler takes a request apart, asks the module whose matter it is, and writes the answer; every decision leaves
//! one line in the log, without tokens, nonces or secrets. Source: the key broker protocol of Trustee, version 0.4.0;
//! the deliberate differences are the statuses 403 and 404 (`error`) and the rule document (`policy`).

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_evidence::HashAlgorithm;
use cc_verify::TrustRoots;
use cc_verify::appraisal::ReferenceValues;
use cc_verify::cca::PlatformKeys;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Error;
use crate::admin::{Admin, bearer};
use crate::attest::{self, Attestation};
use crate::clock::unix_now;
use crate::collateral::CollateralStore;
use crate::ear;
use crate::error::UpstreamStatus;
use crate::policy::{self, Policy};
use crate::reference;
use crate::resource::ResourcePath;
use crate::session::{Challenge, SessionId, Sessions};
use crate::state::StateDir;
use crate::store::{RESOURCE_POLICY, Store};
use crate::token::{Signer, Vouched};

/// Largest request body, bytes.
pub const BODY_LIMIT: usize = 2 << 20;
/// Most sessions open at a time.
const SESSIONS: usize = 32_768;
/// What the protocol's paths begin with.
const PREFIX: &str = "/kbs/v0/";

/// What the server goes by; fixed from the start on.
#[derive(Debug)]
pub struct Rules {
    /// Whose certificates make evidence genuine.
    pub roots: TrustRoots,
    /// What says whether a TDX platform is up to date.
    pub collateral: CollateralStore,
    /// The CCA platforms that are known.
    pub cca_keys: PlatformKeys,
    /// Whether the sample TEE counts.
    pub allow_sample: bool,
    /// The hash to select in challenges, if any.
    pub hash_algorithm: Option<HashAlgorithm>,
    /// Life of an attestation token.
    pub token_lifetime: Duration,
    /// Life of a session, from `auth` on.
    pub session_lifetime: Duration,
    /// Whether refusals have Trustee's statuses.
    pub strict_upstream_status: bool,
    /// Whether connections are TLS; cookies are `Secure` then.
    pub tls: bool,
}

/// The key broker.
#[derive(Debug)]
pub struct Kbs {
    rules: Rules,
    store: Store,
    sessions: Sessions,
    signer: Signer,
    admin: Admin,
    policy: RwLock<Arc<Policy>>,
}

impl Kbs {
    /// Opens the broker whose keys and database are in `state`; what is missing there is made.
    ///
    /// # Errors
    /// [`Error::State`], [`Error::KeyFile`] or [`Error::Store`] when the state cannot be used.
    pub fn open(state: &StateDir, rules: Rules) -> Result<Arc<Self>, Error> {
        let store = Store::open(&state.file("kbs.redb"))?;
        let policy = match store.policy(RESOURCE_POLICY)? {
            Some(text) => Policy::parse(&text)?,
            None => Policy::built_in(),
        };
        Ok(Arc::new(Self {
            sessions: Sessions::new(rules.session_lifetime, SESSIONS, rules.tls),
            signer: Signer::load_or_create(state)?,
            admin: Admin::load_or_create(state)?,
            policy: RwLock::new(Arc::new(policy)),
            store,
            rules,
        }))
    }

    /// The routes.
    pub fn router(self: Arc<Self>) -> Router {
        let strict = self.rules.strict_upstream_status;
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/kbs/v0/auth", post(auth).fallback(unrouted))
            .route("/kbs/v0/attest", post(attest).fallback(unrouted))
            .route("/kbs/v0/attestation-policy", post(set_attestation_policy).fallback(unrouted))
            .route("/kbs/v0/reference-value", post(set_reference_values).fallback(unrouted))
            .route("/kbs/v0/reference-value/{*name}", get(reference_value).fallback(unrouted))
            .route("/kbs/v0/resource-policy", get(policies).post(set_policy).fallback(unrouted))
            .route(
                "/kbs/v0/resource/{*path}",
                get(resource).post(put_resource).delete(remove_resource).fallback(unrouted),
            )
            .fallback(unrouted)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .with_state(self);
        if strict { router.layer(map_response(upstream_status)) } else { router }
    }

    fn check_admin(&self, headers: &HeaderMap, what: &str) -> Result<(), Error> {
        self.admin.check(headers, unix_now()).inspect_err(|error| tracing::info!("{what}: refused: {error}"))
    }

    /// What is known of the guest that sent `headers`: by its attested session, else by its token.
    fn guest(&self, headers: &HeaderMap) -> Result<Arc<Vouched>, Error> {
        let now = unix_now();
        match SessionId::from_headers(headers).and_then(|id| self.sessions.attested(id)) {
            Some(vouched) => vouched.check_life(now).map(|()| vouched),
            None => self.signer.verify(bearer(headers).ok_or(Error::TokenNotFound)?, now),
        }
    }

    /// The token for a guest that answered `challenge` with `attestation`.
    fn judge(&self, challenge: &Challenge, attestation: &Attestation) -> Result<(String, Vouched), Error> {
        let now = unix_now();
        let reference_values = ReferenceValues(self.store.reference_values()?);
        let verdict = attestation.appraise(challenge, &self.rules, &reference_values, now)?;
        let lifetime = self.rules.token_lifetime.as_secs();
        let claims =
            ear::claims(now, lifetime, &verdict.devices, &verdict.runtime, verdict.init_data.as_ref());
        Ok((self.signer.sign(&claims)?, Vouched::from_claims(&claims)?))
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn healthz() {}

async fn auth(State(kbs): State<Arc<Kbs>>, body: Bytes) -> Result<Response, Error> {
    let (challenge, extra_params) = attest::challenge(&body, &kbs.rules)
        .inspect_err(|error| tracing::info!("auth: refused: {}", error.for_log()))?;
    tracing::info!(tee = %challenge.tee, hash = %challenge.hash, "auth: challenged");
    let answer = json!({ "nonce": challenge.nonce, "extra-params": extra_params });
    with_cookie(&kbs.sessions.open(challenge)?, &answer)
}

async fn attest(State(kbs): State<Arc<Kbs>>, headers: HeaderMap, body: Bytes) -> Result<Response, Error> {
    let log = |error: &Error| tracing::info!("attest: refused: {}", error.for_log());
    let id = SessionId::from_headers(&headers)
        .ok_or_else(|| Error::Attestation("session: no session cookie came with the request".into()))
        .inspect_err(log)?;
    let attestation = Attestation::parse(&body).inspect_err(log)?;
    let challenge = kbs.sessions.spend(id).inspect_err(log)?;
    let judge = Arc::clone(&kbs);
    let (token, vouched) = blocking(move || judge.judge(&challenge, &attestation)).await.inspect_err(log)?;
    tracing::info!("attest: {}", outcome(&vouched));
    let cookie = kbs
        .sessions
        .settle(id, Arc::new(vouched))
        .ok_or_else(|| Error::Attestation("session: it expired while the evidence was verified".into()))
        .inspect_err(log)?;
    with_cookie(&cookie, &json!({ "token": token }))
}

/// The verdict on a guest in one line.
fn outcome(vouched: &Vouched) -> String {
    let unwell = policy::verdict(&vouched.modules);
    let guest = described(vouched);
    if unwell.is_empty() { format!("{guest} is affirming") } else { format!("{guest}: {unwell}") }
}

/// TEE and measurement of a guest.
fn described(vouched: &Vouched) -> String {
    let cpu = vouched.modules.iter().find(|module| module.name == "cpu0");
    let tee = cpu.map_or("no cpu", |cpu| cpu.tee.as_str());
    let measurement = cpu.and_then(|cpu| cpu.measurement.as_deref()).unwrap_or("none");
    format!("{tee} with measurement {measurement}")
}

async fn resource(State(kbs): State<Arc<Kbs>>, headers: HeaderMap, uri: Uri) -> Result<Response, Error> {
    let log = |error: &Error| tracing::info!("resource {}: refused: {error}", named(&uri));
    let vouched = kbs.guest(&headers).inspect_err(log)?;
    let path: ResourcePath = named(&uri).parse().inspect_err(log)?;
    kbs.policy().decide(&path, &vouched, kbs.rules.allow_sample).inspect_err(log)?;
    let secret = kbs
        .store
        .resource(path.as_str())?
        .ok_or_else(|| Error::ResourceMissing(path.to_string()))
        .inspect_err(log)?;
    let sealed = cc_crypto::jwe::seal(&vouched.tee_pubkey, secret.expose())
        .map_err(|error| Error::Encrypt(error.to_string()))?;
    tracing::info!("resource {path}: given to {}", described(&vouched));
    Ok(json_response(sealed))
}

async fn put_resource(
    State(kbs): State<Arc<Kbs>>,
    headers: HeaderMap,
    uri: Uri,
    body: Bytes,
) -> Result<Response, Error> {
    kbs.check_admin(&headers, "store a resource")?;
    let path: ResourcePath = named(&uri).parse()?;
    let stored = format!("resource {path}: stored, {} bytes", body.len());
    blocking(move || kbs.store.put_resource(path.as_str(), &body)).await?;
    tracing::info!("{stored}");
    Ok(done("text/xml"))
}

async fn remove_resource(
    State(kbs): State<Arc<Kbs>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Error> {
    kbs.check_admin(&headers, "remove a resource")?;
    let path: ResourcePath = named(&uri).parse()?;
    let shown = path.to_string();
    if !blocking(move || kbs.store.remove_resource(path.as_str())).await? {
        return Err(Error::ResourceMissing(shown));
    }
    tracing::info!("resource {shown}: removed");
    Ok(done("text/xml"))
}

/// The part of a request's path that names the resource, undecoded.
fn named(uri: &Uri) -> &str {
    uri.path().strip_prefix("/kbs/v0/resource/").unwrap_or_default()
}

#[derive(Deserialize)]
struct PolicyUpload {
    policy: String,
}

async fn set_policy(State(kbs): State<Arc<Kbs>>, headers: HeaderMap, body: Bytes) -> Result<Response, Error> {
    kbs.check_admin(&headers, "set the resource policy")?;
    let unreadable = |why: &str| Error::PolicyUnreadable(why.to_owned());
    let upload: PolicyUpload = serde_json::from_slice(&body)
        .map_err(|_| unreadable("the body is not {\"policy\":\"<base64url of the rule document>\"}"))?;
    let text = URL_SAFE_NO_PAD
        .decode(upload.policy)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| unreadable("the policy is not base64url without padding of a text"))?;
    let policy = Policy::parse(&text)?;
    blocking(move || {
        // Under the lock, so that memory and disk change in the same order for two uploads at a time.
        let mut current = kbs.policy.write().unwrap_or_else(PoisonError::into_inner);
        kbs.store.put_policy(RESOURCE_POLICY, &text)?;
        *current = Arc::new(policy);
        Ok(())
    })
    .await?;
    tracing::info!("resource policy: replaced");
    Ok(done("application/json"))
}

async fn policies(State(kbs): State<Arc<Kbs>>, headers: HeaderMap) -> Result<Response, Error> {
    kbs.check_admin(&headers, "list the policies")?;
    Ok(json_response(json!([RESOURCE_POLICY]).to_string()))
}

async fn set_attestation_policy(State(kbs): State<Arc<Kbs>>, headers: HeaderMap) -> Result<Response, Error> {
    kbs.check_admin(&headers, "set an attestation policy")?;
    Err(Error::PolicyUnreadable(
        "this server appraises evidence by a fixed table, the one of Trustee's built-in policies, and runs no Rego; \
         steer it with reference values (POST reference-value)"
            .into(),
    ))
}

async fn set_reference_values(
    State(kbs): State<Arc<Kbs>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Error> {
    kbs.check_admin(&headers, "set reference values")?;
    let values = reference::parse(&body)?;
    let names = values.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    blocking(move || kbs.store.put_reference_values(&values)).await?;
    tracing::info!("reference values set: {names}");
    Ok(done("application/json"))
}

async fn reference_value(
    State(kbs): State<Arc<Kbs>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, Error> {
    kbs.check_admin(&headers, "read a reference value")?;
    match kbs.store.reference_value(&name)? {
        Some(value) => Ok(json_response(value.to_string())),
        None => Err(Error::ReferenceMissing(name)),
    }
}

/// Everything no route takes. The first segment of a path that is no endpoint names a plugin.
async fn unrouted(method: Method, uri: Uri) -> Response {
    let Some(rest) = uri.path().strip_prefix(PREFIX) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let plugin = rest.split('/').next().unwrap_or_default();
    let routed = [Method::GET, Method::POST, Method::PUT, Method::DELETE].contains(&method);
    if !routed || (plugin == "resource" && method == Method::PUT) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if plugin == "resource" {
        return Error::ResourcePath(named(&uri).to_owned()).into_response();
    }
    Error::PluginNotFound(plugin.to_owned()).into_response()
}

/// Runs `work` where it may take its time: signature checks, and writes that wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Internal("a worker thread ended early")))
}

async fn upstream_status(mut response: Response) -> Response {
    if let Some(UpstreamStatus(status)) = response.extensions().get() {
        *response.status_mut() = *status;
    }
    response
}

fn with_cookie(cookie: &str, answer: &Value) -> Result<Response, Error> {
    let mut response = json_response(answer.to_string());
    let mut value = HeaderValue::from_str(cookie)
        .map_err(|_| Error::Internal("a session cookie could not be written"))?;
    value.set_sensitive(true);
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

fn json_response(body: impl Into<Body>) -> Response {
    typed("application/json", body)
}

/// The empty answer to an accepted write; the protocol names an odd media type for some.
fn done(media_type: &'static str) -> Response {
    typed(media_type, Body::empty())
}

fn typed(media_type: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, media_type)], body.into()).into_response()
}
