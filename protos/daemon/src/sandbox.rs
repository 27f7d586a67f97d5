//! What a daemon gives up before it holds a secret.
//!
//! It is NOT the whole sandbox: capabilities, namespaces and system call filters are the unit's.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Forbids core dumps and tracing by other processes of the same user: `PR_SET_DUMPABLE` 0 (`prctl(2)`) and
/// `RLIMIT_CORE` 0 (`getrlimit(2)`), soft and hard.
///
/// # Errors
///
/// The kernel refuses one of the two; a daemon that holds secrets must not start then.
pub fn forbid_core_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_reports_what_was_given_up() {
        forbid_core_dumps().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let core = rustix::process::getrlimit(Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }
}
