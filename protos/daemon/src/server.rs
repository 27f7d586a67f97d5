//! The RPC server: one set of tonic services on every socket, by gRPC and by ttrpc.
//!
//! The first bytes of a connection tell the protocol: HTTP/2 opens with its preface (RFC 9113, 3.4), a ttrpc
//! frame with the high byte of a length that is always zero. Both protocols end in the same services, with the
//! caller, the deadline and the request log put around them once.
//!
//! It is NOT an HTTP server: no HTTP/1, no TLS, no compression.
//!
//! # Limits
//!
//! | What | Limit |
//! |---|---|
//! | connections of a process | 1024; at the cap the oldest that has not said a word makes room |
//! | a connection that has not said a word | no time limit: callers connect at boot and ask minutes later |
//! | a peer that stops within a preface or a frame header, or leaves answers unread | 10 s; see [`RpcServer::patience`] |
//! | requests under way on a connection | 256 (gRPC), 64 (ttrpc) |
//! | a message | 4 MiB |
//! | a request | 60 s, or less if the caller says so; see [`RpcServer::deadline`], [`RpcServer::deadline_of`] |
//! | shutdown | 10 s for requests under way |

mod accept;
mod dispatch;
mod slots;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::listen::{ListenError, Listener};
use crate::notify;
use crate::shutdown::Shutdown;
pub(crate) use dispatch::Dispatch;
pub use slots::{Slot, Slots};
pub(crate) use wire::Wire;

/// Largest message in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;
/// How long a request may take unless the daemon or the caller says otherwise.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);
/// Most connections of a process.
pub const MAX_CONNECTIONS: usize = 1024;
/// How long requests under way are waited for after the order to stop.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a peer may stop halfway.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Descriptors that connections leave to everything else: sockets to other daemons, files, the runtime.
const RESERVED_DESCRIPTORS: u64 = 32;

/// At most `wanted` connections, and fewer where the process may not open as many files (`RLIMIT_NOFILE`):
/// running out of descriptors would take the daemon's own work down, a full house only makes callers wait.
#[must_use]
pub fn connections_within_limit(wanted: usize) -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = limit.saturating_sub(RESERVED_DESCRIPTORS).max(RESERVED_DESCRIPTORS / 2);
    usize::try_from(room).map_or(wanted, |room| wanted.min(room))
}

/// The services of one daemon, ready to be served.
#[derive(Debug)]
pub struct RpcServer {
    routes: Routes,
    hidden: Vec<&'static str>,
    deadlines: Vec<(&'static str, Duration)>,
    limits: Limits,
}

/// The limits that differ between daemons and tests.
#[derive(Clone, Copy, Debug)]
struct Limits {
    deadline: Duration,
    connections: usize,
    patience: Duration,
    drain: Duration,
}

/// What every connection of a server needs.
#[derive(Debug)]
struct Shared {
    dispatch: Arc<Dispatch>,
    slots: Arc<Slots>,
    limits: Limits,
    shutdown: Shutdown,
}

impl RpcServer {
    /// A server for these services, every method of them over gRPC and ttrpc.
    #[must_use]
    pub fn new(routes: Routes) -> Self {
        let limits = Limits {
            deadline: DEFAULT_DEADLINE,
            connections: MAX_CONNECTIONS,
            patience: PATIENCE,
            drain: DRAIN,
        };
        Self { routes, hidden: Vec::new(), deadlines: Vec::new(), limits }
    }

    /// Keeps one method, `/package.Service/Method`, off ttrpc: callers are told that it is not supported.
    #[must_use]
    pub fn hide_on_ttrpc(mut self, method: &'static str) -> Self {
        self.hidden.push(method);
        self
    }

    /// Sets how long a request may take; a caller can ask for less, not for more. Default: 60 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// Sets how long one method, `/package.Service/Method`, may take.
    #[must_use]
    pub fn deadline_of(mut self, method: &'static str, deadline: Duration) -> Self {
        self.deadlines.push((method, deadline));
        self
    }

    /// Sets how many connections are held at once. Default: 1024.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections;
        self
    }

    /// Sets how long a peer may stop halfway: within the preface of a connection or the header of a frame, or
    /// with answers unread; three times as long within a frame. Default: 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.limits.patience = patience;
        self
    }

    /// Sets how long requests under way are waited for after the order to stop. Default: 10 s.
    #[must_use]
    pub fn drain(mut self, drain: Duration) -> Self {
        self.limits.drain = drain;
        self
    }

    /// Publishes the listeners that are not yet visible and serves them until `shutdown`. Then the paths are
    /// removed, requests under way are finished or, after the drain time, given up.
    ///
    /// # Errors
    ///
    /// A listener cannot be published or handed to the runtime. Once serving, nothing ends it but `shutdown`.
    pub async fn serve(self, listeners: Vec<Listener>, shutdown: Shutdown) -> Result<(), ListenError> {
        let shared = Arc::new(Shared {
            dispatch: Arc::new(
                Dispatch::new(self.routes, self.hidden, self.limits.deadline).with_deadlines(self.deadlines),
            ),
            slots: Slots::new(connections_within_limit(self.limits.connections)),
            limits: self.limits,
            shutdown,
        });
        let mut acceptors = Vec::new();
        for mut listener in listeners {
            listener.publish()?;
            acceptors.push(accept::Acceptor::new(listener)?);
        }
        let mut serving = JoinSet::new();
        for acceptor in acceptors {
            serving.spawn(acceptor.run(Arc::clone(&shared)));
        }
        let signalled = shared.shutdown.clone();
        serving.spawn(async move {
            signalled.requested().await;
            notify::stopping();
        });
        while let Some(ended) = serving.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener ended by a defect of the program");
            }
        }
        Ok(())
    }
}
