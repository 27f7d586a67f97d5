//! The one handshake that many callers wait for.
//!
//! A flight is a task. Callers board it under the session's lock, so at most one is in the air; it tries
//! again while somebody's deadline allows, and lands by putting token or error into the session and into a
//! channel that every waiter reads.

use std::sync::Arc;

use cc_evidence::blame::Blame;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::backoff::Backoff;
use crate::error::KbsError;

use super::{Attested, Core, State};

/// A handshake under way.
pub(super) struct Flight {
    number: u64,
    progress: watch::Receiver<Progress>,
    /// The latest deadline among those who wait.
    deadline: watch::Sender<Instant>,
    task: AbortHandle,
}

/// What a caller gets when it asks for a token.
pub(super) enum Boarding {
    /// A token that lives.
    Unneeded(Attested),
    /// The machine was denied a moment ago.
    Denied(KbsError),
    /// Word from the flight.
    On(watch::Receiver<Progress>),
}

/// How a flight is doing.
#[derive(Clone)]
pub(super) enum Progress {
    /// No try has ended.
    Trying,
    /// A try ended with an outage, another follows.
    Delayed(KbsError),
    /// It is over.
    Landed(Result<Attested, KbsError>),
}

impl Flight {
    /// The current token, or the flight that will bring one; takes off if there is neither. A token near its
    /// end makes a flight take off that its caller does not wait for.
    pub(super) fn board(core: &Arc<Core>, deadline: Instant) -> Boarding {
        let mut state = core.lock();
        // One that panicked has finished without landing.
        let flying = state.flight.take().filter(|flight| !flight.task.is_finished());
        if let Some(current) = state.current.clone().filter(Attested::is_alive) {
            let renew = flying.is_none() && current.wants_renewal() && !state.renewal_refused;
            state.flight =
                if renew { Some(Self::take_off(core, &mut state, current.0.expires)) } else { flying };
            return Boarding::Unneeded(current);
        }
        state.current = None;
        if flying.is_none() {
            match state.denied_until.take() {
                Some((until, e)) if Instant::now() < until => {
                    state.denied_until = Some((until, e.clone()));
                    return Boarding::Denied(e);
                }
                _ => {}
            }
        }
        let flight = match flying {
            Some(flight) => flight,
            None => Self::take_off(core, &mut state, deadline),
        };
        flight.deadline.send_if_modified(|latest| {
            let later = deadline > *latest;
            *latest = deadline.max(*latest);
            later
        });
        let progress = flight.progress.clone();
        state.flight = Some(flight);
        Boarding::On(progress)
    }

    /// Ends it without a result.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    fn take_off(core: &Arc<Core>, state: &mut State, deadline: Instant) -> Self {
        state.flights += 1;
        let number = state.flights;
        let (landing, progress) = watch::channel(Progress::Trying);
        let (latest, deadline) = watch::channel(deadline);
        let flight = InTheAir { number, core: Arc::clone(core), progress: landing };
        let task = tokio::spawn(Box::pin(flight.fly(deadline))).abort_handle();
        Self { number, progress, deadline: latest, task }
    }
}

/// Waits until the flight has landed, at most until `deadline`.
pub(super) async fn arrival(
    mut progress: watch::Receiver<Progress>,
    deadline: Instant,
) -> Result<Attested, KbsError> {
    let landed = timeout_at(deadline, progress.wait_for(|p| matches!(p, Progress::Landed(_))))
        .await
        .map(|word| word.map(|w| w.clone()));
    let last_word = match landed {
        Ok(Ok(word)) => word,
        Ok(Err(_)) => return Err(KbsError::Interrupted),
        Err(_) => progress.borrow().clone(),
    };
    last_word.into_result()
}

impl Progress {
    fn into_result(self) -> Result<Attested, KbsError> {
        match self {
            Self::Landed(result) => result,
            Self::Delayed(e) => Err(e),
            Self::Trying => Err(KbsError::Timeout { doing: "attesting to the KBS".to_owned() }),
        }
    }
}

/// The task's side.
struct InTheAir {
    number: u64,
    core: Arc<Core>,
    progress: watch::Sender<Progress>,
}

impl InTheAir {
    async fn fly(self, deadline: watch::Receiver<Instant>) {
        let mut backoff = Backoff::new(self.core.longest_wait);
        let mut earlier = None;
        loop {
            // Read anew for every try: later callers may have moved it.
            let latest = *deadline.borrow();
            match self.core.handshake(latest).await.map_err(|e| e.or_earlier(earlier.take())) {
                Err(e) if e.blame() == Blame::Unavailable => {
                    let delay = backoff.delay();
                    if Instant::now() + delay >= *deadline.borrow() {
                        return self.land(Err(e));
                    }
                    tracing::warn!(code = e.code(), error = %e, "attestation failed, trying again");
                    self.core.note_trouble(&e);
                    self.progress.send_replace(Progress::Delayed(e.clone()));
                    earlier = Some(e);
                    sleep(delay).await;
                }
                result => return self.land(result),
            }
        }
    }

    fn land(self, result: Result<Attested, KbsError>) {
        match &result {
            Ok(attested) => tracing::info!(seconds = attested.left().as_secs(), "attested to the KBS"),
            Err(e) => tracing::warn!(code = e.code(), error = %e, "attestation failed"),
        }
        if let Err(e) = &result {
            self.core.note_denial(e);
        }
        {
            let mut state = self.core.lock();
            let wanted = self.is_awaited(&state);
            state.handshakes += u64::from(result.is_ok());
            if wanted {
                state.flight = None;
                match &result {
                    Ok(attested) => {
                        state.current = Some(attested.clone());
                        state.renewal_refused = false;
                        state.denied_until = None;
                    }
                    Err(e) => {
                        state.renewal_refused = e.blame() != Blame::Unavailable;
                        if e.blame() == Blame::Denied {
                            state.denied_until = Some((Instant::now() + self.core.denial_pause, e.clone()));
                        }
                    }
                }
            }
        }
        self.progress.send_replace(Progress::Landed(result));
    }

    /// Whether the session still waits for this very flight; it does not after `forget`.
    fn is_awaited(&self, state: &State) -> bool {
        state.flight.as_ref().is_some_and(|flight| flight.number == self.number)
    }
}
