//! Runtime measurement: an event is extended into a register and told in the log, or neither, also when the agent is
//! killed in between.
//!
//! Before a register is extended, the agent notes what it is going to do. A note that is still there when the agent
//! starts, or before it does anything else that depends on log and register, is finished first: it tells the value that the
//! register will have, so it shows whether the extension was made. Steps, files and the form of log and note are those of
//! the Confidential Containers guest components.
//!
//! Everything here blocks and wants to be alone with the registers: [`crate::agent`] calls it in the platform's turn, in
//! which quotes are made too, so that no quote tells of an event that the log beside it does not have. The formats are in
//! [`cc_evidence::aael`], the registers in [`cc_platform::Registers`].

use std::path::PathBuf;
use std::sync::Arc;

use cc_daemon::peer::Caller;
use cc_evidence::aael::{Event, WriteAhead};
use cc_platform::{HashAlgorithm, IDENTITY_PCRS, Platform, Registers};

use crate::access;
use crate::error::AgentError;

mod files;

use files::{Directory, Files};

/// Most bytes of records in the log. A log this long still fits with the firmware's into evidence, and into a request
/// that key brokers take.
pub const LOG_LIMIT: u64 = 512 * 1024;

/// Most bytes that the log may have for events that come over local HTTP to be taken: the rest is kept for the
/// data hub, so that no workload can keep images from being measured.
const LOCAL_HTTP_LIMIT: u64 = LOG_LIMIT / 2;

/// Why a register takes no events.
const TELLS_IDENTITY: &str = "it tells the identity of the machine";

/// One more than the greatest PCR number.
const PCR_END: u32 = 24;

/// What the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Whether events are measured.
    pub enabled: bool,
    /// The register for events that name none, as PCR number; without it the platform's default.
    pub pcr: Option<u32>,
    /// Where the log is; the note is beside it.
    pub log: PathBuf,
}

impl Settings {
    /// Finds out whether the register may be used.
    ///
    /// # Errors
    /// [`AgentError::Register`] if events are measured and the register is not one for events.
    pub fn check(&self) -> Result<(), AgentError> {
        let Some(pcr) = self.pcr.filter(|_| self.enabled) else { return Ok(()) };
        match pcr {
            pcr if IDENTITY_PCRS.contains(&pcr) => Err(refused(pcr, TELLS_IDENTITY)),
            PCR_END.. => Err(refused(pcr, "PCR numbers end at 23")),
            _ => Ok(()),
        }
    }
}

/// The configuration names a register that is not one for events.
fn refused(pcr: u32, why: &'static str) -> AgentError {
    AgentError::Register { pcr: pcr.into(), caller: "the configuration".into(), why }
}

/// Whether this agent measures events.
#[derive(Debug, Clone)]
pub enum Measuring {
    /// The configuration does not ask for it.
    Off,
    /// The configuration asks for it and the platform cannot, for this reason.
    Unsupported(String),
    /// It does.
    On(Arc<EventLog>),
}

impl Measuring {
    /// Opens the log, and finishes the event that an earlier agent was killed in. A platform that cannot measure is a
    /// warning: everything else works.
    ///
    /// # Errors
    /// [`AgentError::Register`], [`AgentError::EventLogFile`], [`AgentError::EventInterrupted`].
    pub fn open(settings: &Settings, platform: &dyn Platform) -> Result<Self, AgentError> {
        settings.check()?;
        if !settings.enabled {
            return Ok(Self::Off);
        }
        let Some(registers) = platform.registers() else {
            tracing::warn!(
                tee = platform.tee().as_str(),
                "enable_eventlog is on, but this platform has no registers for events: they are answered with NOT_SUPPORTED"
            );
            return Ok(Self::Unsupported("this platform has no registers for events".to_owned()));
        };
        if let Err(error) = registers.enabled() {
            tracing::warn!(%error, code = error.code(), hint = error.hint(),
                "enable_eventlog is on, but events cannot be measured: they are answered with NOT_SUPPORTED");
            return Ok(Self::Unsupported(error.to_string()));
        }
        let pcr = settings.pcr.unwrap_or_else(|| registers.default_pcr());
        let register = registers.register_of(pcr)?;
        if registers.tells_identity(pcr) {
            return Err(refused(
                pcr,
                "on this platform it shares a register with what tells the identity of the machine",
            ));
        }
        let identity = (0..PCR_END).filter(|pcr| registers.tells_identity(*pcr)).collect();
        let log = EventLog { files: Box::new(Directory::open(&settings.log)?), pcr, identity };
        log.settle(registers)?;
        let configured = settings.pcr.is_some();
        tracing::info!(pcr, configured, register, hash = %registers.hash(), log = %settings.log.display(), "events are measured");
        if let Some(why) = registers.objection(pcr) {
            let better = registers.default_pcr();
            tracing::warn!(pcr, better, "init_pcr is a bad choice on this machine: {why}");
        }
        Ok(Self::On(Arc::new(log)))
    }
}

/// What people are told of the measurement of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// `on`, `off`, or `unsupported`.
    pub state: &'static str,
    /// Why it is not on; empty if it is.
    pub why: String,
    /// The register for events that name none, as PCR number, the number that records have for it, and its hash algorithm;
    /// nothing where the platform has no registers.
    pub register: Option<(u32, u32, HashAlgorithm)>,
    /// Where the log is.
    pub log: PathBuf,
}

impl Account {
    /// Tells what came of `settings` on `platform`. It asks the hardware nothing.
    #[must_use]
    pub fn of(measuring: &Measuring, settings: &Settings, platform: &dyn Platform) -> Self {
        let (state, why) = match measuring {
            Measuring::On(_) => ("on", String::new()),
            Measuring::Off => ("off", "eventlog_config.enable_eventlog is not true".to_owned()),
            Measuring::Unsupported(why) => ("unsupported", why.clone()),
        };
        let register = platform.registers().and_then(|registers| {
            let pcr = settings.pcr.unwrap_or_else(|| registers.default_pcr());
            Some((pcr, registers.register_of(pcr).ok()?, registers.hash()))
        });
        Self { state, why, register, log: settings.log.clone() }
    }
}

/// The log with the note beside it. One caller at a time.
#[derive(Debug)]
pub struct EventLog {
    files: Box<dyn Files>,
    /// The register for events that name none.
    pcr: u32,
    /// The PCRs that take no events on this platform.
    identity: Vec<u32>,
}

impl EventLog {
    /// The register for an event of `caller`. Workloads have the configured one; only root on the socket may name
    /// another, and nobody those that tell the identity of the machine.
    ///
    /// # Errors
    /// [`AgentError::Register`].
    pub fn register(&self, asked: Option<u64>, caller: &Caller) -> Result<u32, AgentError> {
        let Some(asked) = asked else { return Ok(self.pcr) };
        let refuse = |why| Err(AgentError::Register { pcr: asked, caller: access::describe(caller), why });
        match u32::try_from(asked) {
            Ok(pcr) if pcr == self.pcr => Ok(pcr),
            Ok(pcr) if self.identity.contains(&pcr) => refuse(TELLS_IDENTITY),
            _ if caller.uid != Some(0) || caller.local_http => {
                refuse("only root may name another register than the configured one")
            }
            Ok(pcr) => Ok(pcr),
            Err(_) => refuse("there is no such register"),
        }
    }

    /// Measures `event` into the register `pcr` for `caller`.
    ///
    /// # Errors
    /// [`AgentError::EventLogFull`], and [`AgentError::EventLogFile`] when there is no room: nothing has been extended
    /// then. After another error the event may have been measured; the next call finds out and finishes it.
    pub fn measure(
        &self,
        registers: &dyn Registers,
        event: &Event,
        pcr: u32,
        caller: &Caller,
    ) -> Result<(), AgentError> {
        self.settle(registers)?;
        let hash = registers.hash();
        let record = event.record(registers.register_of(pcr)?, hash);
        let offset = self.files.log_len()?;
        let limit = if caller.local_http { LOCAL_HTTP_LIMIT } else { LOG_LIMIT };
        if offset + record.len() as u64 > limit {
            return Err(AgentError::EventLogFull { len: offset, record: record.len(), limit });
        }
        let digest = event.digest(hash);
        let before = registers.read(pcr)?;
        let expected = hash.digest(&[before.as_slice(), &digest].concat());
        let note = WriteAhead { offset, expected, event: event.clone(), pcr: Some(pcr) };
        // From here on a crash is repaired; room for the record is taken now, while nothing has happened yet.
        self.files.reserve(offset, record.len() as u64)?;
        self.files.write_note(&note.encode())?;
        if let Err(error) = registers.extend(pcr, &digest) {
            match registers.read(pcr) {
                Ok(value) if value == note.expected => {
                    tracing::warn!(%error, "the register was extended all the same");
                }
                Ok(value) if value == before => {
                    self.files.remove_note()?;
                    return Err(error.into());
                }
                // Whatever it is now: the note stays, so that it is found out before anything else is done.
                Ok(_) | Err(_) => return Err(error.into()),
            }
        }
        self.files.put_record(offset, &record)?;
        if let Err(error) = self.files.remove_note() {
            // Register and log agree. The note will be found, seen to be done, and removed.
            tracing::warn!(%error, "an event was measured, but the note about it could not be removed");
        }
        Ok(())
    }

    /// Finishes the event that was interrupted, if there is one: afterwards log and register agree.
    ///
    /// # Errors
    /// [`AgentError::EventInterrupted`] if the note cannot be read or the register is neither what it was before nor
    /// what it would be after; [`AgentError::EventLogFile`]; what the register answers.
    pub fn settle(&self, registers: &dyn Registers) -> Result<(), AgentError> {
        let Some(bytes) = self.files.read_note()? else { return Ok(()) };
        let hash = registers.hash();
        let note = WriteAhead::parse(&bytes, hash)
            .map_err(|e| AgentError::EventInterrupted(format!("the note about it cannot be read: {e}")))?;
        let digest = note.event.digest(hash);
        // A note that names no register is about the default one; an existing agent's about the one configured then.
        let candidates = match note.pcr {
            Some(pcr) => vec![pcr],
            None => vec![self.pcr, cc_evidence::aael::DEFAULT_PCR],
        };
        for pcr in candidates {
            let value = registers.read(pcr)?;
            let extended = value == note.expected;
            if !extended && hash.digest(&[value.as_slice(), &digest].concat()) != note.expected {
                continue;
            }
            if !extended {
                registers.extend(pcr, &digest)?;
            }
            let record = note.event.record(registers.register_of(pcr)?, hash);
            self.files.put_record(note.offset, &record)?;
            self.files.remove_note()?;
            tracing::warn!(pcr, extended, "an event that was interrupted has been finished");
            return Ok(());
        }
        Err(AgentError::EventInterrupted(
            "the register holds neither the value before it nor the one after it: somebody else extended it"
                .to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests;
