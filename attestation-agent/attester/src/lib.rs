//! Attestation without a daemon: what `trustee-attester` and `secret unseal` share.
//!
//! One process collects the evidence of its machine itself ([`Machine`]) and looks host names up itself ([`DnsFiles`]), so
//! that it can be static. The session with the key broker is [`cc_kbs::Session`]'s business. NOT for daemons: those ask the
//! attestation agent, which owns the TEE.
#![forbid(unsafe_code)]

pub mod cli;
pub mod failure;
mod machine;
mod names;

pub use cc_platform::tpm::TpmOptions;
pub use machine::{Machine, MachineOptions};
pub use names::DnsFiles;
