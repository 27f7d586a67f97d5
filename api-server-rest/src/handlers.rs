//! The steps that answer the routes: decode the request, ask one daemon, encode its answer.
//!
//! Which request reaches which step is decided in [`crate::door`]; required query parameters are present here.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use cc_confinement::Confinement;
use cc_protos::attestation_agent::{ExtendRuntimeMeasurementRequest, RuntimeMeasurementResult};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::answer::Answer;
use crate::error::RequestError;
use crate::openapi;
use crate::pace::Pace;
use crate::routes::Features;
use crate::target::Target;
use crate::upstream::Upstream;

/// Largest body of `/aa/aael`, in bytes.
pub(crate) const EVENT_LIMIT: usize = 64 * 1024;

/// How long the body of `/aa/aael` may take to arrive.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(10);

/// What `/info` calls the version, and the version itself.
pub(crate) const VERSION: &str = concat!("Guest Components Version: ", env!("CARGO_PKG_VERSION"));

/// The private key in the agent's answer to `GetToken("kbs")`.
const TOKEN_KEY: &str = "tee_keypair";

/// The path of a resource target after `/cdh/resource/`, as written.
///
/// # Errors
///
/// [`RequestError::ResourcePath`] if it ends with a slash, [`RequestError::UnknownPath`] if it is no resource target.
pub(crate) fn resource_path<'a>(target: &Target<'a>) -> Result<&'a str, RequestError> {
    let path = target.path().strip_prefix("/cdh/resource/").ok_or(RequestError::UnknownPath)?;
    match path.ends_with('/') {
        true => Err(RequestError::ResourcePath),
        false => Ok(path),
    }
}

/// `GET /cdh/resource/<path>[?query]`: the resource `kbs:///<path>[?query]`, neither part decoded.
pub(crate) async fn resource(upstream: &Upstream, target: &Target<'_>) -> Result<Answer, RequestError> {
    let path = resource_path(target)?;
    let uri = match target.query() {
        None => format!("kbs:///{path}"),
        Some(query) => format!("kbs:///{path}?{query}"),
    };
    upstream.resource(uri).await.map(Answer::bytes).map_err(RequestError::Upstream)
}

/// `GET /aa/token?token_type=…`: the agent's token, without its private key unless `expose_key`.
pub(crate) async fn token(
    upstream: &Upstream,
    target: &Target<'_>,
    expose_key: bool,
) -> Result<Answer, RequestError> {
    let token_type = required(target, "token_type")?;
    let token = upstream.token(token_type.clone()).await.map_err(RequestError::Token)?;
    match expose_key {
        true => Ok(Answer::bytes(token)),
        false => without_key(&token_type, token).map(Answer::bytes),
    }
}

/// `GET /aa/evidence?runtime_data=…[&encoding=base64]`.
pub(crate) async fn evidence(upstream: &Upstream, target: &Target<'_>) -> Result<Answer, RequestError> {
    let runtime_data = runtime_data(target)?;
    upstream.evidence(runtime_data).await.map(Answer::bytes).map_err(RequestError::Upstream)
}

/// `GET /aa/additional-evidence?runtime_data=…[&encoding=base64]`; the answer may be empty.
pub(crate) async fn additional_evidence(
    upstream: &Upstream,
    target: &Target<'_>,
) -> Result<Answer, RequestError> {
    let runtime_data = runtime_data(target)?;
    upstream.additional_evidence(runtime_data).await.map(Answer::bytes).map_err(RequestError::Upstream)
}

/// `POST /aa/aael`: extends the default register. That the platform cannot is an answer, not an error.
pub(crate) async fn event<B>(
    upstream: &Upstream,
    pace: &Pace,
    headers: &HeaderMap,
    body: B,
) -> Result<Answer, RequestError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    #[derive(Deserialize)]
    struct Event {
        domain: String,
        operation: String,
        content: String,
    }
    let body = read_body(headers, body).await?;
    let Event { domain, operation, content } =
        serde_json::from_slice(&body).map_err(RequestError::EventMalformed)?;
    pace.admit(Instant::now()).map_err(RequestError::EventPace)?;
    let request = ExtendRuntimeMeasurementRequest { domain, operation, content, register_index: None };
    let outcome = upstream.extend(request).await.map_err(RequestError::Upstream)?;
    Ok(Answer::json(event_answer(outcome.result)))
}

/// `GET /info`: version, platform names if the agent's routes are on, the features, and what confines this process.
pub(crate) async fn info(
    upstream: &Upstream,
    features: Features,
    confinement: Option<&Confinement>,
) -> Result<Answer, RequestError> {
    #[derive(Serialize)]
    struct Confined<'a> {
        system_call_filters: u32,
        no_new_privileges: bool,
        capabilities: u64,
        landlock: &'static str,
        label: &'a str,
        own_filter: String,
    }
    #[derive(Serialize)]
    struct Info<'a> {
        version: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tee: Option<String>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        additional_tees: Vec<String>,
        feature: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        confinement: Option<Confined<'a>>,
    }
    let (tee, additional_tees) = match features.serve(crate::routes::Root::Aa) {
        true => {
            upstream.tees().await.map(|(tee, devices)| (Some(tee), devices)).map_err(RequestError::Info)?
        }
        false => (None, Vec::new()),
    };
    let confinement = confinement.map(|confinement| Confined {
        system_call_filters: confinement.system_call_filters,
        no_new_privileges: confinement.no_new_privileges,
        capabilities: confinement.capabilities,
        landlock: confinement.landlock.as_str(),
        label: &confinement.label,
        own_filter: confinement.own_filter.to_string(),
    });
    let info = Info { version: VERSION, tee, additional_tees, feature: features.as_str(), confinement };
    // Strings, numbers and a list of strings always serialize.
    Ok(Answer::json(serde_json::to_vec(&info).unwrap_or_default()))
}

/// `GET /openapi.json`.
pub(crate) fn openapi() -> Answer {
    Answer::json(Bytes::from_static(openapi::DOCUMENT.as_bytes()))
}

/// A parameter that [`crate::door`] found to be present.
fn required(target: &Target<'_>, name: &'static str) -> Result<String, RequestError> {
    Ok(target.parameter(name)?.ok_or(RequestError::ParameterMissing(name))?.into_owned())
}

/// The report data of an evidence request: the text itself, or URL-safe base64 without padding.
fn runtime_data(target: &Target<'_>) -> Result<Vec<u8>, RequestError> {
    let text = required(target, "runtime_data")?;
    match target.parameter("encoding")?.as_deref() {
        None => Ok(text.into_bytes()),
        Some("base64") => URL_SAFE_NO_PAD.decode(text).map_err(|_| RequestError::ParameterMalformed {
            name: "runtime_data",
            problem: "is not URL-safe base64 without padding",
        }),
        Some(_) => {
            Err(RequestError::ParameterMalformed { name: "encoding", problem: "has an unknown value" })
        }
    }
}

/// Takes the private key out of the agent's answer. Only a JSON object can carry one; the type `kbs` is always
/// such an object, and whatever else comes for it is kept back rather than passed on unread.
fn without_key(token_type: &str, token: Vec<u8>) -> Result<Vec<u8>, RequestError> {
    let Ok(mut members) = serde_json::from_slice::<Map<String, Value>>(&token) else {
        return match token_type {
            "kbs" => Err(RequestError::AgentMisbehaved("a token of the type kbs that is not a JSON object")),
            _ => Ok(token),
        };
    };
    match members.remove(TOKEN_KEY) {
        None => Ok(token),
        // A map of strings to JSON values always serializes.
        Some(_) => Ok(serde_json::to_vec(&members).unwrap_or_default()),
    }
}

/// The exact bodies of `/aa/aael`; `success` is a string for the sake of old clients.
fn event_answer(result: i32) -> &'static str {
    match RuntimeMeasurementResult::try_from(result) {
        Ok(RuntimeMeasurementResult::Ok) => r#"{"success":"true"}"#,
        Ok(RuntimeMeasurementResult::NotSupported) => {
            r#"{"success":"false","message": "The platform does not support runtime measurement"}"#
        }
        Ok(RuntimeMeasurementResult::NotEnabled) => {
            r#"{"success":"false","message": "Attestation Agent does not enable eventlog recording"}"#
        }
        Err(_) => r#"{"success":"false","message": "Unknown runtime measurement result"}"#,
    }
}

/// Reads a body of at most [`EVENT_LIMIT`] bytes within [`BODY_TIME`].
async fn read_body<B>(headers: &HeaderMap, body: B) -> Result<Bytes, RequestError>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > EVENT_LIMIT) {
        return Err(RequestError::BodyTooLarge(EVENT_LIMIT));
    }
    match tokio::time::timeout(BODY_TIME, Limited::new(body, EVENT_LIMIT).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(RequestError::BodyTooLarge(EVENT_LIMIT)),
        Ok(Err(_)) => Err(RequestError::BodyBroken),
        Err(_) => Err(RequestError::BodyLate(BODY_TIME)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_key_is_taken_out() {
        let strip =
            |kind: &str, token: &str| without_key(kind, token.into()).map(|t| String::from_utf8(t).unwrap());
        assert_eq!(strip("kbs", r#"{"token":"t","tee_keypair":"k"}"#).unwrap(), r#"{"token":"t"}"#);
        assert_eq!(
            strip("kbs", r#"{"tee_keypair":"k","token":"t","tee_keypair":"l"}"#).unwrap(),
            r#"{"token":"t"}"#
        );
        assert_eq!(strip("kbs", r#"{"tee\u005fkeypair":"k","token":"t"}"#).unwrap(), r#"{"token":"t"}"#);
        assert_eq!(strip("kbs", r#"{"token" : "t"}"#).unwrap(), r#"{"token" : "t"}"#);
        assert_eq!(strip("coco_as", "a.b.c").unwrap(), "a.b.c");
        assert_eq!(strip("coco_as", r#"{"tee_keypair":"k"}"#).unwrap(), "{}");
        for token in ["", "a.b.c", r#"[{"tee_keypair":"k"}]"#, r#"{"token":"t","tee_keypair":"k"} x"#] {
            assert!(matches!(strip("kbs", token), Err(RequestError::AgentMisbehaved(_))), "{token}");
        }
    }

    #[test]
    fn report_data_is_text_or_base64() {
        let data = |raw: &'static str| runtime_data(&Target::parse(raw).unwrap());
        assert_eq!(data("/aa/evidence?runtime_data=a+b%26").unwrap(), b"a b&");
        assert_eq!(data("/aa/evidence?runtime_data=").unwrap(), b"");
        assert_eq!(data("/aa/evidence?encoding=base64&runtime_data=-_8").unwrap(), b"\xfb\xff");
        assert_eq!(data("/aa/evidence?encoding=x&runtime_data=-_8&encoding=base64").unwrap(), b"\xfb\xff");
        for raw in [
            "/aa/evidence?encoding=base64&runtime_data=%2b%2f8",
            "/aa/evidence?encoding=base64&runtime_data=-_8%3d",
            "/aa/evidence?encoding=base64&runtime_data=-_9",
            "/aa/evidence?encoding=base64&runtime_data=a",
            "/aa/evidence?encoding=Base64&runtime_data=YQ",
            "/aa/evidence?encoding=&runtime_data=YQ",
            "/aa/evidence?runtime_data=a&encoding",
        ] {
            assert!(matches!(data(raw), Err(RequestError::ParameterMalformed { .. })), "{raw}");
        }
    }

    /// A body that never ends and never goes on.
    struct Silence;

    impl Body for Silence {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let began = tokio::time::Instant::now();
        let error = read_body(&HeaderMap::new(), Silence).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (408, "BODY_TIMEOUT"));
        assert_eq!(began.elapsed(), BODY_TIME);
    }
}
