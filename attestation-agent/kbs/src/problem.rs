//! The error body of a KBS: `{"type": "<uri or name>", "detail": "<text>"}` (the shape of RFC 9457).
//!
//! The last path segment of `type` names the error. A body that is something else, or nothing, is no
//! failure here: then the HTTP status alone speaks.

use std::borrow::Cow;

use http::{Response, StatusCode};
use serde::Deserialize;

use cc_crypto::Secret;

use crate::error::KbsError;
use crate::foreign;

/// Longest explanation kept, in bytes.
const MAX_DETAIL: usize = 1024;
/// Longest error name kept, in bytes.
const MAX_KIND: usize = 64;

/// What an error answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    /// Name of the error, if the body has the KBS shape.
    pub(crate) kind: Option<String>,
    /// Explanation, cleaned; empty if none.
    pub(crate) detail: String,
}

impl Problem {
    /// Reads an answer that is not a success.
    pub(crate) fn of(answer: &Response<Secret>) -> Self {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow, rename = "type")]
            kind: Cow<'a, str>,
            #[serde(borrow, default)]
            detail: Cow<'a, str>,
        }
        let status = answer.status().as_u16();
        match foreign::json_object::<Body<'_>>(answer.body().expose()) {
            Ok(body) => {
                let name = body.kind.rsplit('/').next().unwrap_or_default();
                Self {
                    status,
                    kind: Some(foreign::clean(name, MAX_KIND)).filter(|k| !k.is_empty()),
                    detail: foreign::clean(&body.detail, MAX_DETAIL),
                }
            }
            Err(_) => Self { status, kind: None, detail: String::new() },
        }
    }

    /// The name of the error, or an empty text.
    pub(crate) fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }

    /// Status, name and explanation in one line.
    pub(crate) fn line(&self) -> String {
        let mut line = format!("status {}", self.status);
        for part in [self.kind(), &self.detail] {
            if !part.is_empty() {
                line.push_str(": ");
                line.push_str(part);
            }
        }
        line
    }

    /// The error for an answer that nothing more specific is known about: the request `what` failed.
    pub(crate) fn by_status(self, what: String) -> KbsError {
        let status = self.status;
        match status {
            300..=399 => KbsError::Redirect { what, status },
            // 429: a gateway asks to come back later.
            429 | 500..=599 => {
                let detail = match (self.kind(), self.detail.as_str()) {
                    ("", "") => reason(status),
                    ("", detail) => detail.to_owned(),
                    (kind, "") => kind.to_owned(),
                    (kind, detail) => format!("{kind}: {detail}"),
                };
                KbsError::ServerError { what, status, detail }
            }
            _ => KbsError::bad(what, format!("unexpected {}", self.line())),
        }
    }
}

fn reason(status: u16) -> String {
    StatusCode::from_u16(status)
        .ok()
        .and_then(|s| s.canonical_reason())
        .unwrap_or("no explanation")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use cc_crypto::Secret;
    use http::Response;
    use proptest::prelude::*;

    use super::Problem;

    fn problem(status: u16, body: &[u8]) -> Problem {
        Problem::of(&Response::builder().status(status).body(Secret::new(body.to_vec())).unwrap())
    }

    #[test]
    fn names_come_as_uri_or_bare() {
        for kind in
            ["https://github.com/confidential-containers/kbs/errors/PolicyDeny", "PolicyDeny", "/PolicyDeny"]
        {
            let p = problem(401, format!(r#"{{"type":"{kind}","detail":"no"}}"#).as_bytes());
            assert_eq!((p.kind(), p.detail.as_str(), p.status), ("PolicyDeny", "no", 401));
        }
        assert_eq!(problem(401, br#"{"type":"X"}"#).line(), "status 401: X");
    }

    #[test]
    fn anything_else_leaves_the_status() {
        for body in [&b""[..], b"<html>", b"null", b"{}", br#"{"detail":"x"}"#, br#"{"type":1}"#, b"\xff"] {
            let p = problem(502, body);
            assert_eq!((p.status, p.kind(), p.detail.as_str()), (502, "", ""), "{body:?}");
        }
    }

    #[test]
    fn text_is_bounded_and_clean() {
        let body = serde_json::json!({"type": "a\u{1b}[2J".repeat(200), "detail": "b\r\nc".repeat(9000)});
        let p = problem(401, body.to_string().as_bytes());
        assert!(p.kind().len() < 80 && p.detail.len() < 1100);
        assert!(!p.line().chars().any(char::is_control));
    }

    #[test]
    fn statuses() {
        for (status, code) in [
            (301, "KBS_REDIRECT"),
            (307, "KBS_REDIRECT"),
            (400, "KBS_BAD_RESPONSE"),
            (405, "KBS_BAD_RESPONSE"),
            (413, "KBS_BAD_RESPONSE"),
            (204, "KBS_BAD_RESPONSE"),
            (429, "KBS_SERVER_ERROR"),
            (500, "KBS_SERVER_ERROR"),
            (503, "KBS_SERVER_ERROR"),
        ] {
            assert_eq!(problem(status, b"").by_status("x".into()).code(), code, "{status}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = problem(500, &body).line();
        }
    }
}
