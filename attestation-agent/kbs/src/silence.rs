//! How long a server has owed an answer.
//!
//! Time without an answer counts from the first request that is still open, or from the first that failed; any useful
//! answer ends it. Time in which nothing is asked of the server does not count: collecting evidence may take seconds. Nor
//! does a request that its caller gave up: that says nothing about the server.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

/// The state of one server's answers.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    open: usize,
    /// When the first of the open requests went out; none without an open one.
    open_since: Option<Instant>,
    /// When the first request went out that failed; none once there was an answer.
    failing_since: Option<Instant>,
}

/// One open request.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    silence: &'a Silence,
    asked: Instant,
}

impl Silence {
    /// A request goes out.
    pub(crate) fn ask(&self) -> Question<'_> {
        let asked = Instant::now();
        let mut state = self.lock();
        state.open += 1;
        state.open_since.get_or_insert(asked);
        Question { silence: self, asked }
    }

    /// How long the server has owed an answer; zero if it owes none.
    pub(crate) fn lasts(&self) -> Duration {
        let state = self.lock();
        let since = [state.open_since, state.failing_since].into_iter().flatten().min();
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether the last request that ended has failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.lock().failing_since.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question<'_> {
    /// There was an answer. One that only says "not now" is none.
    pub(crate) fn answered(&self, status: StatusCode) {
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return self.failed();
        }
        let mut state = self.silence.lock();
        state.failing_since = None;
        state.open_since = (state.open > 1).then(Instant::now);
    }

    /// How long it has been open.
    pub(crate) fn lasts(&self) -> Duration {
        self.asked.elapsed()
    }

    /// There will be no answer.
    pub(crate) fn failed(&self) {
        self.silence.lock().failing_since.get_or_insert(self.asked);
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut state = self.silence.lock();
        state.open = state.open.saturating_sub(1);
        if state.open == 0 {
            state.open_since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_owed_answers_count() {
        let silence = Silence::default();
        assert_eq!(silence.lasts(), Duration::ZERO);
        let first = silence.ask();
        tokio::time::advance(Duration::from_secs(2)).await;
        let second = silence.ask();
        assert_eq!(silence.lasts(), Duration::from_secs(2));
        second.answered(StatusCode::UNAUTHORIZED);
        drop(second);
        assert_eq!(silence.lasts(), Duration::ZERO, "a refusal is an answer");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(silence.lasts(), Duration::from_secs(3), "the first is still open");
        first.answered(StatusCode::OK);
        drop(first);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(silence.lasts(), Duration::ZERO, "nothing is owed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_and_a_busy_server_do_not_end_it() {
        let silence = Silence::default();
        silence.ask().failed();
        tokio::time::advance(Duration::from_secs(1)).await;
        let busy = silence.ask();
        busy.answered(StatusCode::SERVICE_UNAVAILABLE);
        drop(busy);
        assert_eq!(silence.lasts(), Duration::from_secs(1));
        let question = silence.ask();
        question.answered(StatusCode::OK);
        drop(question);
        assert_eq!(silence.lasts(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_leaves_things_as_they_were() {
        let silence = Silence::default();
        let given_up = silence.ask();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(silence.lasts(), Duration::from_secs(1));
        drop(given_up);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(silence.lasts(), Duration::ZERO);
        silence.ask().failed();
        drop(silence.ask());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(silence.lasts(), Duration::from_secs(1), "the failure before it still counts");
        let still_open = silence.ask();
        drop(silence.ask());
        still_open.answered(StatusCode::OK);
        assert!(silence.lasts().is_zero() && !silence.is_failing());
    }
}
