//! Pure evidence formats: what attesters produce, what verifiers read, and how both are tied
//! to a session.
//!
//! It holds the AMD SEV-SNP report with its certificate table and JSON form, the Intel TDX quote with
//! its JSON form, the event logs of firmware and agent, the reports of
//! NVIDIA GPUs, the object of all further devices' evidence, the binding digests of the KBS handshake, init-data documents, the
//! payload of attestation tokens and the sample evidence. Every parser works on one slice or text, is bounded, and names the field it failed on.
//!
//! It is NOT the place where evidence is obtained (no files, no devices, no network) and it judges
//! nothing: a report that parses may still be forged.
#![forbid(unsafe_code)]

pub mod aael;
pub mod additional;
pub mod azure;
pub mod binding;
pub mod blame;
pub mod cbor;
pub mod cca;
pub mod ccel;
pub mod csv;
pub mod dcap;
pub mod initdata;
pub mod nvidia;
pub mod read;
pub mod sample;
pub mod sgx;
pub mod snp;
pub mod summary;
pub mod tdx;
pub mod token;
pub mod tpm;

mod error;
mod hash;
mod report_data;
mod tee;

pub use error::EvidenceError as Error;
pub use hash::HashAlgorithm;
pub use report_data::ReportData;
pub use tee::Tee;
