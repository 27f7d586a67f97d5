//! One blocking job at a time, each with a time limit, on threads that may never come back. Every way to a TEE driver
//! goes through one.
//!
//! A system call that hangs cannot be cancelled, only left behind. The gate leaves at most one thread behind:
//! as long as it is inside, everything else is refused at once.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::Error;

/// How much longer than the job the caller waits, so that a job that notices the deadline itself can say why.
const GRACE: Duration = Duration::from_millis(200);

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
    limit: Duration,
}

#[derive(Debug)]
struct Shared {
    turn: Mutex<Turn>,
    freed: Condvar,
}

#[derive(Clone, Copy, Debug)]
enum Turn {
    Free,
    /// A job is inside and somebody waits for it.
    Taken,
    /// The job that went in at this instant is still inside and nobody waits for it any more.
    Stuck(Instant),
}

impl Gate {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { shared: Arc::new(Shared { turn: Mutex::new(Turn::Free), freed: Condvar::new() }), limit }
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Runs `job` when its turn comes; gives it the instant at which the limit ends. `what` names it in errors.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        job: impl FnOnce(Instant) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        // A limit beyond the clock's range is no limit that anybody will see: take a year.
        let deadline = begun.checked_add(self.limit).unwrap_or(begun + Duration::from_secs(365 * 24 * 3600));
        let ticket = self.take_turn(what, deadline)?;
        let entered = Instant::now();
        let (sender, receiver) = mpsc::sync_channel(1);
        let body = move || {
            let result = job(deadline);
            // The answer is there before the turn is free: `leave_behind` relies on it.
            let _ = sender.send(result);
            drop(ticket);
        };
        thread::Builder::new().name("evidence".to_owned()).spawn(body).map_err(|source| Error::System {
            step: "starting a thread for the request to the TEE",
            source,
        })?;
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()) + GRACE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(Error::System {
                step: "running the thread of the request to the TEE",
                source: io::Error::other("it ended without an answer"),
            }),
            Err(RecvTimeoutError::Timeout) => self.leave_behind(what, entered, &receiver),
        }
    }

    fn take_turn(&self, what: &'static str, deadline: Instant) -> Result<Ticket, Error> {
        let mut turn = self.shared.lock();
        loop {
            match *turn {
                Turn::Free => {
                    *turn = Turn::Taken;
                    return Ok(Ticket(Arc::clone(&self.shared)));
                }
                Turn::Stuck(since) => return Err(Error::TsmStuck { since: since.elapsed() }),
                Turn::Taken => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::TsmTimeout {
                            step: format!("{what}, in the queue"),
                            limit: self.limit,
                        });
                    }
                    turn =
                        self.shared.freed.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Marks the running job as stuck, unless its answer has come in this very moment.
    fn leave_behind<T>(
        &self,
        what: &'static str,
        entered: Instant,
        receiver: &mpsc::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut turn = self.shared.lock();
        if let Ok(result) = receiver.try_recv() {
            return result;
        }
        *turn = Turn::Stuck(entered);
        drop(turn);
        self.shared.freed.notify_all();
        tracing::error!(
            what,
            "a request to the TEE driver is stuck in the kernel; further requests are refused until it returns"
        );
        Err(Error::TsmTimeout { step: what.to_owned(), limit: self.limit })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to be inside; dropping it lets the next one in, also when the job panics.
struct Ticket(Arc<Shared>);

impl Drop for Ticket {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.0.lock(), Turn::Free);
        if let Turn::Stuck(since) = before {
            tracing::info!(
                seconds = since.elapsed().as_secs(),
                "the stuck request to the TEE driver has returned"
            );
        }
        self.0.freed.notify_all();
    }
}

/// Growing pauses between attempts at a busy interface.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
    deadline: Instant,
}

impl Pauses {
    /// Smallest and largest pause.
    const BOUNDS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

    /// Pauses of which none ends after `deadline`.
    pub(crate) fn until(deadline: Instant) -> Self {
        Self { next: Self::BOUNDS.0, deadline }
    }

    /// Waits before the next attempt; `false` at once if there is no time for one.
    #[allow(clippy::disallowed_methods)] // a device thread of its own, outside of any runtime
    pub(crate) fn wait(&mut self) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left <= self.next {
            return false;
        }
        thread::sleep(self.next);
        self.next = (self.next * 2).min(Self::BOUNDS.1);
        true
    }
}

/// True for the answers that drivers document as passing: another request is under way, a signal came between, the
/// host is busy.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::BUSY | Errno::INTR | Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn gate(millis: u64) -> Gate {
        Gate::new(Duration::from_millis(millis))
    }

    #[test]
    fn jobs_run_one_at_a_time() {
        let gate = Arc::new(gate(20_000));
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..8)
            .map(|n| {
                let (gate, inside, most) = (Arc::clone(&gate), Arc::clone(&inside), Arc::clone(&most));
                thread::spawn(move || {
                    gate.run("job", move |_| {
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        Ok(n)
                    })
                })
            })
            .collect();
        for (n, caller) in callers.into_iter().enumerate() {
            assert_eq!(caller.join().unwrap().unwrap(), n);
        }
        assert_eq!(most.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_stuck_job_is_left_behind_once_and_refuses_others_until_it_returns() {
        let gate = gate(50);
        let (release, released) = mpsc::channel::<()>();
        let error = gate.run("stuck job", move |_| Ok(released.recv().is_ok())).unwrap_err();
        assert_eq!(error.code(), "TSM_TIMEOUT");
        // Not TSM_TIMEOUT: it did not wait for its turn.
        let error = gate.run("next", |_| Ok(())).unwrap_err();
        assert_eq!(error.code(), "TSM_STUCK");
        release.send(()).unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        while let Err(error) = gate.run("after", |_| Ok(())) {
            // Or this job itself got no processor in time.
            assert!(["TSM_STUCK", "TSM_TIMEOUT"].contains(&error.code()), "{error}");
            assert!(Instant::now() < limit, "served again after the return");
            thread::yield_now();
        }
    }

    #[test]
    fn waiting_for_the_turn_counts() {
        let gate = Arc::new(gate(100));
        let (release, released) = mpsc::channel::<()>();
        let (entered, inside) = mpsc::channel::<()>();
        let first = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                gate.run("first", move |_| {
                    let _ = entered.send(());
                    Ok(released.recv().is_ok())
                })
            })
        };
        inside.recv().unwrap();
        let code = gate.run("second", |_| Ok(())).unwrap_err().code();
        assert!(["TSM_TIMEOUT", "TSM_STUCK"].contains(&code), "{code}");
        release.send(()).unwrap();
        let _ = first.join().unwrap();
    }

    #[test]
    fn a_panicking_job_frees_the_turn() {
        let gate = gate(5_000);
        let error =
            gate.run("job", |_| -> Result<(), Error> { panic!("expected in this test") }).unwrap_err();
        assert_eq!(error.code(), "SYSTEM_RESOURCE");
        gate.run("job", |_| Ok(())).unwrap();
    }
}
