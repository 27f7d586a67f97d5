//! Emulated NVIDIA GPUs: a stand-in for the driver's management library, and the keys behind the GPUs it shows.
//!
//! The library is a few lines of C ([`Driver`] compiles them) that pass every call on to the emulator over a Unix socket
//! beside the library, so that the agent's production code loads it as it loads NVIDIA's, by name. Its structures were
//! written from the documentation of `nvml.h` and not from the agent's bindings. Reports are signed under a root made at
//! start, or played back from files.

mod chain;
mod driver;
mod report;

pub use chain::{GpuChain, GpuKey};
pub use driver::Driver;
pub use report::{build, fields};
