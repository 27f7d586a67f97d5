//! The one error type of this crate, with a stable code and a next step for the operator per case.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cc_evidence::blame::Blame;

use crate::azure::AzureError;
use crate::detect::Probe;
use crate::tpm::TpmError;

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlatformError {
    /// No platform that this version can serve was found. Carries everything that was looked for.
    #[error("no usable TEE found: {}", list(.tried))]
    NoPlatform {
        /// What was looked for and what was found.
        tried: Vec<Probe>,
    },
    /// The configfs directory for TSM reports does not exist.
    #[error("{} does not exist, only {}", .path.display(), .existing.display())]
    TsmMissing {
        /// The missing directory.
        path: PathBuf,
        /// The longest part of it that exists.
        existing: PathBuf,
    },
    /// The TSM core is there, but no TEE driver has registered with it, or the driver has gone.
    #[error("{step}: no TEE driver is bound to the kernel's TSM interface (ENXIO)")]
    TsmNoProvider {
        /// What was being done.
        step: String,
    },
    /// The process may not use the interface.
    #[error("{step}: not permitted ({source})")]
    TsmAccess {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the request as invalid.
    #[error("{step}: the kernel refused the request as invalid (EINVAL)")]
    TsmRefused {
        /// What was being done.
        step: String,
    },
    /// Any other failure of the interface.
    #[error("{step} failed: {source}")]
    TsmIo {
        /// What was being done.
        step: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The time limit passed.
    #[error("{step}: no answer within {} s", .limit.as_secs_f32())]
    TsmTimeout {
        /// What was being waited for.
        step: String,
        /// The limit.
        limit: Duration,
    },
    /// The driver waited for the host in vain. Its own limit (30 seconds on TDX), not ours.
    #[error("{step}: the host did not answer the TEE driver in time (ETIMEDOUT)")]
    TsmHostTimeout {
        /// What was being done.
        step: String,
    },
    /// An earlier request is still inside the kernel, past its time limit.
    #[error("refused: an earlier request to the TEE driver has been inside the kernel for {} s and has not come back", .since.as_secs())]
    TsmStuck {
        /// How long the earlier request has been there.
        since: Duration,
    },
    /// Somebody else wrote to the entry of this request, again and again.
    #[error(
        "the TSM report entry was changed by another process: generation {found} where {expected} was expected"
    )]
    TsmInterference {
        /// The number of writes this process made.
        expected: u64,
        /// What the kernel counted.
        found: u64,
    },
    /// An attribute has a form that the kernel's interface does not have.
    #[error("TSM attribute {attribute} is malformed: {reason}")]
    TsmMalformed {
        /// The attribute.
        attribute: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The TEE driver behind the interface is not the one found at start.
    #[error("the TSM provider is {found:?}, expected {expected:?}")]
    ProviderChanged {
        /// The provider found at start.
        expected: &'static str,
        /// The provider now.
        found: String,
    },
    /// A TEE driver's device or attribute is there and does not do what it should.
    #[error("asking {} failed: {source}", .path.display())]
    Device {
        /// Device or attribute.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// `/dev/sev-guest` could not get a report.
    #[error(
        "asking {} for a report failed: {source} (firmware error {firmware:#x}, hypervisor error {vmm:#x})", .path.display()
    )]
    SnpRequest {
        /// The device.
        path: PathBuf,
        /// The firmware's error, AMD publication 56860; 0 if it was not asked.
        firmware: u32,
        /// The hypervisor's error, AMD publication 56421; 0 if there is none.
        vmm: u32,
        /// The driver's answer.
        source: io::Error,
    },
    /// The driver behind `/dev/sev-guest` has given up its key for messages to the firmware.
    #[error("asking {} for a report: the driver has no message key any more (ENOTTY)", .path.display())]
    SnpKeyLost {
        /// The device.
        path: PathBuf,
    },
    /// The firmware answered, and refused to make a report.
    #[error("the SNP firmware refuses a report at privilege level {vmpl}: status {status:#x}")]
    SnpReportRefused {
        /// Status of the message, AMD publication 56860.
        status: u32,
        /// The level asked for, after all lower ones were refused.
        vmpl: u32,
    },
    /// The host's quote generation service cannot be talked to.
    #[error("{step} the quote generation service at {address} failed: {source}")]
    QuoteService {
        /// Where it is looked for.
        address: String,
        /// What was being done: `connecting to`, `sending to`, `receiving from`.
        step: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// The host's quote generation service answered with an error.
    #[error("the quote generation service at {address} refuses: error {code:#x}")]
    QuoteRefused {
        /// Where it is.
        address: String,
        /// Its error code: those of Intel's message library begin with 0x12.
        code: u32,
    },
    /// An event log is there and cannot be read.
    #[error("reading the event log {} failed: {source}", .path.display())]
    EventLog {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The evidence cannot be parsed.
    #[error("the {what} from the hardware is malformed: {source}")]
    BadEvidence {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        source: cc_evidence::Error,
    },
    /// The evidence is well formed but does not contain the report data that was asked for.
    #[error("the {what} from the hardware does not contain the report data that was asked for")]
    EvidenceMismatch {
        /// Which part.
        what: &'static str,
    },
    /// The machine was launched with other init-data.
    #[error("init-data mismatch: the hardware holds {found}, the document needs {expected}")]
    InitDataMismatch {
        /// Hex of what the document's digest gives.
        expected: String,
        /// Hex of what the hardware holds.
        found: String,
    },
    /// The caller gave no digest. Zero bytes would match a machine that was launched without init-data.
    #[error("checking the init-data against the hardware: the digest is empty")]
    EmptyDigest,
    /// The machine has measurement registers that software cannot extend.
    #[error("this machine's measurement registers cannot be extended: {why}")]
    RegistersUnsupported {
        /// What is missing.
        why: String,
    },
    /// A measurement register that the platform does not have.
    #[error("there is no measurement register {pcr} on this platform")]
    NoSuchRegister {
        /// The PCR number that was named.
        pcr: u32,
    },
    /// A digest that is no digest of the registers' algorithm.
    #[error("a digest of {found} bytes was to be measured, the register takes {expected}")]
    DigestLength {
        /// What the register takes, bytes.
        expected: usize,
        /// What was given, bytes.
        found: usize,
    },
    /// A TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// An Azure machine: its paravisor or its metadata service.
    #[error(transparent)]
    Azure(#[from] AzureError),
    /// NVIDIA GPUs, or their driver.
    #[error(transparent)]
    Gpu(#[from] crate::nvidia::GpuError),
    /// The operating system refused a thread or random bytes.
    #[error("{step} failed: {source}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

impl PlatformError {
    /// Who has to act: but for one misuse always the one who runs the machine, as no peer takes part here.
    pub fn blame(&self) -> Blame {
        match self {
            Self::EmptyDigest | Self::NoSuchRegister { .. } | Self::DigestLength { .. } => Blame::Misused,
            Self::Tpm(error) => error.blame(),
            _ => Blame::Platform,
        }
    }

    /// The stable code of this case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoPlatform { .. } => "TEE_NOT_FOUND",
            Self::TsmMissing { .. } => "TSM_MISSING",
            Self::TsmNoProvider { .. } => "TSM_NO_PROVIDER",
            Self::TsmAccess { .. } => "TSM_ACCESS_DENIED",
            Self::TsmRefused { .. } => "TSM_REFUSED",
            Self::TsmIo { .. } => "TSM_IO",
            Self::TsmTimeout { .. } => "TSM_TIMEOUT",
            Self::TsmHostTimeout { .. } => "TSM_HOST_TIMEOUT",
            Self::TsmStuck { .. } => "TSM_STUCK",
            Self::TsmInterference { .. } => "TSM_INTERFERENCE",
            Self::TsmMalformed { .. } => "TSM_MALFORMED",
            Self::ProviderChanged { .. } => "TSM_PROVIDER_CHANGED",
            Self::Device { .. } => "TEE_DEVICE",
            Self::SnpRequest { .. } => "SNP_REQUEST_FAILED",
            Self::SnpKeyLost { .. } => "SNP_KEY_LOST",
            Self::SnpReportRefused { .. } => "SNP_REPORT_REFUSED",
            Self::QuoteService { .. } => "TDX_QUOTE_SERVICE_UNREACHABLE",
            Self::QuoteRefused { .. } => "TDX_QUOTE_REFUSED",
            Self::EventLog { .. } => "EVENT_LOG_UNREADABLE",
            Self::BadEvidence { .. } => "EVIDENCE_MALFORMED",
            Self::EvidenceMismatch { .. } => "EVIDENCE_MISMATCH",
            Self::InitDataMismatch { .. } => "INIT_DATA_MISMATCH",
            Self::EmptyDigest => "INIT_DATA_DIGEST_EMPTY",
            Self::RegistersUnsupported { .. } => "REGISTERS_UNSUPPORTED",
            Self::NoSuchRegister { .. } => "REGISTER_UNKNOWN",
            Self::DigestLength { .. } => "REGISTER_DIGEST_LENGTH",
            Self::Tpm(error) => error.code(),
            Self::Azure(error) => error.code(),
            Self::Gpu(error) => error.code(),
            Self::System { .. } => "SYSTEM_RESOURCE",
        }
    }

    /// The next step for the operator, one sentence or two.
    pub fn hint(&self) -> String {
        match self {
            Self::NoPlatform { .. } => {
                "run inside a confidential VM, load the guest driver (sev-guest or tdx-guest), mount configfs on \
                 /sys/kernel/config (Linux 6.7 or later) or let the agent open the driver's device (/dev/sev-guest, \
                 /dev/tdx_guest); on a machine with a TPM alone make an attestation key (docs/tpm.md); for development \
                 without hardware name the sample platform in the configuration"
            }
            Self::TsmMissing { .. } => {
                "the kernel must be 6.7 or later with CONFIG_TSM_REPORTS; mount configfs (mount -t configfs none \
                 /sys/kernel/config) and load the guest driver (modprobe sev-guest or tdx-guest)"
            }
            Self::TsmNoProvider { .. } => {
                "load the guest driver (modprobe sev-guest or tdx-guest) and look for its messages in the kernel log; without \
                 a TEE under this VM it cannot bind"
            }
            Self::TsmAccess { .. } => {
                "the agent must run as root, and /sys/kernel/config must be writable in its sandbox (in a \
                 container: mount it read-write; in a unit: ReadWritePaths=/sys/kernel/config/tsm/report)"
            }
            Self::TsmRefused { .. } => {
                "look in the kernel log; a privilege level (VMPL) outside of what the guest may use is the usual cause"
            }
            Self::TsmIo { .. } => {
                "look in the kernel log for messages of the guest driver; after a lost message key of sev-guest \
                 only a reboot helps"
            }
            Self::TsmTimeout { .. } => {
                "the host's firmware or hypervisor does not answer: try again later, then ask the provider of \
                 the machine; a longer limit can be set in the configuration"
            }
            Self::TsmHostTimeout { .. } => {
                "the host's quote generation service does not answer: try again later, then ask the provider of \
                 the machine whether it runs (on TDX: qgsd)"
            }
            Self::TsmStuck { .. } => {
                "nothing can be sent to the TEE driver before the earlier call returns; if it does not, reboot \
                 the machine and report it to its provider"
            }
            Self::TsmInterference { .. } => {
                "find the process that writes below /sys/kernel/config/tsm/report in directories that are not its own"
            }
            Self::TsmMalformed { .. } => {
                "this is not the kernel's TSM interface as documented in configfs-tsm-report: check what is \
                 mounted on /sys/kernel/config"
            }
            Self::ProviderChanged { .. } => "restart the agent so that it detects its platform again",
            Self::Device { .. } => "check that it is the TEE driver's and that the agent may open it",
            Self::SnpRequest { .. } => {
                "look in the kernel log for messages of sev-guest; if it says that the message key (VMPCK) was disabled, only \
                 a reboot helps"
            }
            Self::SnpKeyLost { .. } => {
                "the driver gave up its key after a failed message, to keep the host from replaying it: reboot the machine, \
                 and report it to its provider if it happens again"
            }
            Self::SnpReportRefused { .. } => {
                "check the privilege level (VMPL) and the keys that the guest runs with; the status is explained in AMD \
                 publication 56860"
            }
            Self::QuoteService { .. } => {
                "the host must run Intel's quote generation service (qgsd) and let this machine reach it over vsock; set its \
                 port in /etc/tdx-attest.conf (port = 4050). On Linux 6.7 or later the kernel's configfs interface is used \
                 instead"
            }
            Self::QuoteRefused { .. } => {
                "look in the log of the host's quote generation service (qgsd): the platform may not be registered with \
                 Intel, or its service cannot reach the caching service"
            }
            Self::EventLog { .. } => {
                "the agent must be able to read the firmware's log under /sys/firmware/acpi/tables/data and its own \
                 under /run/attestation-agent; a relying party may not accept a quote without them"
            }
            Self::BadEvidence { .. } => {
                "the answer of the host's firmware or hypervisor is damaged: try again, then report it to the \
                 provider of the machine"
            }
            Self::EvidenceMismatch { .. } => {
                "the host answered with evidence for another request; nothing was sent. If this repeats, do not \
                 trust the host and report it"
            }
            Self::InitDataMismatch { .. } => {
                "launch the machine with the digest of exactly this init-data document in its host data \
                 (SNP) or MRCONFIGID (TDX), or \
                 give it the document it was launched with"
            }
            Self::EmptyDigest => "pass the digest of the init-data document in the algorithm that it names",
            Self::RegistersUnsupported { .. } => {
                "on TDX the kernel must be 6.16 or later with CONFIG_TSM_MEASUREMENTS, and \
                 /sys/devices/virtual/misc/tdx_guest/measurements visible and writable where the agent runs"
            }
            Self::NoSuchRegister { .. } => "name a PCR number from 0 to 23, or none for the configured one",
            Self::DigestLength { .. } => "give a digest of the algorithm that the platform's registers have",
            Self::Tpm(error) => error.hint(),
            Self::Azure(error) => error.hint(),
            Self::Gpu(error) => error.hint(),
            Self::System { .. } => "check the limits on processes and memory of the agent's unit",
        }
        .to_owned()
    }
}

/// The probes as one line.
fn list(tried: &[Probe]) -> String {
    let parts: Vec<String> = tried.iter().map(ToString::to_string).collect();
    parts.join("; ")
}
