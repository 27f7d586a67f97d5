//! Whose fault a failure is, because that decides what the caller does next.
//!
//! One enum for the whole workspace: retry policy and HTTP status are a `match` on it, never a
//! search in message text. It is NOT an error type: errors carry it.

use std::fmt;
use std::str::FromStr;

/// Who has to act after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// A peer cannot be reached or is too busy: the same call may succeed later.
    Unavailable,
    /// A policy said no: the same call will be refused again.
    Denied,
    /// The named thing does not exist.
    Absent,
    /// A peer broke its protocol or sent data that makes no sense.
    Misbehaved,
    /// Our own caller asked for something that cannot be done.
    Misused,
    /// The hardware, the firmware or the kernel of this machine failed.
    Platform,
}

impl Blame {
    /// Every value, in the order of declaration.
    pub const ALL: [Blame; 6] = [
        Blame::Unavailable,
        Blame::Denied,
        Blame::Absent,
        Blame::Misbehaved,
        Blame::Misused,
        Blame::Platform,
    ];

    /// The name in lower case, as it travels in error details.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Blame::Unavailable => "unavailable",
            Blame::Denied => "denied",
            Blame::Absent => "absent",
            Blame::Misbehaved => "misbehaved",
            Blame::Misused => "misused",
            Blame::Platform => "platform",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not one of the six names of [`Blame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a blame name")]
pub struct UnknownBlame;

impl FromStr for Blame {
    type Err = UnknownBlame;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Blame::ALL.into_iter().find(|b| b.as_str() == text).ok_or(UnknownBlame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_are_lower_case() {
        for blame in Blame::ALL {
            assert_eq!(blame.to_string().parse(), Ok(blame));
            assert_eq!(blame.as_str(), blame.as_str().to_lowercase());
        }
        assert_eq!("Denied".parse::<Blame>(), Err(UnknownBlame));
    }
}
