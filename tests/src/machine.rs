//! The machines that the emulator plays, and the reference values that describe them.

use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::eventlog::EventLog;

/// Kind of TEE of an emulated machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// Arm CCA.
    Cca,
}

/// What the emulator's machine file may say; everything else keeps the emulator's default. Measurement, policy,
/// privilege level, host data and firmware are those of SNP; [`Td`] has what TDX has, [`Realm`] what CCA has.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Kind of TEE.
    pub tee: Kind,
    /// Launch measurement, hex of 48 bytes.
    pub measurement: String,
    /// Guest policy bits.
    pub policy: u64,
    /// Privilege level of the report.
    pub vmpl: u32,
    /// Host data, hex of 32 bytes.
    pub host_data: String,
    /// TSM provider name; `auto` for the one of the TEE, `none` for a machine without one.
    pub provider: String,
    /// What is wrong with the machine; `none` for nothing.
    pub fault: String,
    /// Time that a quote takes, in milliseconds.
    pub delay_ms: u64,
    /// The parts of the firmware that reports name.
    pub tcb: Tcb,
    /// The trust domain of a machine with TDX.
    pub td: Td,
    /// The realm of a machine with CCA.
    pub realm: Realm,
    /// The paravisor around the hardware, on a machine of Azure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
    /// The machine's GPUs and their driver.
    pub nvidia: Nvidia,
}

/// GPUs and driver; what the names mean stands in the emulator's example file.
#[derive(Debug, Clone, Serialize)]
pub struct Nvidia {
    /// Setting of confidential computing.
    pub mode: String,
    /// How several GPUs work together.
    pub multi_gpu: String,
    /// What is wrong with the driver.
    pub fault: String,
    /// The library is older than confidential computing.
    pub old_library: bool,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
}

impl Default for Nvidia {
    fn default() -> Self {
        Self {
            mode: "on".to_owned(),
            multi_gpu: "none".to_owned(),
            fault: "none".to_owned(),
            old_library: false,
            gpus: Vec::new(),
        }
    }
}

/// One GPU.
#[derive(Debug, Clone, Serialize)]
pub struct Gpu {
    /// `GPU-` and a UUID.
    pub uuid: String,
    /// PCI address.
    pub address: String,
    /// NVML's number of the generation.
    pub architecture: u32,
    /// Version of the driver.
    pub driver_version: String,
    /// Version of the video BIOS.
    pub vbios_version: String,
    /// What is wrong with it.
    pub fault: String,
    /// A recorded report to play back.
    pub recorded_report: Option<PathBuf>,
    /// The chain that goes with it.
    pub recorded_chain: Option<PathBuf>,
}

impl Gpu {
    /// A GPU in order, told from others by its number.
    pub fn number(number: u8) -> Self {
        Self {
            uuid: format!("GPU-00000000-0000-0000-0000-0000000000{number:02x}"),
            address: format!("0000:{number:02x}:00.0"),
            architecture: 9,
            driver_version: "580.95.05".to_owned(),
            vbios_version: "96.00.74.00.1a".to_owned(),
            fault: "none".to_owned(),
            recorded_report: None,
            recorded_chain: None,
        }
    }

    /// The same with a fault.
    pub fn faulty(number: u8, fault: &str) -> Self {
        Self { fault: fault.to_owned(), ..Self::number(number) }
    }
}

/// What tokens say of a realm and its platform, hex of the bytes as they stand there.
#[derive(Debug, Clone, Serialize)]
pub struct Realm {
    /// Measurement of the initial content, 64 bytes.
    pub initial_measurement: String,
    /// What the host launched it with, 64 bytes.
    pub personalization: String,
    /// Implementation of the platform, 32 bytes.
    pub implementation_id: String,
    /// State of the platform: 0x3000 to 0x30FF is secured.
    pub lifecycle: u16,
    /// Measurement of the realm management monitor, 32 bytes.
    pub rmm: String,
}

/// The paravisor of a machine of Azure.
#[derive(Debug, Clone, Serialize)]
pub struct Azure {
    /// What is wrong with it; `none` for nothing.
    pub fault: String,
    /// Time until written report data shows, in milliseconds.
    pub user_data_delay_ms: u64,
}

impl Default for Azure {
    fn default() -> Self {
        Self { fault: "none".to_owned(), user_data_delay_ms: 200 }
    }
}

/// What quotes say of a trust domain, hex of the bytes as they stand there.
#[derive(Debug, Clone, Serialize)]
pub struct Td {
    /// Measurement of the initial memory, 48 bytes.
    pub mrtd: String,
    /// Run-time register 0, 48 bytes.
    pub rtmr0: String,
    /// Run-time register 1.
    pub rtmr1: String,
    /// Run-time register 2.
    pub rtmr2: String,
    /// Run-time register 3.
    pub rtmr3: String,
    /// Fitted digest of the init-data, 48 bytes.
    pub mrconfigid: String,
    /// TD attributes, 8 bytes.
    pub attributes: String,
    /// Extended processor features, 8 bytes.
    pub xfam: String,
    /// Zero bytes after the quote.
    pub padding: u16,
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

/// The reference values that sample evidence meets. They prove nothing: everybody sends the same.
pub fn sample_reference_values() -> serde_json::Value {
    serde_json::json!({
        "launch_digest": ["abcde"], "svn": ["1"], "major_version": 1, "minimum_minor_version": 1
    })
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            tee: Kind::Snp,
            measurement: "5a".repeat(48),
            policy: 0x3_0000,
            vmpl: 0,
            host_data: "00".repeat(32),
            provider: "auto".to_owned(),
            fault: "none".to_owned(),
            delay_ms: 0,
            tcb: Tcb { bootloader: 10, tee: 0, snp: 23, microcode: 25 },
            td: Td::default(),
            realm: Realm::default(),
            azure: None,
            nvidia: Nvidia::default(),
        }
    }
}

impl Default for Realm {
    fn default() -> Self {
        Self {
            initial_measurement: "a1".repeat(64),
            personalization: "00".repeat(64),
            implementation_id: "cc".repeat(32),
            lifecycle: 0x3003,
            rmm: "b3".repeat(32),
        }
    }
}

impl Default for Td {
    fn default() -> Self {
        Self {
            mrtd: "7d".repeat(48),
            rtmr0: "00".repeat(48),
            rtmr1: "81".repeat(48),
            rtmr2: "82".repeat(48),
            rtmr3: "00".repeat(48),
            mrconfigid: "00".repeat(48),
            attributes: "0000001000000000".to_owned(),
            xfam: "e702060000000000".to_owned(),
            padding: 0,
        }
    }
}

/// Bit of the guest policy that lets the host read the guest's memory.
pub const POLICY_DEBUG: u64 = 1 << 19;

/// TD attributes as by default, but that the host may debug the domain.
pub const ATTRIBUTES_DEBUG: &str = "0100001000000000";

impl Machine {
    /// A machine with TDX.
    pub fn tdx() -> Self {
        Self { tee: Kind::Tdx, ..Self::default() }
    }

    /// The default machine with these GPUs.
    pub fn with_gpus(gpus: impl IntoIterator<Item = Gpu>) -> Self {
        Self { nvidia: Nvidia { gpus: gpus.into_iter().collect(), ..Nvidia::default() }, ..Self::default() }
    }

    /// A machine with TDX whose registers are those that the boot in `log` leaves.
    pub fn tdx_after(log: &EventLog) -> Self {
        let mut machine = Self::tdx();
        let td = &mut machine.td;
        let fields = [&mut td.rtmr0, &mut td.rtmr1, &mut td.rtmr2, &mut td.rtmr3];
        for (number, field) in fields.into_iter().enumerate() {
            *field = log.register(number);
        }
        machine
    }

    /// A machine with CCA.
    pub fn cca() -> Self {
        Self { tee: Kind::Cca, ..Self::default() }
    }

    /// A machine of Azure, with a paravisor on hardware of the given kind.
    pub fn azure(tee: Kind) -> Self {
        Self { tee, azure: Some(Azure::default()), ..Self::default() }
    }

    /// The measurement of what the machine was started with: the first thing a security officer compares.
    pub fn launch_measurement(&self) -> &str {
        match self.tee {
            Kind::Snp => &self.measurement,
            Kind::Tdx => &self.td.mrtd,
            Kind::Cca => &self.realm.initial_measurement,
        }
    }

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
        // Nothing is measured into the emulated TPM.
        let pcr11 = "00".repeat(32);
        let mut values = match self.tee {
            Kind::Snp if self.azure.is_some() => serde_json::json!({
                "measurement": [STANDARD.encode(hex::decode(&self.measurement).unwrap_or_default())],
                "snp_pcr11": [pcr11],
                "tcb_bootloader": [self.tcb.bootloader.to_string()],
                "tcb_microcode": [self.tcb.microcode.to_string()],
                "tcb_snp": [self.tcb.snp.to_string()],
                "tcb_tee": [self.tcb.tee.to_string()],
                "smt_enabled": ["true"],
                "tsme_enabled": ["false"],
                "abi_major": ["0"],
                "abi_minor": ["0"],
                "single_socket": ["false"],
                "smt_allowed": ["true"],
            }),
            Kind::Tdx if self.azure.is_some() => serde_json::json!({
                "mr_td": [self.td.mrtd],
                "tdx_pcr11": [pcr11],
                "xfam": [self.td.xfam],
            }),
            Kind::Snp => serde_json::json!({
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
            }),
            Kind::Tdx => serde_json::json!({
                "mr_td": [self.td.mrtd],
                "rtmr_1": [self.td.rtmr1],
                "rtmr_2": [self.td.rtmr2],
                "xfam": [self.td.xfam],
            }),
            Kind::Cca => serde_json::json!({
                "cca_realm_initial_measurement": [base64_of(&self.realm.initial_measurement)],
                "cca_platform_implementation_id": [base64_of(&self.realm.implementation_id)],
                // What the emulator's first stage has, whatever else the machine is.
                "cca_platform_sw_components": [base64_of(&"b1".repeat(32)), base64_of(&self.realm.rmm)],
                "cca_platform_config": [base64_of("cfcfcfcf")],
            }),
        };
        if let Some(values) = values.as_object_mut().filter(|_| !self.nvidia.gpus.is_empty()) {
            let list = |version: fn(&Gpu) -> &str| self.nvidia.gpus.iter().map(version).collect::<Vec<_>>();
            values.insert("allowed_driver_versions".into(), list(|gpu| &gpu.driver_version).into());
            values.insert("allowed_vbios_versions".into(), list(|gpu| &gpu.vbios_version).into());
        }
        values
    }
}

/// Hex as base64, the form of CCA claims; what is no hex stays as it is.
fn base64_of(text: &str) -> String {
    hex::decode(text).map_or_else(|_| text.to_owned(), |bytes| STANDARD.encode(bytes))
}
