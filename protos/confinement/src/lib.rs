//! What a program gives up before it holds a secret, and what it finds taken away already; and memory, which it gives back.
//!
//! It is NOT the sandbox: capabilities, namespaces and the list of allowed system calls are the unit's. What unpacks archives gives
//! up everything but one folder ([`Within`]). kata-agent starts daemons without any unit: so there is a [filter] that programs set
//! themselves, and what confines a process is told, at its start in its log, later to whoever asks for its state. The fields are
//! those of proc_pid_status(5).

pub mod filter;
mod folder;
pub mod memory;

use std::fmt;
use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::filter::OwnFilter;
pub use folder::Within;

/// Forbids core dumps and tracing by other processes of the same user: `PR_SET_DUMPABLE` 0 (`prctl(2)`) and
/// `RLIMIT_CORE` 0 (`getrlimit(2)`), soft and hard.
///
/// # Errors
///
/// The kernel refuses one of the two; a program that holds secrets must not start then.
pub fn forbid_core_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Raises the soft limit of open files to the hard one (`RLIMIT_NOFILE`, `getrlimit(2)`). The soft one is low for programs that use
/// `select(2)`; whoever walks trees that others built has others open at the same time.
///
/// # Errors
///
/// The kernel refuses it.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// How far a program has confined itself by Landlock. The kernel does not tell it of a process: the program remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Landlock {
    /// Not at all.
    #[default]
    None,
    /// As far as this kernel can.
    Partly,
    /// By every rule that the program knows.
    Fully,
}

impl Landlock {
    /// The word for it: `none`, `partly` or `fully`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Partly => "partly",
            Self::Fully => "fully",
        }
    }
}

/// What confines this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Filters of system calls (seccomp(2)) that are in force.
    pub system_call_filters: u32,
    /// What became of the one that it sets itself.
    pub own_filter: OwnFilter,
    /// Whether it and its children can never gain privileges by a program (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
    /// Effective capabilities, as the kernel numbers them.
    pub capabilities: u64,
    /// How far it has confined itself by Landlock.
    pub landlock: Landlock,
    /// The label of a security module such as SELinux or AppArmor; empty for none.
    pub label: String,
}

impl Confinement {
    /// Asks the kernel about this process, before Landlock takes `/proc` away.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub fn of_this_process() -> io::Result<Self> {
        let label = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
        Ok(Self::parse(&std::fs::read_to_string("/proc/self/status")?, &label))
    }

    fn parse(status: &str, label: &str) -> Self {
        let field = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or_default().trim()
        };
        // Kernels before 5.9 tell the mode alone: 2 is a filter.
        let mode = u32::from(field("Seccomp") == "2");
        let label = label.trim_end_matches(['\0', '\n']);
        Self {
            system_call_filters: field("Seccomp_filters").parse().unwrap_or(mode),
            own_filter: filter::own_filter(),
            no_new_privileges: field("NoNewPrivs") == "1",
            capabilities: u64::from_str_radix(field("CapEff"), 16).unwrap_or(u64::MAX),
            landlock: Landlock::None,
            label: if label == "unconfined" { String::new() } else { label.to_owned() },
        }
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("core dumps: forbidden, system calls: ")?;
        match self.system_call_filters {
            0 => f.write_str("not filtered")?,
            filters => write!(f, "filtered ({filters})")?,
        }
        write!(f, ", own filter: {}", self.own_filter)?;
        let gained = if self.no_new_privileges { "never gained" } else { "may be gained" };
        write!(f, ", privileges: {gained}, capabilities: {}", self.capabilities.count_ones())?;
        write!(f, ", Landlock: {}", self.landlock.as_str())?;
        match self.label.as_str() {
            "" => f.write_str(", label: none"),
            label => write!(f, ", label: {label}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail loudly")]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status =
            "Name:\tcdh\nCapEff:\t0000000000000021\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        let confined = Confinement {
            landlock: Landlock::Partly,
            ..Confinement::parse(status, "system_u:system_r:cdh_t:s0\0")
        };
        assert_eq!(
            confined.to_string(),
            "core dumps: forbidden, system calls: filtered (3), own filter: none, privileges: never gained, capabilities: 2, Landlock: partly, label: system_u:system_r:cdh_t:s0"
        );
        let old = Confinement::parse("Seccomp:\t2\n", "unconfined\n");
        assert_eq!((old.system_call_filters, old.no_new_privileges, old.capabilities), (1, false, u64::MAX));
        assert!(old.to_string().ends_with("Landlock: none, label: none"), "{old}");
        assert!(Confinement::of_this_process().is_ok());
    }

    #[test]
    fn as_many_files_may_be_open_as_the_hard_limit_says() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
        raise_descriptor_limit().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn the_kernel_reports_what_was_given_up() {
        forbid_core_dumps().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let core = getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }
}
