//! Key broker client: from a resource URI to a secret.
//!
//! [`Session`] attests to a KBS once and fetches many resources with the token it got, and a [`Group`] of them asks the next
//! KBS when the first keeps silent; the handshake itself
//! is a state machine without I/O ([`handshake`]), as is the reading of resource answers ([`resource`]).
//! Evidence comes through [`EvidenceSource`], so this crate knows no TEE, no hardware and no protobuf; it
//! knows neither sealed secrets nor what a resource is used for.
//!
//! It implements the RCAR protocol 0.4.0 of the Key Broker Service of Trustee (Confidential Containers), the
//! token request of its attestation service ([`as_token`]), the upload of a resource by its administrator ([`admin`]) and the
//! offline store ([`offline`]).
#![forbid(unsafe_code)]

pub mod admin;
pub mod as_token;
mod backoff;
mod client;
mod config;
mod devices;
mod error;
pub mod foreign;
mod group;
pub mod handshake;
mod names;
pub mod offline;
pub mod params;
mod problem;
pub mod resource;
mod session;
mod silence;
mod source;
mod trust;
mod uri;

pub use cc_crypto::{KeyAlgorithm, Secret, TeeKeyPair};
pub use cc_evidence::blame::Blame;
pub use client::Client;
pub use config::{CertificateMode, DEFAULT_DENIAL_PAUSE, KbsConfig, Pace};
pub use error::{KbsError as Error, Reason, Refusal};
pub use group::{DEFAULT_HEAD_START, Group, MAX_MEMBERS};
pub use names::Names;
pub use session::{Attested, Denial, Session, SessionStatus};
pub use source::{BorrowedToken, BoxFuture, EvidenceSource, SourceFault};
pub use uri::ResourceUri;

/// The message types of the state machines.
pub use http;

/// The protocol version that this client speaks. A KBS accepts exactly its own version.
pub const PROTOCOL_VERSION: &str = "0.4.0";
