//! The machine that the emulator plays, and the reference values that describe it.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

/// What the emulator's machine file may say; everything else keeps the emulator's default.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Launch measurement, hex of 48 bytes.
    pub measurement: String,
    /// Guest policy bits.
    pub policy: u64,
    /// Privilege level of the report.
    pub vmpl: u32,
    /// Host data, hex of 32 bytes.
    pub host_data: String,
    /// TSM provider name; `none` for a machine without a TEE.
    pub provider: String,
    /// What is wrong with the machine; `none` for nothing.
    pub fault: String,
    /// Time that a quote takes, in milliseconds.
    pub delay_ms: u64,
    /// The parts of the firmware that reports name.
    pub tcb: Tcb,
}

/// Security version numbers of the firmware's parts.
#[derive(Debug, Clone, Serialize)]
pub struct Tcb {
    /// Boot loader.
    pub bootloader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            measurement: "5a".repeat(48),
            policy: 0x3_0000,
            vmpl: 0,
            host_data: "00".repeat(32),
            provider: "sev_guest".to_owned(),
            fault: "none".to_owned(),
            delay_ms: 0,
            tcb: Tcb { bootloader: 10, tee: 0, snp: 23, microcode: 25 },
        }
    }
}

/// Bit of the guest policy that lets the host read the guest's memory.
pub const POLICY_DEBUG: u64 = 1 << 19;

impl Machine {
    /// Writes the machine file; the emulator reads it at the next report.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = toml::to_string(self).context("writing the machine as TOML")?;
        // Renamed into place, so that the emulator never reads half a file.
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, path).with_context(|| format!("writing {}", path.display()))
    }

    /// The reference values under which this machine is affirmed.
    pub fn reference_values(&self) -> serde_json::Value {
        serde_json::json!({
            "snp_launch_measurement": [self.measurement],
            "snp_bootloader": [self.tcb.bootloader],
            "snp_microcode": [self.tcb.microcode],
            "snp_snp_svn": [self.tcb.snp],
            "snp_tee_svn": [self.tcb.tee],
            "snp_smt_enabled": true,
            "snp_tsme_enabled": false,
            "snp_guest_abi_major": 0,
            "snp_guest_abi_minor": 0,
            "snp_single_socket": false,
            "snp_smt_allowed": true,
        })
    }
}
