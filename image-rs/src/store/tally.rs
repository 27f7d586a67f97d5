//! What counts against the limit of a store: layers that are there, and what has come so far of those being filled.
//!
//! Of layers that other processes are filling only the whole ones are known; the last look, when a layer gets its name, is at
//! all of them.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::Store;
use crate::{Error, LayerFault, layer::Room};

/// Bytes of uncompressed archives, or what they take up where that is more.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Of layers that are there.
    present: u64,
    /// Of layers that this process is filling.
    filling: u64,
}

/// The part of one layer that is being filled; given back when the value goes.
#[derive(Debug)]
pub(super) struct Share {
    store: Arc<Store>,
    limit: u64,
    /// Bytes of the archive so far, and those that it takes up; the larger number counts.
    archive: AtomicU64,
    occupied: AtomicU64,
    own: AtomicU64,
    /// What the others had when there was no more room.
    refused: OnceLock<u64>,
}

impl Share {
    /// A share of which nothing is used.
    ///
    /// # Errors
    /// `IMAGE_STORAGE`.
    pub(super) fn new(store: &Arc<Store>, limit: u64) -> Result<Self, Error> {
        // Nothing gets its name in between.
        let _alone = store.publishing()?;
        lock(&store.tally).present = store.used()?;
        let [archive, occupied, own] = [0; 3].map(AtomicU64::new);
        Ok(Self { store: Arc::clone(store), limit, archive, occupied, own, refused: OnceLock::new() })
    }

    /// What the others have, if there was no room for this layer beside them.
    pub(super) fn refused(&self) -> Option<u64> {
        self.refused.get().copied()
    }

    /// The layer is there now. To be called by whoever has [`Store::publishing`].
    pub(super) fn publish(&self) {
        let mut tally = lock(&self.store.tally);
        let own = self.own.swap(0, Ordering::Relaxed);
        tally.filling -= own;
        tally.present += own;
    }
}

impl Room for Share {
    fn take(&self, count: u64) -> Result<(), LayerFault> {
        self.grow(&self.archive, count)
    }

    fn occupy(&self, count: u64) -> Result<(), LayerFault> {
        self.grow(&self.occupied, count)
    }
}

impl Share {
    fn grow(&self, counter: &AtomicU64, count: u64) -> Result<(), LayerFault> {
        let mut tally = lock(&self.store.tally);
        let counted = counter.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        let own = self.own.load(Ordering::Relaxed);
        let more = counted.saturating_sub(own);
        let others = tally.present.saturating_add(tally.filling - own);
        if more > 0 && counted.saturating_add(others) > self.limit {
            let _ = self.refused.set(others);
            return Err(LayerFault::Limit { what: "bytes in the store", limit: self.limit });
        }
        tally.filling += more;
        self.own.store(own + more, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.store.tally).filling -= *self.own.get_mut();
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
