//! What can be wrong with a mapping, by blame.

use std::{io, path::PathBuf};

use cc_evidence::blame::Blame;

/// Why nothing can be said about a mapping, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// The kernel does not tell.
    #[error("{doing}: {source}")]
    Unreadable {
        /// What was being done.
        doing: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{}: {error}", path.display())]
    Differs {
        /// The mapping's device.
        path: PathBuf,
        /// How it differs.
        error: cc_volume::Error,
    },
}

impl MappingError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unreadable { .. } => Blame::Platform,
            Self::Differs { error, .. } => error.blame(),
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "MAPPING_UNREADABLE",
            Self::Differs { error, .. } => error.code(),
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { source, .. } if is_absent(source) => {
                "there is no such mapping; `ls /dev/mapper` shows which volumes are open"
            }
            Self::Unreadable { .. } => "run as root, on a kernel with the device mapper",
            Self::Differs { error, .. } => error.hint(),
        }
    }
}

/// Whether the kernel says that there is no such mapping.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}
