//! What the emulated machine is: the fields of its reports and the faults it has.
//!
//! Read from a TOML file anew for every report, so that a test changes the machine while the agent runs. Replace
//! the file by renaming another over it, or a report may see half of it.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::Error;

mod azure;
mod nvidia;
mod realm;
mod td;

pub use azure::{Azure, AzureFault};
pub use nvidia::{DriverFault, Gpu, GpuFault, MultiGpu, Nvidia, NvidiaMode};
pub use realm::Realm;
pub use td::Td;
pub(crate) use td::UP_TO_DATE_SVN;

/// A machine file with every field and its default.
pub const EXAMPLE: &str = r#"# The machine that tee-emulator shows. Every field may be left out; these are the defaults.
# The file is read anew for every report. Replace it by renaming another file over it.
tee = "snp"                # snp: AMD SEV-SNP, tdx: Intel TDX, cca: Arm CCA; fixed while the emulator runs
provider = "auto"          # the driver's name: sev_guest, tdx_guest or arm_cca_guest; "none": no TEE driver, mkdir
                           # answers ENXIO; other names are passed on
fault = "none"             # flip-bit, wrong-report-data, stale, short, empty, huge, hang, busy,
                           # snp: expired-vcek, wrong-tcb-extension, wrong-chip-id, large-table, firmware-error, key-lost,
                           # tdx: host-timeout, expired-pck, revoked-pck, out-of-date-tcb, revoked-tcb, other-domain,
                           # cca: unknown-platform, foreign-realm
delay_ms = 0               # added to every report

# With tee = "snp":
product = "milan"          # milan, genoa, turin; fixed while the emulator runs
report_version = 3         # 2 to 5
measurement = "5a11d0c3b7e94f2688a3c15d7740e1f25a11d0c3b7e94f2688a3c15d7740e1f25a11d0c3b7e94f2688a3c15d7740e1f2"
policy = 0x30000           # bit 16 SMT allowed, bit 17 always, bit 19 debug allowed
vmpl = 0                   # privlevel_floor; reports at a lower level fail
host_data = "0000000000000000000000000000000000000000000000000000000000000000"
guest_svn = 0
chip_id = "c41d0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001"
plat_info = 0x25           # bit 0 SMT on, bit 1 TSME, bit 2 ECC, bit 5 alias check done
certificates = "full"      # "vcek", "full" (VCEK, ASK, ARK), "none"

[tcb]                      # current, reported, committed and launch TCB
bootloader = 4
tee = 0
snp = 23
microcode = 213
fmc = 1                    # turin only

[td]                       # with tee = "tdx"; hex of the bytes as they stand in the quote
mrtd = "7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d7d"
rtmr0 = "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
rtmr1 = "818181818181818181818181818181818181818181818181818181818181818181818181818181818181818181818181"
rtmr2 = "828282828282828282828282828282828282828282828282828282828282828282828282828282828282828282828282"
rtmr3 = "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
mrconfigid = "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
attributes = "0000001000000000" # bit 0 debug, bit 28 SEPT_VE_DISABLE
xfam = "e702060000000000"
tee_tcb_svn = "05010200000000000000000000000000" # what the collateral calls up to date
padding = 0                # zero bytes after the quote

[azure]                    # azure-emulator alone: the paravisor around the same hardware
fault = "none"             # alter-runtime-data, other-ak, no-ak, no-user-data, index-missing, index-short, index-huge,
                           # answer-huge, unknown-type, metadata-hang, metadata-not-found, metadata-error,
                           # metadata-garbage, metadata-huge, metadata-redirect, metadata-other
user_data_delay_ms = 200   # until written report data shows in the HCL report

[realm]                    # with tee = "cca"; hex of the bytes as they stand in the token
initial_measurement = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"
rem0 = "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
personalization = "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
implementation_id = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
lifecycle = 0x3003         # 0x3000 to 0x30FF: secured
rmm = "b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3b3" # the realm management monitor

[nvidia]                   # with --nvidia; each GPU is a table [[nvidia.gpus]]: name, uuid, address, architecture (9: Hopper),
                           # driver_version, vbios_version, recorded_report and recorded_chain (files to play back), and
                           # fault: flip-byte, wrong-nonce, truncated, report-size-lies, empty-report, chain-size-lies, no-pem,
                           # not-supported, unknown-error, lost, not-served, endless-name, wrong-fwid, expired, foreign-root,
                           # another-gpu
mode = "on"                # on, off, devtools, simulated, unsupported
multi_gpu = "none"         # none, protected-pcie, nvlink, future, unsupported
fault = "none"             # not-loaded, hang, count-lies
old_library = false        # no functions of confidential computing; fixed while the emulator runs
"#;

/// The emulated machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Machine {
    /// Kind of TEE.
    pub tee: Tee,
    /// Processor generation: CPUID fields, layout of the TCB, names of the certificates.
    pub product: Product,
    /// Version of the report structure, 2 to 5.
    pub report_version: u32,
    /// Launch digest.
    pub measurement: Hex<48>,
    /// Guest policy bits.
    pub policy: u64,
    /// The smallest privilege level, `privlevel_floor`.
    pub vmpl: u32,
    /// Host data: the fitted digest of the init-data.
    pub host_data: Hex<32>,
    /// Security versions.
    pub tcb: Tcb,
    /// Guest security version.
    pub guest_svn: u32,
    /// Chip id; of a Turin the first 8 bytes are used.
    pub chip_id: Hex<64>,
    /// Platform information bits.
    pub plat_info: u64,
    /// Name of the TEE driver, `auto` for the one of the TEE, or `none`.
    pub provider: String,
    /// What the certificate table holds.
    pub certificates: Certificates,
    /// What goes wrong.
    pub fault: Fault,
    /// Milliseconds added to every report.
    pub delay_ms: u64,
    /// The trust domain of a machine with TDX.
    pub td: Td,
    /// The paravisor of a machine of Azure.
    pub azure: Azure,
    /// The realm of a machine with CCA.
    pub realm: Realm,
    /// The GPUs, for `--nvidia`.
    pub nvidia: Nvidia,
}

impl Default for Machine {
    fn default() -> Self {
        let pattern = [
            0x5a, 0x11, 0xd0, 0xc3, 0xb7, 0xe9, 0x4f, 0x26, 0x88, 0xa3, 0xc1, 0x5d, 0x77, 0x40, 0xe1, 0xf2u8,
        ];
        let mut measurement = [0; 48];
        measurement.iter_mut().zip(pattern.iter().cycle()).for_each(|(to, from)| *to = *from);
        let mut chip_id = [0; 64];
        chip_id.iter_mut().zip([0xc4, 0x1d]).for_each(|(to, from)| *to = from);
        chip_id.iter_mut().next_back().into_iter().for_each(|last| *last = 1);
        Self {
            tee: Tee::Snp,
            product: Product::Milan,
            report_version: 3,
            measurement: Hex(measurement),
            policy: 0x30000,
            vmpl: 0,
            host_data: Hex([0; 32]),
            tcb: Tcb::default(),
            guest_svn: 0,
            chip_id: Hex(chip_id),
            plat_info: 0x25,
            provider: "auto".to_owned(),
            certificates: Certificates::Full,
            fault: Fault::None,
            delay_ms: 0,
            td: Td::default(),
            azure: Azure::default(),
            realm: Realm::default(),
            nvidia: Nvidia::default(),
        }
    }
}

impl Machine {
    /// The name of the TEE driver, none if there is none.
    pub fn provider(&self) -> Option<&str> {
        match (self.provider.as_str(), self.tee) {
            ("none", _) => None,
            ("auto", Tee::Snp) => Some("sev_guest"),
            ("auto", Tee::Tdx) => Some("tdx_guest"),
            ("auto", Tee::Cca) => Some("arm_cca_guest"),
            (name, _) => Some(name),
        }
    }

    /// The bytes that identify the chip in certificates: 64, of a Turin 8.
    pub fn hardware_id(&self) -> &[u8] {
        let length = if self.product == Product::Turin { 8 } else { 64 };
        self.chip_id.0.get(..length).unwrap_or_default()
    }

    /// How long a report takes beyond the time of its signature.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms)
    }
}

/// Kinds of TEE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// Arm CCA.
    Cca,
}

impl Tee {
    /// The name in machine files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Cca => "cca",
        }
    }
}

/// Processor generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// Third generation EPYC.
    Milan,
    /// Fourth generation EPYC.
    Genoa,
    /// Fifth generation EPYC.
    Turin,
}

impl Product {
    /// The name in certificates.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

/// Security versions of the parts of the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tcb {
    /// Boot loader.
    pub bootloader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode patch level.
    pub microcode: u8,
    /// Firmware of the FMC, Turin only.
    pub fmc: u8,
}

impl Default for Tcb {
    fn default() -> Self {
        Self { bootloader: 4, tee: 0, snp: 23, microcode: 213, fmc: 1 }
    }
}

/// What the certificate table of a report holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certificates {
    /// The chip's certificate.
    Vcek,
    /// The chip's certificate and both authorities'.
    Full,
    /// Nothing: `auxblob` is empty.
    None,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing.
    None,
    /// One bit of the launch measurement is flipped after signing.
    FlipBit,
    /// A correctly signed report over other report data.
    WrongReportData,
    /// The report before this one.
    Stale,
    /// One byte less than it should have.
    Short,
    /// No bytes.
    Empty,
    /// 4 MiB.
    Huge,
    /// No answer until the fault changes.
    Hang,
    /// EBUSY.
    Busy,
    /// The chip's certificate ended yesterday.
    ExpiredVcek,
    /// The chip's certificate is for another microcode.
    WrongTcbExtension,
    /// The chip's certificate is for another chip.
    WrongChipId,
    /// `/dev/sev-guest` alone: the certificates are longer than the driver's buffer.
    LargeTable,
    /// `/dev/sev-guest` alone: the firmware refuses.
    FirmwareError,
    /// `/dev/sev-guest` alone: the driver has given up its message key.
    KeyLost,
    /// ETIMEDOUT at once: the driver has waited for the host in vain.
    HostTimeout,
    /// The platform's certificate ended yesterday.
    ExpiredPck,
    /// The platform's certificate is on the revocation list.
    RevokedPck,
    /// The platform's certificate is for security versions that the collateral calls out of date.
    OutOfDateTcb,
    /// The platform's certificate is for security versions that the collateral calls revoked.
    RevokedTcb,
    /// A correctly signed quote of another trust domain, over the report data that was asked for.
    OtherDomain,
    /// The token is signed by another platform than the one whose key was told.
    UnknownPlatform,
    /// The platform's token is about another realm's key.
    ForeignRealm,
}

impl Fault {
    /// Whether a machine with `tee` can have it.
    fn is_of(self, tee: Tee) -> bool {
        match self {
            Self::ExpiredVcek
            | Self::WrongTcbExtension
            | Self::WrongChipId
            | Self::LargeTable
            | Self::FirmwareError
            | Self::KeyLost => tee == Tee::Snp,
            Self::UnknownPlatform | Self::ForeignRealm => tee == Tee::Cca,
            Self::HostTimeout
            | Self::ExpiredPck
            | Self::RevokedPck
            | Self::OutOfDateTcb
            | Self::RevokedTcb
            | Self::OtherDomain => tee == Tee::Tdx,
            _ => true,
        }
    }
}

/// Bytes of an exact length, written as hex in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|error| D::Error::custom(format!("expected {N} bytes as hex: {error}")))?;
        Ok(Self(bytes))
    }
}

/// Where the machine is described.
#[derive(Clone, Debug)]
pub enum MachineSource {
    /// A file, read anew for every report.
    File(PathBuf),
    /// A value that a test in the same process changes.
    Shared(Arc<Mutex<Machine>>),
}

impl MachineSource {
    /// The machine as it is now.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::Machine`] if the file cannot be read.
    pub fn load(&self) -> Result<Machine, Error> {
        match self {
            Self::Shared(machine) => Ok(machine.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Self::File(path) => {
                let text = fs::read_to_string(path).map_err(|source| Error::File {
                    step: "reading machine file",
                    path: path.clone(),
                    source,
                })?;
                let invalid = |reason| Error::Machine { path: path.clone(), reason };
                let machine: Machine = toml::from_str(&text).map_err(|error| invalid(error.to_string()))?;
                if !machine.fault.is_of(machine.tee) {
                    // Without effect it would be a test that shows nothing.
                    return Err(invalid(format!(
                        "a {:?} machine has no fault {:?}",
                        machine.tee, machine.fault
                    )));
                }
                Ok(machine)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_the_default() {
        assert_eq!(toml::from_str::<Machine>(EXAMPLE).unwrap(), Machine::default());
        assert_eq!(toml::from_str::<Machine>("").unwrap(), Machine::default());
    }

    #[test]
    fn every_fault_of_the_example_is_known() {
        let names = EXAMPLE.lines().skip_while(|l| !l.starts_with("fault")).take(4).collect::<String>();
        let mut count = 0;
        for name in names
            .split(['#', ',', '"', ':'])
            .map(str::trim)
            .filter(|n| n.contains(|c: char| c.is_alphabetic()))
        {
            let name = name.trim_start_matches("fault =").trim();
            if !["", "snp", "tdx", "cca"].contains(&name) {
                toml::from_str::<Machine>(&format!("fault = {name:?}")).unwrap();
                count += 1;
            }
        }
        assert_eq!(count, 23);
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, says) in [
            ("colour = 1", "unknown field"),
            ("measurement = \"00\"", "48 bytes"),
            ("host_data = \"zz\"", "32 bytes"),
            ("product = \"rome\"", "unknown variant"),
            ("tee = \"sgx\"", "unknown variant"),
            ("[td]\nxfam = \"00\"", "8 bytes"),
            ("[td]\nmrseam = \"00\"", "unknown field"),
            ("[tcb]\nsnp = 256", "256"),
        ] {
            let error = toml::from_str::<Machine>(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_is_read_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("machine.toml");
        let source = MachineSource::File(path.clone());
        assert!(matches!(source.load(), Err(Error::File { .. })));
        fs::write(&path, "vmpl = 1").unwrap();
        assert_eq!(source.load().unwrap().vmpl, 1);
        fs::write(&path, "vmpl = 2").unwrap();
        assert_eq!(source.load().unwrap().vmpl, 2);
        for bad in ["vmpl = ", "fault = \"out-of-date-tcb\"", "tee = \"tdx\"\nfault = \"wrong-chip-id\""] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(source.load(), Err(Error::Machine { .. })), "{bad}");
        }
    }
}
