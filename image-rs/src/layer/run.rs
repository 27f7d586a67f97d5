//! What the layers of one image have in common while they are unpacked: the options, and what is left of its bounds.
//!
//! The bounds are the image's, not each layer's: a hundred layers that each stay just below one fill a machine as well.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Options,
    stages::{Meters, Stages},
};
use crate::{Compression, LayerFault, Limits, Observer, limits::counted, store::Stored};

/// Bytes of a block of most file systems.
pub(super) const BLOCK: u64 = 4096;
/// How long a decoder waits for memory while nobody gives any back.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks whether a waiting layer is still wanted.
const GLANCE: Duration = Duration::from_millis(100);

/// Bounds besides those of the image, such as those of what the archive goes into.
pub(crate) trait Room: std::fmt::Debug + Send + Sync {
    /// Counts uncompressed bytes of an archive.
    fn take(&self, count: u64) -> Result<(), LayerFault>;

    /// Counts bytes that what is unpacked takes up.
    fn occupy(&self, count: u64) -> Result<(), LayerFault>;
}

/// One run over the layers of an image; they may be unpacked at once. A clone is the same run.
#[derive(Clone, Debug)]
pub struct Run {
    options: Options,
    used: Arc<Used>,
    windows: Arc<Windows>,
    room: Option<Arc<dyn Room>>,
}

/// What is used up.
#[derive(Debug, Default)]
struct Used {
    bytes: AtomicU64,
    claimed: AtomicU64,
    entries: AtomicU64,
    names: AtomicU64,
    /// Compressed bytes of compressed layers that have arrived so far, and what came out of them.
    compressed: AtomicU64,
    inflated: AtomicU64,
    /// Memory of decoders with usual windows. Changed by whoever has the lock of what is free.
    windows: AtomicU64,
    /// Not a bound: what the layers took.
    meters: Meters,
}

/// Memory of decoders that is not in use.
#[derive(Debug)]
struct Windows {
    free: Mutex<Free>,
    freed: Condvar,
    patience: Duration,
}

/// What is free: bytes for usual windows, and one place for a large window, so that a layer that comes slowly and has a large
/// window does not keep others from going on.
#[derive(Debug, Default)]
struct Free {
    usual: u64,
    large: u64,
    /// How often some was given back.
    returns: [u64; 2],
}

impl Free {
    fn pool(&mut self, large: bool) -> (&mut u64, &mut u64) {
        let [usual_returns, large_returns] = &mut self.returns;
        match large {
            true => (&mut self.large, large_returns),
            false => (&mut self.usual, usual_returns),
        }
    }
}

impl Run {
    /// A run of which nothing is used up.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with_patience(options, PATIENCE)
    }

    fn with_patience(options: Options, patience: Duration) -> Self {
        let free = Mutex::new(Free { usual: options.windows, large: 1, returns: [0; 2] });
        Self::with_windows(options, Arc::new(Windows { free, freed: Condvar::new(), patience }))
    }

    /// A run with bounds of its own, whose decoders share the memory of this one's: it takes [`Options::windows`] of that at most, so that
    /// where this run has more, one whose layers come slowly leaves some for another.
    #[must_use]
    pub fn beside(&self, options: Options) -> Self {
        let windows = options.windows.min(self.options.windows);
        Self::with_windows(Options { windows, ..options }, Arc::clone(&self.windows))
    }

    fn with_windows(options: Options, windows: Arc<Windows>) -> Self {
        Self { options, used: Arc::default(), windows, room: None }
    }

    /// The same run, for a layer that has to fit into `room` too.
    pub(crate) fn within(&self, room: Arc<dyn Room>) -> Self {
        Self { room: Some(room), ..self.clone() }
    }

    /// Counts a layer of the image that need not be unpacked, because it was before.
    ///
    /// # Errors
    /// [`LayerFault::Limit`] if the image is too large with it.
    pub fn take_layer(&self, layer: &Stored) -> Result<(), LayerFault> {
        let limits = &self.options.limits;
        take(&self.used.bytes, layer.bytes, counted::INFLATED, limits.bytes)?;
        take(&self.used.claimed, layer.claimed, counted::CLAIMED, limits.bytes)?;
        take(&self.used.entries, layer.entries, counted::ENTRIES, limits.entries)?;
        take(&self.used.names, layer.names, counted::NAMES, limits.ledger as u64)
    }

    /// What the layers are unpacked by.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// What the stages took so far, all layers together.
    #[must_use]
    pub fn stages(&self) -> Stages {
        self.used.meters.stages()
    }

    pub(super) fn meters(&self) -> &Meters {
        &self.used.meters
    }

    /// Counts bytes of a blob that is compressed so, as they arrive.
    pub(super) fn take_stored(&self, compression: Compression, count: u64) {
        if compression != Compression::None {
            self.used.compressed.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Counts uncompressed bytes of a blob that is compressed so.
    pub(super) fn take_bytes(&self, compression: Compression, count: u64) -> Result<(), LayerFault> {
        take(&self.used.bytes, count, counted::INFLATED, self.options.limits.bytes)?;
        if let Some(room) = &self.room {
            room.take(count)?;
        }
        if compression == Compression::None {
            return Ok(());
        }
        let compressed = self.used.compressed.load(Ordering::Relaxed);
        let most = compressed.saturating_mul(self.options.limits.ratio).max(Limits::RATIO_FROM);
        take(&self.used.inflated, count, counted::INFLATED_BY_RATIO, most)
    }

    /// Counts an entry of an archive; `size` is the length that its file claims to have. File systems set whole blocks aside,
    /// also for a piece between two holes: what a file takes up is bounded by its length with all of them, which is given back.
    pub(crate) fn take_entry(&self, size: u64) -> Result<u64, LayerFault> {
        take(&self.used.entries, 1, counted::ENTRIES, self.options.limits.entries)?;
        let blocks = size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        take(&self.used.claimed, blocks, counted::CLAIMED, self.options.limits.bytes)?;
        Ok(blocks)
    }

    /// Counts bytes that what is unpacked takes up.
    pub(super) fn occupy(&self, count: u64) -> Result<(), LayerFault> {
        self.room.as_ref().map_or(Ok(()), |room| room.occupy(count))
    }

    /// Counts bytes of names that are remembered.
    pub(super) fn take_names(&self, count: usize) -> Result<(), LayerFault> {
        take(&self.used.names, count as u64, counted::NAMES, self.options.limits.ledger as u64)
    }

    /// Counts bytes of names that are forgotten.
    pub(super) fn return_names(&self, count: usize) {
        self.used.names.fetch_sub(count as u64, Ordering::Relaxed);
    }

    /// Waits for `amount` bytes of memory for a decoder's window, as long as `observer` wants the layer: until so much is free, and this
    /// run has not more than its part. One that is larger than [`Options::LARGE_WINDOW`] waits for the one place that there is for such.
    ///
    /// # Errors
    /// [`LayerFault::Interrupted`]; [`LayerFault::Busy`] if nobody gives any back for too long.
    pub(super) fn take_memory(&self, amount: u64, observer: &dyn Observer) -> Result<Memory<'_>, LayerFault> {
        let large = amount > Options::LARGE_WINDOW;
        let part = self.options.windows;
        let taken = if large { 1 } else { amount.min(part) };
        let Windows { free, freed, patience } = self.windows.as_ref();
        let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut since, mut seen) = (Instant::now(), *free.pool(large).1);
        loop {
            let (available, returns) = free.pool(large);
            let own = self.used.windows.load(Ordering::Relaxed);
            if *available >= taken && (large || own + taken <= part) {
                *available -= taken;
                if !large {
                    self.used.windows.store(own + taken, Ordering::Relaxed);
                }
                return Ok(Memory { run: self, amount, taken, large });
            }
            if *returns != seen {
                (since, seen) = (Instant::now(), *returns);
            }
            if observer.stopped() {
                return Err(LayerFault::Interrupted);
            }
            if since.elapsed() >= *patience {
                return Err(LayerFault::Busy);
            }
            free = freed.wait_timeout(free, GLANCE.min(*patience)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Memory for a window, given back when the value goes.
#[derive(Debug)]
pub(super) struct Memory<'a> {
    run: &'a Run,
    amount: u64,
    taken: u64,
    large: bool,
}

impl Memory<'_> {
    /// Bytes that were asked for.
    pub(super) const fn amount(&self) -> u64 {
        self.amount
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        let Windows { free, freed, .. } = self.run.windows.as_ref();
        {
            let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
            let (available, returns) = free.pool(self.large);
            *available += self.taken;
            *returns += 1;
            if !self.large {
                self.run.used.windows.fetch_sub(self.taken, Ordering::Relaxed);
            }
        }
        freed.notify_all();
    }
}

fn take(used: &AtomicU64, count: u64, what: &'static str, limit: u64) -> Result<(), LayerFault> {
    let before = used.fetch_add(count, Ordering::Relaxed);
    if before.saturating_add(count) > limit { Err(LayerFault::Limit { what, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::{Event, Silent};

    struct Unwanted;

    impl Observer for Unwanted {
        fn event(&self, _: Event) {}

        fn stopped(&self) -> bool {
            true
        }
    }

    #[test]
    fn waiting_for_memory_ends() {
        const LARGE: u64 = 128 << 20;
        let run = Run::with_patience(Options::default(), Duration::from_millis(200));
        let large = run.take_memory(LARGE, &Silent).unwrap();
        // Usual windows do not wait for large ones, however long those stay.
        let usual = run.take_memory(Options::WINDOWS.min(Options::LARGE_WINDOW), &Silent).unwrap();
        assert!(matches!(run.take_memory(LARGE, &Unwanted), Err(LayerFault::Interrupted)));
        let begun = Instant::now();
        assert!(matches!(run.take_memory(LARGE, &Silent), Err(LayerFault::Busy)));
        assert!(begun.elapsed() >= Duration::from_millis(200));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| run.take_memory(LARGE, &Silent).map(|memory| memory.amount()));
            drop(large);
            assert_eq!(waiting.join().unwrap().unwrap(), LARGE);
        });
        drop(usual);
        let all = usual_windows(&run);
        drop(all);
        run.take_memory(1, &Silent).unwrap();
    }

    /// As many as a run has memory for, after which there is none.
    fn usual_windows(run: &Run) -> Vec<Memory<'_>> {
        let count = Options::WINDOWS / Options::LARGE_WINDOW;
        let all = (0..count).map(|_| run.take_memory(Options::LARGE_WINDOW, &Silent).unwrap()).collect();
        assert!(matches!(run.take_memory(1, &Silent), Err(LayerFault::Busy)));
        all
    }

    #[test]
    fn no_run_takes_more_than_its_part() {
        let common = Options { windows: 2 * Options::WINDOWS, ..Options::default() };
        let common = Run::with_patience(common, Duration::from_millis(100));
        let (first, second) = (common.beside(Options::default()), common.beside(Options::default()));
        let held = usual_windows(&first);
        drop(usual_windows(&second));
        // Each layer of a run counts, however it came by the run.
        assert!(matches!(first.clone().take_memory(1, &Silent), Err(LayerFault::Busy)));
        drop(held);
        drop(usual_windows(&first));
    }
}
