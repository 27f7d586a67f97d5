//! One ttrpc connection: frames in, calls under way, frames out, all bounded.
//!
//! A single task moves everything: it reads while there is room for more calls, runs the calls beside each
//! other, and writes answers as they come. A peer that sends and never reads is stopped by its own unread
//! answers; a peer that stops within a frame, or stops reading, is cut off after a time.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tonic::Code;

use super::bridge;
use super::envelope::{Request, Response};
use super::frame::{self, Decoder, Event, Frame, FrameError, HEADER_LEN, Kind, MAX_PAYLOAD};
use crate::peer::{Caller, Transport};
use crate::server::{Dispatch, Wire};
use crate::shutdown::Shutdown;

/// Calls under way on one connection.
const MAX_CALLS: usize = 64;
/// Bytes of requests under way, and of answers not yet read by the peer, beyond which no frame is read.
const MAX_PENDING: usize = MAX_PAYLOAD;
/// How much is read at once.
const CHUNK: usize = 8 << 10;
/// A whole frame may take this many times as long as its header.
const FRAME_FACTOR: u32 = 3;

/// Why a connection ends before its time.
#[derive(Debug, thiserror::Error)]
enum Violation {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame of type {0:?} came from a client")]
    WrongKind(Kind),
    #[error("stream {0} is even; those are the server's")]
    EvenStream(u32),
    #[error("stream {0} is in use")]
    StreamInUse(u32),
    #[error("a frame was not completed in time")]
    UnfinishedFrame,
    #[error("answers were not read in time")]
    UnreadAnswers,
    #[error("the connection broke")]
    Broken(#[from] io::Error),
}

/// Serves a connection until its end, or until shutdown and the end of the calls under way. `patience` bounds
/// how long the peer may stop halfway.
pub(crate) async fn serve(
    wire: Wire,
    caller: Caller,
    dispatch: Arc<Dispatch>,
    patience: Duration,
    shutdown: &Shutdown,
) {
    let caller = Caller { transport: Transport::Ttrpc, ..caller };
    let connection = Connection {
        caller: caller.clone(),
        dispatch,
        patience,
        incoming: BytesMut::new(),
        decoder: Decoder::default(),
        frame_begun: None,
        calls: JoinSet::new(),
        streams: HashMap::new(),
        pending: 0,
        outgoing: BytesMut::new(),
        write_due: None,
    };
    match Box::pin(connection.run(wire, shutdown)).await {
        Ok(()) => {}
        Err(Violation::Broken(error)) => tracing::debug!(%caller, %error, "connection ended"),
        Err(violation) => tracing::warn!(%caller, %violation, "closed a ttrpc connection"),
    }
}

#[derive(Debug)]
struct Connection {
    caller: Caller,
    dispatch: Arc<Dispatch>,
    patience: Duration,

    incoming: BytesMut,
    decoder: Decoder,
    /// Since when a frame has been incomplete while there was room for it.
    frame_begun: Option<Instant>,

    calls: JoinSet<Response>,
    /// Stream and request size of each call under way.
    streams: HashMap<Id, (u32, usize)>,
    /// Bytes of the requests under way.
    pending: usize,

    outgoing: BytesMut,
    /// When the peer must have read something more.
    write_due: Option<Instant>,
}

impl Connection {
    async fn run(mut self, wire: Wire, shutdown: &Shutdown) -> Result<(), Violation> {
        let Wire { mut receiver, mut sender } = wire;
        // `open`: the peer may send more. `stopping`: we begin no more calls.
        let (mut open, mut stopping) = (true, false);
        while (open && !stopping) || !self.calls.is_empty() || !self.outgoing.is_empty() {
            if !stopping {
                self.take_frames()?;
            }
            let room = open && !stopping && self.has_room();
            let frame_due = self.frame_due(room);
            tokio::select! {
                biased;
                () = shutdown.requested(), if !stopping => stopping = true,
                written = sender.write_buf(&mut self.outgoing), if !self.outgoing.is_empty() => {
                    if written? == 0 {
                        return Err(io::Error::from(io::ErrorKind::WriteZero).into());
                    }
                    self.note_written();
                }
                Some(ended) = self.calls.join_next_with_id() => self.finish(ended),
                () = until(self.write_due) => return Err(Violation::UnreadAnswers),
                read = read_some(&mut receiver, &mut self.incoming), if room => open = read? > 0,
                () = until(frame_due) => return Err(Violation::UnfinishedFrame),
            }
        }
        Ok(())
    }

    /// Whether another frame may be read.
    fn has_room(&self) -> bool {
        self.calls.len() < MAX_CALLS && self.pending < MAX_PENDING && self.outgoing.len() < MAX_PENDING
    }

    /// Until when the frame that has begun must be complete. The time runs only while there is room for it.
    fn frame_due(&mut self, room: bool) -> Option<Instant> {
        if !room || !self.decoder.is_amid(&self.incoming) {
            self.frame_begun = None;
            return None;
        }
        let begun = *self.frame_begun.get_or_insert_with(Instant::now);
        let in_header = !self.decoder.is_skipping() && self.incoming.len() < HEADER_LEN;
        Some(begun + if in_header { self.patience } else { self.patience * FRAME_FACTOR })
    }

    /// Handles every complete frame that has arrived, as long as there is room.
    fn take_frames(&mut self) -> Result<(), Violation> {
        while self.has_room() {
            let Some(event) = self.decoder.next(&mut self.incoming)? else { break };
            self.frame_begun = None;
            match event {
                Event::TooLarge { stream, kind: Kind::Request, length } => {
                    let text = format!("a request of {length} bytes is larger than {MAX_PAYLOAD}");
                    self.answer(stream, &Response::failure(Code::InvalidArgument, text));
                }
                Event::Frame(Frame { stream, kind: Kind::Request, flags, payload }) => {
                    self.begin(stream, flags, payload)?;
                }
                // The rest of a stream that was refused when it began.
                Event::TooLarge { kind: Kind::Data, .. } | Event::Frame(Frame { kind: Kind::Data, .. }) => {}
                Event::TooLarge { kind, .. } | Event::Frame(Frame { kind, .. }) => {
                    return Err(Violation::WrongKind(kind));
                }
            }
        }
        if self.incoming.is_empty() {
            // Memory that held requests goes back (and is wiped by the daemon's allocator).
            self.incoming = BytesMut::new();
        }
        Ok(())
    }

    /// Begins a call, or answers at once why not.
    fn begin(&mut self, stream: u32, flags: u8, payload: Bytes) -> Result<(), Violation> {
        if stream.is_multiple_of(2) {
            return Err(Violation::EvenStream(stream));
        }
        if self.streams.values().any(|(used, _)| *used == stream) {
            return Err(Violation::StreamInUse(stream));
        }
        let size = payload.len();
        let request = match Request::decode(payload) {
            Ok(request) => request,
            Err(error) => {
                self.answer(stream, &Response::failure(Code::InvalidArgument, error.to_string()));
                return Ok(());
            }
        };
        if flags & frame::REMOTE_OPEN != 0 {
            self.answer(stream, &bridge::not_supported(&request.path()));
            return Ok(());
        }
        let call = call(Arc::clone(&self.dispatch), self.caller.clone(), request);
        let task = self.calls.spawn(call);
        self.streams.insert(task.id(), (stream, size));
        self.pending += size;
        Ok(())
    }

    /// Takes the answer of a call that ended.
    fn finish(&mut self, ended: Result<(Id, Response), tokio::task::JoinError>) {
        let (id, response) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "a request ended by a defect of the program");
                (error.id(), Response::failure(Code::Internal, "a defect of the program"))
            }
        };
        if let Some((stream, size)) = self.streams.remove(&id) {
            self.pending -= size;
            self.answer(stream, &response);
        }
    }

    /// Queues an answer.
    fn answer(&mut self, stream: u32, response: &Response) {
        let mut payload = response.encode_to_vec();
        if payload.len() > MAX_PAYLOAD {
            let text = format!("an answer of {} bytes is larger than {MAX_PAYLOAD}", payload.len());
            payload = Response::failure(Code::ResourceExhausted, text).encode_to_vec();
        }
        let frame = Frame { stream, kind: Kind::Response, flags: 0, payload: payload.into() };
        if let Err(error) = frame::encode(&frame, &mut self.outgoing) {
            tracing::error!(%error, "an answer was lost");
        }
        if self.write_due.is_none() {
            self.write_due = Some(Instant::now() + self.patience);
        }
    }

    /// The peer read something: the time starts again, or ends with the last byte.
    fn note_written(&mut self) {
        if self.outgoing.is_empty() {
            self.write_due = None;
            // Memory that held answers goes back (and is wiped by the daemon's allocator).
            self.outgoing = BytesMut::new();
        } else {
            self.write_due = Some(Instant::now() + self.patience);
        }
    }
}

/// Runs one call through the services.
async fn call(dispatch: Arc<Dispatch>, caller: Caller, request: Request) -> Response {
    let path = request.path();
    match bridge::to_grpc(&request) {
        Ok(grpc) => {
            drop(request);
            bridge::from_grpc(&path, dispatch.call(grpc, caller).await).await
        }
        Err(error) => Response::failure(Code::InvalidArgument, error.to_string()),
    }
}

/// Reads what has arrived. Dropping it loses nothing.
pub(super) async fn read_some(
    receiver: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    buffer.reserve(CHUNK);
    receiver.read_buf(buffer).await
}

/// Waits until an instant; without one, for ever.
pub(super) async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
