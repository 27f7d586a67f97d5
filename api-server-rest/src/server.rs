//! The listener and its connections: HTTP/1.1, no TLS, everything bounded.
//!
//! What a request means is [`crate::door`]'s business. At the limit the oldest connection that has not said a word
//! makes room; if all have, newcomers wait in the kernel's queue.
//! One time limit covers both an idle connection and a slow request head, so that neither holds a place for
//! long; a body that is sent along with a `GET` is not read, and its connection is closed.
//!
//! Implements RFC 9112 by way of `hyper`. A request with both `Transfer-Encoding` and `Content-Length` is read
//! by the former and its connection closed after the answer (RFC 9112 §6.3), so that nothing can hide behind it.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cc_confinement::Confinement;
use cc_daemon::server::{Slot, Slots, connections_within_limit};
use cc_daemon::shutdown::Shutdown;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::door::Door;
use crate::stall::StallGuard;

/// What a client can take up at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes of a request's start line and headers.
    pub head_bytes: usize,
    /// From the end of one answer to the end of the next request's head.
    pub head_time: Duration,
    /// How long a client may leave its answer unread.
    pub stall_time: Duration,
    /// How long requests under way may go on after the order to stop.
    pub drain_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: connections_within_limit(1024),
            head_bytes: 16 * 1024,
            head_time: Duration::from_secs(10),
            stall_time: Duration::from_secs(20),
            drain_time: Duration::from_secs(10),
        }
    }
}

/// A server that is not listening yet.
#[derive(Debug)]
pub struct Server {
    door: Door,
    bind: SocketAddr,
    limits: Limits,
}

/// A server with its listener.
#[derive(Debug)]
pub struct BoundServer {
    door: Arc<Door>,
    listener: TcpListener,
    limits: Limits,
}

impl Server {
    /// A server for `door` at `bind`, with the default limits.
    #[must_use]
    pub fn new(door: Door, bind: SocketAddr) -> Self {
        Self { door, bind, limits: Limits::default() }
    }

    /// The same server with other limits.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The same server, which tells what confines its process.
    #[must_use]
    pub fn confined(self, confinement: Confinement) -> Self {
        Self { door: self.door.confined(confinement), ..self }
    }

    /// Listens: on `inherited` if the service manager passed a socket, else on the configured address.
    ///
    /// # Errors
    ///
    /// What the kernel said, with the address in the text.
    pub async fn bind(self, inherited: Option<std::net::TcpListener>) -> io::Result<BoundServer> {
        let listener = match inherited {
            Some(listener) => listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)),
            None => TcpListener::bind(self.bind).await,
        }
        .map_err(|error| io::Error::new(error.kind(), format!("listening on {}: {error}", self.bind)))?;
        let address = listener.local_addr()?;
        if self.door.is_strict() && !address.ip().is_loopback() {
            let text = format!("--strict serves loopback addresses only, and the passed socket is {address}");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, text));
        }
        Ok(BoundServer { door: Arc::new(self.door), listener, limits: self.limits })
    }
}

impl BoundServer {
    /// The address it listens on.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is requested, then lets requests under way finish within the drain time.
    pub async fn serve(self, shutdown: Shutdown) {
        let Self { door, listener, limits } = self;
        let mut connections = JoinSet::new();
        let slots = Slots::new(limits.connections);
        let stop = shutdown.requested();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let slot = tokio::select! {
                            () = &mut stop => break,
                            slot = slots.admit() => slot,
                        };
                        let (door, limits) = (Arc::clone(&door), limits.clone());
                        let shutdown = shutdown.clone();
                        connections.spawn(async move {
                            if speaks(&stream, &slot, &limits, &shutdown).await {
                                serve_connection(stream, peer.ip(), door, limits, shutdown).await;
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        // Out of descriptors, most likely; trying again at once would only burn time.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
        drop(listener);
        let drained = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        if tokio::time::timeout(limits.drain_time, drained).await.is_err() {
            tracing::warn!(connections = connections.len(), "requests under way were cut off");
            connections.shutdown().await;
        }
    }
}

/// Waits for a connection's first byte. `false`: it went without one, stayed silent too long, or had to make
/// room for another.
async fn speaks(stream: &TcpStream, slot: &Slot, limits: &Limits, shutdown: &Shutdown) -> bool {
    let mut first = [0];
    tokio::select! {
        biased;
        () = shutdown.requested() => false,
        () = slot.evicted() => false,
        peeked = tokio::time::timeout(limits.head_time, stream.peek(&mut first)) => {
            matches!(peeked, Ok(Ok(1))) && slot.spoke()
        }
    }
}

/// One connection, from its first byte to its last.
async fn serve_connection(
    stream: TcpStream,
    peer: IpAddr,
    door: Arc<Door>,
    limits: Limits,
    shutdown: Shutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let service = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(door.answer(peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes)
        .serve_connection(TokioIo::new(StallGuard::new(stream, limits.stall_time)), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, %peer, "connection ended early");
    }
}

/// A connection's task never fails; if it panicked all the same, that is a defect worth a loud line.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
