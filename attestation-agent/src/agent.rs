//! The agent itself: one primary TEE, the devices beside it, and the init-data the machine was started with.
//!
//! Reading a TEE blocks for milliseconds to seconds, so every read runs on the blocking pool, and one device
//! answers one request at a time. Not here: the wire ([`crate::service`]) and who may ask ([`crate::access`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cc_evidence::ReportData;
use cc_platform::{Detected, InitDataBinding, Platform};
use tokio::sync::{RwLock, Semaphore};

use crate::error::AgentError;
use crate::init_data::BoundInitData;

/// One TEE or device with its queue.
#[derive(Debug)]
struct Device {
    platform: Arc<dyn Platform>,
    /// One permit: hardware answers one request at a time, and waiting here is cheaper than in the kernel.
    turn: Semaphore,
}

impl Device {
    fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform, turn: Semaphore::new(1) }
    }

    /// Runs a blocking call on the device in its turn.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Platform) -> Result<T, cc_platform::Error> + Send + 'static,
    ) -> Result<T, AgentError> {
        let _turn = self.turn.acquire().await.map_err(|_| AgentError::EvidenceThread)?;
        let platform = Arc::clone(&self.platform);
        tokio::task::spawn_blocking(move || call(platform.as_ref()))
            .await
            .map_err(|_| AgentError::EvidenceThread)?
            .map_err(AgentError::Platform)
    }
}

/// The agent: what every handler works on.
#[derive(Debug)]
pub struct Agent {
    primary: Device,
    devices: Vec<Device>,
    probes: Vec<String>,
    init_data: RwLock<Option<BoundInitData>>,
    collected: AtomicU64,
}

impl Agent {
    /// An agent over what was detected at start.
    pub fn new(detected: Detected) -> Self {
        let probes = detected.tried.iter().map(ToString::to_string).collect();
        Self {
            primary: Device::new(detected.primary),
            devices: detected.devices.into_iter().map(Device::new).collect(),
            probes,
            init_data: RwLock::new(None),
            collected: AtomicU64::new(0),
        }
    }

    /// Wire name of the primary TEE.
    pub fn tee(&self) -> &'static str {
        self.primary.platform.tee().as_str()
    }

    /// Wire names of the additional devices, in the order of detection.
    pub fn additional_tees(&self) -> Vec<String> {
        self.devices.iter().map(|d| d.platform.tee().as_str().to_owned()).collect()
    }

    /// What was looked for at start and what was found, a line each.
    pub fn probes(&self) -> &[String] {
        &self.probes
    }

    /// How many pieces of evidence were collected since the start.
    pub fn evidence_collected(&self) -> u64 {
        self.collected.load(Ordering::Relaxed)
    }

    /// Evidence of the primary TEE over `report_data` (0 to 64 bytes), as compact JSON text.
    ///
    /// # Errors
    /// [`AgentError::ReportData`] when it is longer, else what the platform says.
    pub async fn evidence(&self, report_data: &[u8]) -> Result<String, AgentError> {
        let data = parse_report_data(report_data)?;
        tracing::debug!(tee = self.tee(), bytes = report_data.len(), "collecting evidence");
        let evidence = self.primary.run(move |p| p.evidence(&data)).await?;
        self.collected.fetch_add(1, Ordering::Relaxed);
        Ok(evidence)
    }

    /// Evidence of all additional devices over `report_data`: a JSON object from TEE name to evidence, or the
    /// empty text when there is no device. One failing device fails the call: a shorter list would look complete.
    ///
    /// # Errors
    /// As [`Agent::evidence`].
    pub async fn additional_evidence(&self, report_data: &[u8]) -> Result<String, AgentError> {
        let data = parse_report_data(report_data)?;
        let mut members = Vec::with_capacity(self.devices.len());
        for device in &self.devices {
            let evidence = device.run(move |p| p.evidence(&data)).await?;
            self.collected.fetch_add(1, Ordering::Relaxed);
            members.push(format!("\"{}\":{evidence}", device.platform.tee().as_str()));
        }
        Ok(if members.is_empty() { String::new() } else { format!("{{{}}}", members.join(",")) })
    }

    /// The init-data the machine was started with, if any.
    pub async fn init_data(&self) -> Option<BoundInitData> {
        self.init_data.read().await.clone()
    }

    /// Checks `init_data` against the hardware and keeps it for every later attestation.
    ///
    /// # Errors
    /// When the hardware holds another digest, and when init-data is bound already: what the machine was
    /// started with does not change.
    pub async fn bind_init_data(&self, mut init_data: BoundInitData) -> Result<InitDataBinding, AgentError> {
        let mut slot = self.init_data.write().await;
        if slot.is_some() {
            return Err(AgentError::InitData("it was bound already since the agent started".to_owned()));
        }
        let digest = init_data.digest.clone();
        let binding = self.primary.run(move |p| p.bind_init_data(&digest)).await?;
        init_data.hardware_checked = matches!(binding, InitDataBinding::Bound);
        *slot = Some(init_data);
        Ok(binding)
    }
}

fn parse_report_data(bytes: &[u8]) -> Result<ReportData, AgentError> {
    ReportData::new(bytes).map_err(|_| AgentError::ReportData(bytes.len()))
}
