//! Reading the answer to a resource request: a JWE, or a reason why not.
//!
//! A KBS of Trustee answers 401 to almost everything (not attested, token refused, policy said no, no such
//! resource) and tells the cases apart by the `type` of the error body; its documents, and other servers, use
//! 403 and 404. So the type decides first, the status second.
//!
//! | type | meaning |
//! |---|---|
//! | `PolicyDeny` | denied, final |
//! | `PluginInternalError` | no such resource (Trustee says nothing more precise), final |
//! | `RvpsError`, `ParsePolicyError`, `PolicyEngineError` | the KBS cannot decide: denied, final |
//! | `PluginNotFound`, `InvalidRequestPath` | no such resource, final |
//! | `TokenNotFound`, `TokenVerifierError` | the token is refused: a new handshake, once |
//! | another or none, 401 | the same |
//! | another or none, 403, 404, 5xx, … | the status at its word |

use bytes::Bytes;
use cc_crypto::{Error as CryptoError, Jwe, Secret};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};

use crate::error::{KbsError, Reason, Refusal};
use crate::problem::Problem;
use crate::uri::ResourceUri;

/// Longest resource answer read, in bytes.
pub const MAX_ANSWER_LEN: usize = cc_crypto::jwe::MAX_JWE_LEN;

/// Why there is no resource.
#[derive(Debug)]
pub struct Rejection {
    /// The reason.
    pub error: KbsError,
    /// Whether a new handshake and one more request can change it.
    pub renew: bool,
}

/// The request for `uri` with the `Authorization` header `bearer`.
///
/// # Errors
/// [`KbsError::ResourceUri`] if the URI cannot be a request path.
pub fn request(uri: &ResourceUri, bearer: &HeaderValue) -> Result<Request<Bytes>, KbsError> {
    let mut request = Request::get(uri.http_path()).body(Bytes::new()).map_err(|_| {
        KbsError::ResourceUri { uri: uri.to_string(), why: "it cannot be part of an HTTP request" }
    })?;
    request.headers_mut().insert(AUTHORIZATION, bearer.clone());
    Ok(request)
}

/// Takes the answer for `uri`. `sent` says what the evidence behind the token contained, for a denial.
///
/// # Errors
/// [`Rejection`] as in the table above.
pub fn on_answer(
    uri: &ResourceUri,
    answer: &Response<Secret>,
    sent: &[(String, String)],
) -> Result<Jwe, Rejection> {
    if answer.status() == StatusCode::OK {
        return Jwe::parse(answer.body().expose())
            .map_err(|cause| last(KbsError::Jwe { uri: uri.to_string(), cause }));
    }
    let problem = Problem::of(answer);
    let refused = |reason: Reason, problem: Problem| KbsError::Denied {
        reason,
        refusal: Box::new(Refusal {
            subject: uri.to_string(),
            status: problem.status,
            kind: problem.kind,
            detail: problem.detail,
            sent: sent.to_vec(),
        }),
    };
    let absent = |problem: Problem| KbsError::NotFound { uri: uri.to_string(), detail: problem.line() };
    Err(match (problem.kind(), problem.status) {
        ("PolicyDeny", _) => last(refused(Reason::Policy, problem)),
        ("PluginInternalError" | "PluginNotFound" | "InvalidRequestPath", _) => last(absent(problem)),
        ("RvpsError" | "ParsePolicyError" | "PolicyEngineError", _) => last(refused(Reason::Other, problem)),
        ("TokenNotFound" | "TokenVerifierError", _) | (_, 401) => {
            Rejection { error: refused(Reason::Other, problem), renew: true }
        }
        (_, 403) => last(refused(Reason::Other, problem)),
        (_, 404) => last(absent(problem)),
        _ => last(problem.by_status(format!("fetching {uri}"))),
    })
}

impl Rejection {
    /// The answer does not open with the key that the token certifies. Unless it is malformed, the server has
    /// another key in mind, and another token may help.
    #[must_use]
    pub fn unopened(uri: &ResourceUri, cause: CryptoError) -> Self {
        let renew = matches!(cause, CryptoError::OtherKey { .. } | CryptoError::CannotOpen);
        Self { error: KbsError::Jwe { uri: uri.to_string(), cause }, renew }
    }
}

fn last(error: KbsError) -> Rejection {
    Rejection { error, renew: false }
}

#[cfg(test)]
mod tests {
    use cc_crypto::{KeyAlgorithm, Secret, TeeKeyPair, jwe};
    use http::{HeaderValue, Response};
    use proptest::prelude::*;

    use super::{on_answer, request};
    use crate::ResourceUri;

    fn uri() -> ResourceUri {
        "kbs:///a/b/c?x=1".parse().unwrap()
    }

    fn answer(status: u16, body: &[u8]) -> Response<Secret> {
        Response::builder().status(status).body(Secret::new(body.to_vec())).unwrap()
    }

    #[test]
    fn the_request_hides_its_token() {
        let mut bearer = HeaderValue::from_static("Bearer hunter2");
        bearer.set_sensitive(true);
        let request = request(&uri(), &bearer).unwrap();
        assert_eq!(request.uri(), "/kbs/v0/resource/a/b/c?x=1");
        assert_eq!(request.headers()["authorization"], "Bearer hunter2");
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    #[test]
    fn type_first_status_second() {
        let table: [(&str, u16, &str, bool); 24] = [
            ("PolicyDeny", 401, "KBS_DENIED_POLICY", false),
            ("PolicyDeny", 403, "KBS_DENIED_POLICY", false),
            ("PolicyDeny", 500, "KBS_DENIED_POLICY", false),
            ("PluginInternalError", 401, "KBS_NOT_FOUND", false),
            ("PluginInternalError", 404, "KBS_NOT_FOUND", false),
            ("PluginNotFound", 404, "KBS_NOT_FOUND", false),
            ("InvalidRequestPath", 404, "KBS_NOT_FOUND", false),
            ("RvpsError", 401, "KBS_DENIED", false),
            ("ParsePolicyError", 401, "KBS_DENIED", false),
            ("PolicyEngineError", 401, "KBS_DENIED", false),
            ("TokenNotFound", 401, "KBS_DENIED", true),
            ("TokenVerifierError", 401, "KBS_DENIED", true),
            ("TokenVerifierError", 403, "KBS_DENIED", true),
            ("SomethingNew", 401, "KBS_DENIED", true),
            ("", 401, "KBS_DENIED", true),
            ("", 403, "KBS_DENIED", false),
            ("SomethingNew", 404, "KBS_NOT_FOUND", false),
            ("", 404, "KBS_NOT_FOUND", false),
            ("", 302, "KBS_REDIRECT", false),
            ("", 400, "KBS_BAD_RESPONSE", false),
            ("", 201, "KBS_BAD_RESPONSE", false),
            ("", 500, "KBS_SERVER_ERROR", false),
            ("", 503, "KBS_SERVER_ERROR", false),
            ("SomethingNew", 502, "KBS_SERVER_ERROR", false),
        ];
        let sent = [("measurement".to_owned(), "aa55".to_owned())];
        for (kind, status, code, renew) in table {
            let body = if kind.is_empty() {
                "<html>proxy</html>".to_owned()
            } else {
                format!(r#"{{"type":"https://example.org/errors/{kind}","detail":"told so"}}"#)
            };
            let rejection = on_answer(&uri(), &answer(status, body.as_bytes()), &sent).unwrap_err();
            assert_eq!((rejection.error.code(), rejection.renew), (code, renew), "{kind} {status}");
            let text = rejection.error.to_string();
            assert!(code == "KBS_REDIRECT" || text.contains(&status.to_string()), "{text}");
            if code.starts_with("KBS_DENIED") {
                assert!(text.contains("kbs:///a/b/c") && text.contains("measurement=aa55"), "{text}");
            }
            if !kind.is_empty() {
                assert!(text.contains("told so") && text.contains(kind), "{text}");
            }
        }
    }

    #[test]
    fn success_must_be_a_jwe() {
        let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
        let sealed = jwe::seal(&key.public_jwk(), b"s").unwrap();
        let jwe = on_answer(&uri(), &answer(200, &sealed), &[]).unwrap();
        assert_eq!(key.open(&jwe).unwrap().expose(), b"s");
        for bare in [&b"hunter2"[..], b"\"hunter2\"", b"{\"hunter2\":1}", b""] {
            let rejection = on_answer(&uri(), &answer(200, bare), &[]).unwrap_err();
            assert_eq!((rejection.error.code(), rejection.renew), ("KBS_JWE_INVALID", false));
            assert!(!format!("{rejection:?} {}", rejection.error).contains("hunter2"));
        }
    }

    proptest! {
        #[test]
        fn never_panics(status in 200..600u16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = on_answer(&uri(), &answer(status, &body), &[]);
        }
    }
}
