//! Evidence of Azure confidential machines: the HCL report, its runtime data and the JSON form of evidence.
//!
//! On these machines a paravisor (the "host compatibility layer", HCL) runs between hardware and guest and gives the
//! guest a virtual TPM. What the hardware signs is the hash of a JSON document, the runtime data, which names the
//! TPM's attestation key; the TPM then signs quotes. Layouts of Microsoft's "Guest attestation for Confidential VMs"
//! and of the request structures of the open source paravisor (OpenHCL). Nothing is verified here.

mod hcl;
mod json;
mod runtime;

pub use hcl::{Hardware, HclReport, MAX_HCL_LEN};
pub use json::{AzureEvidence, EvidenceVersion, MAX_ENDORSEMENT_LEN, MAX_JSON_LEN, TpmQuote};
pub use runtime::{AkPublic, RuntimeData};
