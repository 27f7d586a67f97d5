//! Growing, scattered waits between tries at a KBS that does not answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

const FIRST: Duration = Duration::from_millis(200);

/// The wait doubles from 0.2 s to the longest; each is cut by a random part of up to one half, so that many guests
/// that lost the same KBS do not all come back at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(longest: Duration) -> Self {
        Self { next: FIRST.min(longest), longest }
    }

    /// Waits if the wait ends before `deadline`; `false`, at once, if it does not.
    pub(crate) async fn wait(&mut self, deadline: Instant) -> bool {
        let delay = self.delay();
        if Instant::now() + delay >= deadline {
            return false;
        }
        sleep(delay).await;
        true
    }

    /// The next wait.
    pub(crate) fn delay(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        // No randomness costs the scattering, nothing else.
        let random = getrandom::u32().unwrap_or(0);
        full - full.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Backoff, FIRST};

    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn grows_scattered_and_bounded() {
        let mut backoff = Backoff::new(LONGEST);
        let mut full = FIRST;
        for _ in 0..20 {
            let delay = backoff.delay();
            assert!(delay <= full && delay >= full / 2, "{delay:?} of {full:?}");
            full = (full * 2).min(LONGEST);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn never_waits_beyond_the_deadline() {
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut backoff = Backoff::new(LONGEST);
        while backoff.wait(deadline).await {}
        assert!(Instant::now() < deadline);
    }
}
