//! One accepted connection as a pair of byte streams, whatever the socket's family.

use std::fmt;
use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// The receiving half.
pub(crate) type Receiver = Box<dyn AsyncRead + Send + Unpin>;
/// The sending half; dropping it ends the stream towards the peer.
pub(crate) type Sender = Box<dyn AsyncWrite + Send + Unpin>;

/// Both halves of a connection.
pub(crate) struct Wire {
    /// What the peer sends.
    pub(crate) receiver: Receiver,
    /// What the peer gets.
    pub(crate) sender: Sender,
}

impl Wire {
    /// A Unix socket's connection.
    pub(crate) fn unix(stream: UnixStream) -> Self {
        let (receiver, sender) = stream.into_split();
        Self { receiver: Box::new(receiver), sender: Box::new(sender) }
    }

    /// A TCP connection. Small answers leave at once.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (receiver, sender) = stream.into_split();
        Ok(Self { receiver: Box::new(receiver), sender: Box::new(sender) })
    }

    /// The same connection with bytes that were read from it put back in front.
    pub(crate) fn put_back(self, head: &'static [u8]) -> Self {
        Self { receiver: Box::new(head.chain(self.receiver)), sender: self.sender }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}
