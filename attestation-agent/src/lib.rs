//! The attestation agent: the process that owns the TEE.
//!
//! It collects evidence over report data that a caller chooses, says which init-data the machine was started
//! with, measures events of a running machine, and gets attestation tokens for callers that ask for one. It is not a key broker client for secrets
//! (that is the confidential data hub), and it verifies nothing: evidence is judged by the relying party.
//!
//! The wire is the service `attestation_agent.AttestationAgentService` of the Confidential Containers guest
//! components, plus `guest_services.v1.AgentInfoService` of this project.

#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod config;
pub mod error;
pub mod info;
pub mod init_data;
pub mod measurement;
pub mod server;
pub mod service;
pub mod token;

/// Version text of this build, as `--version` and the status service print it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
