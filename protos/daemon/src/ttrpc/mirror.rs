//! From a gRPC request to the ttrpc request it stands for, and from the ttrpc answer back: [`super::bridge`] seen
//! from the other side, so that one generated client reaches both kinds of server.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::body::Body;
use tonic::{Code, Status};

use super::bridge::{PREFIX_LEN, is_reserved, single_message};
use super::envelope::{KeyValue, MAX_METADATA, Request, Response};

/// The ttrpc request that stands for a gRPC request with the whole body `body`. Text metadata goes along,
/// except what belongs to HTTP or gRPC themselves.
///
/// # Errors
///
/// `INTERNAL`: the path does not name service and method, or the body is not one message. No generated client
/// makes such a request.
#[allow(clippy::result_large_err, reason = "`Status` is what tonic's clients take")]
pub(crate) fn to_ttrpc(
    head: &http::request::Parts,
    body: Bytes,
    timeout: Duration,
) -> Result<Request, Status> {
    let name = head.uri.path().strip_prefix('/').and_then(|path| path.split_once('/'));
    let (service, method) =
        name.ok_or_else(|| Status::internal("the request names no service and method"))?;
    let payload = single_message(body).ok_or_else(|| Status::internal("the request is not one message"))?;
    let metadata = head.headers.iter().filter(|(name, _)| !is_reserved(name)).filter_map(|(name, value)| {
        Some(KeyValue { key: name.as_str().to_owned(), value: value.to_str().ok()?.to_owned() })
    });
    Ok(Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: i64::try_from(timeout.as_nanos()).unwrap_or(i64::MAX),
        metadata: metadata.take(MAX_METADATA).collect(),
    })
}

/// The gRPC answer that a ttrpc answer stands for. What ttrpc servers say about a method or a service that they
/// do not have becomes `UNIMPLEMENTED`.
pub(crate) fn from_ttrpc(response: Response) -> http::Response<Body> {
    match response.status {
        Some(status) if status.code != i32::from(Code::Ok) => failure(status).into_http(),
        _ => success(&response.payload),
    }
}

fn failure(status: tonic_types::Status) -> Status {
    let code = Code::from_i32(status.code);
    let lacking = match code {
        Code::NotFound => status.message.ends_with("is not supported"),
        Code::InvalidArgument => status.message.ends_with("does not exist"),
        _ => false,
    };
    let code = if lacking { Code::Unimplemented } else { code };
    let details = if status.details.is_empty() { Vec::new() } else { status.encode_to_vec() };
    Status::with_details(code, status.message, details.into())
}

fn success(payload: &[u8]) -> http::Response<Body> {
    let mut message = BytesMut::with_capacity(PREFIX_LEN + payload.len());
    message.put_u8(0);
    message.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    message.put_slice(payload);
    let mut trailers = http::HeaderMap::new();
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    let body = Full::new(message.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = http::Response::new(Body::new(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ttrpc::bridge;

    fn head(path: &str) -> http::request::Parts {
        let request = http::Request::post(path)
            .header("content-type", "application/grpc")
            .header("grpc-timeout", "1S")
            .header("x-forwarded-by", "api-server-rest");
        request.body(()).unwrap().into_parts().0
    }

    #[tokio::test]
    async fn a_request_survives_both_bridges() {
        let body = Bytes::from_static(b"\0\0\0\0\x03xyz");
        let request =
            to_ttrpc(&head("http://localhost/a.B/C"), body.clone(), Duration::from_secs(2)).unwrap();
        assert_eq!(request.path(), "/a.B/C");
        assert_eq!(
            request.metadata,
            [KeyValue { key: "x-forwarded-by".to_owned(), value: "api-server-rest".to_owned() }]
        );
        let grpc = bridge::to_grpc(&request).unwrap();
        assert_eq!(grpc.headers()["grpc-timeout"], "2000000u");
        assert_eq!(grpc.into_body().collect().await.unwrap().to_bytes(), body);
    }

    #[test]
    fn what_is_no_unary_request_is_refused() {
        let whole = Bytes::from_static(b"\0\0\0\0\0");
        assert!(to_ttrpc(&head("/a.B"), whole.clone(), Duration::MAX).is_err());
        assert!(to_ttrpc(&head("/a.B/C"), Bytes::new(), Duration::MAX).is_err());
        let request = to_ttrpc(&head("/a.B/C"), whole, Duration::MAX).unwrap();
        assert_eq!(request.timeout_nano, i64::MAX);
    }

    #[tokio::test]
    async fn answers_survive_both_bridges() {
        let answer = from_ttrpc(Response::success(Bytes::from_static(b"ok")));
        let back = bridge::from_grpc("/a.B/C", answer).await;
        assert_eq!((back.status.unwrap().code, back.payload.as_ref()), (0, b"ok".as_slice()));

        let fault = crate::fault::Fault::new(cc_evidence::blame::Blame::Denied, "A_B", "no", "ask");
        let sent = bridge::from_grpc("/a.B/C", fault.clone().into_status("[x] ").into_http()).await;
        let status = Status::from_header_map(from_ttrpc(sent).headers()).unwrap();
        assert_eq!(crate::fault::Fault::from_status(&status), fault, "blame, code and hint arrive");
    }

    #[test]
    fn every_wording_of_an_absent_method_is_unimplemented() {
        for (code, text, expected) in [
            (Code::NotFound, "/a.B/C is not supported", Code::Unimplemented),
            (Code::InvalidArgument, "a.B service does not exist", Code::Unimplemented),
            (Code::Unimplemented, "C method", Code::Unimplemented),
            (Code::NotFound, "no such key", Code::NotFound),
            (Code::Internal, "[ERROR:attestation-agent] get evidence failed", Code::Internal),
        ] {
            let answer = from_ttrpc(Response::failure(code, text));
            let status = Status::from_header_map(answer.headers()).unwrap();
            assert_eq!((status.code(), status.message()), (expected, text));
        }
    }
}
