//! The agent itself: one primary TEE, the devices beside it, the init-data the machine was started with, and the log of
//! what was measured since.
//!
//! Reading a TEE blocks for milliseconds to seconds, so every read runs on the blocking pool, and one device
//! answers one request at a time. Events are measured in the same turn, so that a quote and the log beside it agree. Not here: the wire ([`crate::service`]) and who may ask ([`crate::access`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cc_daemon::notify::StatusLine;
use cc_daemon::peer::Caller;
use cc_evidence::ReportData;
use cc_evidence::aael::Event;
use cc_platform::{Detected, InitDataBinding, Platform};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, Semaphore, oneshot};

use crate::error::AgentError;
use crate::init_data::{BoundInitData, field};
use crate::measurement::{self, Account, EventLog, Measuring};

/// One TEE or device with its queue.
#[derive(Debug)]
struct Device {
    platform: Arc<dyn Platform>,
    /// One permit: hardware answers one request at a time, and waiting here is cheaper than in the kernel.
    turn: Arc<Semaphore>,
}

impl Device {
    fn new(platform: Arc<dyn Platform>) -> Self {
        Self { platform, turn: Arc::new(Semaphore::new(1)) }
    }

    /// Runs a blocking call on the device in its turn. The turn belongs to the call, not to the caller: a caller
    /// who goes away frees nothing while the device works, and one who goes away before costs no work at all.
    async fn run<T: Send + 'static, E: Into<AgentError> + Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Platform) -> Result<T, E> + Send + 'static,
    ) -> Result<T, AgentError> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| AgentError::EvidenceThread)?;
        let platform = Arc::clone(&self.platform);
        let (sender, answer) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if !sender.is_closed() {
                // Nobody to tell is no failure: the caller went away meanwhile.
                let _ = sender.send(call(platform.as_ref()));
            }
        });
        answer.await.map_err(|_| AgentError::EvidenceThread)?.map_err(Into::into)
    }
}

/// The agent: what every handler works on.
#[derive(Debug)]
pub struct Agent {
    primary: Device,
    devices: Vec<Device>,
    probes: Vec<String>,
    init_data: Arc<RwLock<Option<BoundInitData>>>,
    measuring: Measuring,
    measurement: Option<Account>,
    collected: AtomicU64,
    line: StatusLine,
}

impl Agent {
    /// An agent over what was detected at start.
    pub fn new(detected: Detected) -> Self {
        let probes = detected.tried.iter().map(ToString::to_string).collect();
        Self {
            primary: Device::new(detected.primary),
            devices: detected.devices.into_iter().map(Device::new).collect(),
            probes,
            init_data: Arc::default(),
            measuring: Measuring::Off,
            measurement: None,
            collected: AtomicU64::new(0),
            line: StatusLine::default(),
        }
    }

    /// Switches the measurement of events on, if `settings` say so and the platform can.
    ///
    /// # Errors
    /// As [`Measuring::open`].
    pub async fn open_event_log(&mut self, settings: measurement::Settings) -> Result<(), AgentError> {
        let (measuring, account) = self
            .primary
            .run(move |p| {
                let measuring = Measuring::open(&settings, p)?;
                let account = Account::of(&measuring, &settings, p);
                Ok::<_, AgentError>((measuring, account))
            })
            .await?;
        self.measuring = measuring;
        self.measurement = Some(account);
        Ok(())
    }

    /// Whether events are measured.
    pub fn measuring(&self) -> &Measuring {
        &self.measuring
    }

    /// What came of the settings of the measurement of events; nothing before they were known.
    pub fn measurement(&self) -> Option<&Account> {
        self.measurement.as_ref()
    }

    /// Measures an event of `caller` into `log`, which is this agent's, and into the register `pcr`.
    ///
    /// # Errors
    /// As [`EventLog::measure`].
    pub async fn measure(
        &self,
        log: &Arc<EventLog>,
        event: Event,
        pcr: u32,
        caller: Caller,
    ) -> Result<(), AgentError> {
        let log = Arc::clone(log);
        self.primary
            .run(move |p| {
                let none = || cc_platform::Error::RegistersUnsupported { why: "it has none".to_owned() };
                log.measure(p.registers().ok_or_else(none)?, &event, pcr, &caller)
            })
            .await
    }

    /// What the service manager shows.
    pub fn line(&self) -> &StatusLine {
        &self.line
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
        let log = match &self.measuring {
            Measuring::On(log) => Some(Arc::clone(log)),
            _ => None,
        };
        let evidence = self
            .primary
            .run(move |p| {
                // An event that was interrupted is in the registers or is not; the log has to agree before it is read.
                if let (Some(log), Some(registers)) = (log, p.registers()) {
                    log.settle(registers)?;
                }
                p.evidence(&data).map_err(AgentError::from)
            })
            .await;
        match &evidence {
            Ok(_) => {
                self.line.nothing_missing("evidence");
                self.collected.fetch_add(1, Ordering::Relaxed);
            }
            Err(e) => {
                let why = format!("no evidence: {e} [{}]; {}", e.code(), e.hint());
                self.line.missing("evidence", why);
            }
        }
        evidence
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

    /// Tells the devices that a relying party has accepted an attestation with their evidence.
    ///
    /// # Errors
    /// What the first device says that cannot do what it does then.
    pub async fn devices_accepted(&self) -> Result<(), AgentError> {
        for device in &self.devices {
            device.run(|p| p.accepted()).await?;
        }
        Ok(())
    }

    /// The init-data the machine was started with, if any.
    pub async fn init_data(&self) -> Option<BoundInitData> {
        self.init_data.read().await.clone()
    }

    /// Takes the place of the init-data: from now on everybody who asks for it waits until the guard is given to
    /// [`Agent::bind_init_data`] or dropped.
    pub async fn reserve_init_data(&self) -> OwnedRwLockWriteGuard<Option<BoundInitData>> {
        Arc::clone(&self.init_data).write_owned().await
    }

    /// Checks `init_data` against the hardware and keeps it for every later attestation.
    ///
    /// Once for each start of the agent. Across starts the hardware is the memory: what it holds does not change until
    /// the machine is launched again, and it is asked each time.
    ///
    /// # Errors
    /// When the hardware holds another digest or cannot hold one of this length, and when init-data is bound already:
    /// what the machine was started with does not change.
    pub async fn bind_init_data(
        &self,
        mut init_data: BoundInitData,
        mut slot: OwnedRwLockWriteGuard<Option<BoundInitData>>,
    ) -> Result<InitDataBinding, AgentError> {
        if slot.is_some() {
            return Err(AgentError::InitData("it was bound already since the agent started".to_owned()));
        }
        let digest = init_data.digest.clone();
        field::check_algorithm(self.primary.platform.tee(), &digest)?;
        let binding = self.primary.run(move |p| p.bind_init_data(&digest)).await?;
        init_data.hardware_checked = matches!(binding, InitDataBinding::Bound);
        *slot = Some(init_data);
        Ok(binding)
    }

    /// Whether the hardware holds `digest`; `None` while it holds nothing yet. Changes nothing, unlike
    /// [`Agent::bind_init_data`], which extends a PCR that nobody has extended.
    ///
    /// # Errors
    /// As [`Agent::bind_init_data`].
    pub async fn holds_init_data(&self, digest: &[u8]) -> Result<Option<InitDataBinding>, AgentError> {
        field::check_algorithm(self.primary.platform.tee(), digest)?;
        let digest = digest.to_vec();
        self.primary.run(move |p| field::held(p, &digest)).await
    }
}

fn parse_report_data(bytes: &[u8]) -> Result<ReportData, AgentError> {
    ReportData::new(bytes).map_err(|_| AgentError::ReportData(bytes.len()))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Mutex;
    use std::time::Duration;

    use cc_platform::{HashAlgorithm, Registers, Tee};

    use super::*;

    /// A TEE that takes its time and counts.
    #[derive(Debug, Default)]
    struct Slow(AtomicU64);

    impl Platform for Slow {
        fn tee(&self) -> Tee {
            Tee::Sample
        }

        #[allow(clippy::disallowed_methods, reason = "a device takes its time")]
        fn evidence(&self, _data: &ReportData) -> Result<String, cc_platform::Error> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
            Ok("{}".to_owned())
        }

        fn bind_init_data(&self, _digest: &[u8]) -> Result<InitDataBinding, cc_platform::Error> {
            Ok(InitDataBinding::Unsupported)
        }
    }

    fn agent(slow: &Arc<Slow>) -> Agent {
        let primary: Arc<dyn Platform> = Arc::clone(slow) as _;
        Agent::new(Detected { primary, devices: Vec::new(), tried: Vec::new() })
    }

    #[tokio::test]
    async fn callers_who_go_away_cost_no_quotes() {
        let slow = Arc::new(Slow::default());
        let agent = agent(&slow);
        let start = std::time::Instant::now();
        for _ in 0..100 {
            let call = agent.evidence(&[7; 48]);
            assert!(tokio::time::timeout(Duration::from_micros(100), call).await.is_err());
        }
        assert_eq!(agent.evidence(&[7; 48]).await.unwrap(), "{}", "a patient caller is served");
        let quotes = u128::from(slow.0.load(Ordering::Relaxed));
        let possible = start.elapsed().as_millis() / 50 + 1;
        assert!(quotes <= possible, "the device was never asked twice at a time: {quotes} of {possible}");
        assert!(quotes < 50, "most of those who went away cost nothing: {quotes}");
    }

    /// A TEE whose quote takes its time between the look at the log and the look at the register.
    #[derive(Debug)]
    struct Measured {
        log: PathBuf,
        register: Mutex<Vec<u8>>,
    }

    impl Platform for Measured {
        fn tee(&self) -> Tee {
            Tee::Tdx
        }

        #[allow(clippy::disallowed_methods, reason = "a device takes its time")]
        fn evidence(&self, _data: &ReportData) -> Result<String, cc_platform::Error> {
            let log = std::fs::read(&self.log).unwrap_or_default();
            std::thread::sleep(Duration::from_millis(20));
            let log = cc_evidence::ccel::assemble(None, Some(&log)).unwrap().unwrap();
            let replayed = cc_evidence::ccel::replay(&log, HashAlgorithm::Sha384).unwrap();
            let agrees = replayed.run_time().nth(3) == Some(self.register.lock().unwrap().as_slice());
            Ok(agrees.to_string())
        }

        fn bind_init_data(&self, _digest: &[u8]) -> Result<InitDataBinding, cc_platform::Error> {
            Ok(InitDataBinding::Unsupported)
        }

        fn registers(&self) -> Option<&dyn Registers> {
            Some(self)
        }
    }

    impl Registers for Measured {
        fn hash(&self) -> HashAlgorithm {
            HashAlgorithm::Sha384
        }

        fn enabled(&self) -> Result<(), cc_platform::Error> {
            Ok(())
        }

        fn register_of(&self, pcr: u32) -> Result<u32, cc_platform::Error> {
            Ok(if pcr < 16 { 3 } else { 4 })
        }

        fn read(&self, _pcr: u32) -> Result<Vec<u8>, cc_platform::Error> {
            Ok(self.register.lock().unwrap().clone())
        }

        fn extend(&self, _pcr: u32, digest: &[u8]) -> Result<(), cc_platform::Error> {
            let mut register = self.register.lock().unwrap();
            *register = HashAlgorithm::Sha384.digest(&[register.as_slice(), digest].concat());
            Ok(())
        }
    }

    #[tokio::test]
    async fn no_event_comes_between_a_log_and_its_quote() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("aa/eventlog");
        let primary = Arc::new(Measured { log: log.clone(), register: Mutex::new(vec![0; 48]) });
        let mut agent = Agent::new(Detected { primary, devices: Vec::new(), tried: Vec::new() });
        agent.open_event_log(measurement::Settings { enabled: true, pcr: None, log }).await.unwrap();
        let Measuring::On(log) = agent.measuring().clone() else { panic!("it has registers") };
        let agent = Arc::new(agent);
        let quotes = tokio::spawn({
            let agent = Arc::clone(&agent);
            async move {
                for _ in 0..10 {
                    assert_eq!(agent.evidence(&[7; 48]).await.unwrap(), "true", "log and register agree");
                }
            }
        });
        let mut events = 0;
        while !quotes.is_finished() {
            let event = Event::new("example.org", "test", &events.to_string()).unwrap();
            agent.measure(&log, event, 17, Caller::UNKNOWN).await.unwrap();
            events += 1;
        }
        quotes.await.unwrap();
        assert!(events >= 5, "events came in between: {events}");
    }

    #[tokio::test]
    async fn report_data_is_bounded() {
        let agent = agent(&Arc::default());
        assert_eq!(agent.evidence(&[0; 65]).await.unwrap_err().code(), "REPORT_DATA_TOO_LONG");
        assert!(agent.evidence(&[0; 64]).await.is_ok());
        assert_eq!(agent.additional_evidence(&[0; 48]).await.unwrap(), "", "no device, no text");
    }
}
