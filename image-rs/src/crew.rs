//! The blobs of one image, several at a time.
//!
//! The largest are begun first, those that wait for their key later. When one fails the others are stopped, also where they
//! wait for the network, and what is told is why the first one failed. It does NOT know what is done with a blob.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::{Descriptor, Error, Event, Keys, Observer, Source};

/// What is to be worked on, and by how many.
pub(crate) struct Crew<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) blobs: &'a [&'a Descriptor],
    pub(crate) keys: &'a Keys,
    /// Blobs at a time.
    pub(crate) workers: usize,
}

impl Crew<'_> {
    /// Does `work` for each blob; it gets the blob's number, and an observer to give up by. Gives what came of them, in their
    /// order.
    ///
    /// # Errors
    /// What went wrong first; [`Error::Interrupted`] if `observer` said so.
    pub(crate) fn run<T: Send>(
        &self,
        observer: &dyn Observer,
        work: impl Fn(usize, &dyn Observer) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let mut waiting: Vec<usize> = (0..self.blobs.len()).collect();
        waiting.sort_by_key(|number| self.blobs.get(*number).map(|blob| blob.size));
        let workers = self.workers.clamp(1, waiting.len().max(1));
        let waiting = Mutex::new(waiting);
        let observer = StopAll { observer, keys: self.keys, stop: AtomicBool::new(false) };
        let (done, failure) = (Mutex::new(Vec::new()), Mutex::new(None));
        thread::scope(|scope| {
            let each = || {
                let result = self.each(&waiting, &observer, &done, &work);
                let Err(error) = result else { return };
                let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                // Those that were only stopped tell less than the one that failed.
                if failure.as_ref().is_none_or(|first| matches!(first, Error::Interrupted)) {
                    *failure = Some(error);
                }
                observer.stop.store(true, Ordering::Relaxed);
                self.source.give_up();
            };
            // This thread is one of them, so that the work is done also where there can be no other.
            let others = (1..workers).map_while(|_| thread::Builder::new().spawn_scoped(scope, each).ok());
            let others: Vec<_> = others.collect();
            each();
            for other in others {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        let failure = failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (failure, self.keys.failure()) {
            (None, _) => {
                let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
                done.sort_by_key(|(number, _)| *number);
                Ok(done.into_iter().map(|(_, result)| result).collect())
            }
            (Some(Error::Interrupted), Some((number, fault))) => Err(match self.blobs.get(number) {
                Some(blob) => Error::in_layer(blob.digest, fault.into()),
                None => Error::Interrupted,
            }),
            (Some(error), _) => Err(error),
        }
    }

    /// What one worker does.
    fn each<T>(
        &self,
        waiting: &Mutex<Vec<usize>>,
        observer: &dyn Observer,
        done: &Mutex<Vec<(usize, T)>>,
        work: &impl Fn(usize, &dyn Observer) -> Result<T, Error>,
    ) -> Result<(), Error> {
        while let Some(number) = self.next(waiting, observer)? {
            if observer.stopped() {
                return Err(Error::Interrupted);
            }
            let result = work(number, observer)?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
        }
        Ok(())
    }

    /// The next blob: the largest one that waits for no key.
    fn next(&self, waiting: &Mutex<Vec<usize>>, observer: &dyn Observer) -> Result<Option<usize>, Error> {
        loop {
            {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if waiting.is_empty() {
                    return Ok(None);
                }
                if let Some(place) = waiting.iter().rposition(|number| self.keys.is_settled(*number)) {
                    return Ok(Some(waiting.remove(place)));
                }
            }
            if observer.stopped() {
                return Err(Error::Interrupted);
            }
            self.keys.wait();
        }
    }
}

/// Stops all when one has failed, or its key.
struct StopAll<'a> {
    observer: &'a dyn Observer,
    keys: &'a Keys,
    stop: AtomicBool,
}

impl Observer for StopAll<'_> {
    fn event(&self, event: Event) {
        self.observer.event(event);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.observer.stopped() || self.keys.failure().is_some()
    }
}
