//! ttrpc frames: ten bytes of header and a payload. Pure; bytes in, frames out.
//!
//! | Bytes | Field |
//! |---|---|
//! | 0..4 | length of the payload, big endian |
//! | 4..8 | number of the stream, big endian; odd when the client began it |
//! | 8 | type: 1 request, 2 response, 3 data |
//! | 9 | flags |
//!
//! Source: "Message Frame" and "Message Header" of the containerd project's ttrpc protocol description.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 10;
/// Largest payload in bytes.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// Flag: the sender sends no more on this stream.
pub const REMOTE_CLOSED: u8 = 1;
/// Flag: the sender will send more on this stream.
pub const REMOTE_OPEN: u8 = 2;

/// A length from here on cannot be skipped politely: its sender does not speak ttrpc.
const MAX_SKIPPED: usize = 1 << 24;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Begins a call.
    Request,
    /// Ends a call.
    Response,
    /// More of a stream.
    Data,
}

impl Kind {
    const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            3 => Some(Self::Data),
            _ => None,
        }
    }

    const fn to_wire(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Data => 3,
        }
    }
}

/// One frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// Number of the stream.
    pub stream: u32,
    /// What the frame is for.
    pub kind: Kind,
    /// [`REMOTE_CLOSED`], [`REMOTE_OPEN`] and what later versions define.
    pub flags: u8,
    /// Content; at most [`MAX_PAYLOAD`] bytes.
    pub payload: Bytes,
}

impl std::fmt::Debug for Frame {
    /// Shows the payload's length only: payloads hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("stream", &self.stream)
            .field("kind", &self.kind)
            .field("flags", &self.flags)
            .field("payload", &format_args!("({} bytes)", self.payload.len()))
            .finish()
    }
}

/// What the bytes of a peer amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole frame.
    Frame(Frame),
    /// The header of a frame that is larger than [`MAX_PAYLOAD`]; its payload is skipped.
    TooLarge {
        /// Number of its stream.
        stream: u32,
        /// What the frame is for.
        kind: Kind,
        /// Length of its payload in bytes.
        length: usize,
    },
}

/// The peer does not speak ttrpc, or we tried to send too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The type is not one of three.
    #[error("a frame has the unknown type {0}")]
    UnknownKind(u8),
    /// The length is beyond what any version of ttrpc sends.
    #[error("a frame announces {0} bytes")]
    AbsurdLength(usize),
    /// The payload of a frame to send is larger than [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes cannot be sent, the limit is {MAX_PAYLOAD}")]
    TooLarge(usize),
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    skip: usize,
}

impl Decoder {
    /// Takes the next event from the front of `buffer`. `Ok(None)`: more bytes are needed.
    ///
    /// The payload shares the memory of `buffer`. Nothing is allocated for a length that was only announced.
    ///
    /// # Errors
    ///
    /// The bytes are not ttrpc; the connection is of no further use.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Event>, FrameError> {
        let skipped = self.skip.min(buffer.len());
        buffer.advance(skipped);
        self.skip -= skipped;
        let Some(mut header) = buffer.get(..HEADER_LEN).filter(|_| self.skip == 0) else {
            return Ok(None);
        };
        let length = header.get_u32() as usize;
        let stream = header.get_u32();
        let kind = header.get_u8();
        let flags = header.get_u8();
        let kind = Kind::from_wire(kind).ok_or(FrameError::UnknownKind(kind))?;
        if length >= MAX_SKIPPED {
            return Err(FrameError::AbsurdLength(length));
        }
        if length > MAX_PAYLOAD {
            buffer.advance(HEADER_LEN);
            self.skip = length;
            return Ok(Some(Event::TooLarge { stream, kind, length }));
        }
        if buffer.len() < HEADER_LEN + length {
            return Ok(None);
        }
        buffer.advance(HEADER_LEN);
        let payload = buffer.split_to(length).freeze();
        Ok(Some(Event::Frame(Frame { stream, kind, flags, payload })))
    }

    /// Whether the rest of a frame that is too large is still being skipped.
    #[must_use]
    pub fn is_skipping(&self) -> bool {
        self.skip > 0
    }

    /// Whether the peer is in the middle of a frame, given what is left in `buffer`.
    #[must_use]
    pub fn is_amid(&self, buffer: &BytesMut) -> bool {
        self.skip > 0 || !buffer.is_empty()
    }
}

/// Appends a frame to `out`.
///
/// # Errors
///
/// The payload is larger than [`MAX_PAYLOAD`]; `out` is unchanged.
pub fn encode(frame: &Frame, out: &mut BytesMut) -> Result<(), FrameError> {
    let too_large = FrameError::TooLarge(frame.payload.len());
    if frame.payload.len() > MAX_PAYLOAD {
        return Err(too_large);
    }
    let length = u32::try_from(frame.payload.len()).map_err(|_| too_large)?;
    out.reserve(HEADER_LEN + frame.payload.len());
    out.put_u32(length);
    out.put_u32(frame.stream);
    out.put_u8(frame.kind.to_wire());
    out.put_u8(frame.flags);
    out.put_slice(&frame.payload);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(length: u32, stream: u32, kind: u8, flags: u8) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.put_u32(length);
        bytes.put_u32(stream);
        bytes.put_slice(&[kind, flags]);
        bytes
    }

    #[test]
    fn a_frame_is_laid_out_as_the_protocol_says() {
        let frame = Frame { stream: 7, kind: Kind::Response, flags: 0, payload: Bytes::from_static(b"ab") };
        let mut out = BytesMut::new();
        encode(&frame, &mut out).unwrap();
        assert_eq!(out.as_ref(), [0, 0, 0, 2, 0, 0, 0, 7, 2, 0, b'a', b'b']);
        assert_eq!(Decoder::default().next(&mut out), Ok(Some(Event::Frame(frame))));
    }

    #[test]
    fn bounds_are_exact() {
        let limit = u32::try_from(MAX_PAYLOAD).unwrap();
        assert_eq!(Decoder::default().next(&mut header(limit, 1, 1, 0)), Ok(None));
        let too_large = Event::TooLarge { stream: 1, kind: Kind::Request, length: MAX_PAYLOAD + 1 };
        assert_eq!(Decoder::default().next(&mut header(limit + 1, 1, 1, 0)), Ok(Some(too_large)));
        assert!(Decoder::default().next(&mut header(0x00ff_ffff, 1, 1, 0)).is_ok());
        assert_eq!(
            Decoder::default().next(&mut header(0x0100_0000, 1, 1, 0)),
            Err(FrameError::AbsurdLength(0x0100_0000))
        );
        for kind in [0, 4, 255] {
            assert_eq!(
                Decoder::default().next(&mut header(0, 1, kind, 0)),
                Err(FrameError::UnknownKind(kind))
            );
        }
        let frame =
            Frame { stream: 1, kind: Kind::Data, flags: 0, payload: Bytes::from(vec![0; MAX_PAYLOAD + 1]) };
        let mut out = BytesMut::new();
        assert_eq!(encode(&frame, &mut out), Err(FrameError::TooLarge(MAX_PAYLOAD + 1)));
        assert!(out.is_empty());
    }

    #[test]
    fn after_a_frame_that_is_too_large_the_next_one_is_read() {
        let mut decoder = Decoder::default();
        let mut buffer = header(u32::try_from(MAX_PAYLOAD).unwrap() + 5, 1, 1, 0);
        assert!(matches!(decoder.next(&mut buffer), Ok(Some(Event::TooLarge { .. }))));
        for _ in 0..MAX_PAYLOAD / 1024 {
            buffer.extend_from_slice(&[0xff; 1024]);
            assert_eq!(decoder.next(&mut buffer), Ok(None));
            assert!(decoder.is_amid(&buffer) && buffer.is_empty());
        }
        buffer.extend_from_slice(&[0xff; 5]);
        buffer.unsplit(header(0, 3, 1, 0));
        assert!(matches!(decoder.next(&mut buffer), Ok(Some(Event::Frame(Frame { stream: 3, .. })))));
        assert!(!decoder.is_amid(&buffer));
    }

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let kind = prop_oneof![Just(Kind::Request), Just(Kind::Response), Just(Kind::Data)];
        let frame =
            (any::<u32>(), kind, any::<u8>(), proptest::collection::vec(any::<u8>(), 0..64)).prop_map(
                |(stream, kind, flags, payload)| Frame { stream, kind, flags, payload: payload.into() },
            );
        proptest::collection::vec(frame, 0..8)
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            let mut decoder = Decoder::default();
            while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        }

        #[test]
        fn frames_round_trip_however_they_are_cut(sent in frames(), piece in 1usize..40) {
            let mut bytes = BytesMut::new();
            for frame in &sent {
                encode(frame, &mut bytes).unwrap();
            }
            let (mut decoder, mut buffer, mut received) = (Decoder::default(), BytesMut::new(), Vec::new());
            for piece in bytes.chunks(piece) {
                buffer.extend_from_slice(piece);
                while let Some(event) = decoder.next(&mut buffer).unwrap() {
                    let Event::Frame(frame) = event else { panic!("no frame is too large") };
                    received.push(frame);
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(!decoder.is_amid(&buffer));
        }
    }
}
