//! A development key broker: a small honest relying party for tests and demos.
//!
//! It speaks the key broker protocol of Trustee, version 0.4.0 (`auth`, `attest`, `resource`, the admin endpoints) and
//! verifies for real: report signatures and certificate chains, the binding of nonce and key, init-data, reference
//! values, single use of nonces, its own tokens. It denies by default. It is not a production key broker: one process,
//! one database file, one administrator, a fixed appraisal and a small rule document in place of Rego.
//!
//! | Module | Concern |
//! |---|---|
//! | [`config`], [`server`], [`listen`], [`tls`] | options, routes, connections |
//! | [`session`], [`attest`], [`collateral`], [`tpm_keys`], [`ear`], [`token`] | from challenge to token |
//! | [`policy`], [`resource`], [`mod@reference`], [`admin`] | who gets what, and who decides |
//! | [`store`], [`state`], [`error`], [`clock`] | ground |
#![forbid(unsafe_code)]

pub mod admin;
pub mod attest;
pub mod clock;
pub mod collateral;
pub mod config;
pub mod ear;
pub mod error;
mod jws;
pub mod listen;
pub mod policy;
pub mod reference;
pub mod resource;
pub mod server;
pub mod session;
pub mod state;
pub mod store;
pub mod tls;
pub mod token;
pub mod tpm_keys;

pub use error::BrokerError as Error;
