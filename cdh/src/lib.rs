//! The confidential data hub: the process that owns secrets.
//!
//! A reference goes in, a secret comes out. The hub attests to the key broker with evidence it asks the
//! attestation agent for, keeps one warm session, and hands plaintext to the caller for the length of one
//! request. It does not know TEE kinds or evidence formats, and it speaks HTTP only through [`cc_kbs`].
//!
//! The wire is the package `api` of the Confidential Containers guest components, plus
//! `guest_services.v1.HubInfoService` of this project.

#![forbid(unsafe_code)]

pub mod access;
pub mod agent;
pub mod audit;
pub mod config;
pub mod credential;
mod door;
pub mod error;
pub mod file;
pub mod flight;
pub mod hub;
pub mod image;
pub mod info;
pub mod ocicrypt_config;
pub mod pattern;
pub mod placement;
pub mod provenance;
pub mod reference;
pub mod sealed_service;
pub mod secure_mount;
pub mod server;
pub mod service;
pub mod signing_key;
pub mod unit_credential;
pub mod unseal;
pub mod volume;

/// Version text of this build, as `--version` and the status service print it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
