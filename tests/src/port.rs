//! Loopback ports for programs that are told where to listen.
//!
//! A number that the kernel gave out and took back is free for everybody again: a test that runs at the same time can get
//! it before the program binds it, and the wrong server answers. The numbers here lie below those that the kernel
//! gives out by itself, and a lock file keeps each for one test until its process ends. A program that can tell its
//! address does better by binding port 0.

use std::{
    fs::{File, TryLockError},
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail};

/// Below these are numbers of services that a machine may run.
const FIRST: u16 = 15_000;
/// How many are tried.
const COUNT: u16 = 10_000;

/// Locks are held until the process ends: its programs may be stopped and come back at the same number.
static HELD: Mutex<Vec<(u16, File)>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nothing listens on, and that no other test gets while this process lives.
///
/// # Errors
/// None is free, or the folder for temporary files cannot be written to.
pub fn claim() -> anyhow::Result<u16> {
    let folder = locks();
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    // Tests that begin together begin at different places.
    let start = u16::try_from(std::process::id() % u32::from(COUNT))?;
    for step in 0..COUNT {
        let port = FIRST + (start + step) % COUNT;
        if held.iter().any(|(taken, _)| *taken == port) {
            continue;
        }
        let path = folder.join(port.to_string());
        let lock = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking {}", path.display()));
            }
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            held.push((port, lock));
            return Ok(port);
        }
    }
    bail!("none of the ports from {FIRST} to {} is free", FIRST + COUNT - 1)
}

/// Where the lock files of this user are.
fn locks() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("guest-test-ports-{}", rustix::process::geteuid().as_raw()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_free_and_is_not_given_twice() {
        let ports: Vec<u16> = (0..20).map(|_| claim().unwrap()).collect();
        for (place, port) in ports.iter().enumerate() {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).unwrap();
            assert!(!ports[..place].contains(port), "{port} came twice");
            let other = File::open(locks().join(port.to_string())).unwrap();
            assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)), "another process gets {port}");
        }
    }

    #[test]
    fn the_kernel_gives_out_none_of_them_by_itself() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let low: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        if low < FIRST + COUNT {
            crate::stack::skip(&format!(
                "this machine gives out ports from {low} on: tests may meet each other"
            ));
        }
    }
}
