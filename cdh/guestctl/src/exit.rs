//! Exit statuses of the tool: one per party that is to blame, so that a script can act without reading text.
//!
//! Not the error texts themselves, those are in `failure.rs`. The numbers are part of the tool's interface and are
//! printed by `--help`.

use std::process::ExitCode;

use cc_evidence::blame::Blame;

/// How the tool ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done, all checks passed.
    Success = 0,
    /// A check failed, or a file on this machine could not be used.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The key broker refused.
    Denied = 3,
    /// What was asked for does not exist.
    Absent = 4,
    /// A daemon or the key broker does not answer.
    Unavailable = 5,
    /// A daemon or the key broker answered what it must not answer.
    Misbehaved = 6,
    /// This machine's hardware, kernel or configuration is in the way.
    Platform = 7,
}

/// The table shown at the end of `guestctl --help`.
pub(crate) const HELP: &str = "\
Exit status:
  0  success
  1  a check failed, or a file could not be used
  2  wrong usage
  3  denied: the key broker refused, the code says why
  4  absent: no such resource
  5  unavailable: a daemon or the key broker does not answer
  6  misbehaving peer: an answer that breaks the protocol
  7  platform: hardware, kernel or configuration of this machine";

impl From<Blame> for Exit {
    fn from(blame: Blame) -> Self {
        match blame {
            Blame::Unavailable => Self::Unavailable,
            Blame::Denied => Self::Denied,
            Blame::Absent => Self::Absent,
            Blame::Misbehaved => Self::Misbehaved,
            Blame::Misused => Self::Usage,
            Blame::Platform => Self::Platform,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blame_has_a_status_of_its_own() {
        let all = [
            (Blame::Misused, 2),
            (Blame::Denied, 3),
            (Blame::Absent, 4),
            (Blame::Unavailable, 5),
            (Blame::Misbehaved, 6),
            (Blame::Platform, 7),
        ];
        for (blame, status) in all {
            assert_eq!(Exit::from(blame) as u8, status);
            assert!(HELP.contains(&format!("\n  {status}  ")));
        }
    }
}
