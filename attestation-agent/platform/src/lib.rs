//! The hardware rim: turns report data into evidence on the machine this process runs on.
//!
//! One file per platform, one shared file per kernel interface ([`tsm`]). Everything here blocks, because
//! the kernel interfaces block; callers run it on a thread that may wait. Nothing here knows a network, a key
//! broker, a token or a message format of the daemons, and nothing here judges evidence: what the machine
//! says is passed on, apart from the self-check that it answers the question that was asked.
//!
//! Evidence comes from the host's firmware and hypervisor, so it is hostile input: sizes are capped, reports
//! are parsed before they are passed on, and a call that does not return in time does not take the caller
//! with it.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cc_evidence::aael::DEFAULT_PCR;
pub use cc_evidence::blame::Blame;
pub use cc_evidence::{HashAlgorithm, ReportData, Tee};

pub mod azure;
mod cca;
mod detect;
mod error;
mod gate;
pub mod nvidia;
mod sample;
mod snp;
mod sys;
mod tdx;
pub mod tpm;
pub mod tsm;

pub use detect::{Detected, Probe, detect};
pub use error::PlatformError as Error;

/// Time limit for one evidence request when the configuration names none: firmware under load needs seconds,
/// and the kernel driver itself gives up on a throttled request after 60 seconds.
pub const DEFAULT_QUOTE_TIME_LIMIT: Duration = Duration::from_secs(60);

/// Where the agent's event log is, below the root of the machine.
pub const AGENT_EVENT_LOG: &str = "run/attestation-agent/eventlog";

/// The directory that stands for `/` when kernel interfaces are opened.
///
/// `/` in production. Anything else means that evidence may come from an emulator, so the caller that sets it
/// must log it loudly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysRoot(PathBuf);

impl SysRoot {
    /// Uses `root` in place of `/`.
    pub fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// The path of `below` (with or without a leading `/`) under this root.
    pub fn path(&self, below: &str) -> PathBuf {
        self.0.join(below.trim_start_matches('/'))
    }

    /// True if this is the real root of the machine.
    pub fn is_real(&self) -> bool {
        self.0 == Path::new("/")
    }
}

impl Default for SysRoot {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

/// What [`detect`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the kernel interfaces are.
    pub sys_root: SysRoot,
    /// True if the configuration names the sample platform. It proves nothing and is for development alone;
    /// it is used only where no hardware platform was found.
    pub sample: bool,
    /// How long one evidence request may take, the time in the queue included.
    pub quote_time_limit: Duration,
    /// The agent's event log, which goes with the evidence of platforms whose evidence has logs; none for
    /// [`AGENT_EVENT_LOG`].
    pub event_log: Option<PathBuf>,
    /// Which TPM to use where no TEE was found.
    pub tpm: tpm::TpmOptions,
    /// Surroundings of an Azure machine.
    pub azure: azure::AzureOptions,
    /// How NVIDIA GPUs are treated.
    pub nvidia: nvidia::NvidiaOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sys_root: SysRoot::default(),
            sample: false,
            quote_time_limit: DEFAULT_QUOTE_TIME_LIMIT,
            event_log: None,
            nvidia: nvidia::NvidiaOptions::default(),
            tpm: tpm::TpmOptions::default(),
            azure: azure::AzureOptions::default(),
        }
    }
}

/// One source of evidence.
pub trait Platform: Send + Sync + Debug {
    /// The platform's name on the wire.
    fn tee(&self) -> Tee;

    /// Evidence over `data` as the compact JSON text of the wire. Blocks for as long as the hardware needs,
    /// at most for the time limit given at detection.
    ///
    /// The evidence is checked to contain `data` before it is given out.
    ///
    /// # Errors
    /// [`Error`] of the kernel interface, [`Error::BadEvidence`] if the answer cannot be parsed, and
    /// [`Error::EvidenceMismatch`] if it answers another question.
    fn evidence(&self, data: &ReportData) -> Result<String, Error>;

    /// Compares the `digest` of an init-data document with what the hardware was launched with.
    ///
    /// # Errors
    /// [`Error::InitDataMismatch`] if the machine was launched with other init-data, else as [`evidence`].
    ///
    /// [`evidence`]: Platform::evidence
    fn bind_init_data(&self, digest: &[u8]) -> Result<InitDataBinding, Error>;

    /// A relying party has accepted an attestation with this platform's evidence. Nothing to do for most platforms.
    ///
    /// # Errors
    /// What goes wrong in what the platform does then.
    fn accepted(&self) -> Result<(), Error> {
        Ok(())
    }

    /// The registers into which software measures what happens while the machine runs; none where the platform has
    /// no such registers.
    fn registers(&self) -> Option<&dyn Registers> {
        None
    }
}

/// Runtime measurement registers of a platform: RTMR of TDX, PCR of a TPM.
///
/// A register is named by its TCG PCR number, as callers of the existing stack do. Nothing here is atomic across
/// calls: whoever reads, extends and logs takes care that nobody comes between.
pub trait Registers: Send + Sync + Debug {
    /// The hash algorithm of the registers, and of the log that explains them.
    fn hash(&self) -> HashAlgorithm;

    /// The PCR for events where neither caller nor configuration names one: 17, as in the existing stack, unless the
    /// platform's registers are PCRs and software cannot extend that one.
    fn default_pcr(&self) -> u32 {
        DEFAULT_PCR
    }

    /// Why `pcr` is a bad choice for events on this platform, though it may be configured: the end of a sentence.
    /// None where nothing speaks against it.
    fn objection(&self, _pcr: u32) -> Option<&'static str> {
        None
    }

    /// Whether the register behind `pcr` tells the identity of the machine, so that no event goes there: one of
    /// [`IDENTITY_PCRS`], or, where PCRs share registers, one that shares its register with them.
    fn tells_identity(&self, pcr: u32) -> bool {
        let same = |other: &u32| matches!((self.register_of(*other), self.register_of(pcr)), (Ok(a), Ok(b)) if a == b);
        IDENTITY_PCRS.iter().any(same)
    }

    /// Finds out whether this machine lets software extend its registers.
    ///
    /// # Errors
    /// [`Error::RegistersUnsupported`] says why it does not.
    fn enabled(&self) -> Result<(), Error>;

    /// The number that records of the event log carry for `pcr`: on TDX that of the register behind it, on a TPM the
    /// same number.
    ///
    /// # Errors
    /// [`Error::NoSuchRegister`].
    fn register_of(&self, pcr: u32) -> Result<u32, Error>;

    /// The value of the register behind `pcr`, as long as a digest of [`hash`](Registers::hash).
    ///
    /// # Errors
    /// [`Error::NoSuchRegister`], [`Error::RegistersUnsupported`], and what the device answers.
    fn read(&self, pcr: u32) -> Result<Vec<u8>, Error>;

    /// Extends the register behind `pcr`: new value = hash of old value and `digest`, which is as long as a digest of
    /// [`hash`](Registers::hash).
    ///
    /// # Errors
    /// As [`read`](Registers::read), and [`Error::DigestLength`]. After an error of the device the register may have
    /// been extended or not: read it.
    fn extend(&self, pcr: u32, digest: &[u8]) -> Result<(), Error>;
}

/// The PCRs that tell the identity of a machine whatever its platform: init-data is in PCR 8, kernel and command line are in
/// PCR 11.
pub const IDENTITY_PCRS: [u32; 2] = [8, 11];

/// Whether the hardware vouches for the init-data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitDataBinding {
    /// The hardware holds the same digest.
    Bound,
    /// Something says so that the host may have made: evidence that nobody has verified yet, a TPM that no hardware of the
    /// machine vouches for. Good enough to be sent to a relying party, which judges it, and for nothing on this machine.
    Claimed,
    /// This platform has no field for it: nothing was checked.
    Unsupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_under_the_root() {
        let root = SysRoot::new(PathBuf::from("/tmp/fake"));
        assert_eq!(root.path("sys/kernel"), Path::new("/tmp/fake/sys/kernel"));
        assert_eq!(root.path("/sys/kernel"), Path::new("/tmp/fake/sys/kernel"));
        assert!(!root.is_real());
        assert!(SysRoot::default().is_real());
    }
}
