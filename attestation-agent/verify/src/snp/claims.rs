//! What a verified SNP report says, under the claim names that attestation policies use.
//!
//! Names and types are those of Trustee's SNP verifier: texts in hex, numbers and booleans as such. It
//! says nothing about whether a claim is good: that is the appraisal's work.

use cc_evidence::snp::Report;
use serde::Serialize;

/// The claims of a verified report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SnpClaims {
    /// Launch digest, 48 bytes in hex.
    pub measurement: String,
    /// The caller's data, 64 bytes in hex.
    pub report_data: String,
    /// Host data, 32 bytes in hex: the init-data digest.
    pub init_data: String,
    /// Chip identifier, 64 bytes in hex.
    pub chip_id: String,
    /// Lowest major ABI version that the policy accepts.
    pub policy_abi_major: u8,
    /// Lowest minor ABI version that the policy accepts.
    pub policy_abi_minor: u8,
    /// The policy allows SMT.
    pub policy_smt_allowed: bool,
    /// The policy allows a migration agent.
    pub policy_migrate_ma: bool,
    /// The policy allows the host to debug the guest.
    pub policy_debug_allowed: bool,
    /// The policy demands a single socket.
    pub policy_single_socket: bool,
    /// Bootloader level of the reported TCB.
    pub reported_tcb_bootloader: u8,
    /// TEE level of the reported TCB.
    pub reported_tcb_tee: u8,
    /// SNP firmware level of the reported TCB.
    pub reported_tcb_snp: u8,
    /// Microcode level of the reported TCB.
    pub reported_tcb_microcode: u8,
    /// Transparent memory encryption is on.
    pub platform_tsme_enabled: bool,
    /// SMT is on.
    pub platform_smt_enabled: bool,
    /// The chain ends at a test root: an emulator made this evidence. Left out when false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub test_root: bool,
}

impl SnpClaims {
    pub(super) fn new(report: &Report, test_root: bool) -> Self {
        SnpClaims {
            measurement: hex::encode(report.measurement),
            report_data: hex::encode(report.report_data),
            init_data: hex::encode(report.host_data),
            chip_id: hex::encode(report.chip_id),
            policy_abi_major: report.policy.abi_major(),
            policy_abi_minor: report.policy.abi_minor(),
            policy_smt_allowed: report.policy.smt_allowed(),
            policy_migrate_ma: report.policy.migration_agent_allowed(),
            policy_debug_allowed: report.policy.debug_allowed(),
            policy_single_socket: report.policy.single_socket(),
            reported_tcb_bootloader: report.reported_tcb.bootloader,
            reported_tcb_tee: report.reported_tcb.tee,
            reported_tcb_snp: report.reported_tcb.snp,
            reported_tcb_microcode: report.reported_tcb.microcode,
            platform_tsme_enabled: report.platform_info.tsme_enabled(),
            platform_smt_enabled: report.platform_info.smt_enabled(),
            test_root,
        }
    }
}
