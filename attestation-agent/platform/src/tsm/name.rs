//! Names of request directories: unique over processes and time, and telling whose they are.
//!
//! A name is `cc-<pid>-<pid namespace, hex>-<process, hex>-<counter>`. The third part is random per process, so
//! that a number that came back after a crash is not mistaken for its owner.

use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::Pid;

use crate::Error;

/// Begins the names of all our entries.
const PREFIX: &str = "cc-";

/// The parts of a name that tell its owner.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pid: u32,
    namespace: u64,
    process: u64,
}

/// A name that no request of this or another process has.
pub(super) fn unique() -> Result<String, Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let process = process_token()?;
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    Ok(format!("{PREFIX}{}-{:x}-{process:x}-{count}", std::process::id(), pid_namespace()))
}

/// True if `name` is one of ours and its process is gone. Names of another PID namespace are never leftovers:
/// whether their process lives cannot be told from here.
pub(super) fn is_leftover(name: &str) -> bool {
    let Some(owner) = parse(name) else { return false };
    if owner.namespace != pid_namespace() {
        return false;
    }
    if owner.pid == std::process::id() {
        return process_token().is_ok_and(|own| own != owner.process);
    }
    !is_alive(owner.pid)
}

fn parse(name: &str) -> Option<Owner> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let pid = parts.next()?.parse().ok()?;
    let namespace = u64::from_str_radix(parts.next()?, 16).ok()?;
    let process = u64::from_str_radix(parts.next()?, 16).ok()?;
    parts.next()?.parse::<u64>().ok()?;
    parts.next().is_none().then_some(Owner { pid, namespace, process })
}

/// The random number of this process.
fn process_token() -> Result<u64, Error> {
    static TOKEN: OnceLock<u64> = OnceLock::new();
    if let Some(token) = TOKEN.get() {
        return Ok(*token);
    }
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|e| Error::System {
        step: "reading random bytes",
        source: std::io::Error::other(e.to_string()),
    })?;
    Ok(*TOKEN.get_or_init(|| u64::from_le_bytes(bytes)))
}

/// The PID namespace of this process, 0 without `/proc`.
fn pid_namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map_or(0, |m| m.ino())
}

/// True unless the kernel says that there is no such process.
fn is_alive(pid: u32) -> bool {
    match i32::try_from(pid).ok().and_then(Pid::from_raw) {
        Some(pid) => rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH),
        None => false,
    }
}

/// A name as process `pid` of this PID namespace would have made it.
#[cfg(test)]
pub(super) fn of_process(pid: u32) -> String {
    format!("{PREFIX}{pid}-{:x}-abc-0", pid_namespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_differ_and_their_living_owner_keeps_them() {
        let (a, b) = (unique().unwrap(), unique().unwrap());
        assert_ne!(a, b);
        assert_eq!(parse(&a).unwrap().pid, std::process::id());
        assert!(!is_leftover(&a) && !is_leftover(&b));
    }

    #[test]
    fn leftovers_are_told_by_their_owner() {
        let own = std::process::id();
        let here = pid_namespace();
        assert!(is_leftover(&of_process(4_194_305)), "no such process");
        assert!(is_leftover(&of_process(own)), "same number, another life");
        assert!(!is_leftover(&format!("cc-1-{here:x}-abc-0")), "process 1 lives");
        assert!(!is_leftover(&format!("cc-4194305-{:x}-abc-0", here + 1)), "another namespace");
        for other in
            ["", "cc-", "report0", "cc-1-2-3", "cc-1-2-3-4-5", "cc-x-2-3-4", "cc--2-3-4", "cc-1-g-3-4"]
        {
            assert!(!is_leftover(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_judged_without_panic(name in ".{0,64}") {
            let _ = is_leftover(&name);
        }

        #[test]
        fn written_names_read_back(pid: u32, namespace: u64, process: u64, count: u64) {
            let name = format!("{PREFIX}{pid}-{namespace:x}-{process:x}-{count}");
            prop_assert_eq!(parse(&name), Some(Owner { pid, namespace, process }));
        }
    }
}
