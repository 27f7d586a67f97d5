//! What can go wrong with a mapping, by blame.

use std::io;

use cc_evidence::blame::Blame;
use rustix::io::Errno;

/// Why a mapping cannot be told of, is not what it should be, or stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MappingError {
    /// The kernel does not tell.
    #[error("{doing}: {source}")]
    Unreadable {
        /// What was being done.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It is not what the header says.
    #[error("/dev/mapper/{name}: {error}")]
    Differs {
        /// The mapping.
        name: String,
        /// The volume library's account of it.
        error: cc_volume::Error,
    },
    /// Somebody uses it.
    #[error("the mapping {name} is in use")]
    InUse {
        /// The mapping.
        name: String,
    },
    /// A mapping of that name, which is another volume's or was made by another program.
    #[error("the mapping {name} is another one: the kernel knows it as {found:?}")]
    Foreign {
        /// The mapping.
        name: String,
        /// The identifier that the kernel has for it.
        found: String,
    },
}

impl MappingError {
    /// Whether the kernel says that there is no such mapping, or no device mapper at all.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Unreadable { source, .. } if is_absent(source))
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unreadable { .. } => Blame::Platform,
            Self::Differs { error, .. } => error.blame(),
            Self::InUse { .. } => Blame::Misused,
            Self::Foreign { .. } => Blame::Denied,
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "MAPPING_UNREADABLE",
            Self::Differs { error, .. } => error.code(),
            Self::InUse { .. } => "MAPPING_IN_USE",
            Self::Foreign { .. } => "MAPPING_FOREIGN",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } if self.is_absent() => {
                "there is no such mapping; `ls /dev/mapper` shows which volumes are open"
            }
            Self::Unreadable { .. } => "run as root, on a kernel with the device mapper",
            Self::Differs { error, .. } => error.hint(),
            Self::InUse { .. } => "unmount what is on it; `lsblk` and `fuser -m` show who uses it",
            Self::Foreign { .. } => "find out who made it; `dmsetup remove` takes it away",
        }
    }
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::NXIO, Errno::NODEV, Errno::NOENT].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| absent.contains(&code))
}
