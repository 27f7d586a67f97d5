//! The whole client against a scripted KBS on loopback: attestation, retries, hostile servers, TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod attestation_service;
mod evidence;
mod group;
mod hostile;
mod log;
mod outage;
mod resource;
mod server;
mod session;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use cc_kbs::{KbsConfig, ResourceUri, Session};
use tokio::time::Instant;

use evidence::Machine;
use server::Kbs;

/// A deadline no passing test reaches.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn uri() -> ResourceUri {
    "kbs:///default/key/1".parse().unwrap()
}

/// A session with `kbs`, and the machine behind it.
fn session(kbs: &Kbs) -> (Arc<Session>, Arc<Machine>) {
    let machine = Arc::new(Machine::default());
    (session_of(&kbs.url(), &machine), machine)
}

fn session_of(url: &str, machine: &Arc<Machine>) -> Arc<Session> {
    Arc::new(Session::new(KbsConfig::new(url), Arc::clone(machine) as _).unwrap())
}
