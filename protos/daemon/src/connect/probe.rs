//! What a peer on a Unix socket speaks.
//!
//! An HTTP/2 server greets with its SETTINGS as soon as it has read the client's (RFC 9113, 3.4). A ttrpc server
//! takes the client's greeting for the header of a huge frame and waits for the rest of it, in silence. So the
//! peer is greeted on a connection of its own, and one that stays silent is asked by ttrpc, on another
//! connection, for a method that nobody has. Only an answer decides for ttrpc; without any the peer is taken for
//! a gRPC server that is busy.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{BoxError, name_peer};
use crate::address::Address;
use crate::ttrpc::client::Client;
use crate::ttrpc::envelope::Request;

/// What an HTTP/2 client sends first: the preface and empty SETTINGS (RFC 9113, 3.4 and 6.5).
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Length of an HTTP/2 frame's header in bytes.
const HEADER_LEN: usize = 9;
/// Where a frame's header has its type, and the type of SETTINGS.
const TYPE_AT: usize = 3;
const SETTINGS: u8 = 4;

/// How long a gRPC server has for its greeting before it is asked by ttrpc as well.
const GLANCE: Duration = Duration::from_millis(100);
/// How long both questions may stay without an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A Unix socket whose server may speak ttrpc, and the connection to it if that is so. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct TtrpcPeer {
    path: Arc<PathBuf>,
    client: Arc<Mutex<Option<Arc<Client>>>>,
    /// One question at a time, however many requests wait for its answer.
    asking: Arc<tokio::sync::Mutex<()>>,
}

/// The peer cannot be connected to by gRPC.
#[derive(Debug)]
pub(super) enum ProbeError {
    Unreachable(io::Error),
    NotGrpc,
}

/// The peer speaks ttrpc only.
#[derive(Debug)]
pub(super) struct NotGrpc;

impl TtrpcPeer {
    /// The peer at `path`; not asked yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path: Arc::new(path), client: Arc::default(), asking: Arc::default() }
    }

    /// The connection to a peer that speaks ttrpc, while it lasts.
    pub(super) fn client(&self) -> Option<Arc<Client>> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.clone().filter(|client| client.is_open())
    }

    /// Finds out whether a gRPC connection can be made. If the peer answers by ttrpc instead, [`Self::client`]
    /// is the connection from then on.
    pub(super) async fn require_grpc(&self) -> Result<(), ProbeError> {
        let _turn = self.asking.lock().await;
        if self.client().is_some() {
            return Err(ProbeError::NotGrpc);
        }
        let stream = UnixStream::connect(self.path.as_path()).await?;
        let mut greeted = pin!(greet(stream));
        let silent = match tokio::time::timeout(GLANCE, greeted.as_mut()).await {
            Ok(Ok(true)) => return Ok(()),
            Ok(_) => false,
            Err(_) => true,
        };
        let asked = tokio::time::timeout(PATIENCE, async {
            tokio::select! {
                greeted = greeted, if silent => match greeted {
                    Ok(true) => Ok(None),
                    _ => self.ask().await,
                },
                asked = self.ask() => asked,
            }
        });
        let Some(client) = asked.await.unwrap_or(Ok(None))? else { return Ok(()) };
        tracing::info!(path = %self.path.display(), "the peer speaks ttrpc only");
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(client));
        Err(ProbeError::NotGrpc)
    }

    /// A connection that answers ttrpc, if the peer does.
    async fn ask(&self) -> io::Result<Option<Client>> {
        let client = Client::connect(&self.path).await?;
        let nothing = Request {
            service: "guest_services.v1.Probe".to_owned(),
            method: "Ask".to_owned(),
            ..Request::default()
        };
        Ok(client.call(&nothing).await.is_ok().then_some(client))
    }
}

/// Whether the peer returns an HTTP/2 greeting.
async fn greet(mut stream: UnixStream) -> io::Result<bool> {
    stream.write_all(GREETING).await?;
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await?;
    Ok(header.get(TYPE_AT) == Some(&SETTINGS))
}

impl ProbeError {
    /// As an error of the transport, with the peer's address where the kernel refused it.
    pub(super) fn named(self, address: &Address) -> BoxError {
        match self {
            Self::Unreachable(error) => name_peer(address, &error).into(),
            Self::NotGrpc => NotGrpc.into(),
        }
    }
}

impl From<io::Error> for ProbeError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error)
    }
}

impl NotGrpc {
    /// Whether a failed gRPC request failed for this reason.
    pub(super) fn is_cause_of(error: &(dyn Error + 'static)) -> bool {
        std::iter::successors(Some(error), |error| (*error).source()).any(|error| error.is::<Self>())
    }
}

impl fmt::Display for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer speaks ttrpc, not gRPC")
    }
}

impl Error for NotGrpc {}
