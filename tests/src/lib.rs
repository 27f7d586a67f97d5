//! Scenario tests, the demo and the benchmarks: the real binaries on loopback against real peers.
//!
//! This library starts and stops them; the scenarios are in `scenarios/`, the programs in `src/bin/`. Nothing
//! depends on this crate.

#![forbid(unsafe_code)]

pub mod ansible;
pub mod bench;
pub mod container;
pub mod curl;
pub mod eventlog;
pub mod hostile_kbs;
pub mod image;
pub mod kms_peers;
pub mod long_run;
pub mod lying_disk;
pub mod machine;
pub mod mutant;
pub mod port;
pub mod process;
pub mod registry;
pub mod soft_tpm;
pub mod stack;
pub mod ttrpc_peer;
pub mod unit_credential;
pub mod vm;
