//! The cap on connections, and who makes room at the cap.
//!
//! A connection that has not said a word costs its peer nothing, so silence may be long but must not shut
//! others out: at the cap the oldest silent connection is closed. Connections that have spoken stay; if all
//! have, newcomers wait in the kernel's queue.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The slots of a process.
#[derive(Debug)]
pub struct Slots {
    cap: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    live: usize,
    next: u64,
    /// Connections that have not said a word, oldest first, each with the order to go.
    silent: BTreeMap<u64, Arc<Notify>>,
}

/// One connection's slot; dropping it makes room.
#[derive(Debug)]
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
    leave: Arc<Notify>,
}

impl Slots {
    /// `cap` slots, at least one.
    #[must_use]
    pub fn new(cap: usize) -> Arc<Self> {
        Arc::new(Self { cap: cap.max(1), state: Mutex::default(), freed: Notify::new() })
    }

    /// A slot for a new connection: at once below the cap, else as soon as another connection has gone.
    pub async fn admit(self: &Arc<Self>) -> Slot {
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.try_admit() {
                return slot;
            }
            freed.await;
        }
    }

    /// A slot if there is one; else the oldest silent connection is told to go.
    fn try_admit(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.lock();
        if state.live >= self.cap {
            if let Some((_, leave)) = state.silent.pop_first() {
                leave.notify_one();
            }
            return None;
        }
        state.live += 1;
        state.next += 1;
        let number = state.next;
        let leave = Arc::new(Notify::new());
        state.silent.insert(number, Arc::clone(&leave));
        drop(state);
        Some(Slot { slots: Arc::clone(self), number, leave })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Returns when this connection has to make room; never after [`Slot::spoke`].
    pub async fn evicted(&self) {
        self.leave.notified().await;
    }

    /// Notes that the peer has said something. `false`: too late, the connection was told to go.
    #[must_use]
    pub fn spoke(&self) -> bool {
        self.slots.lock().silent.remove(&self.number).is_some()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        state.silent.remove(&self.number);
        state.live -= 1;
        drop(state);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn at_the_cap_the_oldest_silent_connection_goes() {
        let slots = Slots::new(2);
        let Poll::Ready(first) = poll(pin!(slots.admit())) else { panic!("room") };
        let Poll::Ready(second) = poll(pin!(slots.admit())) else { panic!("room") };
        let mut third = pin!(slots.admit());
        assert!(poll(third.as_mut()).is_pending());
        assert!(poll(pin!(first.evicted())).is_ready());
        assert!(poll(pin!(second.evicted())).is_pending());
        assert!(!first.spoke(), "too late");
        drop(first);
        assert!(poll(third.as_mut()).is_ready());
        assert!(second.spoke());
    }

    #[test]
    fn connections_that_spoke_stay_and_newcomers_wait() {
        let slots = Slots::new(1);
        let Poll::Ready(first) = poll(pin!(slots.admit())) else { panic!("room") };
        assert!(first.spoke());
        let mut second = pin!(slots.admit());
        assert!(poll(second.as_mut()).is_pending());
        assert!(poll(pin!(first.evicted())).is_pending());
        drop(first);
        assert!(poll(second.as_mut()).is_ready());
    }
}
