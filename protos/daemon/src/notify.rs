//! What the service manager is told: ready, state, stopping, alive (`sd_notify(3)`).
//!
//! Without `NOTIFY_SOCKET` (kata-agent, a shell) every call does nothing. A failure is logged and never stops a
//! daemon: the service manager draws its own conclusion from silence.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::shutdown::Shutdown;

/// `READY=1`: the sockets accept connections.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// `STATUS=…`: one line for people, shown by `systemctl status`. Line breaks become spaces.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&text.replace(['\n', '\r'], " "))]);
}

/// `STOPPING=1`: the drain has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Sends `WATCHDOG=1` at half the interval that the unit asks for, until shutdown; nothing if the unit asks for
/// none. It runs on the runtime that serves requests, so that a runtime that no longer turns is noticed.
pub fn spawn_watchdog(shutdown: &Shutdown) {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) else {
        return;
    };
    let shutdown = shutdown.clone();
    let period = (interval / 2).max(Duration::from_millis(10));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(period);
        loop {
            tokio::select! {
                _ = ticks.tick() => send(&[NotifyState::Watchdog]),
                () = shutdown.requested() => return,
            }
        }
    });
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager the state");
    }
}
