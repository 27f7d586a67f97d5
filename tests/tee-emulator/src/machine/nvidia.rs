//! The GPUs of the emulated machine and their driver.

use std::path::PathBuf;

use serde::Deserialize;

/// GPUs and driver.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nvidia {
    /// What the machine is set to.
    pub mode: NvidiaMode,
    /// How several GPUs work together.
    pub multi_gpu: MultiGpu,
    /// What goes wrong in the driver.
    pub fault: DriverFault,
    /// The library has no function of confidential computing; fixed while the emulator runs.
    pub old_library: bool,
    /// The GPUs.
    pub gpus: Vec<Gpu>,
}

/// Settings of confidential computing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NvidiaMode {
    /// On, for production.
    #[default]
    On,
    /// Off.
    Off,
    /// On, with developer tools.
    Devtools,
    /// On, simulated.
    Simulated,
    /// The driver knows no such settings.
    Unsupported,
}

/// Modes of several GPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MultiGpu {
    /// Each for itself.
    #[default]
    None,
    /// Over switches that are trusted.
    ProtectedPcie,
    /// Over encrypted links.
    Nvlink,
    /// A mode that nobody knows.
    Future,
    /// The driver knows no such modes.
    Unsupported,
}

/// What goes wrong in the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DriverFault {
    /// Nothing.
    #[default]
    None,
    /// The library is there, the kernel's driver is not.
    NotLoaded,
    /// No answer until the fault changes.
    Hang,
    /// It counts 4,294,967,295 GPUs.
    CountLies,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    /// Product.
    pub name: String,
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
    /// What goes wrong.
    pub fault: GpuFault,
    /// A recorded report to play back, hexadecimal.
    pub recorded_report: Option<PathBuf>,
    /// The chain that goes with it, PEM.
    pub recorded_chain: Option<PathBuf>,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            name: "NVIDIA H100 PCIe".to_owned(),
            uuid: "GPU-00000000-0000-0000-0000-000000000001".to_owned(),
            address: "0000:41:00.0".to_owned(),
            architecture: 9,
            driver_version: "580.95.05".to_owned(),
            vbios_version: "96.00.74.00.1a".to_owned(),
            fault: GpuFault::None,
            recorded_report: None,
            recorded_chain: None,
        }
    }
}

/// What goes wrong with a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GpuFault {
    /// Nothing.
    None,
    /// One byte of a measurement is changed after signing.
    FlipByte,
    /// A correctly signed report over another nonce.
    WrongNonce,
    /// The last 50 bytes of the report are missing.
    Truncated,
    /// The report has 4,294,967,295 bytes.
    ReportSizeLies,
    /// The report has no bytes.
    EmptyReport,
    /// The chain is longer than its buffer.
    ChainSizeLies,
    /// The chain is no text.
    NoPem,
    /// The driver gives no report.
    NotSupported,
    /// The driver answers with a code that nobody knows.
    UnknownError,
    /// The GPU has fallen off the bus.
    Lost,
    /// It is on the bus and the driver does not know it.
    NotServed,
    /// Name and UUID have no end.
    EndlessName,
    /// The report is of other firmware than the certificate.
    WrongFwid,
    /// The certificate of the device ended 29 days ago.
    Expired,
    /// The chain ends at a root of somebody else.
    ForeignRoot,
    /// It has the key and the certificate of the first GPU.
    AnotherGpu,
}
