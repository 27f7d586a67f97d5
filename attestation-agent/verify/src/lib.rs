//! Evidence in, verdict out: the verifier behind the development KBS and `guestctl inspect`.
//!
//! Pure: no files, no network, no clock. Certificates, roots and the time of verification are passed
//! in, so a verdict can be repeated. [`snp::verify`] turns AMD SEV-SNP evidence into claims,
//! [`tdx::verify`] Intel TDX evidence, [`nvidia::verify`] that of NVIDIA GPUs, [`cca::verify`] Arm CCA evidence,
//! [`azure::verify`] that of Azure's machines, [`tpm::verify`] that of a TPM,
//! [`sample::verify`] does so for evidence without hardware, [`appraisal`] compares claims with
//! reference values. [`token_key`] asks who signed the token that an attestation service made of claims.
//!
//! It is NOT linked by any daemon of the guest: what a guest thinks of its own evidence is worth
//! nothing. It is not a general X.509 validator either; it knows the hierarchies of AMD,
//! Intel and NVIDIA, and those of token signers as far as [`token_key`] says.
#![forbid(unsafe_code)]

pub mod appraisal;
pub mod azure;
pub mod cca;
pub mod nvidia;
pub mod sample;
pub mod snp;
pub mod tdx;
pub mod token_key;
pub mod tpm;

mod certificate;
mod crl;
mod rejection;
mod roots;

pub use rejection::Rejection;
pub use roots::{InvalidRoots, TrustRoots};
