//! What can go wrong between the hub and `cdh-storage`, and how `cdh-storage` tells what went wrong in its work.

use std::{fmt, io};

use cc_evidence::blame::Blame;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The socket between the two cannot be used.
    #[error("cannot {doing} the socket of cdh-storage: {source}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The other end is gone.
    #[error("cdh-storage has ended")]
    Gone,
    /// A message breaks the protocol.
    #[error("between the data hub and cdh-storage: {why}")]
    Protocol {
        /// Which rule it breaks.
        why: String,
    },
    /// `cdh-storage` did not do what was asked.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl StorageError {
    pub(crate) fn socket(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |error| Self::Socket { doing, source: error.into() }
    }

    /// Stable code, in capitals.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Socket { .. } => "STORAGE_SOCKET",
            Self::Gone => "STORAGE_GONE",
            Self::Protocol { .. } => "STORAGE_PROTOCOL",
            Self::Fault(fault) => &fault.code,
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Socket { .. } => Blame::Platform,
            Self::Gone => Blame::Unavailable,
            Self::Protocol { .. } => Blame::Misbehaved,
            Self::Fault(fault) => fault.blame(),
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Socket { .. } => "check the limits on open files and memory of the data hub",
            Self::Gone => "try again; the log of cdh-storage says why it ended",
            Self::Protocol { .. } => "install the data hub and cdh-storage of one version",
            Self::Fault(fault) => &fault.hint,
        }
    }
}

/// A failure of the work, as `cdh-storage` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Who has to act, as [`Blame`] is written.
    blame: String,
    /// Stable code.
    pub code: String,
    /// What was being done to what, and why it failed.
    pub message: String,
    /// The next step for the operator.
    pub hint: String,
}

impl Fault {
    /// A fault to be told.
    pub fn new(
        blame: Blame,
        code: impl Into<String>,
        message: impl fmt::Display,
        hint: impl Into<String>,
    ) -> Self {
        let blame = blame.to_string();
        Self { blame, code: code.into(), message: message.to_string(), hint: hint.into() }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        self.blame.parse().unwrap_or(Blame::Misbehaved)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
