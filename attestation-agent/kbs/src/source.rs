//! Where evidence comes from.
//!
//! In the agent that is the platform in the same process, in the hub a call to the agent. What is *not*
//! decided here: which report data is asked for (the handshake does that) and what the evidence means.

use std::fmt;
use std::pin::Pin;

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
