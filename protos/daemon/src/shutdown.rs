//! The one order that ends a daemon.
//!
//! `SIGTERM` (service managers), `SIGINT` and `SIGHUP` (the callers of this contract) all mean: take no new
//! work, finish what is under way, leave. It is NOT a second chance: a second signal changes nothing, the drain
//! is bounded by the server.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A shared switch that goes from "run" to "stop" once. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Shutdown {
    stop: Arc<watch::Sender<bool>>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// A switch that only [`Shutdown::trigger`] turns.
    #[must_use]
    pub fn new() -> Self {
        Self { stop: Arc::new(watch::Sender::new(false)) }
    }

    /// A switch that `SIGTERM`, `SIGINT` and `SIGHUP` turn as well. Needs a running tokio runtime.
    ///
    /// # Errors
    ///
    /// The signal handlers cannot be installed.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let switch = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => "SIGHUP",
            };
            tracing::info!(signal = name, "stopping");
            switch.trigger();
        });
        Ok(shutdown)
    }

    /// Turns the switch.
    pub fn trigger(&self) {
        self.stop.send_replace(true);
    }

    /// Whether the switch is turned.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.stop.borrow()
    }

    /// Returns once the switch is turned. May be dropped and called again at any time.
    pub async fn requested(&self) {
        let mut stop = self.stop.subscribe();
        // The sender lives in `self`: waiting ends by the switch alone.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clones_are_one_switch() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }
        });
        assert!(!shutdown.is_requested());
        shutdown.clone().trigger();
        waiting.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn hangup_stops() {
        let shutdown = Shutdown::on_signals().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
        shutdown.requested().await;
    }
}
