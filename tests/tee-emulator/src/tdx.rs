//! The emulated Intel TDX machine: quotes of version 4, the service that gives them without configfs, the keys behind them, and the collateral that rates them.
//!
//! Written from the tables of the TDX DCAP quoting library API (quote), the SGX PCK certificate profile and the
//! answers of Intel's provisioning certification service, version 4 (collateral); not with the parsers of
//! `cc-evidence`, so that writer and reader check each other.

pub mod chain;
pub mod collateral;
pub(crate) mod platform;
pub(crate) mod qgs;
pub mod quote;
pub(crate) mod report;

pub use chain::IntelChain;
pub use collateral::Collateral;
