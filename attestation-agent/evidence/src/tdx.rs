//! Intel TDX evidence: the quote, the report of a trust domain and the JSON form of evidence.
//!
//! Layouts of the Intel TDX DCAP quoting library reference (quote versions 4 and 5) and of the Intel TDX
//! module ABI specification (TDREPORT). It does NOT verify: signatures, chains, TCB levels and policy are
//! the verifier's work.

mod attributes;
mod body;
mod json;
mod quote;
mod report;

pub mod qgs;

pub use attributes::TdAttributes;
pub use body::{TdBody, Tdx15};
pub use json::{MAX_JSON_LEN, TdxEvidence};
pub use quote::{Quote, assemble, to_be_signed};
pub use report::{REPORT_LEN, TcbInfo, TdInfo, TdReport};
