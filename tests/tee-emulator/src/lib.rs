//! An emulated confidential machine for tests: the kernel's configfs interface for TSM reports as a FUSE file
//! system, answering with AMD SEV-SNP reports that are correctly signed under roots made at start.
//!
//! The agent runs its production code against it; only the root of trust differs. It is for tests and demos alone:
//! its keys live in memory, are never stored, and nothing but a relying party that was given the roots on purpose
//! accepts its reports. It is not a model of the hardware beyond what the interface shows.
//!
//! Implements the Linux ABI document `configfs-tsm-report`, AMD publication 56860 (report) and 57230 (certificates).

#![forbid(unsafe_code)]

mod certificate;
pub mod chain;
mod device;
mod entry;
mod error;
mod filesystem;
pub mod machine;
mod mount;
pub mod report;
mod stats;

pub use chain::TestChain;
pub use error::EmulatorError as Error;
pub use machine::{Machine, MachineSource};
pub use mount::{Emulator, Setup};
