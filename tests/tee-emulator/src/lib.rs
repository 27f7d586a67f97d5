//! An emulated confidential machine for tests: the kernel's configfs interface for TSM reports as a FUSE file
//! system, answering with AMD SEV-SNP reports, Intel TDX quotes or Arm CCA tokens that are correctly signed under roots made
//! at start. Kernels without that interface are emulated too: programs reach their drivers' devices through a [`door`].
//!
//! The agent runs its production code against it; only the root of trust differs. It is for tests and demos alone:
//! its keys live in memory, are never stored, and nothing but a relying party that was given the roots on purpose
//! accepts its reports. It is not a model of the hardware beyond what the interface shows.
//!
//! A TDX machine also has its registers in the form of the driver's sysfs attributes, where software extends them.
//! A machine of Azure is emulated too: the same hardware below a paravisor that gives the guest a TPM (swtpm).
//!
//! Implements the Linux ABI documents `configfs-tsm-report` and `sysfs-devices-virtual-misc-tdx_guest`, AMD publication 56860 (report) and 57230 (certificates),
//! and of Intel's the TDX DCAP quoting library API (quote), the SGX PCK certificate profile and the answers of the
//! provisioning certification service, version 4 (collateral); of Arm's DEN0137 the attestation token; and of Linux's
//! user interface `sev-guest.h` and `tdx-guest.h`; of NVIDIA's NVML
//! the functions that attestation needs, and DMTF DSP0274 1.1 (GPU reports).

pub mod azure;
mod cca;
mod certificate;
pub mod chain;
mod clock;
mod device;
pub mod door;
mod entry;
mod error;
mod filesystem;
mod instance;
pub mod machine;
mod manufacturer;
mod measurements;
mod mount;
pub mod nvidia;
mod pem;
pub mod program;
pub mod report;
mod stats;
pub mod tdx;

pub use cca::ArmPlatform;
pub use chain::TestChain;
pub use error::EmulatorError as Error;
pub use machine::{Machine, MachineSource};
pub use manufacturer::Manufacturer;
pub use mount::{Emulator, Setup};
pub use tdx::{Collateral, IntelChain};
