//! How long a server has owed an answer.
//!
//! Time without an answer counts from the first request that is still open, or from the failure of the last one; any useful
//! answer ends it. Time in which nothing is asked of the server does not count: collecting evidence may take seconds.

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
    since: Option<Instant>,
}

/// One open request.
#[derive(Debug)]
pub(crate) struct Question<'a>(&'a Silence);

impl Silence {
    /// A request goes out.
    pub(crate) fn ask(&self) -> Question<'_> {
        let mut state = self.lock();
        state.open += 1;
        state.since.get_or_insert_with(Instant::now);
        Question(self)
    }

    /// How long the server has owed an answer; zero if it owes none.
    pub(crate) fn lasts(&self) -> Duration {
        self.lock().since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question<'_> {
    /// There was an answer. One that only says "not now" does not end the silence.
    pub(crate) fn answered(&self, status: StatusCode) {
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return;
        }
        let mut state = self.0.lock();
        state.since = (state.open > 1).then(Instant::now);
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.open = state.open.saturating_sub(1);
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
        drop(silence.ask());
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
}
