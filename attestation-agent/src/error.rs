//! What can go wrong in the agent, by blame, and how it looks on the wire.
//!
//! Not here: the errors of the hardware rim ([`cc_platform::Error`]) and of the key broker client
//! ([`cc_kbs::Error`]); both are carried through with their own code and hint.

use std::path::PathBuf;

use cc_daemon::fault::Fault;
use cc_evidence::blame::Blame;

/// Every message of this service begins with these bytes, as callers of the existing stack expect.
pub const MESSAGE_PREFIX: &str = "[ERROR:attestation-agent] ";

/// An error of the agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The hardware, its driver or its answer.
    #[error(transparent)]
    Platform(#[from] cc_platform::Error),
    /// The key broker, or the way to it.
    #[error(transparent)]
    Kbs(#[from] cc_kbs::Error),
    /// Report data is longer than any TEE can bind.
    #[error("report data of {0} bytes was asked for, at most 64 bytes can be bound")]
    ReportData(usize),
    /// A token type that does not exist.
    #[error("unknown token type {0:?}; known are \"kbs\" and \"coco_as\"")]
    TokenType(String),
    /// A token type that exists, for which no server is configured.
    #[error("no {0} server is configured, so no token of that type can be fetched")]
    TokenNotConfigured(&'static str),
    /// The caller may not have evidence or tokens.
    #[error("{what} was refused to {caller}: {why}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Who asked, as far as the kernel tells.
        caller: String,
        /// The rule that refused it.
        why: &'static str,
    },
    /// The platform's field for init-data cannot hold this digest.
    #[error("checking the init-data: {0}")]
    InitDataAlgorithm(#[from] cc_evidence::Error),
    /// Init-data cannot be bound (any more).
    #[error("init-data cannot be bound: {0}")]
    InitData(String),
    /// The init-data document given at start cannot be read.
    #[error("reading the init-data document {path}: {why}")]
    InitDataDocument {
        /// Its path.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The init-data document given at start is there and cannot be read for now.
    #[error("reading the init-data document {path}: {why}")]
    InitDataWithheld {
        /// Its path.
        path: String,
        /// What the system said.
        why: String,
    },
    /// A text that cannot be measured.
    #[error("the event cannot be measured: {0}")]
    Event(cc_evidence::Error),
    /// The caller may not extend this register.
    #[error("extending register {pcr} was refused to {caller}: {why}")]
    Register {
        /// The register, as PCR number.
        pcr: u64,
        /// Who asked.
        caller: String,
        /// The rule that refused it.
        why: &'static str,
    },
    /// There is no room left in the log. Nothing was measured.
    #[error("the event log has {len} bytes and the event needs {record} more, {limit} is the limit here")]
    EventLogFull {
        /// Its length, bytes.
        len: u64,
        /// Length of the record that does not fit, bytes.
        record: usize,
        /// The limit for this caller, bytes.
        limit: u64,
    },
    /// A file of the event log.
    #[error("{step} {} for the event log failed: {source}", .path.display())]
    EventLogFile {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The agent was interrupted while it measured an event, and cannot find out how far it got.
    #[error("an event was interrupted and cannot be finished: {0}")]
    EventInterrupted(String),
    /// The thread that talked to the hardware died.
    #[error("the evidence thread ended without an answer")]
    EvidenceThread,
}

impl AgentError {
    /// Who is to blame; decides what a caller may do next.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Platform(e) => e.blame(),
            Self::Kbs(e) => e.blame(),
            Self::InitDataAlgorithm(e) => e.blame(),
            Self::ReportData(_) | Self::TokenType(_) | Self::InitData(_) => Blame::Misused,
            Self::TokenNotConfigured(_) | Self::InitDataDocument { .. } => Blame::Misused,
            Self::Event(_) => Blame::Misused,
            Self::Refused { .. } | Self::Register { .. } => Blame::Denied,
            Self::EventLogFull { .. } | Self::EventLogFile { .. } | Self::EventInterrupted(_) => {
                Blame::Platform
            }
            Self::InitDataWithheld { .. } | Self::EvidenceThread => Blame::Platform,
        }
    }

    /// The stable code, for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::Platform(e) => e.code(),
            Self::Kbs(e) => e.code(),
            Self::InitDataAlgorithm(e) => e.code(),
            Self::ReportData(_) => "REPORT_DATA_TOO_LONG",
            Self::TokenType(_) => "TOKEN_TYPE_UNKNOWN",
            Self::TokenNotConfigured(_) => "TOKEN_NOT_CONFIGURED",
            Self::Refused { .. } => "AA_CALLER_REFUSED",
            Self::InitData(_) => "INIT_DATA_REFUSED",
            Self::InitDataDocument { .. } | Self::InitDataWithheld { .. } => "INIT_DATA_UNREADABLE",
            Self::Event(_) => "EVENT_INVALID",
            Self::Register { .. } => "REGISTER_REFUSED",
            Self::EventLogFull { .. } => "EVENT_LOG_FULL",
            Self::EventLogFile { .. } => "EVENT_LOG_FILE",
            Self::EventInterrupted(_) => "EVENT_INTERRUPTED",
            Self::EvidenceThread => "EVIDENCE_THREAD_DIED",
        }
    }

    /// What the operator or caller does next.
    pub fn hint(&self) -> String {
        match self {
            Self::Platform(e) => e.hint(),
            Self::Kbs(e) => e.hint(),
            Self::InitDataAlgorithm(e) => e.hint(),
            Self::ReportData(_) => "hash the data and pass the digest".to_owned(),
            Self::TokenType(_) => "ask for \"kbs\" or \"coco_as\", in lower case".to_owned(),
            Self::TokenNotConfigured(kind) => {
                format!("add [token_configs.{kind}] with a url to the agent's configuration")
            }
            Self::Refused { .. } => {
                "ask the confidential data hub for the secret itself; or name the caller's uid in \
                 access.evidence_uids of the agent's configuration"
                    .to_owned()
            }
            Self::InitData(_) => "give init-data to the agent when it starts (--initdata-toml)".to_owned(),
            Self::InitDataDocument { .. } => "give the document that the machine was started with".to_owned(),
            Self::InitDataWithheld { .. } => {
                "let the agent read it: its mode and owner, or what a security module says, keep it away".to_owned()
            }
            Self::Event(_) => {
                "give a domain and an operation without white space, and a content of one line; measure the digest of \
                 longer content"
                    .to_owned()
            }
            Self::Register { .. } => {
                "name no register: events go to the configured one (eventlog_config.init_pcr, a PCR number from 0 to 23 \
                 without 8 and 11; without it the platform's default)"
                    .to_owned()
            }
            Self::EventLogFull { .. } => {
                "find out which workload measures so much; the log begins anew only when the machine starts anew"
                    .to_owned()
            }
            Self::EventLogFile { .. } => {
                "the log's directory must be the agent's alone (0700, on /run or another file system with room), and one \
                 agent must run"
                    .to_owned()
            }
            Self::EventInterrupted(_) => {
                "the log does not explain the registers any more, so key brokers refuse this machine: start the machine \
                 anew, and find out what else extends its registers"
                    .to_owned()
            }
            Self::EvidenceThread => "see the agent's log for the cause and restart it".to_owned(),
        }
    }
}

impl From<AgentError> for Fault {
    fn from(e: AgentError) -> Self {
        Fault::new(e.blame(), e.code(), e.to_string(), e.hint())
    }
}

impl From<AgentError> for tonic::Status {
    fn from(e: AgentError) -> Self {
        Fault::from(e).into_status(MESSAGE_PREFIX)
    }
}
