//! What the daemons share: sockets and peers, the RPC server, signals, faults, configuration files.
//!
//! A daemon loads its configuration ([`config::load`]) and hands the rest to [`start::run`]: log, signals, runtime; then
//! [`listen::Listener::bind`], [`notify::ready`], [`server::RpcServer::serve`]. The RPC server speaks gRPC and ttrpc on the same socket and
//! hands both to the same tonic services, so that a method is written once.
//!
//! It is not the place for any service: nothing here knows what a secret or a piece of evidence is.

pub mod address;
pub mod config;
pub mod confined;
pub mod connect;
pub mod deadline;
pub mod fault;
pub mod health;
pub mod introspection;
pub mod listen;
pub mod memory;
pub mod notify;
pub mod peer;
pub mod provenance;
pub mod sandbox;
pub mod server;
pub mod shutdown;
pub mod start;
pub mod telemetry;
pub mod ttrpc;
mod verity;

pub use cc_evidence::blame::Blame;
