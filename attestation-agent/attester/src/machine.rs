//! This machine as the source of evidence for the session with the key broker.
//!
//! GPUs are left out, with a warning: the programs that use this are static, and NVIDIA's management library would bring the C library of the
//! machine into it. The agent attests them; a key broker that wants them for a resource denies it here.
//!
//! Not here: which report data is asked for (the handshake's business) and what the evidence proves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cc_evidence::ReportData;
use cc_evidence::blame::Blame;
use cc_evidence::initdata::InitData;
use cc_kbs::{BoxFuture, EvidenceSource, SourceFault};
use cc_platform::nvidia::{self, NvidiaOptions, Require};
use cc_platform::tpm::TpmOptions;
use cc_platform::{InitDataBinding, Options, Platform, SysRoot};

/// What to look for, and where.
#[derive(Debug)]
pub struct MachineOptions {
    /// The folder that stands for `/` when the TEE is looked for; another than `/` is for tests.
    pub sys_root: PathBuf,
    /// Where no TEE is found, give sample evidence, which proves nothing (for development).
    pub sample: bool,
    /// The document that the machine was started with, if there is one.
    pub init_data: Option<InitData>,
    /// Which TPM to use where no TEE is found, and which key in it.
    pub tpm: TpmOptions,
    /// How long one device may take for its evidence.
    pub quote_time_limit: Duration,
}

/// The TEE that was found, the devices beside it, and the init-data that was given.
#[derive(Debug)]
pub struct Machine {
    primary: Arc<dyn Platform>,
    devices: Vec<Arc<dyn Platform>>,
    init_data: Option<InitData>,
}

impl Machine {
    /// Looks for the TEE and compares the init-data with what it was launched with. Blocks.
    ///
    /// # Errors
    /// There is no TEE, or the hardware holds the digest of another init-data document.
    pub fn find(options: MachineOptions) -> Result<Self, cc_platform::Error> {
        let MachineOptions { sys_root, sample, init_data, tpm, quote_time_limit } = options;
        if sys_root != Path::new("/") {
            tracing::warn!(root = %sys_root.display(), "TEE interfaces are looked up below another root: for tests only");
        }
        #[allow(
            clippy::needless_update,
            reason = "what single platforms can be told stays as it is by default"
        )]
        let options = Options {
            sys_root: SysRoot::new(sys_root),
            sample,
            quote_time_limit,
            tpm,
            nvidia: NvidiaOptions { require: Some(Require::None), set_ready: false },
            ..Options::default()
        };
        let found = cc_platform::detect(&options)?;
        match nvidia::on_bus(&options.sys_root) {
            Ok(gpus) if gpus.is_empty() => {}
            Ok(gpus) => tracing::warn!(
                gpus = gpus.join(", "),
                "GPUs are left out of the evidence: this program attests the TEE alone, the attestation agent attests GPUs too"
            ),
            Err(error) => {
                tracing::warn!(%error, "whether there are GPUs is not known; they would be left out of the evidence")
            }
        }
        if let Some(document) = &init_data
            && found.primary.bind_init_data(&document.digest())? == InitDataBinding::Unsupported
        {
            tracing::warn!(
                tee = found.primary.tee().as_str(),
                "this platform has no field for init-data: it is passed on, but nothing vouches for it"
            );
        }
        Ok(Self { primary: found.primary, devices: found.devices, init_data })
    }
}

impl EvidenceSource for Machine {
    fn tee(&self) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async { Ok(self.primary.tee().as_str().to_owned()) })
    }

    fn additional(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async move {
            let mut members = Vec::with_capacity(self.devices.len());
            for device in &self.devices {
                let evidence = evidence(device, &report_data).await?;
                members.push(format!("\"{}\":{evidence}", device.tee().as_str()));
            }
            Ok(if members.is_empty() { String::new() } else { format!("{{{}}}", members.join(",")) })
        })
    }

    fn primary(&self, report_data: Vec<u8>) -> BoxFuture<'_, Result<String, cc_kbs::Error>> {
        Box::pin(async move { evidence(&self.primary, &report_data).await })
    }

    fn init_data(&self) -> BoxFuture<'_, Result<Option<String>, cc_kbs::Error>> {
        Box::pin(async { Ok(self.init_data.as_ref().map(|d| d.body().to_owned())) })
    }
}

/// Asks the device on a thread that may wait: the deadline of the whole is kept meanwhile.
async fn evidence(device: &Arc<dyn Platform>, report_data: &[u8]) -> Result<String, cc_kbs::Error> {
    let data = ReportData::new(report_data)?;
    let device = Arc::clone(device);
    let answer = tokio::task::spawn_blocking(move || device.evidence(&data)).await;
    match answer {
        Ok(answer) => answer.map_err(|e| fault(e.blame(), e.code(), e.to_string(), e.hint())),
        Err(_) => Err(fault(
            Blame::Platform,
            "EVIDENCE_THREAD_DIED",
            "the evidence thread ended without an answer".to_owned(),
            "report this with what was printed before".to_owned(),
        )),
    }
}

fn fault(blame: Blame, code: &str, message: String, hint: String) -> cc_kbs::Error {
    cc_kbs::Error::from(SourceFault { blame, code: code.to_owned(), message, hint })
}
