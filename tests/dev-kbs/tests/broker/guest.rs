//! The two sides of a test: a broker in process, and a guest that speaks the protocol to it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cc_crypto::{Jwe, KeyAlgorithm, TeeKeyPair};
use cc_evidence::{HashAlgorithm, binding, sample};
use cc_verify::TrustRoots;
use dev_kbs::admin::Admin;
use dev_kbs::clock::unix_now;
use dev_kbs::collateral::CollateralStore;
use dev_kbs::server::{Kbs, Rules};
use dev_kbs::state::StateDir;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

/// Rules that accept the sample TEE, over TLS.
pub(crate) fn rules() -> Rules {
    Rules {
        roots: TrustRoots::vendor(),
        collateral: CollateralStore::default(),
        cca_keys: cc_verify::cca::PlatformKeys::default(),
        allow_sample: true,
        hash_algorithm: None,
        token_lifetime: Duration::from_secs(300),
        session_lifetime: Duration::from_secs(300),
        strict_upstream_status: false,
        tls: true,
    }
}

/// A broker with a fresh state directory.
pub(crate) struct Broker {
    router: Router,
    pub(crate) admin_token: String,
    pub(crate) place: tempfile::TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Checks status and error type of a refusal; gives its detail.
    pub(crate) fn refusal(&self, status: u16, variant: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        let problem = self.json();
        let expected = format!("https://github.com/confidential-containers/kbs/errors/{variant}");
        assert_eq!(problem["type"], expected.as_str(), "{problem}");
        problem["detail"].as_str().unwrap().to_owned()
    }

    pub(crate) fn good(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

impl Broker {
    pub(crate) fn start(rules: Rules) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), rules)
    }

    /// Stops this broker and starts another with the same state.
    pub(crate) fn restart(self, rules: Rules) -> Self {
        let Self { router, place, .. } = self;
        drop(router);
        Self::start_in(place, rules)
    }

    fn start_in(place: tempfile::TempDir, rules: Rules) -> Self {
        let state = StateDir::open(place.path()).unwrap();
        let admin_token = Admin::load_or_create(&state).unwrap().token(unix_now(), 60);
        Self { router: Arc::clone(&Kbs::open(&state, rules).unwrap()).router(), admin_token, place }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/kbs/v0/{path}"));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(header::HeaderName, &str)]) -> Answer {
        self.send(Method::GET, path, headers, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, cookie: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[(header::COOKIE, cookie)], body.to_string()).await
    }

    /// A request with the admin token.
    pub(crate) async fn administer(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        let bearer = format!("Bearer {}", self.admin_token);
        self.send(method, path, &[(header::AUTHORIZATION, &bearer)], body).await
    }

    pub(crate) async fn set_reference_values(&self, values: &Value) {
        let payload = STANDARD.encode(values.to_string());
        let message = json!({ "version": "0.1.0", "type": "sample", "payload": payload });
        self.administer(Method::POST, "reference-value", message.to_string()).await.good();
    }

    /// Reference values under which the sample TEE is affirming.
    pub(crate) async fn know_the_sample(&self) {
        self.set_reference_values(&json!({ "launch_digest": ["abcde"], "svn": ["1"],
            "major_version": 1, "minimum_minor_version": 4 }))
            .await;
    }

    pub(crate) async fn set_policy(&self, text: &str) -> Answer {
        let body = json!({ "policy": URL_SAFE_NO_PAD.encode(text) });
        self.administer(Method::POST, "resource-policy", body.to_string()).await
    }

    pub(crate) async fn store(&self, path: &str, bytes: &'static [u8]) {
        self.administer(Method::POST, &format!("resource/{path}"), bytes).await.good();
    }
}

/// A guest with an open session.
pub(crate) struct Guest {
    pub(crate) key: TeeKeyPair,
    pub(crate) nonce: String,
    pub(crate) hash: HashAlgorithm,
    /// Name and value, as it is sent back.
    pub(crate) cookie: String,
}

impl Guest {
    /// Opens a session with a new P-256 key.
    pub(crate) async fn arrive(broker: &Broker, tee: &str) -> Self {
        Self::arrive_with(broker, tee, KeyAlgorithm::EcdhP256).await
    }

    pub(crate) async fn arrive_with(broker: &Broker, tee: &str, algorithm: KeyAlgorithm) -> Self {
        let answer = broker.post("auth", "", &auth("0.4.0", tee)).await.good();
        let challenge = answer.json();
        let set = answer.headers[header::SET_COOKIE].to_str().unwrap();
        let hash = match challenge["extra-params"].get("selected-hash-algorithm") {
            Some(name) => name.as_str().unwrap().parse().unwrap(),
            None => HashAlgorithm::Sha384,
        };
        Self {
            key: TeeKeyPair::generate(algorithm).unwrap(),
            nonce: challenge["nonce"].as_str().unwrap().to_owned(),
            hash,
            cookie: set.split(';').next().unwrap().to_owned(),
        }
    }

    /// Digest for the primary TEE, with no other devices.
    pub(crate) fn report_data(&self) -> Vec<u8> {
        binding::primary_report_data(&self.nonce, &self.key.public_jwk(), "", self.hash).unwrap()
    }

    /// The `attest` body with this guest's nonce and key.
    pub(crate) fn request(&self, evidence: &str, additional: &str) -> Value {
        json!({
            "init-data": null,
            "runtime-data": { "nonce": self.nonce, "tee-pubkey": self.key.public_jwk() },
            "tee-evidence": { "primary_evidence": serde_json::from_str::<Value>(evidence).unwrap(),
                              "additional_evidence": additional },
        })
    }

    /// The whole body for the sample TEE.
    pub(crate) fn sample_request(&self) -> Value {
        self.request(&sample::evidence_json(&self.report_data()), "")
    }

    pub(crate) async fn attest(&self, broker: &Broker, body: &Value) -> Answer {
        broker.post("attest", &self.cookie, body).await
    }

    /// Attests with sample evidence and gives the token.
    pub(crate) async fn attest_as_sample(&self, broker: &Broker) -> String {
        token(&self.attest(broker, &self.sample_request()).await.good())
    }

    /// Fetches `path` with the session cookie and opens it.
    pub(crate) async fn fetch(&self, broker: &Broker, path: &str) -> Vec<u8> {
        let answer = self.ask(broker, path).await.good();
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        self.open(&answer.body)
    }

    pub(crate) async fn ask(&self, broker: &Broker, path: &str) -> Answer {
        broker.get(&format!("resource/{path}"), &[(header::COOKIE, &self.cookie)]).await
    }

    pub(crate) fn open(&self, jwe: &[u8]) -> Vec<u8> {
        self.key.open(&Jwe::parse(jwe).unwrap()).unwrap().expose().to_vec()
    }
}

pub(crate) fn auth(version: &str, tee: &str) -> Value {
    json!({ "version": version, "tee": tee,
            "extra-params": { "supported-hash-algorithms": ["sha256", "sha384", "sha512", "sm3"] } })
}

pub(crate) fn token(answer: &Answer) -> String {
    answer.json()["token"].as_str().unwrap().to_owned()
}

/// The claims of a token.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

/// Fetches `path` with `token` as the bearer.
pub(crate) async fn ask_with(broker: &Broker, token: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    broker.get(&format!("resource/{path}"), &[(header::AUTHORIZATION, &bearer)]).await
}
