//! Where the time of a pull goes: what each stage of the pipes took, all layers of a run together.
//!
//! Measured is what a stage does between two waits for its neighbours, once for each buffer: on the clock, which goes on while the
//! stage waits for a network, a disk or a processor, and on the processor of the stage's own thread (`CLOCK_THREAD_CPUTIME_ID`,
//! clock_gettime(2)). The stages overlap, so the sum of the former may be more than a pull takes.

use std::{
    cell::Cell,
    io::{self, BufRead, Read},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use rustix::time::{ClockId, clock_gettime};

use super::stream::{Receiver, read_buffered};

/// What was spent on one stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// On the clock, without waiting for other stages.
    pub elapsed: Duration,
    /// Of that on a processor.
    pub processor: Duration,
}

/// What was spent on each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// Reading blobs from where they come from.
    pub fetch: Spent,
    /// Digests of blobs and archives.
    pub hash: Spent,
    /// Decryption with its authentication code.
    pub decrypt: Spent,
    /// Decompression, or a copy where nothing is compressed; waiting for memory for a window counts as elapsed.
    pub inflate: Spent,
    /// Reading archives, and writing what is in them.
    pub unpack: Spent,
    /// Putting layers over one another, where that is done.
    pub merge: Spent,
}

impl Stages {
    /// Each stage with its name, in the order of the pipe.
    #[must_use]
    pub const fn each(&self) -> [(&'static str, Spent); 6] {
        [
            ("fetch", self.fetch),
            ("hash", self.hash),
            ("decrypt", self.decrypt),
            ("inflate", self.inflate),
            ("unpack", self.unpack),
            ("merge", self.merge),
        ]
    }
}

/// Sums up a stage; in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    elapsed: AtomicU64,
    processor: AtomicU64,
}

impl Meter {
    pub(crate) fn spent(&self) -> Spent {
        let [elapsed, processor] =
            [&self.elapsed, &self.processor].map(|sum| Duration::from_nanos(sum.load(Ordering::Relaxed)));
        Spent { elapsed, processor }
    }
}

/// The meters of a run.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) fetch: Meter,
    pub(crate) hash: Meter,
    pub(crate) decrypt: Meter,
    pub(crate) inflate: Meter,
    pub(crate) unpack: Meter,
}

impl Meters {
    pub(crate) fn stages(&self) -> Stages {
        Stages {
            fetch: self.fetch.spent(),
            hash: self.hash.spent(),
            decrypt: self.decrypt.spent(),
            inflate: self.inflate.spent(),
            unpack: self.unpack.spent(),
            merge: Spent::default(),
        }
    }
}

/// Measures what one thread does. To be started on it.
#[derive(Debug)]
pub(crate) struct Stopwatch(Cell<(Instant, Duration)>);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Cell::new(now()))
    }

    /// What was done since the last word counts for `meter`.
    pub(crate) fn lap(&self, meter: &Meter) {
        let Spent { elapsed, processor } = self.spent();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        meter.elapsed.fetch_add(nanos(elapsed), Ordering::Relaxed);
        meter.processor.fetch_add(nanos(processor), Ordering::Relaxed);
    }

    /// What was done since the last word counts for nobody: the thread waited for a neighbour.
    pub(crate) fn skip(&self) {
        self.0.set(now());
    }

    /// What was spent since the last word.
    pub(crate) fn spent(&self) -> Spent {
        let (at, processor) = now();
        let (last_at, last_processor) = self.0.replace((at, processor));
        Spent {
            elapsed: at.saturating_duration_since(last_at),
            processor: processor.saturating_sub(last_processor),
        }
    }
}

fn now() -> (Instant, Duration) {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let processor =
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    (Instant::now(), processor)
}

/// What comes from the stage before, for a stage that reads it at its own pace: what it does between two waits counts for its
/// meter.
#[derive(Debug)]
pub(crate) struct Metered<'a> {
    from: &'a mut Receiver,
    watch: &'a Stopwatch,
    meter: &'a Meter,
}

impl<'a> Metered<'a> {
    pub(super) const fn new(from: &'a mut Receiver, watch: &'a Stopwatch, meter: &'a Meter) -> Self {
        Self { from, watch, meter }
    }
}

impl BufRead for Metered<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.from.is_drained() {
            self.watch.lap(self.meter);
            let filled = self.from.fill_buf();
            self.watch.skip();
            return filled;
        }
        self.from.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.from.consume(amount);
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, into)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::layer::stream;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "it measures a pause")]
    fn waiting_for_a_neighbour_counts_for_nobody_and_for_the_world_as_elapsed() {
        // Long beside what a loaded machine keeps a thread from its processor.
        const PAUSE: Duration = Duration::from_secs(1);
        let (sender, mut receiver) = stream::pipe(1, 8);
        let meter = Meter::default();
        let sending = thread::spawn(move || {
            let mut sender = sender;
            thread::sleep(PAUSE);
            let buffer = sender.send(vec![7; 8], 8).unwrap();
            drop(buffer);
            sender.finish();
        });
        let watch = Stopwatch::start();
        let mut bytes = Vec::new();
        Metered::new(&mut receiver, &watch, &meter).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 8]);
        assert!(meter.spent().elapsed < PAUSE, "{meter:?}");
        sending.join().unwrap();
        watch.skip();
        thread::sleep(PAUSE);
        let spent = watch.spent();
        assert!(spent.elapsed >= PAUSE && spent.processor < PAUSE, "{spent:?}");
    }
}
