//! Why there is no GPU evidence: what was asked of which GPU, what the driver said, what to do.

use std::time::Duration;

/// A failure of GPUs or their driver. Part of [`crate::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There are GPUs, and no library to talk to them.
    #[error("the GPUs {gpus} cannot be attested: NVIDIA's management library cannot be loaded: {why}")]
    Library {
        /// Their PCI addresses.
        gpus: String,
        /// The loader's message.
        why: String,
    },
    /// The library is older than confidential computing.
    #[error("NVIDIA's management library has no function {function}")]
    TooOld {
        /// The missing function.
        function: &'static str,
    },
    /// The driver refused.
    #[error("{function} failed for {gpu}: {}", code_text(*code))]
    Driver {
        /// The function that was called.
        function: &'static str,
        /// The GPU, or `the driver`.
        gpu: String,
        /// NVML's return code.
        code: u32,
    },
    /// The driver gave something that its interface cannot give.
    #[error("the driver's answer for {gpu} is malformed: {why}")]
    Malformed {
        /// The GPU, or `the driver`.
        gpu: String,
        /// What is wrong.
        why: String,
    },
    /// A GPU that is there and cannot be attested in its present mode.
    #[error("{gpu} cannot be attested: {why}")]
    NotConfidential {
        /// The GPUs.
        gpu: String,
        /// Which mode or generation is in the way.
        why: String,
    },
    /// A GPU on the PCI bus that the driver does not serve.
    #[error("the GPU at {address} is on the PCI bus, but NVIDIA's driver does not serve it")]
    NotServed {
        /// Its PCI address.
        address: String,
    },
    /// The machine's security rests on switches, whose reports this version cannot get.
    #[error("the switches of this machine cannot be attested: {why}")]
    Switches {
        /// How it was noticed.
        why: String,
    },
    /// The report is for another nonce.
    #[error("the report of {gpu} does not contain the nonce that was asked for")]
    Mismatch {
        /// The GPU.
        gpu: String,
    },
    /// The driver does not answer.
    #[error("{step}: no answer from NVIDIA's driver within {} s", .limit.as_secs_f32())]
    Timeout {
        /// What was being waited for.
        step: String,
        /// The limit.
        limit: Duration,
    },
    /// An earlier request is still inside the driver.
    #[error(
        "refused: an earlier request has been inside NVIDIA's driver for {} s and has not come back", .since.as_secs()
    )]
    Stuck {
        /// How long it has been there.
        since: Duration,
    },
    /// The GPUs were to be set ready, and no evidence of theirs was given out since that was done last.
    #[error(
        "the GPUs are not set ready: no evidence of theirs has been collected since the agent started or they were to be \
         set ready last"
    )]
    NothingAttested,
    /// The GPUs that were to be set ready are not those whose evidence was accepted.
    #[error("the GPUs are not set ready: {attested} were attested, and now there are {found}")]
    Changed {
        /// Addresses and UUIDs of those in the evidence.
        attested: String,
        /// Those that the driver serves now.
        found: String,
    },
}

impl GpuError {
    /// The stable code of this case.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Library { .. } => "NVIDIA_LIBRARY_MISSING",
            Self::TooOld { .. } => "NVIDIA_DRIVER_TOO_OLD",
            Self::Driver { .. } => "NVIDIA_DRIVER_FAILED",
            Self::Malformed { .. } => "NVIDIA_MALFORMED",
            Self::NotConfidential { .. } => "NVIDIA_NOT_CONFIDENTIAL",
            Self::NotServed { .. } => "NVIDIA_GPU_NOT_SERVED",
            Self::Switches { .. } => "NVIDIA_SWITCHES_UNATTESTED",
            Self::Mismatch { .. } => "EVIDENCE_MISMATCH",
            Self::Timeout { .. } => "NVIDIA_TIMEOUT",
            Self::Stuck { .. } => "NVIDIA_STUCK",
            Self::NothingAttested => "NVIDIA_NOTHING_ATTESTED",
            Self::Changed { .. } => "NVIDIA_GPUS_CHANGED",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Library { .. } => {
                "install NVIDIA's driver with libnvidia-ml.so.1 in this machine's image; if GPUs need not be attested, set \
                 nvidia.require to \"none\" in the agent's configuration"
            }
            Self::TooOld { .. } => {
                "confidential computing on Hopper needs driver 550 or later, on Blackwell 570 or later"
            }
            Self::Driver { .. } => {
                "run nvidia-smi and look for messages of NVRM in the kernel log; the agent needs the devices /dev/nvidia* in \
                 its sandbox"
            }
            Self::Malformed { .. } => {
                "the driver's answer is damaged: try again, then reinstall the driver or report it to the provider of the \
                 machine"
            }
            Self::NotConfidential { .. } => {
                "the host's administrator switches the GPU's confidential computing mode on (without developer tools); look \
                 at it with `nvidia-smi conf-compute -q`. If this GPU need not be attested, set nvidia.require to \
                 \"attestable\" or \"none\""
            }
            Self::NotServed { .. } => {
                "load NVIDIA's driver and look for messages of NVRM about this address in the kernel log"
            }
            Self::Switches { .. } => {
                "give the machine GPUs without protected PCIe mode; if the switches need not be attested, set nvidia.require \
                 to \"attestable\""
            }
            Self::Mismatch { .. } => {
                "nothing was sent. If this repeats, do not trust the driver or the GPU, and report it"
            }
            Self::Timeout { .. } => {
                "try again later; nvidia-persistenced keeps GPUs initialised, which makes reports faster. A longer limit is \
                 platform.quote_time_limit_seconds"
            }
            Self::Stuck { .. } => {
                "nothing can be asked of the driver before the earlier call returns; if it does not, reboot the machine"
            }
            Self::NothingAttested => {
                "let the machine attest first; the data hub then says when it was accepted"
            }
            Self::Changed { .. } => {
                "let the machine attest again; if nobody changed its GPUs, do not trust the host that gave it others"
            }
        }
    }
}

/// A return code of NVML with its name.
fn code_text(code: u32) -> String {
    let name = match code {
        1 => "not initialised",
        2 => "invalid argument",
        3 => "not supported",
        4 => "no permission",
        6 => "not found",
        9 => "the driver is not loaded",
        10 => "timeout",
        13 => "function not found",
        15 => "the GPU is lost",
        16 => "the GPU needs a reset",
        17 => "blocked by the operating system",
        18 => "library and driver have different versions",
        20 => "out of memory",
        25 => "another version of the structure is wanted",
        27 => "not ready",
        28 => "no GPU found",
        29 => "invalid state",
        999 => "unknown error",
        _ => "unknown code",
    };
    format!("{name} (NVML {code})")
}
