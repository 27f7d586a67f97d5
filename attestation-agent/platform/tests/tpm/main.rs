//! The TPM client and the platform `tpm` against a real TPM 2.0 in software (swtpm), beside the tools that
//! administrators use (tpm2-tools).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests start programs, wait, and say what they skip"
)]

mod client;
mod swtpm;
