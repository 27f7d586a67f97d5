//! How whoever waits for a pull ends it.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a wait looks at what it belongs to.
const GLANCE: Duration = Duration::from_millis(100);

/// Ends waiting for a registry: for bytes at once, or nearly so, and for the next try. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    own: Arc<(Mutex<bool>, Condvar)>,
    whole: Option<Arc<Self>>,
}

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        *self.own.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.own.1.notify_all();
    }

    /// Whether it was ended.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        *self.own.0.lock().unwrap_or_else(PoisonError::into_inner)
            || self.whole.as_deref().is_some_and(Self::is_stopped)
    }

    /// One for a part of the work, which ends with the whole and can be ended alone.
    pub(crate) fn part(&self) -> Self {
        Self { own: Arc::default(), whole: Some(Arc::new(self.clone())) }
    }

    /// Another part of the same whole, which was not ended alone.
    pub(crate) fn again(&self) -> Self {
        Self { own: Arc::default(), whole: self.whole.clone() }
    }

    /// Waits for `pause`, or until stopped. Gives whether it was stopped.
    pub(crate) fn wait(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.is_stopped() || left.is_zero() {
                return self.is_stopped();
            }
            let slice = if self.whole.is_some() { left.min(GLANCE) } else { left };
            let guard = self.own.0.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.own.1.wait_timeout_while(guard, slice, |stopped| !*stopped);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_stopped() {
        let stop = Stop::default();
        assert!(!stop.wait(Duration::from_millis(1)));
        let other = stop.clone();
        let waiting = std::thread::spawn(move || (other.wait(Duration::from_secs(600)), Instant::now()));
        stop.stop();
        assert!(waiting.join().unwrap().0);
        assert!(stop.is_stopped());
    }

    #[test]
    fn a_part_ends_with_the_whole_and_not_the_other_way_round() {
        let whole = Stop::default();
        let (one, other) = (whole.part(), whole.part());
        one.stop();
        assert!(one.is_stopped() && !other.is_stopped() && !whole.is_stopped());
        let again = one.again();
        assert!(!again.is_stopped());
        let inner = other.part();
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(600)));
        whole.stop();
        assert!(waiting.join().unwrap());
        assert!(inner.is_stopped() && again.is_stopped());
        let (middle, whole) = (Stop::default().part(), Stop::default());
        let inner = middle.part();
        middle.stop();
        assert!(inner.is_stopped() && !whole.is_stopped(), "a part of a part ends with either");
    }
}
