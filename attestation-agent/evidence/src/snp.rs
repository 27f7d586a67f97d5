//! AMD SEV-SNP evidence: the attestation report, the certificate table and the JSON form of both.
//!
//! Layouts are those of AMD publications 56860 (firmware ABI), 57230 (certificates) and 56421 (GHCB).
//! It does NOT verify: signatures, chains and policy are the verifier's work.

pub mod cert_table;

mod encode;
mod json;
mod policy;
mod report;
mod tcb;

pub use cert_table::{CertEntry, CertKind};
pub use json::{MAX_JSON_LEN, SnpEvidence};
pub use policy::{KeyInfo, PlatformInfo, Policy, SigningKey};
pub use report::{CpuId, Fields, FirmwareVersion, Report, Signature};
pub use tcb::{Product, Tcb, TcbLayout};

/// Length of an attestation report in bytes.
pub const REPORT_LEN: usize = 1184;

/// Length of the part of a report that the signature covers: bytes 0 to 0x29F.
pub const SIGNED_LEN: usize = 0x2A0;

/// The newest report version whose layout is known here. Later ones are read like this one.
pub const NEWEST_VERSION: u32 = 5;

/// First report version that carries the CPUID bytes.
const CPUID_SINCE: u32 = 3;

/// First report version that carries the mitigation vectors.
const MITIGATION_SINCE: u32 = 5;
