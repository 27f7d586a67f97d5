//! The client's side of one ttrpc connection: many calls at once, each answered on its own stream.
//!
//! One task owns the connection and ends with it; whoever calls waits on a channel, with a deadline of their
//! own. Frames, calls under way and unsent bytes are bounded, and a peer that stops within a frame or stops
//! reading is given up. It does NOT reconnect: [`crate::connect`] asks anew what the peer speaks.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tonic::Code;

use super::connection::{read_some, until};
use super::envelope::{EnvelopeError, Request, Response};
use super::frame::{self, Decoder, Event, Frame, FrameError, Kind, REMOTE_CLOSED};

/// Calls under way on one connection.
const MAX_CALLS: usize = 64;
/// How long the peer may stop within a frame, or leave a request unread.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a ttrpc server. Dropping it ends the connection.
#[derive(Debug)]
pub struct Client {
    calls: mpsc::Sender<Call>,
    room: Semaphore,
}

/// A call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The request was not sent: the connection had ended before.
    #[error("the ttrpc connection had ended")]
    Unsent,
    /// The connection ended before the answer came; nobody knows how far the call got.
    #[error("the ttrpc connection ended before the answer")]
    Broken,
    /// The request is larger than a frame may be.
    #[error(transparent)]
    TooLarge(#[from] FrameError),
}

/// One request on its way to the connection's task.
#[derive(Debug)]
struct Call {
    payload: Bytes,
    answer: oneshot::Sender<Response>,
}

/// Why the connection's task ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    Closed,
    #[error("nobody needs it any more")]
    Unneeded,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    #[error("the peer sent a frame of type {0:?} where an answer belongs")]
    WrongKind(Kind),
    #[error("the peer stopped halfway")]
    Stalled,
    #[error("all stream numbers are used up")]
    OutOfStreams,
    #[error("it broke: {0}")]
    Broken(#[from] io::Error),
}

impl Client {
    /// Connects to the server at `path`.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path).await?;
        let (calls, received) = mpsc::channel(1);
        let connection = Connection::default();
        tokio::spawn(async move {
            let end = Box::pin(connection.run(stream, received)).await;
            tracing::debug!(%end, "a ttrpc connection ended");
        });
        Ok(Self { calls, room: Semaphore::new(MAX_CALLS) })
    }

    /// Whether calls may still be made.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }

    /// Makes one call and waits for its answer, however long it takes. Dropping the future gives the call up;
    /// the connection serves others meanwhile and afterwards.
    ///
    /// # Errors
    ///
    /// [`CallError`]; a failure that the server tells is an answer, not an error.
    pub async fn call(&self, request: &Request) -> Result<Response, CallError> {
        // Held until the answer, so that the connection's task never waits for more than MAX_CALLS.
        let _place = self.room.acquire().await.map_err(|_| CallError::Unsent)?;
        let payload = Bytes::from(request.encode());
        if payload.len() > frame::MAX_PAYLOAD {
            return Err(FrameError::TooLarge(payload.len()).into());
        }
        let (answer, answered) = oneshot::channel();
        self.calls.send(Call { payload, answer }).await.map_err(|_| CallError::Unsent)?;
        answered.await.map_err(|_| CallError::Broken)
    }
}

/// The state of the connection's task.
#[derive(Debug, Default)]
struct Connection {
    waiting: HashMap<u32, oneshot::Sender<Response>>,
    last_stream: Option<u32>,
    decoder: Decoder,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// When the peer must have gone on with what it began.
    due: Option<Instant>,
}

impl Connection {
    async fn run(mut self, stream: UnixStream, mut calls: mpsc::Receiver<Call>) -> End {
        let (mut receiver, mut sender) = stream.into_split();
        loop {
            if let Err(end) = self.step(&mut receiver, &mut sender, &mut calls).await {
                return end;
            }
        }
    }

    async fn step(
        &mut self,
        receiver: &mut OwnedReadHalf,
        sender: &mut OwnedWriteHalf,
        calls: &mut mpsc::Receiver<Call>,
    ) -> Result<(), End> {
        let idle = self.outgoing.is_empty();
        tokio::select! {
            biased;
            written = sender.write_buf(&mut self.outgoing), if !idle => {
                if written? == 0 {
                    return Err(End::Closed);
                }
                self.due = None;
            }
            read = read_some(receiver, &mut self.incoming) => {
                if read? == 0 {
                    return Err(End::Closed);
                }
                self.take_frames()?;
            }
            // One request at a time lies in the buffer; the others wait in their callers' hands.
            call = calls.recv(), if idle => self.begin(call.ok_or(End::Unneeded)?)?,
            () = until(self.due) => return Err(End::Stalled),
        }
        if self.outgoing.is_empty() && !self.decoder.is_amid(&self.incoming) {
            self.due = None;
            // Memory that held requests and answers goes back (and is wiped by the daemon's allocator).
            self.outgoing = BytesMut::new();
            self.incoming = BytesMut::new();
        } else {
            self.due.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        Ok(())
    }

    fn begin(&mut self, call: Call) -> Result<(), End> {
        // Callers that gave up are forgotten here; a late answer to one of them is passed over.
        self.waiting.retain(|_, answer| !answer.is_closed());
        let stream = match self.last_stream {
            None => 1,
            Some(last) => last.checked_add(2).ok_or(End::OutOfStreams)?,
        };
        let request = Frame { stream, kind: Kind::Request, flags: REMOTE_CLOSED, payload: call.payload };
        frame::encode(&request, &mut self.outgoing)?;
        self.last_stream = Some(stream);
        self.waiting.insert(stream, call.answer);
        Ok(())
    }

    fn take_frames(&mut self) -> Result<(), End> {
        while let Some(event) = self.decoder.next(&mut self.incoming)? {
            // Something whole has arrived: what follows has its own time.
            self.due = None;
            let (stream, response) = match event {
                Event::Frame(Frame { stream, kind: Kind::Response, payload, .. }) => {
                    (stream, Response::from_wire(payload)?)
                }
                Event::TooLarge { stream, kind: Kind::Response, length } => {
                    let text = format!("the answer has {length} bytes, the limit is {}", frame::MAX_PAYLOAD);
                    (stream, Response::failure(Code::ResourceExhausted, text))
                }
                Event::Frame(Frame { kind, .. }) | Event::TooLarge { kind, .. } => {
                    return Err(End::WrongKind(kind));
                }
            };
            if let Some(answer) = self.waiting.remove(&stream) {
                // The caller may have gone in this very moment.
                let _ = answer.send(response);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
