//! Accepting connections: TLS or plain, HTTP/1.1, bounded in number and time, drained at the end.
//!
//! Not the routes (`server`) and not the certificate (`tls`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::Error;

/// Most connections served at a time; further ones wait in the backlog of the socket.
const CONNECTIONS: usize = 2048;
/// Limit for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Limit for the head of a request, the wait of an idle connection for its next one included.
const HEADERS: Duration = Duration::from_secs(75);
/// How long open requests may take after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Binds `address`; port 0 takes any free port.
///
/// # Errors
/// [`Error::Listen`] when the system refuses.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Serves `router` on `listener` until `stop` resolves; then open requests get 5 seconds to finish.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            // Reaps what has ended, so that the set stays as small as the number of open connections.
            Some(_) = connections.join_next() => {}
            (slot, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let (tls, router, stopped) = (tls.clone(), router.clone(), stopped.clone());
                    connections.spawn(async move {
                        let _slot = slot;
                        if let Err(error) = connection(stream, tls, router, stopped).await {
                            tracing::debug!("connection: {error}");
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: give the open connections time to end.
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("requests still open {} s after the stop are cut off", DRAIN.as_secs());
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    match tls {
        None => exchange(stream, router, stopped).await,
        Some(acceptor) => {
            let stream = timeout(HANDSHAKE, acceptor.accept(stream))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            exchange(stream, router, stopped).await
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    let service = TowerToHyperService::new(router);
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    tokio::select! {
        done = serving.as_mut() => return Ok(done?),
        _ = stopped.wait_for(|stopped| *stopped) => serving.as_mut().graceful_shutdown(),
    }
    Ok(serving.await?)
}
