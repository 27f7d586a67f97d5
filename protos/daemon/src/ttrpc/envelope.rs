//! The messages inside ttrpc frames: request and response envelopes. Pure.
//!
//! Source: `request.proto` of the containerd project's ttrpc; the status is `google.rpc.Status`.
//!
//! A request is decoded field by field rather than by a derived message, because the number of metadata
//! entries must be bounded *while* decoding: an empty entry costs two bytes on the wire and fifty in memory.

use std::fmt;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use prost::encoding::{DecodeContext, decode_key, skip_field};
use prost::{DecodeError, Message, encoding};
use tonic_types::Status;

/// Most metadata entries of a request.
pub const MAX_METADATA: usize = 64;
/// Longest name of a service or a method in bytes.
pub const MAX_NAME: usize = 256;

/// Longest status of an answer in bytes, details included.
pub const MAX_STATUS: usize = 64 << 10;

/// A call: service, method, payload.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Full name of the service, `package.Service`.
    pub service: String,
    /// Name of the method.
    pub method: String,
    /// The encoded request message.
    pub payload: Bytes,
    /// Nanoseconds that the caller waits; 0 or less: as long as it takes.
    pub timeout_nano: i64,
    /// Further keys and values, at most [`MAX_METADATA`].
    pub metadata: Vec<KeyValue>,
}

/// One entry of a request's metadata.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct KeyValue {
    /// Key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// The end of a call: a status, and with status OK a payload.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Response {
    /// How the call ended.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// The encoded response message.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

impl fmt::Debug for Request {
    /// Shows lengths instead of payload and metadata: both may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("service", &self.service)
            .field("method", &self.method)
            .field("payload", &format_args!("({} bytes)", self.payload.len()))
            .field("timeout_nano", &self.timeout_nano)
            .field("metadata", &format_args!("({} entries)", self.metadata.len()))
            .finish()
    }
}

impl fmt::Debug for Response {
    /// Shows code and length: the payload may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("code", &self.status.as_ref().map(|status| status.code))
            .field("payload", &format_args!("({} bytes)", self.payload.len()))
            .finish()
    }
}

/// An envelope cannot be understood.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// It is not the protobuf message it should be.
    #[error("not the message that ttrpc has here: {0}")]
    Undecodable(#[from] DecodeError),
    /// The status of an answer is longer than [`MAX_STATUS`] bytes.
    #[error("the status of the answer is longer than {MAX_STATUS} bytes")]
    StatusTooLarge,
    /// It has more than [`MAX_METADATA`] metadata entries.
    #[error("the request has more than {MAX_METADATA} metadata entries")]
    TooMuchMetadata,
    /// Service or method is empty, longer than [`MAX_NAME`] bytes, or holds other characters than letters,
    /// digits, `.` and `_`.
    #[error("the request names no service and method")]
    NoName,
}

impl Request {
    /// Reads the payload of a request frame. Unknown fields are passed over.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`]; the frame itself was sound, so the connection may go on.
    pub fn decode(mut bytes: Bytes) -> Result<Self, EnvelopeError> {
        let mut request = Self::default();
        let context = DecodeContext::default;
        while bytes.has_remaining() {
            let (field, wire) = decode_key(&mut bytes)?;
            match field {
                1 => encoding::string::merge(wire, &mut request.service, &mut bytes, context())?,
                2 => encoding::string::merge(wire, &mut request.method, &mut bytes, context())?,
                3 => encoding::bytes::merge(wire, &mut request.payload, &mut bytes, context())?,
                4 => encoding::int64::merge(wire, &mut request.timeout_nano, &mut bytes, context())?,
                5 if request.metadata.len() >= MAX_METADATA => return Err(EnvelopeError::TooMuchMetadata),
                5 => encoding::message::merge_repeated(wire, &mut request.metadata, &mut bytes, context())?,
                _ => skip_field(wire, field, &mut bytes, context())?,
            }
        }
        if is_name(&request.service) && is_name(&request.method) {
            Ok(request)
        } else {
            Err(EnvelopeError::NoName)
        }
    }

    /// The encoded form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encoding::string::encode(1, &self.service, &mut out);
        encoding::string::encode(2, &self.method, &mut out);
        encoding::bytes::encode(3, &self.payload, &mut out);
        encoding::int64::encode(4, &self.timeout_nano, &mut out);
        encoding::message::encode_repeated(5, &self.metadata, &mut out);
        out
    }

    /// How long the caller waits; `None`: as long as it takes.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        u64::try_from(self.timeout_nano).ok().filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }

    /// `/package.Service/Method`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}/{}", self.service, self.method)
    }
}

fn is_name(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_';
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(known)
}

impl Response {
    /// A failure.
    pub(crate) fn failure(code: tonic::Code, message: impl Into<String>) -> Self {
        let status = Status { code: code.into(), message: message.into(), details: Vec::new() };
        Self { status: Some(status), payload: Bytes::new() }
    }

    /// Reads the payload of a response frame. Unknown fields are passed over.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Undecodable`], or [`EnvelopeError::StatusTooLarge`]; the latter is looked at before the
    /// status is decoded, because its details cost far more in memory than on the wire.
    pub fn from_wire(mut bytes: Bytes) -> Result<Self, EnvelopeError> {
        let mut response = Self { status: None, payload: Bytes::new() };
        let context = DecodeContext::default;
        while bytes.has_remaining() {
            let (field, wire) = decode_key(&mut bytes)?;
            match field {
                1 => {
                    let mut status = Bytes::new();
                    encoding::bytes::merge(wire, &mut status, &mut bytes, context())?;
                    if status.len() > MAX_STATUS {
                        return Err(EnvelopeError::StatusTooLarge);
                    }
                    response.status = Some(Status::decode(status)?);
                }
                2 => encoding::bytes::merge(wire, &mut response.payload, &mut bytes, context())?,
                _ => skip_field(wire, field, &mut bytes, context())?,
            }
        }
        Ok(response)
    }

    /// A success. The status is written out, as the existing servers do.
    pub(crate) fn success(payload: Bytes) -> Self {
        Self { status: Some(Status::default()), payload }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Request {
        Request {
            service: "api.GetResourceService".to_owned(),
            method: "GetResource".to_owned(),
            payload: Bytes::from_static(b"canary"),
            timeout_nano: 50_000_000_000,
            metadata: vec![KeyValue { key: "k".to_owned(), value: "v".to_owned() }],
        }
    }

    #[test]
    fn metadata_is_bounded_while_decoding() {
        let mut request = request();
        request.metadata = vec![KeyValue::default(); MAX_METADATA];
        assert!(Request::decode(request.encode().into()).is_ok());
        request.metadata.push(KeyValue::default());
        assert_eq!(Request::decode(request.encode().into()), Err(EnvelopeError::TooMuchMetadata));
    }

    #[test]
    fn names_are_names() {
        for name in ["", "a b", "a/b", "a\nb", "ä", "a?b", &"a".repeat(MAX_NAME + 1)] {
            let service = Request { service: name.to_owned(), ..request() };
            let method = Request { method: name.to_owned(), ..request() };
            for request in [service, method] {
                assert_eq!(Request::decode(request.encode().into()), Err(EnvelopeError::NoName), "{name:?}");
            }
        }
    }

    #[test]
    fn no_time_limit_is_zero_or_less() {
        for (nanos, expected) in [(0, None), (-1, None), (i64::MIN, None), (5, Some(Duration::from_nanos(5)))]
        {
            assert_eq!(Request { timeout_nano: nanos, ..request() }.timeout(), expected);
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let response = Response::success(Bytes::from_static(b"canary"));
        assert!(!format!("{:?} {response:?}", request()).contains("canary"));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let failure = Response::failure(tonic::Code::Internal, "no");
        assert_eq!(Response::from_wire(failure.encode_to_vec().into()), Ok(failure));
        // Servers may leave the status out.
        let bare = Response { status: None, payload: Bytes::from_static(b"x") };
        assert_eq!(Response::from_wire(bare.encode_to_vec().into()), Ok(bare));
        let padding = "x".repeat(MAX_STATUS);
        let bloated = Response::failure(tonic::Code::Internal, padding).encode_to_vec();
        assert_eq!(Response::from_wire(bloated.into()), Err(EnvelopeError::StatusTooLarge));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Request::decode(bytes.clone().into());
            let _ = Response::from_wire(bytes.into());
        }

        #[test]
        fn requests_round_trip(
            service in "[A-Za-z0-9._]{1,40}", method in "[A-Za-z0-9_]{1,40}", payload: Vec<u8>, nanos: i64,
            metadata in proptest::collection::vec(("[a-z-]{0,9}", ".{0,9}"), 0..5),
        ) {
            let metadata = metadata.into_iter().map(|(key, value)| KeyValue { key, value }).collect();
            let request = Request { service, method, payload: payload.into(), timeout_nano: nanos, metadata };
            prop_assert_eq!(Request::decode(request.encode().into()), Ok(request));
        }

        #[test]
        fn unknown_fields_are_passed_over(tail in 6u32..1000, value: u64) {
            let mut bytes = request().encode();
            encoding::uint64::encode(tail, &value, &mut bytes);
            prop_assert_eq!(Request::decode(bytes.into()), Ok(request()));
        }
    }
}
