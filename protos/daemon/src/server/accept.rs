//! From a listening socket to connections, and from their first bytes to a protocol.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;

use super::slots::Slot;
use super::{Shared, Wire};
use crate::listen::{ListenError, Listener, Socket};
use crate::peer::Caller;
use crate::ttrpc::connection;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of [`PREFACE`].
const HTTP2: u8 = b'P';
/// The first byte of every ttrpc frame: the high byte of a length below 16 MiB.
const TTRPC: u8 = 0;

/// Requests under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// Headers of one request in bytes, as HTTP/2 counts them.
const MAX_HEADERS: u32 = 16 << 10;
/// How often a quiet HTTP/2 peer is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(60);
const PONG: Duration = Duration::from_secs(20);

/// The rest after `accept` failed: the cause (mostly a lack of descriptors) needs time to go.
const REST: Duration = Duration::from_millis(100);

/// One listening socket in the runtime.
#[derive(Debug)]
pub(super) struct Acceptor {
    socket: Accepting,
    /// Removes the path when it is dropped.
    listener: Listener,
}

#[derive(Debug)]
enum Accepting {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Accepting {
    async fn accept(&self) -> io::Result<(Wire, Caller)> {
        match self {
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let caller = Caller::of_connection(&stream)?;
                Ok((Wire::unix(stream), caller))
            }
            Self::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                Ok((Wire::tcp(stream)?, Caller::UNKNOWN))
            }
        }
    }
}

impl Acceptor {
    /// Hands a listener to the runtime.
    pub(super) fn new(listener: Listener) -> Result<Self, ListenError> {
        let socket = match listener.socket() {
            Socket::Unix(socket) => socket.try_clone().and_then(|socket| {
                socket.set_nonblocking(true)?;
                UnixListener::from_std(socket).map(Accepting::Unix)
            }),
            Socket::Tcp(socket) => socket.try_clone().and_then(|socket| {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket).map(Accepting::Tcp)
            }),
        };
        let place = listener.to_string();
        let socket = socket.map_err(|source| ListenError::Refused {
            place,
            step: "handing the socket to the runtime",
            source,
        })?;
        Ok(Self { socket, listener })
    }

    /// Serves until shutdown, then drains.
    pub(super) async fn run(self, shared: Arc<Shared>) {
        let mut connections = JoinSet::new();
        let mut failing = false;
        tracing::info!(address = %self.listener, "serving");
        loop {
            let accepted = tokio::select! {
                biased;
                () = shared.shutdown.requested() => break,
                // Connections that ended are forgotten one by one.
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection ended by a defect of the program");
                    }
                    continue;
                }
                accepted = self.socket.accept() => accepted,
            };
            let (wire, caller) = match accepted {
                Ok(accepted) => accepted,
                // The peer went away in the queue.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if !failing {
                        tracing::error!(address = %self.listener, %error, "cannot accept connections for now");
                    }
                    failing = true;
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            failing = false;
            let slot = tokio::select! {
                biased;
                () = shared.shutdown.requested() => break,
                slot = shared.slots.admit() => slot,
            };
            connections.spawn(serve(wire, caller, slot, Arc::clone(&shared)));
        }
        // Newcomers find no socket, rather than one that nobody serves.
        drop(self);
        let drained = tokio::time::timeout(shared.limits.drain, async {
            while connections.join_next().await.is_some() {}
        });
        if drained.await.is_err() {
            tracing::warn!(connections = connections.len(), "gave up requests that were still under way");
            connections.shutdown().await;
        }
    }
}

/// Serves one connection from its first byte to its end.
async fn serve(mut wire: Wire, caller: Caller, slot: Slot, shared: Arc<Shared>) {
    let mut first = [0];
    let read = tokio::select! {
        biased;
        () = shared.shutdown.requested() => return,
        () = slot.evicted() => {
            tracing::warn!(%caller, "closed a silent connection to make room for another");
            return;
        }
        read = wire.receiver.read(&mut first) => read,
    };
    if !matches!(read, Ok(1)) || !slot.spoke() {
        return;
    }
    match first {
        [TTRPC] => {
            connection::serve(
                wire.put_back(&[TTRPC]),
                caller,
                Arc::clone(&shared.dispatch),
                shared.limits.patience,
                &shared.shutdown,
            )
            .await;
        }
        [HTTP2] => match read_preface(&mut wire, shared.limits.patience).await {
            Ok(()) => serve_http2(wire.put_back(PREFACE), caller, &shared).await,
            Err(error) => tracing::warn!(%caller, %error, "closed a connection that began unlike HTTP/2"),
        },
        [other] => {
            tracing::warn!(%caller, first_byte = other, "closed a connection that speaks neither gRPC nor ttrpc");
        }
    }
}

/// Reads the preface but for its first byte.
async fn read_preface(wire: &mut Wire, time: Duration) -> io::Result<()> {
    let mut rest = [0; PREFACE.len() - 1];
    tokio::time::timeout(time, wire.receiver.read_exact(&mut rest)).await??;
    if PREFACE.ends_with(&rest) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the preface is not the one of HTTP/2"))
}

async fn serve_http2(wire: Wire, caller: Caller, shared: &Shared) {
    let service = service_fn(|request: http::Request<Incoming>| {
        let (dispatch, caller) = (Arc::clone(&shared.dispatch), caller.clone());
        async move { Ok::<_, Infallible>(dispatch.call(request, caller).await) }
    });
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    let stream = TokioIo::new(tokio::io::join(wire.receiver, wire.sender));
    let mut connection = pin!(http2.serve_connection(stream, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%caller, %error, "connection ended");
    }
}
