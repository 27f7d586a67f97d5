//! The filter of system calls (seccomp(2)) that a program sets itself, for all its threads and whatever it starts.
//!
//! It is a list of what is refused, with `EPERM`: calls that none of these programs makes, and that whoever takes one over would make next.
//! It is NOT the list of what is allowed, which is the unit's (`SystemCallFilter=`, systemd.exec(5)) and is shorter: this one is for where
//! there is no unit, as under kata-agent, and stands beside the unit's where there is one that lets it.
//!
//! What the kernel does not tell of a process, whose a filter is, the program remembers.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod program;

use std::{fmt, str::FromStr, sync::OnceLock};

use rustix::net::AddressFamily;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// The family of sockets by which the kernel encrypts for a program: `AF_ALG` (bits/socket.h).
pub const KERNEL_CRYPTO: AddressFamily = AddressFamily::from_raw(38);

/// What a program does that others of its kind do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// It mounts, or starts what does.
    pub mounts: bool,
    /// It puts keys into the kernel, or starts what does.
    pub keyrings: bool,
    /// The families of its sockets.
    pub families: &'static [AddressFamily],
    /// The capabilities that it has a use for; none: whatever it was given.
    pub capabilities: Option<CapabilitySet>,
}

impl Needs {
    /// What every program needs that speaks by its socket and over the network.
    pub const NETWORK: Self = Self {
        mounts: false,
        keyrings: false,
        families: &[AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6],
        capabilities: None,
    };
    /// What every program needs that speaks by its socket alone.
    pub const LOCAL: Self = Self { families: &[AddressFamily::UNIX], ..Self::NETWORK };
}

/// Whether a program sets its filter; the value of the option `--seccomp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// It does.
    #[default]
    On,
    /// It does not: for tracing it and what it starts.
    Off,
}

impl FromStr for Seccomp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err("it is on or off".to_owned()),
        }
    }
}

/// What became of a program's own filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OwnFilter {
    /// The program has none, or has not set it yet.
    #[default]
    None,
    /// It is in force.
    Set,
    /// Whoever started the program switched it off.
    Off,
    /// There is no list for this architecture.
    Unsupported,
    /// The kernel refused it, or a filter that was there before: why.
    Refused(String),
}

impl fmt::Display for OwnFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Set => f.write_str("set"),
            Self::Off => f.write_str("switched off"),
            Self::Unsupported => f.write_str("not made for this architecture"),
            Self::Refused(why) => write!(f, "refused ({why})"),
        }
    }
}

static OWN: OnceLock<OwnFilter> = OnceLock::new();

/// What became of this program's own filter.
#[must_use]
pub fn own_filter() -> OwnFilter {
    OWN.get().cloned().unwrap_or_default()
}

/// Gives up, for all threads and whatever they start, gaining privileges by a program (`PR_SET_NO_NEW_PRIVS`), capabilities beyond
/// the needs, and, unless switched off, the calls that a program with these needs does not make. For the start of a program, once, before
/// it has threads: capabilities are each thread's own (capabilities(7)).
///
/// It does not fail: a filter may be there already that does not let another be set, and that is told like the rest
/// ([`own_filter`]).
pub fn refuse_needless_calls(seccomp: Seccomp, needs: Needs) {
    // The filter would do so; where there is none, nothing gains by it either.
    let _ = rustix::thread::set_no_new_privs(true);
    if let Some(needed) = needs.capabilities {
        // Nor is this an error where a filter keeps it away: how many there are is told.
        let _ = keep(needed);
    }
    let _ = OWN.set(match seccomp {
        Seccomp::Off => OwnFilter::Off,
        Seccomp::On => set(needs),
    });
}

/// Gives up all capabilities but these. What runs by `no_new_privs` gets none back.
fn keep(needed: CapabilitySet) -> rustix::io::Result<()> {
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if needed.contains(permitted | inheritable) {
        return Ok(());
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: effective & needed,
            permitted: permitted & needed,
            inheritable: inheritable & needed,
        },
    )
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn set(_: Needs) -> OwnFilter {
    OwnFilter::Unsupported
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn set(needs: Needs) -> OwnFilter {
    match program::of(needs) {
        Ok(program) => match seccompiler::apply_filter_all_threads(&program) {
            Ok(()) => OwnFilter::Set,
            Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error)) => {
                OwnFilter::Refused(error.to_string())
            }
            Err(error) => OwnFilter::Refused(error.to_string()),
        },
        Err(error) => OwnFilter::Refused(error.to_string()),
    }
}
