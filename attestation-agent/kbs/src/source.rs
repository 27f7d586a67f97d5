//! Where evidence comes from.
//!
//! In the agent that is the platform in the same process, in the hub a call to the agent. What is *not*
//! decided here: which report data is asked for (the handshake does that) and what the evidence means.

use std::fmt;
use std::pin::Pin;

use cc_crypto::{Secret, TeeKeyPair};
use cc_evidence::blame::Blame;
use thiserror::Error;

use crate::error::KbsError;

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Gives evidence about the machine this runs on. A failure is a [`SourceFault`] inside an
/// [`Error`](crate::Error) and reaches the caller unchanged; one with the blame `unavailable` is retried.
pub trait EvidenceSource: Send + Sync + fmt::Debug {
    /// Name of the primary TEE on the wire (`snp`, `tdx`, …).
    fn tee(&self) -> BoxFuture<'_, Result<String, KbsError>>;

    /// Evidence of all additional devices over `report_data`: the compact JSON text of one object with a
    /// member per TEE name, or the empty string if there is no device.
    fn additional(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, KbsError>>;

    /// Evidence of the primary TEE over `report_data`: JSON text.
    fn primary(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, KbsError>>;

    /// Text of the init-data document that the machine was started with, if any.
    fn init_data(&self) -> BoxFuture<'_, Result<Option<String>, KbsError>>;

    /// A KBS vouches for every one of this source's GPUs, whose evidence it was sent. For sources whose devices wait for
    /// that; whatever goes wrong there is the source's to tell. Nobody waits for it.
    fn devices_accepted(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// The last resort of a source that cannot give evidence at all: a token that it got for itself, with the
    /// key pair that the token vouches for. Asked only after one of the other methods failed with `why`.
    /// `None`, which is what a source says unless it is made otherwise: `why` stands.
    fn token<'a>(&'a self, why: &'a SourceFault) -> BoxFuture<'a, Result<Option<BorrowedToken>, KbsError>> {
        let _ = why;
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A token made by somebody else, and its key pair.
#[derive(Debug)]
pub struct BorrowedToken {
    /// The JWT text.
    pub text: Secret,
    /// The key pair that the token vouches for.
    pub key: TeeKeyPair,
}

/// An error of the evidence source, carried through as it is.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct SourceFault {
    /// Who has to act.
    pub blame: Blame,
    /// Stable name.
    pub code: String,
    /// What happened.
    pub message: String,
    /// The next step for the operator.
    pub hint: String,
}
