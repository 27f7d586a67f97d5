//! Attestation reports of NVIDIA GPUs: the SPDM measurements of one device, and the JSON that carries those of all.
//!
//! A report is an SPDM 1.1 GET_MEASUREMENTS request followed by the device's response (DMTF DSP0274 1.1, sections
//! "GET_MEASUREMENTS request message" and "MEASUREMENTS response message"), in the form that NVML gives it
//! (`nvmlDeviceGetConfComputeGpuAttestationReport`). The opaque data of the response holds NVIDIA's own records. The
//! JSON is the one that Trustee's NVIDIA verifier reads.
//!
//! Nothing is verified here: a report that parses may still be forged.

mod json;
mod opaque;
mod report;

pub use json::{
    Architecture, Device, MAX_CHAIN_LEN, MAX_DEVICES, MAX_JSON_LEN, NvidiaEvidence, UNKNOWN_UUID,
};
pub use opaque::{FWID_LEN, Opaque, OpaqueRecord, RecordKind};
pub use report::{MAX_REPORT_LEN, Measurement, NONCE_LEN, Report, SIGNATURE_LEN, Unsigned};
