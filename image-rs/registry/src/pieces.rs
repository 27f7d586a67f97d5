//! A large blob in pieces, by several connections at once, where one is slow.
//!
//! Registries, and the stores behind them, limit each connection; then several are faster. Where nothing limits them, one is:
//! measured against a registry on the same machine, one stream is two to three times as fast as three. So a blob begins as
//! one stream, and what is left of it is read in pieces as soon as that was waited for too long.
//!
//! The pieces are claimed in order and delivered in order; between the threads that fetch and the one that reads go a few
//! buffers, which all blobs of a client share, so memory does not grow with their number. A blob that gets no buffers, or
//! whose registry does not say that it knows ranges (`Accept-Ranges`, RFC 9110 section 14.3), stays one stream.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
};

use image_rs::Error;

use crate::{
    Stop,
    blob::{Stream, Target},
};

/// How many buffers of a client are in use.
#[derive(Debug, Default)]
pub(crate) struct Buffers(AtomicU32);

/// Some of them.
#[derive(Debug)]
struct Share {
    of: Arc<Buffers>,
    count: u32,
}

impl Buffers {
    /// Takes `wanted` of `all`, or as many as there are; nothing if there are fewer than two.
    fn share(of: &Arc<Self>, wanted: u32, all: u32) -> Option<Share> {
        let take = |used: u32| {
            let count = wanted.min(all.saturating_sub(used));
            (count >= 2).then_some(used + count)
        };
        let used = of.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Share { of: Arc::clone(of), count: wanted.min(all - used) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.count, Ordering::Relaxed);
    }
}

/// A blob that may be large.
#[derive(Debug)]
pub(crate) struct Adaptive {
    target: Target,
    way: Way,
    /// Bytes of the stream since its speed was looked at.
    bytes: u64,
}

#[derive(Debug)]
enum Way {
    Stream(Box<Stream>),
    Pieces(Box<Pieces>),
}

impl Adaptive {
    /// Goes on from `stream`, which reads `target`.
    pub(crate) fn new(target: Target, stream: Stream) -> Self {
        Self { target, way: Way::Stream(Box::new(stream)), bytes: 0 }
    }

    /// Looks how fast the stream was, and leaves it if that was slow and can be helped.
    fn consider(&mut self) -> Result<(), Error> {
        let Way::Stream(stream) = &mut self.way else { return Ok(()) };
        let ranges = self.target.repository.ranges;
        let bytes = std::mem::take(&mut self.bytes);
        let waited = stream.take_waited().as_micros().max(1);
        let is_slow = u128::from(bytes) * 1_000_000 < u128::from(ranges.below) * waited;
        let worth = stream.left() >= u64::from(ranges.piece) * 2;
        if !is_slow || !worth || !stream.knows_ranges() {
            return Ok(());
        }
        let wanted = ranges.connections.saturating_add(1);
        let Some(share) = Buffers::share(&self.target.repository.buffers, wanted, ranges.buffers) else {
            return Ok(());
        };
        let at = stream.at();
        tracing::debug!(blob = %self.target.digest, at, "reading on in pieces");
        let pieces = Pieces::start(self.target.clone(), at, u64::from(ranges.piece), share)?;
        self.way = Way::Pieces(Box::new(pieces));
        Ok(())
    }
}

impl Read for Adaptive {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.way {
            Way::Pieces(pieces) => return pieces.read(into),
            Way::Stream(stream) => stream.read(into)?,
        };
        self.bytes += read as u64;
        if self.bytes >= u64::from(self.target.repository.ranges.piece) * 2 {
            self.consider().map_err(io::Error::other)?;
        }
        Ok(read)
    }
}

/// What the threads share.
#[derive(Debug)]
struct Work {
    target: Target,
    /// Where the first piece begins.
    base: u64,
    piece: u64,
    claims: Mutex<Claims>,
}

#[derive(Debug)]
struct Claims {
    /// Number of the next piece to fetch.
    next: u64,
    empty: Receiver<Vec<u8>>,
}

/// A piece, or what the thread that fetched it panicked with.
type Fetched = thread::Result<(u64, Result<Vec<u8>, Error>)>;

/// The reading end.
#[derive(Debug)]
struct Pieces {
    stop: Stop,
    pieces: u64,
    /// Number of the next piece to deliver.
    next: u64,
    full: Receiver<Fetched>,
    empty: Option<Sender<Vec<u8>>>,
    early: BTreeMap<u64, Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    threads: Vec<JoinHandle<()>>,
    _share: Share,
}

impl Pieces {
    fn start(mut target: Target, base: u64, piece: u64, share: Share) -> Result<Self, Error> {
        let stop = target.stop.part();
        target.stop = stop.clone();
        let (empty_in, empty) = channel();
        let (full_in, full) = channel();
        for _ in 0..share.count {
            // Cannot fail: the other end is in hand.
            let _ = empty_in.send(Vec::new());
        }
        let pieces = target.size.saturating_sub(base).div_ceil(piece.max(1));
        let claims = Mutex::new(Claims { next: 0, empty });
        let work = Arc::new(Work { target, base, piece, claims });
        let mut threads = Vec::new();
        for _ in 1..share.count {
            let (work, full) = (Arc::clone(&work), full_in.clone());
            match thread::Builder::new().name("image-piece".to_owned()).spawn(move || work.run(&full)) {
                Ok(thread) => threads.push(thread),
                Err(_) if !threads.is_empty() => break,
                Err(source) => {
                    return Err(crate::RegistryError::Start { step: "start a thread", source }.into());
                }
            }
        }
        let (early, current, empty) = (BTreeMap::new(), Vec::new(), Some(empty_in));
        Ok(Self { stop, pieces, next: 0, full, empty, early, current, at: 0, threads, _share: share })
    }

    /// Gets the next piece; gives whether there is one.
    fn advance(&mut self) -> Result<bool, Error> {
        if self.next >= self.pieces {
            return Ok(false);
        }
        if let Some(empty) = &self.empty {
            let buffer = std::mem::take(&mut self.current);
            if buffer.capacity() > 0 {
                // Threads that are gone need no buffers.
                let _ = empty.send(buffer);
            }
        }
        while !self.early.contains_key(&self.next) {
            match self.full.recv() {
                Ok(Ok((number, bytes))) => drop(self.early.insert(number, bytes?)),
                // The others would go on, and this piece would never come.
                Ok(Err(panicked)) => panic::resume_unwind(panicked),
                Err(_) => return Err(Error::Interrupted),
            }
        }
        self.current = self.early.remove(&self.next).unwrap_or_default();
        (self.at, self.next) = (0, self.next + 1);
        Ok(true)
    }
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.current.len() && !self.advance().map_err(io::Error::other)? {
            return Ok(0);
        }
        let read = self.current.get(self.at..).unwrap_or_default().read(into)?;
        self.at += read;
        Ok(read)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.stop.stop();
        self.empty = None;
        for thread in self.threads.drain(..) {
            // One that panicked has nothing to give back.
            let _ = thread.join();
        }
    }
}

impl Work {
    /// Fetches pieces until there are no more, one fails, or nobody reads.
    fn run(&self, full: &Sender<Fetched>) {
        let fetching = panic::catch_unwind(AssertUnwindSafe(|| self.fetch_all(full)));
        if let Err(panicked) = fetching {
            // If nobody reads, nobody waits.
            let _ = full.send(Err(panicked));
        }
    }

    fn fetch_all(&self, full: &Sender<Fetched>) {
        while let Some((number, stream, buffer)) = self.claim() {
            let fetched = self.fetch(stream, buffer);
            let failed = fetched.is_err();
            if full.send(Ok((number, fetched))).is_err() || failed {
                return;
            }
        }
    }

    /// The next piece and a buffer for it. The lock is held while waiting for the buffer, so that an earlier piece gets one
    /// before a later one.
    fn claim(&self) -> Option<(u64, Stream, Vec<u8>)> {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, start) = (claims.next, self.base + claims.next * self.piece);
        if start >= self.target.size || self.target.stop.is_stopped() {
            return None;
        }
        let buffer = claims.empty.recv().ok()?;
        claims.next += 1;
        let end = self.target.size.min(start + self.piece);
        let stream = Stream::new(self.target.clone(), start, Some(end));
        Some((number, stream, buffer))
    }

    fn fetch(&self, mut stream: Stream, mut buffer: Vec<u8>) -> Result<Vec<u8>, Error> {
        let length = usize::try_from(stream.left()).unwrap_or(usize::MAX);
        buffer.resize(length, 0);
        stream.read_exact(&mut buffer).map_err(|error| match error.downcast::<Error>() {
            Ok(told) => told,
            Err(source) => Error::Read { what: format!("blob {}", self.target.digest), source },
        })?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_shared_and_come_back() {
        let all = Arc::new(Buffers::default());
        let one = Buffers::share(&all, 4, 6).unwrap();
        assert_eq!(one.count, 4);
        let two = Buffers::share(&all, 4, 6).unwrap();
        assert_eq!(two.count, 2);
        assert!(Buffers::share(&all, 4, 6).is_none());
        drop(two);
        drop(one);
        assert!(Buffers::share(&all, 4, 1).is_none());
        assert_eq!(Buffers::share(&all, 4, 6).unwrap().count, 4);
    }
}
