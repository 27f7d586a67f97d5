//! A token straight from an attestation service, without a KBS (`coco_as`).
//!
//! `POST <url>/attestation` with evidence over *empty* report data. There is no nonce, so the token says that
//! such a machine exists, not that it is on the other end of this connection; nothing of this project releases
//! a secret for it. It is kept for callers of the existing interface.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use cc_crypto::Secret;
use cc_evidence::blame::Blame;
use cc_evidence::{summary, token};
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::client::Client;
use crate::config::KbsConfig;
use crate::error::{KbsError, Reason, Refusal};
use crate::problem::Problem;
use crate::session::within;
use crate::source::EvidenceSource;

const DOING: &str = "asking the attestation service for a token";

/// A client of one attestation service.
#[derive(Debug)]
pub struct AttestationService {
    client: Client,
    longest_wait: Duration,
}

impl AttestationService {
    /// A client of the service that `config` names; its key algorithm plays no part.
    ///
    /// # Errors
    /// [`KbsError::Config`] or [`KbsError::PlainHttp`].
    pub fn new(config: &KbsConfig) -> Result<Self, KbsError> {
        Ok(Self { client: Client::new(config)?, longest_wait: config.pace.longest_wait })
    }

    /// The token text that the service issues for the evidence of `source`. A service that does not answer
    /// is tried again until `deadline`.
    ///
    /// # Errors
    /// Those of `source`, unchanged; else as for a KBS.
    pub async fn token(&self, source: &dyn EvidenceSource, deadline: Instant) -> Result<Secret, KbsError> {
        let tee = within(deadline, "asking for the TEE type", source.tee()).await?;
        let evidence = within(deadline, "collecting evidence", source.primary(Vec::new())).await?;
        let mut backoff = Backoff::new(self.longest_wait);
        let mut earlier = None;
        loop {
            match self.request(&tee, &evidence, deadline).await.map_err(|e| e.or_earlier(earlier.take())) {
                Err(e) if e.blame() == Blame::Unavailable && backoff.wait(deadline).await => {
                    tracing::warn!(code = e.code(), error = %e, "trying the attestation service again");
                    earlier = Some(e);
                }
                result => return result,
            }
        }
    }

    async fn request(&self, tee: &str, evidence: &str, deadline: Instant) -> Result<Secret, KbsError> {
        let body = TokenRequest {
            verification_requests: [Verification { tee, evidence: URL_SAFE_NO_PAD.encode(evidence) }],
            policy_ids: [],
        };
        let body = serde_json::to_vec(&body).map_err(|e| KbsError::bad(DOING, e.to_string()))?;
        let request = Request::post("/attestation")
            .header(CONTENT_TYPE, "application/json")
            .body(Bytes::from(body))
            .map_err(|e| KbsError::bad(DOING, e.to_string()))?;
        let answer = self.client.send(DOING, request, token::MAX_LEN, deadline).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let problem = Problem::of(&answer);
        if matches!(problem.status, 401 | 403) {
            return Err(KbsError::Denied {
                reason: Reason::Attestation,
                refusal: Box::new(Refusal {
                    subject: "the evidence".to_owned(),
                    status: problem.status,
                    kind: problem.kind,
                    detail: problem.detail,
                    sent: summary::essentials(tee, evidence),
                }),
            });
        }
        Err(problem.by_status(DOING.to_owned()))
    }
}

#[derive(Serialize)]
struct TokenRequest<'a> {
    verification_requests: [Verification<'a>; 1],
    policy_ids: [&'a str; 0],
}

#[derive(Serialize)]
struct Verification<'a> {
    tee: &'a str,
    evidence: String,
}
