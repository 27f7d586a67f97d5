//! The RCAR handshake (request, challenge, attestation, response) as a state machine without I/O.
//!
//! ```text
//! Start ──auth──► Challenged ──device evidence──► Bound ──attest──► Attesting ──► Token
//! ```
//!
//! Every step hands out the next [`Request`] (with a path relative to the KBS's base URL) and takes the
//! [`Response`] to it; who sends them, and who makes the evidence, is not known here. The order of
//! binding is fixed by the types: device evidence is part of what the primary evidence signs, so there is no
//! way to ask for the primary report data without it.
//!
//! Protocol: KBS attestation protocol 0.4.0 of Trustee, `POST /kbs/v0/auth` and `POST /kbs/v0/attest`.

use std::time::Duration;

use bytes::Bytes;
use cc_crypto::Secret;
use cc_evidence::{HashAlgorithm, binding, token};
use http::header::{CONTENT_TYPE, COOKIE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{KbsError, Reason, Refusal};
use crate::problem::Problem;
use crate::{PROTOCOL_VERSION, foreign};

mod cookie;

/// Longest answer to `auth` or `attest`, in bytes. A token with the claims of several devices takes some
/// hundred KiB at most.
pub const MAX_ANSWER_LEN: usize = 1024 * 1024;
/// How long a KBS keeps a session that was opened by `auth`.
pub const COOKIE_LIFE: Duration = Duration::from_secs(5 * 60);
/// Life of a token that does not say it: the default life of the tokens of Trustee.
pub const UNSTATED_TOKEN_LIFE: Duration = Duration::from_secs(5 * 60);
/// A token is renewed after a day, however long it claims to live.
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Longest nonce accepted, in bytes. For IBM Secure Execution it is a JSON text of some KiB.
const MAX_NONCE_LEN: usize = 64 * 1024;

const AUTH: &str = "the answer to auth";
const ATTEST: &str = "the answer to attest";

/// Nothing sent yet.
#[derive(Debug)]
pub struct Start {
    tee: String,
    tee_pubkey: Value,
}

/// The KBS answered with a nonce; device evidence is wanted.
#[derive(Debug)]
pub struct Challenged {
    tee_pubkey: Value,
    nonce: String,
    hash: HashAlgorithm,
    cookie: HeaderValue,
}

/// Device evidence is fixed; primary evidence is wanted.
#[derive(Debug)]
pub struct Bound {
    challenged: Challenged,
    additional_evidence: String,
}

/// Evidence is on its way.
#[derive(Debug)]
pub struct Attesting(());

/// What the KBS gives an attested guest.
#[derive(Debug)]
pub struct Token {
    /// The JWT text.
    pub text: Secret,
    /// How long it lives from its making: `exp − iat`, or [`UNSTATED_TOKEN_LIFE`].
    pub life: Duration,
}

impl Start {
    /// A handshake for the primary TEE called `tee`, binding the public key `tee_pubkey` (a JWK). The request
    /// opens the session.
    ///
    /// # Errors
    /// None in practice; [`KbsError::BadResponse`] if the request cannot be written.
    pub fn new(tee: &str, tee_pubkey: Value) -> Result<(Self, Request<Bytes>), KbsError> {
        let body = AuthRequest {
            version: PROTOCOL_VERSION,
            tee,
            extra_params: Offer { supported_hash_algorithms: HashAlgorithm::ALL.map(HashAlgorithm::as_str) },
        };
        Ok((Self { tee: tee.to_owned(), tee_pubkey }, post("/kbs/v0/auth", &body, None)?))
    }

    /// Takes the answer to `auth`.
    ///
    /// # Errors
    /// [`KbsError::ProtocolVersion`], [`KbsError::Denied`] (401 is final here), [`KbsError::ServerError`],
    /// [`KbsError::Redirect`] or [`KbsError::BadResponse`].
    pub fn on_answer(self, answer: &Response<Secret>) -> Result<Challenged, KbsError> {
        if answer.status() != StatusCode::OK {
            return Err(self.refused(Problem::of(answer)));
        }
        let challenge: ChallengeBody<'_> =
            foreign::json_object(answer.body().expose()).map_err(|why| KbsError::bad(AUTH, why))?;
        if challenge.nonce.is_empty() || challenge.nonce.len() > MAX_NONCE_LEN {
            return Err(KbsError::bad(AUTH, format!("a nonce of {} bytes", challenge.nonce.len())));
        }
        Ok(Challenged {
            tee_pubkey: self.tee_pubkey,
            hash: selected_hash(challenge.extra_params)?,
            nonce: challenge.nonce,
            cookie: cookie::of(answer.headers())?,
        })
    }

    fn refused(&self, problem: Problem) -> KbsError {
        if problem.kind() != "AttestationError" && !matches!(problem.status, 401 | 403) {
            return problem.by_status("opening a session at the KBS".to_owned());
        }
        if let Some(theirs) = other_version(&problem.detail) {
            return KbsError::ProtocolVersion { theirs, detail: problem.detail };
        }
        denied(Reason::Auth, "to open a session", problem, vec![("tee".to_owned(), self.tee.clone())])
    }
}

impl Challenged {
    /// Report data for every additional device: the digest of nonce and key.
    ///
    /// # Errors
    /// [`KbsError::Binding`].
    pub fn device_report_data(&self) -> Result<Vec<u8>, KbsError> {
        Ok(binding::device_report_data(&self.nonce, &self.tee_pubkey, self.hash)?)
    }

    /// Fixes the evidence of the additional devices: compact JSON text, or empty if there is none. It is
    /// opaque from here on and sent as it is.
    #[must_use]
    pub fn with_devices(self, additional_evidence: String) -> Bound {
        Bound { challenged: self, additional_evidence }
    }
}

impl Bound {
    /// Report data for the primary TEE: the digest of nonce, key and device evidence.
    ///
    /// # Errors
    /// [`KbsError::Binding`].
    pub fn report_data(&self) -> Result<Vec<u8>, KbsError> {
        let Challenged { nonce, tee_pubkey, hash, .. } = &self.challenged;
        Ok(binding::primary_report_data(nonce, tee_pubkey, &self.additional_evidence, *hash)?)
    }

    /// The request that carries the evidence. `primary` is JSON text and is embedded byte for byte;
    /// `init_data` is the text of the init-data document.
    ///
    /// # Errors
    /// [`KbsError::Evidence`] if `primary` is not JSON.
    pub fn attest(
        self,
        primary: &str,
        init_data: Option<&str>,
    ) -> Result<(Attesting, Request<Bytes>), KbsError> {
        let primary_evidence: &RawValue =
            serde_json::from_str(primary).map_err(|e| KbsError::Evidence { why: foreign::json_fault(&e) })?;
        let body = AttestRequest {
            init_data: init_data.map(|body| InitDataMember { format: "toml", body }),
            runtime_data: RuntimeData {
                nonce: &self.challenged.nonce,
                tee_pubkey: &self.challenged.tee_pubkey,
            },
            tee_evidence: TeeEvidence { primary_evidence, additional_evidence: &self.additional_evidence },
        };
        Ok((Attesting(()), post("/kbs/v0/attest", &body, Some(self.challenged.cookie.clone()))?))
    }
}

impl Attesting {
    /// Takes the answer to `attest`. `sent` says what the evidence contained, for a denial.
    ///
    /// # Errors
    /// [`KbsError::Denied`], [`KbsError::ServerError`], [`KbsError::Redirect`] or [`KbsError::BadResponse`].
    pub fn on_answer(self, answer: &Response<Secret>, sent: &[(String, String)]) -> Result<Token, KbsError> {
        if answer.status() != StatusCode::OK {
            let problem = Problem::of(answer);
            if problem.kind() == "AttestationError" || matches!(problem.status, 401 | 403) {
                return Err(denied(Reason::Attestation, "the evidence", problem, sent.to_vec()));
            }
            return Err(problem.by_status("attesting to the KBS".to_owned()));
        }
        let body: TokenBody =
            foreign::json_object(answer.body().expose()).map_err(|why| KbsError::bad(ATTEST, why))?;
        Token::read(Secret::new(body.token.into_bytes()), ATTEST)
    }
}

impl Token {
    /// Reads the times of the JWT `text`, which came as (or in) `what`.
    ///
    /// # Errors
    /// [`KbsError::BadResponse`]: it is not a JWT, or expires before it was issued.
    pub fn read(text: Secret, what: &'static str) -> Result<Self, KbsError> {
        let claims = std::str::from_utf8(text.expose())
            .map_err(|_| KbsError::bad(what, "a token that is not text"))
            .and_then(|t| {
                token::decode(t).map_err(|e| KbsError::bad(what, format!("an unreadable token: {e}")))
            })?;
        let life = match (claims.iat, claims.exp) {
            (Some(iat), Some(exp)) => match exp.checked_sub(iat) {
                Some(seconds) if seconds > 0 => Duration::from_secs(seconds).min(MAX_TOKEN_LIFE),
                _ => return Err(KbsError::bad(what, "a token that expires before it was issued")),
            },
            _ => UNSTATED_TOKEN_LIFE,
        };
        Ok(Self { text, life })
    }
}

/// The hash named by `selected-hash-algorithm`, SHA-384 if there is none. Old servers send an empty string
/// or null in place of the object.
fn selected_hash(extra: Option<&RawValue>) -> Result<HashAlgorithm, KbsError> {
    let text = extra.map_or("null", RawValue::get);
    let named = match text {
        "null" | "\"\"" => None,
        object if object.starts_with('{') => {
            let selection: Selection = serde_json::from_str(object)
                .map_err(|e| KbsError::bad(format!("extra-params in {AUTH}"), foreign::json_fault(&e)))?;
            selection.selected_hash_algorithm
        }
        _ => return Err(KbsError::bad(AUTH, "extra-params is neither an object nor empty")),
    };
    match named {
        None => Ok(HashAlgorithm::Sha384),
        Some(Value::String(name)) => name.parse().map_err(|_| {
            let name = foreign::clean(&name, 40);
            KbsError::bad(AUTH, format!("it selects the hash algorithm {name:?}, which was not offered"))
        }),
        Some(_) => Err(KbsError::bad(AUTH, "selected-hash-algorithm is not a string")),
    }
}

/// `Some` if `detail` complains about the protocol version; inside, the version it names beside ours.
fn other_version(detail: &str) -> Option<Option<String>> {
    let lower = detail.to_ascii_lowercase();
    if !lower.contains("version") {
        return None;
    }
    let is_number = |part: &str| (1..=5).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let named = lower
        .split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .map(|word| word.trim_matches('.'))
        .find(|word| {
            *word != PROTOCOL_VERSION && word.split('.').count() == 3 && word.split('.').all(is_number)
        })
        .map(str::to_owned);
    let complains = lower.contains("protocol version") || lower.contains("version mismatch");
    (named.is_some() || complains).then_some(named)
}

fn denied(reason: Reason, subject: &str, problem: Problem, sent: Vec<(String, String)>) -> KbsError {
    KbsError::Denied {
        reason,
        refusal: Box::new(Refusal {
            subject: subject.to_owned(),
            status: problem.status,
            kind: problem.kind,
            detail: problem.detail,
            sent,
        }),
    }
}

fn post(
    path: &'static str,
    body: &impl Serialize,
    cookie: Option<HeaderValue>,
) -> Result<Request<Bytes>, KbsError> {
    let unwritable = |why: String| KbsError::bad("the request to the KBS", why);
    let body = serde_json::to_vec(body).map_err(|e| unwritable(foreign::json_fault(&e)))?;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .body(Bytes::from(body))
        .map_err(|e| unwritable(e.to_string()))?;
    if let Some(cookie) = cookie {
        request.headers_mut().insert(COOKIE, cookie);
    }
    Ok(request)
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct AuthRequest<'a> {
    version: &'a str,
    tee: &'a str,
    extra_params: Offer,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Offer {
    supported_hash_algorithms: [&'static str; 4],
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ChallengeBody<'a> {
    nonce: String,
    /// Kept as text: a `Value` would take the last of two members of one name without a word.
    #[serde(borrow, default)]
    extra_params: Option<&'a RawValue>,
}

/// The member of `extra-params` that is acted on; the others are for other clients.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Selection {
    /// `Some(Value::Null)` for a null, which is not the same as an absent member.
    #[serde(default, deserialize_with = "present")]
    selected_hash_algorithm: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct AttestRequest<'a> {
    /// Present as null when there is none.
    init_data: Option<InitDataMember<'a>>,
    runtime_data: RuntimeData<'a>,
    tee_evidence: TeeEvidence<'a>,
}

#[derive(Serialize)]
struct InitDataMember<'a> {
    format: &'static str,
    body: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RuntimeData<'a> {
    nonce: &'a str,
    tee_pubkey: &'a Value,
}

/// The one object of the protocol whose members use underscores.
#[derive(Serialize)]
struct TeeEvidence<'a> {
    primary_evidence: &'a RawValue,
    additional_evidence: &'a str,
}

#[derive(Deserialize)]
struct TokenBody {
    token: String,
}

#[cfg(test)]
mod tests;
