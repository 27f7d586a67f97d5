//! The client's side of a local address: one lazy gRPC channel.
//!
//! A channel is made once and cloned; it connects at the first request and again after the peer was restarted.
//! It is NOT for peers beyond this machine: no TLS, no names, no proxy.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};

use crate::address::Address;

/// A channel to a daemon. `timeout` bounds connecting, and each request from its sending to its answer. Must be
/// called inside a tokio runtime; connects nothing yet.
///
/// A peer that cannot be reached shows as a status that [`crate::fault::Fault::from_status`] turns into
/// `PEER_UNREACHABLE` with the address in its text.
#[must_use]
pub fn channel(address: &Address, timeout: Duration) -> Channel {
    // The URI is the `:authority` of each request; where to connect is the connector's business.
    let endpoint = Endpoint::from_static("http://localhost").timeout(timeout).connect_timeout(timeout);
    match address.clone() {
        Address::Unix(path) => endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = UnixStream::connect(&path).await;
                stream.map(TokioIo::new).map_err(|error| name_peer(&Address::Unix(path), &error))
            }
        })),
        Address::Tcp(address) => {
            endpoint.connect_with_connector_lazy(tower::service_fn(move |_| async move {
                let stream = TcpStream::connect(address).await.and_then(|stream| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                stream.map(TokioIo::new).map_err(|error| name_peer(&Address::Tcp(address), &error))
            }))
        }
    }
}

fn name_peer(address: &Address, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
}
