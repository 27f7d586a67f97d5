//! The tool's one error type, by blame. What hardware and key broker say is carried through with code and hint.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use cc_daemon::telemetry::TelemetryError;
use cc_evidence::blame::Blame;

/// Why there is no resource on standard output. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The key broker, the way to it, or the machine's evidence on the way there.
    #[error(transparent)]
    Kbs(#[from] cc_kbs::Error),
    /// The hardware, its driver or its answer.
    #[error(transparent)]
    Platform(#[from] cc_platform::Error),
    /// The init-data document is none.
    #[error("reading the init-data document: {0}")]
    InitData(cc_evidence::Error),
    /// A file that was named cannot be read.
    #[error("reading {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// The process could not be set up.
    #[error("{step}: {source}")]
    Start {
        /// What was being set up.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("writing the resource to standard output: {0}")]
    Output(io::Error),
}

impl Failure {
    /// Stable code, in capitals.
    pub fn code(&self) -> &str {
        match self {
            Self::Kbs(e) => e.code(),
            Self::Platform(e) => e.code(),
            Self::InitData(_) => "INIT_DATA_UNREADABLE",
            Self::Unreadable { .. } => "INPUT_UNREADABLE",
            Self::Log(e) => e.code(),
            Self::Start { .. } => "START_FAILED",
            Self::Output(_) => "OUTPUT_CLOSED",
        }
    }

    /// The next step for the operator.
    pub fn hint(&self) -> String {
        match self {
            Self::Kbs(cc_kbs::Error::UntrustedTls { .. }) => {
                "give the certificate of the KBS or of its CA with --cert-file, for the name that is in --url; if it is \
                 expired or not valid yet, check the clock of this machine too"
                    .to_owned()
            }
            Self::Kbs(cc_kbs::Error::PlainHttp { .. }) => {
                "use an https URL, or allow plain http with --allow-plain-http".to_owned()
            }
            Self::Kbs(e) => e.hint(),
            Self::Platform(e) => e.hint(),
            Self::InitData(_) => "give the document that the machine was started with".to_owned(),
            Self::Unreadable { .. } => "check the path and who may read it".to_owned(),
            Self::Log(e) => e.hint(),
            Self::Start { .. } => "look at the limits of this machine and of this process".to_owned(),
            Self::Output(_) => "read standard output to its end".to_owned(),
        }
    }

    /// The status that the process ends with.
    pub fn status(&self) -> u8 {
        let blame = match self {
            Self::Kbs(e) => e.blame(),
            Self::Platform(e) => e.blame(),
            Self::InitData(_) | Self::Log(_) => Blame::Misused,
            Self::Start { .. } => Blame::Platform,
            Self::Unreadable { .. } | Self::Output(_) => return 1,
        };
        match blame {
            Blame::Misused => 2,
            Blame::Denied => 3,
            Blame::Absent => 4,
            Blame::Unavailable => 5,
            Blame::Misbehaved => 6,
            Blame::Platform => 7,
        }
    }

    /// Tells what went wrong on standard error; the status to end with.
    #[allow(clippy::print_stderr, reason = "the place where errors are told")]
    pub fn report(&self) -> ExitCode {
        eprintln!("trustee-attester: {self} [{}]\nhint: {}", self.code(), self.hint());
        ExitCode::from(self.status())
    }
}
