//! How far a layer has come, told to those who wait for it: the bytes of its blob so far, in the file that is locked while it is
//! filled. Eight bytes, the lowest first.

use std::{
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Between two notes.
const MOMENT: Duration = Duration::from_millis(100);
/// Bytes a second that are worth waiting for: what is less is joined.
const STEADY: u64 = 1 << 20;

/// A blob whose bytes are counted.
pub(super) struct Counted {
    blob: Box<dyn Read + Send>,
    lock: Arc<OwnedFd>,
    bytes: u64,
    noted: Instant,
}

impl Counted {
    /// Notes that nothing has come so far.
    pub(super) fn new(blob: Box<dyn Read + Send>, lock: Arc<OwnedFd>) -> Self {
        let counted = Self { blob, lock, bytes: 0, noted: Instant::now() };
        counted.note();
        counted
    }

    fn note(&self) {
        // Without the note somebody else fetches it too; the layer is not the worse for it.
        let _ = rustix::io::pwrite(&self.lock, &self.bytes.to_le_bytes(), 0);
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read(buffer)?;
        self.bytes += read as u64;
        if self.noted.elapsed() >= MOMENT {
            self.noted = Instant::now();
            self.note();
        }
        Ok(read)
    }
}

/// What somebody who waits has seen.
pub(super) struct Watch {
    since: Instant,
    seen: u64,
}

impl Watch {
    /// Looks for the first time.
    pub(super) fn new(lock: impl AsFd) -> Self {
        Self { since: Instant::now(), seen: noted(lock) }
    }

    /// Whether less has come in the last `patience` than is worth waiting for.
    pub(super) fn is_stalled(&mut self, lock: impl AsFd, patience: Duration) -> bool {
        if self.since.elapsed() < patience {
            return false;
        }
        let now = Self::new(lock);
        let enough = (u128::from(STEADY) * patience.as_millis() / 1000).try_into().unwrap_or(u64::MAX);
        // Where there is less than before, somebody has begun anew.
        let is_steady = now.seen.checked_sub(self.seen).is_none_or(|came| came >= enough);
        *self = now;
        !is_steady
    }
}

fn noted(lock: impl AsFd) -> u64 {
    let mut bytes = [0; 8];
    match rustix::io::pread(lock, &mut bytes, 0) {
        Ok(8) => u64::from_le_bytes(bytes),
        _ => 0,
    }
}
