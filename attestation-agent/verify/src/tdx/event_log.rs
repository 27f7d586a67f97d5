//! The event log of TDX evidence: does it lead to the registers of the quote, and what does it say.
//!
//! A log is replayed with SHA-384 into the four run-time registers; a register without events must be zero.
//! Only digests are bound by that. The text of a record is the firmware's or the guest's word, unless its digest is that of
//! the record's own bytes: `digest_matches_event` says so for each record, and a policy that reads texts must ask for it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cc_evidence::HashAlgorithm;
use cc_evidence::ccel::{Digest, Event, Events, replay, type_name};
use serde::Serialize;
use serde_json::Value;

use crate::Rejection;

mod details;

/// One record, under the names of Trustee's verifiers.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EventClaim {
    /// Register. In logs of confidential guests 1 to 4 for RTMR 0 to 3, and 0 for what extends none of them; in logs of a
    /// TPM the number of the PCR.
    pub index: u32,
    /// Name of the type, `UNKNOWN` for one that the TCG profile lacks.
    pub type_name: &'static str,
    /// The record's data, standard base64.
    pub event: String,
    /// The digests.
    pub digests: Vec<DigestClaim>,
    /// What the data says, as far as its type is understood; otherwise an empty object.
    pub details: Value,
    /// The record extends a register, and every digest of a known algorithm is that of the data: the text is what was
    /// measured.
    pub digest_matches_event: bool,
}

/// One digest of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DigestClaim {
    /// Name of the algorithm, for example `SHA-384`.
    pub alg: String,
    /// Hexadecimal.
    pub digest: String,
}

/// What the numbers of registers in a log mean: the format leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Of a confidential guest: 0 stands for the initial content, which no record extends, 1 to 4 for RTMR 0 to 3.
    RunTime,
    /// Of a TPM: PCR 0 to 23.
    Pcr,
}

impl Numbering {
    /// Whether the record extends a register, so that a quote can vouch for its digest.
    fn extends(self, event: &Event<'_>) -> bool {
        event.is_measured() && (self == Self::Pcr || event.register != 0)
    }
}

/// Replays `log` against the registers of a quote and gives its records.
pub(super) fn verify(log: &[u8], rtmr: &[[u8; 48]; 4]) -> Result<Vec<EventClaim>, Rejection> {
    let broken = |e: cc_evidence::Error| Rejection::EventLog { why: e.to_string() };
    let registers = replay(log, HashAlgorithm::Sha384).map_err(broken)?;
    for (number, (replayed, quoted)) in registers.run_time().zip(rtmr).enumerate() {
        if replayed != quoted {
            let why = format!(
                "its records lead to {} in RTMR{number}, the quote has {}",
                hex::encode(replayed),
                hex::encode(quoted)
            );
            return Err(Rejection::EventLog { why });
        }
    }
    event_claims(log, Numbering::RunTime).map_err(broken)
}

/// The records of a log that nothing was compared with.
///
/// # Errors
/// Those of [`Events`].
pub fn event_claims(log: &[u8], numbering: Numbering) -> Result<Vec<EventClaim>, cc_evidence::Error> {
    Events::new(log)?.map(|event| event.map(|event| claim(&event, numbering))).collect()
}

fn claim(event: &Event<'_>, numbering: Numbering) -> EventClaim {
    EventClaim {
        index: event.register,
        type_name: type_name(event.event_type).unwrap_or("UNKNOWN"),
        event: BASE64_STANDARD.encode(event.data),
        digests: event.digests.iter().map(digest).collect(),
        details: details::describe(event),
        digest_matches_event: numbering.extends(event) && is_of_data(event),
    }
}

/// Whether the record has digests of known algorithms, and all of them are those of its data.
fn is_of_data(event: &Event<'_>) -> bool {
    let mut known = event.digests.iter().filter_map(|digest| Some((digest.hash()?, digest.bytes))).peekable();
    known.peek().is_some() && known.all(|(hash, bytes)| hash.digest(event.data) == bytes)
}

fn digest(digest: &Digest<'_>) -> DigestClaim {
    let alg = match digest.hash() {
        Some(HashAlgorithm::Sha256) => "SHA-256".to_owned(),
        Some(HashAlgorithm::Sha384) => "SHA-384".to_owned(),
        Some(HashAlgorithm::Sha512) => "SHA-512".to_owned(),
        Some(HashAlgorithm::Sm3) => "SM3".to_owned(),
        // Nothing is replayed with it; logs of TPMs have it beside SHA-256.
        None if digest.algorithm == 0x0004 => "SHA-1".to_owned(),
        None => format!("{:#06x}", digest.algorithm),
    };
    DigestClaim { alg, digest: hex::encode(digest.bytes) }
}
