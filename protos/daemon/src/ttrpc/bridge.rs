//! From a ttrpc request to the gRPC request it stands for, and from the gRPC answer back.
//!
//! The gRPC message framing is a byte of flags and a big-endian length of four bytes ("Length-Prefixed-Message"
//! of the gRPC over HTTP/2 description).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use prost::Message as _;
use tonic::body::Body;
use tonic::{Code, Status};

use super::envelope::{Request, Response};
use super::frame::MAX_PAYLOAD;

/// Length of the prefix of a gRPC message in bytes.
pub(super) const PREFIX_LEN: usize = 5;

/// The gRPC request that stands for a ttrpc request.
///
/// Metadata becomes headers, but for names that steer HTTP or gRPC themselves and for values that no header can
/// hold.
pub(super) fn to_grpc(request: &Request) -> Result<http::Request<Full<Bytes>>, http::Error> {
    let mut message = BytesMut::with_capacity(PREFIX_LEN + request.payload.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(request.payload.len()).unwrap_or(u32::MAX));
    message.put_slice(&request.payload);

    let mut grpc = http::Request::post(request.path())
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(message.freeze()))?;
    let headers = grpc.headers_mut();
    for entry in &request.metadata {
        let name = HeaderName::from_bytes(entry.key.as_bytes());
        let value = HeaderValue::from_str(&entry.value);
        if let (Ok(name), Ok(value)) = (name, value)
            && !is_reserved(&name)
        {
            headers.append(name, value);
        }
    }
    if let Some(timeout) = request.timeout() {
        headers.insert("grpc-timeout", grpc_timeout(timeout)?);
    }
    Ok(grpc)
}

/// Names whose meaning belongs to HTTP or gRPC.
pub(super) fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("grpc-")
        || ["connection", "content-length", "content-type", "host", "te", "transfer-encoding", "upgrade"]
            .contains(&name)
}

/// A time as `grpc-timeout` writes it, in the finest unit that takes no more than eight digits.
fn grpc_timeout(timeout: std::time::Duration) -> Result<HeaderValue, http::Error> {
    const MAX: u128 = 99_999_999;
    let units = [("n", timeout.as_nanos()), ("u", timeout.as_micros()), ("m", timeout.as_millis())];
    let fits = units.into_iter().find(|(_, value)| *value <= MAX);
    let (unit, value) = fits.unwrap_or_else(|| ("S", u128::from(timeout.as_secs()).min(MAX)));
    Ok(HeaderValue::from_str(&format!("{value}{unit}"))?)
}

/// The ttrpc response that stands for a gRPC answer to `path`.
pub(super) async fn from_grpc(path: &str, answer: http::Response<Body>) -> Response {
    let (head, body) = answer.into_parts();
    // A failure before any message stands in the headers.
    if let Some(status) = Status::from_header_map(&head.headers) {
        return match status.code() {
            Code::Ok => Response::success(Bytes::new()),
            _ => failure(path, &status),
        };
    }
    let body = match Limited::new(body, PREFIX_LEN + MAX_PAYLOAD).collect().await {
        Ok(body) => body,
        Err(error) => return broken(path, error.as_ref()),
    };
    match body.trailers().and_then(Status::from_header_map) {
        Some(status) if status.code() != Code::Ok => return failure(path, &status),
        _ => {}
    }
    let Some(payload) = single_message(body.to_bytes()) else {
        return Response::failure(
            Code::Unimplemented,
            format!("{path} answers with a stream, which ttrpc does not carry here"),
        );
    };
    Response::success(payload)
}

/// The one message of a body; `None` if there is none, more than one, or a compressed one.
pub(super) fn single_message(mut body: Bytes) -> Option<Bytes> {
    let mut prefix = body.get(..PREFIX_LEN)?;
    let (flags, length) = (prefix.get_u8(), prefix.get_u32() as usize);
    body.advance(PREFIX_LEN);
    (flags == 0 && length == body.len()).then_some(body)
}

fn broken(path: &str, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Response {
    let code = if error.is::<LengthLimitError>() { Code::ResourceExhausted } else { Code::Internal };
    Response::failure(code, format!("the answer to {path} cannot be sent: {error}"))
}

fn failure(path: &str, status: &Status) -> Response {
    if status.code() == Code::Unimplemented {
        return not_supported(path);
    }
    let mut response = Response::failure(status.code(), status.message());
    // The details of a gRPC status are a whole `google.rpc.Status`; ttrpc has room for its parts.
    let details = tonic_types::Status::decode(status.details()).map(|whole| whole.details);
    if let (Some(status), Ok(details)) = (response.status.as_mut(), details) {
        status.details = details;
    }
    response
}

/// What ttrpc servers say about a method that they do not have.
pub(super) fn not_supported(path: &str) -> Response {
    Response::failure(Code::NotFound, format!("{path} is not supported"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ttrpc::envelope::KeyValue;

    fn request(metadata: &[(&str, &str)], timeout_nano: i64) -> Request {
        let entry =
            |(key, value): &(&str, &str)| KeyValue { key: (*key).to_owned(), value: (*value).to_owned() };
        Request {
            service: "a.B".to_owned(),
            method: "C".to_owned(),
            payload: Bytes::from_static(b"xyz"),
            timeout_nano,
            metadata: metadata.iter().map(entry).collect(),
        }
    }

    #[tokio::test]
    async fn a_request_becomes_the_grpc_request_it_stands_for() {
        let metadata = [
            ("X-One", "1"),
            ("x-one", "2"),
            ("grpc-timeout", "1S"),
            ("Te", "x"),
            ("bad name", "x"),
            ("x-bad", "a\nb"),
        ];
        let grpc = to_grpc(&request(&metadata, 1_500_000_000)).unwrap();
        assert_eq!((grpc.method().as_str(), grpc.uri().path()), ("POST", "/a.B/C"));
        let headers = grpc.headers();
        assert_eq!(headers.len(), 5, "{headers:?}");
        assert_eq!(headers.get_all("x-one").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(headers[TE], "trailers");
        assert_eq!(crate::deadline::grpc_timeout(headers), Some(Duration::from_millis(1500)));
        let body = grpc.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.as_ref(), b"\0\0\0\0\x03xyz");
    }

    #[test]
    fn times_are_written_in_a_unit_that_fits() {
        let cases = [
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_000), "100000u"),
            (Duration::from_secs(50), "50000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(1_000_000), "1000000S"),
            (Duration::MAX, "99999999S"),
        ];
        for (time, text) in cases {
            assert_eq!(grpc_timeout(time).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn failures_keep_code_message_and_details() {
        let fault = crate::fault::Fault::new(cc_evidence::blame::Blame::Denied, "A_B", "no", "ask");
        let answer = fault.into_status("[x] ").into_http();
        let status = from_grpc("/a.B/C", answer).await.status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (13, "[x] no [A_B]"));
        assert!(status.details[0].type_url.ends_with("google.rpc.ErrorInfo"));
    }

    #[tokio::test]
    async fn what_grpc_does_not_implement_ttrpc_does_not_find() {
        let status = from_grpc("/a.B/C", Status::unimplemented("x").into_http()).await.status.unwrap();
        assert_eq!((status.code, status.message.as_str()), (5, "/a.B/C is not supported"));
    }

    #[tokio::test]
    async fn answers_of_other_shapes_are_failures() {
        let limit = MAX_PAYLOAD + PREFIX_LEN;
        let cases = [
            (Vec::new(), Code::Unimplemented),
            (b"\0\0\0\0".to_vec(), Code::Unimplemented),
            (b"\x01\0\0\0\0".to_vec(), Code::Unimplemented),
            (b"\0\0\0\0\0\0\0\0\0\0".to_vec(), Code::Unimplemented),
            (vec![0; limit + 1], Code::ResourceExhausted),
        ];
        for (body, code) in cases {
            let answer = http::Response::new(Body::new(Full::new(Bytes::from(body))));
            assert_eq!(from_grpc("/a.B/C", answer).await.status.unwrap().code, i32::from(code));
        }
        let answer = http::Response::new(Body::new(Full::new(Bytes::from_static(b"\0\0\0\0\x02ok"))));
        let response = from_grpc("/a.B/C", answer).await;
        assert_eq!((response.status.unwrap().code, response.payload.as_ref()), (0, b"ok".as_slice()));
    }
}
