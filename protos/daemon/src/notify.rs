//! What the service manager is told: ready, state, stopping, alive (`sd_notify(3)`).
//!
//! Without `NOTIFY_SOCKET` (kata-agent, a shell) every call does nothing. A failure is logged and never stops a
//! daemon: the service manager draws its own conclusion from silence.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
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

/// The line that `systemctl status` shows of a daemon that serves: what is missing at the moment, and what it does.
///
/// It goes out when it changes, so that it may be set with every request.
#[derive(Debug, Default)]
pub struct StatusLine(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    serving: String,
    /// By what it is missing for.
    missing: BTreeMap<&'static str, String>,
}

impl Line {
    fn text(&self) -> String {
        let sentences = self.missing.values().chain(std::iter::once(&self.serving));
        sentences.map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

impl StatusLine {
    /// Says what the daemon does when nothing is missing.
    pub fn serving(&self, what: impl Into<String>) {
        self.change(|line| line.serving = what.into());
    }

    /// Says what is missing for the purpose `for_what`, until [`StatusLine::nothing_missing`].
    pub fn missing(&self, for_what: &'static str, what: impl fmt::Display) {
        self.change(|line| drop(line.missing.insert(for_what, what.to_string())));
    }

    /// What was missing for that purpose is there.
    pub fn nothing_missing(&self, for_what: &'static str) {
        self.change(|line| drop(line.missing.remove(for_what)));
    }

    fn change(&self, change: impl FnOnce(&mut Line)) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = line.text();
        change(&mut line);
        let text = line.text();
        if text != before {
            status(&text);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_first_and_goes_again() {
        let line = StatusLine::default();
        let text = || line.0.lock().unwrap().text();
        line.serving("serving");
        line.missing("secrets", "no network");
        assert_eq!(text(), "no network; serving");
        line.missing("images", "no store");
        line.serving("serving, attested");
        assert_eq!(text(), "no store; no network; serving, attested");
        line.nothing_missing("images");
        assert_eq!(text(), "no network; serving, attested");
        line.nothing_missing("secrets");
        line.nothing_missing("images");
        assert_eq!(text(), "serving, attested");
    }
}
