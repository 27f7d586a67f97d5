//! What goes back to the client: status, content type, body, and the headers that every answer carries.
//!
//! An error is a sentence with its code and a hint, as text, or as a JSON object when the client prefers
//! `application/json` (RFC 9110 §12.5.1). Nothing is cacheable and nothing is to be sniffed: most bodies are
//! secrets or evidence.

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::error::RequestError;

/// A response with its whole body in memory.
pub type HttpResponse = Response<Full<Bytes>>;

/// The content type and body of a 200.
#[derive(Debug)]
pub struct Answer {
    content_type: &'static str,
    body: Bytes,
}

/// The form of an error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorForm {
    /// `message [CODE]`, a line feed, the hint; or the fixed text of the interface alone.
    Text,
    /// `{"code":…,"message":…,"hint":…}`.
    Json,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

impl Answer {
    /// A JSON document.
    #[must_use]
    pub fn json(body: impl Into<Bytes>) -> Self {
        Self { content_type: JSON, body: body.into() }
    }

    /// Raw bytes: a resource, a token, evidence.
    #[must_use]
    pub fn bytes(body: impl Into<Bytes>) -> Self {
        Self { content_type: BYTES, body: body.into() }
    }

    /// The response with status 200.
    #[must_use]
    pub fn into_response(self) -> HttpResponse {
        response(StatusCode::OK, self.content_type, self.body)
    }
}

impl ErrorForm {
    /// JSON if the client gives `application/json` a higher quality than `text/plain`, else text.
    #[must_use]
    pub fn preferred(headers: &HeaderMap) -> Self {
        let ranges =
            || headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
        let json = quality(ranges(), "application", "json");
        match json > quality(ranges(), "text", "plain") {
            true => Self::Json,
            false => Self::Text,
        }
    }
}

impl RequestError {
    /// The response that tells the client about the error.
    #[must_use]
    pub fn into_response(self, form: ErrorForm) -> HttpResponse {
        #[derive(Serialize)]
        struct Body<'a> {
            code: &'a str,
            message: String,
            hint: String,
        }
        let (content_type, body) = match (form, self.fixed_text()) {
            (ErrorForm::Text, Some(text)) => (TEXT, Bytes::from_static(text.as_bytes())),
            (ErrorForm::Text, None) => (TEXT, format!("{self} [{}]\n{}", self.code(), self.hint()).into()),
            (ErrorForm::Json, _) => {
                let body = Body { code: self.code(), message: self.to_string(), hint: self.hint() };
                // Three strings always serialize; an empty body would still carry the status.
                (JSON, serde_json::to_vec(&body).unwrap_or_default().into())
            }
        };
        let mut response = response(self.status(), content_type, body);
        if let Self::WrongMethod { allow } = self {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if let Self::EventPace(wait) = self {
            // Whole seconds, rounded up.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.ends_connection() {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn response(status: StatusCode, content_type: &'static str, body: Bytes) -> HttpResponse {
    let length = body.len();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // Set here because the HTTP library leaves it out where HEAD meets an empty body.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The quality, in thousandths, that the most specific of `ranges` gives to a media type; 0 if none names it.
fn quality<'a>(ranges: impl Iterator<Item = &'a str>, kind: &str, subtype: &str) -> u16 {
    let mut best = (0, 0);
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let Some((a, b)) = parts.next().and_then(|media| media.split_once('/')) else { continue };
        let specific = match (a, b) {
            ("*", "*") => 1,
            (a, "*") if a.eq_ignore_ascii_case(kind) => 2,
            (a, b) if a.eq_ignore_ascii_case(kind) && b.eq_ignore_ascii_case(subtype) => 3,
            _ => continue,
        };
        let weight = parts.find_map(|p| p.strip_prefix("q=").or_else(|| p.strip_prefix("Q=")));
        best = best.max((specific, weight.map_or(1000, thousandths)));
    }
    best.1
}

/// Reads a quality value (RFC 9110 §12.4.2: 0 to 1 with up to three decimals); a broken one counts as 0.
fn thousandths(text: &str) -> u16 {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    match whole {
        "1" => 1000,
        "0" => format!("{decimals:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;

    fn form(accept: &[&str]) -> ErrorForm {
        let mut headers = HeaderMap::new();
        for value in accept {
            headers.append(ACCEPT, HeaderValue::from_str(value).unwrap());
        }
        ErrorForm::preferred(&headers)
    }

    async fn parts(response: HttpResponse) -> (StatusCode, HeaderMap, String) {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn json_only_when_preferred() {
        use ErrorForm::*;
        for (accept, expected) in [
            (&[][..], Text),
            (&["*/*"], Text),
            (&["text/plain"], Text),
            (&["application/octet-stream"], Text),
            (&["application/json"], Json),
            (&["Application/JSON"], Json),
            (&["application/json, */*"], Text),
            (&["application/json, */*;q=0.8"], Json),
            (&["application/json;q=0.5, text/plain;q=0.9"], Text),
            (&["application/json;q=0.9", "text/plain;q=0.5"], Json),
            (&["application/*, text/*;q=0.1"], Json),
            (&["application/json;q=0"], Text),
            (&["application/json;q=0, */*"], Text),
            (&["application/json;q=9"], Text),
            (&["application/json; charset=utf-8; q=0.2, text/plain;q=0.1999"], Json),
            (&["json"], Text),
            (&[";;,/,"], Text),
        ] {
            assert_eq!(form(accept), expected, "{accept:?}");
        }
    }

    #[tokio::test]
    async fn answers_are_not_cached_and_not_sniffed() {
        let (status, headers, body) = parts(Answer::bytes("secret").into_response()).await;
        assert_eq!((status, body.as_str()), (StatusCode::OK, "secret"));
        assert_eq!(headers[CONTENT_TYPE], "application/octet-stream");
        assert_eq!(headers[CACHE_CONTROL], "no-store");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
    }

    #[tokio::test]
    async fn fixed_texts_stay_as_they_were() {
        use crate::routes::Root;
        for (error, status, text) in [
            (RequestError::ForeignPeer([10, 0, 0, 1].into()), 403, "Forbidden"),
            (RequestError::UnknownPath, 404, "URL NOT FOUND"),
            (RequestError::WrongMethod { allow: "POST" }, 405, "Method Not Allowed"),
            (RequestError::FeatureOff(Root::Aa), 404, "Attestation Feature Not Enabled"),
            (RequestError::FeatureOff(Root::Cdh), 404, "Resource Feature Not Enabled"),
            (RequestError::ParameterMissing("token_type"), 400, "BAD REQUEST"),
        ] {
            let (got, headers, body) = parts(error.into_response(ErrorForm::Text)).await;
            assert_eq!((got.as_u16(), body.as_str()), (status, text));
            assert_eq!(headers[CONTENT_TYPE], "text/plain; charset=utf-8");
        }
    }

    #[tokio::test]
    async fn errors_say_what_and_what_next_in_both_forms() {
        let (_, _, body) = parts(RequestError::BodyTooLarge(10).into_response(ErrorForm::Text)).await;
        assert_eq!(
            body,
            "the request body is larger than 10 bytes [BODY_TOO_LARGE]\n\
             send a shorter event, for example a digest of the content"
        );
        let (status, headers, body) =
            parts(RequestError::WrongMethod { allow: "POST" }.into_response(ErrorForm::Json)).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers[ALLOW], "POST");
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        assert_eq!(
            body,
            r#"{"code":"METHOD_NOT_ALLOWED","message":"the path answers POST only","hint":"use POST"}"#
        );
    }

    proptest! {
        #[test]
        fn accept_never_panics(value in "[ -~]{0,100}") {
            let _ = form(&[&value]);
        }

        #[test]
        fn qualities_are_bounded(value in ".{0,12}") {
            prop_assert!(thousandths(&value) <= 1000);
        }
    }
}
