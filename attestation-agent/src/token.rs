//! Attestation tokens for callers that ask the agent for one.
//!
//! The agent keeps a key broker session of its own for this, apart from the data hub's: the key that fetches
//! secrets never leaves the process that made it, and this one is made to be handed out. Not here: who may
//! have a token ([`crate::access`]).

use std::sync::Arc;
use std::time::Duration;

use cc_kbs::as_token::AttestationService;
use cc_kbs::{BoxFuture, EvidenceSource, KbsConfig, Session, SourceFault};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::config::Config;
use crate::error::AgentError;

/// How long a caller may wait for a token; callers of the existing stack give up after 50 seconds.
const TOKEN_TIME_LIMIT: Duration = Duration::from_secs(45);

/// Where tokens come from.
#[derive(Debug)]
pub struct Tokens {
    kbs: Option<Session>,
    coco_as: Option<AttestationService>,
    evidence: Arc<OwnEvidence>,
}

impl Tokens {
    /// Sessions for the configured servers; nothing is contacted yet.
    ///
    /// # Errors
    /// A URL or certificate that cannot be used.
    pub fn new(agent: &Arc<Agent>, config: &Config) -> Result<Self, AgentError> {
        let evidence = Arc::new(OwnEvidence(Arc::clone(agent)));
        let session = |c: &KbsConfig| {
            let source: Arc<dyn EvidenceSource> = Arc::clone(&evidence) as _;
            Session::new(c.clone(), source)
        };
        let kbs = config.kbs.as_ref().map(session).transpose()?;
        let coco_as = config.coco_as.as_ref().map(AttestationService::new).transpose()?;
        Ok(Self { kbs, coco_as, evidence })
    }

    /// Finds out whether the configured servers could be used; makes no connection.
    ///
    /// # Errors
    /// A URL or certificate that cannot be used.
    pub fn check(config: &Config) -> Result<(), AgentError> {
        for server in config.kbs.iter().chain(&config.coco_as) {
            server.check()?;
        }
        Ok(())
    }

    /// A token of the key broker, valid now, with the private key it certifies if `with_key`: JSON
    /// `{"token": "<JWT>", "tee_keypair": "<PEM>"}`.
    ///
    /// # Errors
    /// [`AgentError::TokenNotConfigured`], else what the key broker or the platform says.
    pub async fn kbs(&self, with_key: bool, deadline: Instant) -> Result<Vec<u8>, AgentError> {
        let session = self.kbs.as_ref().ok_or(AgentError::TokenNotConfigured("kbs"))?;
        let attested = session.token(deadline.min(Instant::now() + TOKEN_TIME_LIMIT)).await?;
        let key = if with_key { Some(attested.private_pem()?) } else { None };
        Ok(token_json(attested.token().expose(), key.as_ref().map(cc_crypto::Secret::expose)))
    }

    /// The attestation service's token over evidence with empty report data, as the service sent it.
    ///
    /// # Errors
    /// [`AgentError::TokenNotConfigured`], else what the service or the platform says.
    pub async fn coco_as(&self, deadline: Instant) -> Result<Vec<u8>, AgentError> {
        let service = self.coco_as.as_ref().ok_or(AgentError::TokenNotConfigured("coco_as"))?;
        let deadline = deadline.min(Instant::now() + TOKEN_TIME_LIMIT);
        Ok(service.token(self.evidence.as_ref(), deadline).await?.into_exposed())
    }
}

/// The JSON is put together byte by byte, so that no copy of the key is left in a serializer's buffers. A JWT
/// has no character that JSON escapes, and a PEM text only line feeds.
fn token_json(token: &[u8], key: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(token.len() + key.map_or(0, |k| 2 * k.len()) + 64);
    out.extend_from_slice(b"{\"token\":\"");
    out.extend_from_slice(token);
    out.push(b'"');
    if let Some(pem) = key {
        out.extend_from_slice(b",\"tee_keypair\":\"");
        for byte in pem {
            match byte {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => {}
                other => out.push(*other),
            }
        }
        out.push(b'"');
    }
    out.push(b'}');
    out
}

/// The agent as the source of its own session's evidence.
#[derive(Debug)]
struct OwnEvidence(Arc<Agent>);

impl EvidenceSource for OwnEvidence {
    fn tee(&self) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async { Ok(self.0.tee().to_owned()) })
    }

    fn additional(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async move { self.0.additional_evidence(&report_data).await.map_err(carry) })
    }

    fn primary(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async move { self.0.evidence(&report_data).await.map_err(carry) })
    }

    /// GPUs that wait for it start to work.
    fn devices_accepted(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if let Err(e) = self.0.devices_accepted().await {
                tracing::error!(code = e.code(), error = %e, "the GPUs were accepted and are not set ready");
            }
        })
    }

    fn init_data(&self) -> BoxFuture<'_, Result<Option<String>, cc_kbs::Error>> {
        Box::pin(async { Ok(self.0.init_data().await.and_then(|d| d.toml)) })
    }
}

fn carry(e: AgentError) -> cc_kbs::Error {
    cc_kbs::Error::from(SourceFault {
        blame: e.blame(),
        code: e.code().to_owned(),
        message: e.to_string(),
        hint: e.hint(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_json_is_what_callers_parse() {
        let pem = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let v: serde_json::Value = serde_json::from_slice(&token_json(b"a.b.c", Some(pem))).unwrap();
        assert_eq!(v["token"], "a.b.c");
        assert_eq!(v["tee_keypair"].as_str().unwrap().as_bytes(), pem);
        let v: serde_json::Value = serde_json::from_slice(&token_json(b"a.b.c", None)).unwrap();
        assert!(v.get("tee_keypair").is_none());
    }
}
