//! How fast events may come: a register that is extended at a workload's pace fills the log for everybody.
//!
//! One pace for all callers of `/aa/aael`, because HTTP callers have no identity. This is not a queue: what is
//! too early is refused.
//!
//! Implements the generic cell rate algorithm (ITU-T I.371, Annex A) in its virtual scheduling form.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A steady rate with room for a burst.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    tolerance: Duration,
    /// When the next event would be due if all came at the steady rate.
    due: Mutex<Option<Instant>>,
}

impl Pace {
    /// One event each `interval`, and up to `burst` (at least 1) at once after a pause.
    #[must_use]
    pub fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, tolerance: interval * burst.saturating_sub(1), due: Mutex::new(None) }
    }

    /// Counts an event at `now`.
    ///
    /// # Errors
    ///
    /// How long to wait, if the event comes too early; it is not counted then.
    pub fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = due.map_or(now, |due| due.max(now));
        match (next - now).checked_sub(self.tolerance) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *due = Some(next + self.interval);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TENTH: Duration = Duration::from_millis(100);

    #[test]
    fn a_burst_then_the_steady_rate() {
        let pace = Pace::new(TENTH, 3);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(pace.admit(start), Ok(()));
        }
        assert_eq!(pace.admit(start), Err(TENTH));
        assert_eq!(pace.admit(start + TENTH / 2), Err(TENTH / 2));
        assert_eq!(pace.admit(start + TENTH), Ok(()));
        assert_eq!(pace.admit(start + TENTH), Err(TENTH));
        // A long pause gives one burst back, not more.
        let later = start + TENTH * 1000;
        assert_eq!((0..10).filter(|_| pace.admit(later).is_ok()).count(), 3);
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_rate_and_burst(steps in proptest::collection::vec(0u64..400, 1..200), burst in 1u32..5) {
            let pace = Pace::new(TENTH, burst);
            let mut now = Instant::now();
            let mut admitted = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                if pace.admit(now).is_ok() {
                    admitted.push(now);
                }
            }
            for (index, from) in admitted.iter().enumerate() {
                for (count, to) in admitted[index..].iter().enumerate() {
                    let most = (*to - *from).as_millis() / 100 + u128::from(burst);
                    prop_assert!((count as u128) < most);
                }
            }
        }
    }
}
