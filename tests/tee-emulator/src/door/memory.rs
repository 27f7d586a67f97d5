//! The memory of a program that waits for the answer to its call.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

/// The memory of one process.
#[derive(Debug)]
pub(super) struct Memory(File);

impl Memory {
    /// The memory of the process with thread `thread`.
    pub(super) fn of(thread: u32) -> Result<Self, Errno> {
        let path = format!("/proc/{thread}/mem");
        File::options().read(true).write(true).open(path).map(Self).map_err(|_| Errno::FAULT)
    }

    /// `N` bytes at `address`.
    pub(super) fn read<const N: usize>(&self, address: u64) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.0.read_exact_at(&mut bytes, address).map_err(|_| Errno::FAULT)?;
        Ok(bytes)
    }

    /// Puts `bytes` at `address`.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.write_all_at(bytes, address).map_err(|_| Errno::FAULT)
    }
}
