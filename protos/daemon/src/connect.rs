//! The client's side of a local address: one lazy channel, whatever the peer speaks.
//!
//! A channel is made once and cloned; it connects at the first request and again after the peer was restarted.
//! The peer is asked for gRPC first; one that answers ttrpc and not gRPC (a daemon of the existing stack on a
//! Unix socket) is called by ttrpc for as long as that connection lasts. It is NOT for peers beyond this
//! machine: no TLS, no names, no proxy.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::body::Body;
use tonic::transport::{self, Endpoint};
use tonic::{ConnectError, Status, TimeoutExpired};
use tower::ServiceExt as _;

use crate::address::Address;
use crate::ttrpc::client::{CallError, Client};
use crate::ttrpc::mirror;

mod probe;

use probe::{NotGrpc, TtrpcPeer};

type BoxError = Box<dyn Error + Send + Sync>;

/// A channel to a daemon, for the clients that `cc_protos` generates. Clones share the connection.
#[derive(Clone)]
pub struct Channel {
    grpc: transport::Channel,
    /// Absent for TCP addresses, where only gRPC is spoken.
    ttrpc: Option<TtrpcPeer>,
    timeout: Duration,
}

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
        Address::Unix(path) => {
            let peer = TtrpcPeer::new(path.clone());
            let ttrpc = Some(peer.clone());
            let grpc = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
                let (path, peer) = (path.clone(), peer.clone());
                async move {
                    let address = Address::Unix(path.clone());
                    peer.require_grpc().await.map_err(|error| error.named(&address))?;
                    let stream = UnixStream::connect(&path).await;
                    stream.map(TokioIo::new).map_err(|error| BoxError::from(name_peer(&address, &error)))
                }
            }));
            Channel { grpc, ttrpc, timeout }
        }
        Address::Tcp(address) => {
            let grpc = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| async move {
                let stream = TcpStream::connect(address).await.and_then(|stream| {
                    stream.set_nodelay(true)?;
                    Ok(stream)
                });
                stream.map(TokioIo::new).map_err(|error| name_peer(&Address::Tcp(address), &error))
            }));
            Channel { grpc, ttrpc: None, timeout }
        }
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Which connection a request takes is known only when it is made.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move {
            match &channel.ttrpc {
                Some(peer) => channel.call_either(peer, request).await,
                None => Ok(channel.grpc.clone().oneshot(request).await?),
            }
        })
    }
}

impl Channel {
    async fn call_either(
        &self,
        peer: &TtrpcPeer,
        request: Request<Body>,
    ) -> Result<Response<Body>, BoxError> {
        // Kept whole, because it may have to be said twice: in gRPC and, once the peer turns out not to know
        // that, in ttrpc. It goes out once.
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if let Some(client) = peer.client() {
            return self.call_ttrpc(&client, &head, body).await;
        }
        let grpc = Request::from_parts(head.clone(), Body::new(Full::new(body.clone())));
        let error = match self.grpc.clone().oneshot(grpc).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match peer.client().filter(|_| NotGrpc::is_cause_of(&error)) {
            Some(client) => self.call_ttrpc(&client, &head, body).await,
            None => Err(error.into()),
        }
    }

    async fn call_ttrpc(
        &self,
        client: &Client,
        head: &http::request::Parts,
        body: Bytes,
    ) -> Result<Response<Body>, BoxError> {
        let request = match mirror::to_ttrpc(head, body, self.timeout) {
            Ok(request) => request,
            Err(status) => return Ok(status.into_http()),
        };
        match tokio::time::timeout(self.timeout, client.call(&request)).await {
            Ok(Ok(response)) => Ok(mirror::from_ttrpc(response)),
            Ok(Err(error @ CallError::TooLarge(_))) => {
                Ok(Status::out_of_range(error.to_string()).into_http())
            }
            // The transport errors that tonic's own channel gives, so that callers need to know one kind only.
            Ok(Err(error @ CallError::Unsent)) => Err(ConnectError(error.into()).into()),
            Ok(Err(error @ CallError::Broken)) => {
                let mut status = Status::unavailable(error.to_string());
                status.set_source(Arc::new(error));
                Err(status.into())
            }
            Err(_) => Err(TimeoutExpired(()).into()),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

fn name_peer(address: &Address, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot connect to {address}: {error}"))
}
