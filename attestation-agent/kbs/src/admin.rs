//! The administrator's side: a resource is stored at the key broker.
//!
//! `POST /kbs/v0/resource/<repository>/<type>/<tag>` of the Key Broker Service of Trustee, with a bearer token that its
//! administrator signs: a JWT (RFC 7519) with `EdDSA` (RFC 8037), the claims those that Trustee's own tools make (`iss`, `role`,
//! `aud`, `iat`, `exp`). Any answer but 200 is an error. NOT for guests: whoever has the key can replace every secret.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use cc_crypto::Secret;
use cc_crypto::ed25519::{ALG, SigningKey};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use crate::client::Client;
use crate::config::KbsConfig;
use crate::error::{KbsError, Reason, Refusal};
use crate::problem::Problem;
use crate::uri::ResourceUri;

/// How long a token is good for. Each is used once; the clocks of both machines may differ.
const TOKEN_LIFE: Duration = Duration::from_secs(2 * 60 * 60);
/// Longest answer read, in bytes; a good one is empty.
const MAX_ANSWER_LEN: usize = 64 * 1024;

/// Somebody who may store resources at one key broker.
#[derive(Debug)]
pub struct Administrator {
    client: Client,
    key: SigningKey,
    name: String,
}

impl Administrator {
    /// One of the key broker that `config` names, who signs with `key` and is called `name` in tokens. Nothing is sent yet.
    ///
    /// # Errors
    /// [`KbsError::Config`] or [`KbsError::PlainHttp`].
    pub fn new(config: &KbsConfig, key: SigningKey, name: &str) -> Result<Self, KbsError> {
        Ok(Self { client: Client::new(config)?, key, name: name.to_owned() })
    }

    /// Stores `content` as `uri`, in place of what was there, by `deadline`.
    ///
    /// # Errors
    /// [`KbsError::ResourceUri`] unless `uri` is of the form `kbs:///<repository>/<type>/<tag>`; [`KbsError::Denied`] if the key
    /// broker does not know the key; otherwise as told by [`Error::blame`](crate::Error::blame).
    pub async fn store(
        &self,
        uri: &ResourceUri,
        content: &Secret,
        deadline: Instant,
    ) -> Result<(), KbsError> {
        let bearer = self.bearer(SystemTime::now())?;
        let answer = self
            .client
            .send(&format!("storing {uri}"), request(uri, content, bearer)?, MAX_ANSWER_LEN, deadline)
            .await?;
        on_answer(uri, &answer)
    }

    /// The `Authorization` header with a token made at `now`.
    fn bearer(&self, now: SystemTime) -> Result<HeaderValue, KbsError> {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "iss": self.name, "role": "admin", "aud": ["kbs"], "iat": seconds, "exp": seconds + TOKEN_LIFE.as_secs(),
        });
        let header = json!({"alg": ALG, "typ": "JWT"});
        let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(signed.as_bytes()).map_err(KbsError::Key)?;
        let mut value =
            HeaderValue::from_str(&format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
                .map_err(|_| KbsError::bad("the administrator's token", "it is no header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn request(uri: &ResourceUri, content: &Secret, bearer: HeaderValue) -> Result<Request<Bytes>, KbsError> {
    let refused = |why| KbsError::ResourceUri { uri: uri.to_string(), why };
    if uri.plugin() != "resource" || uri.segments().len() != 3 || uri.query().is_some() {
        return Err(refused("only <repository>/<type>/<tag> of the key broker itself can be stored"));
    }
    Request::post(uri.http_path())
        .header(AUTHORIZATION, bearer)
        .header(CONTENT_TYPE, "application/octet-stream")
        .body(Bytes::copy_from_slice(content.expose()))
        .map_err(|_| refused("it cannot be part of an HTTP request"))
}

fn on_answer(uri: &ResourceUri, answer: &Response<Secret>) -> Result<(), KbsError> {
    if answer.status() == StatusCode::OK {
        return Ok(());
    }
    let problem = Problem::of(answer);
    Err(match problem.status {
        401 | 403 => KbsError::Denied {
            reason: Reason::Admin,
            refusal: Box::new(Refusal {
                subject: format!("to store {uri}"),
                status: problem.status,
                kind: problem.kind,
                detail: problem.detail,
                sent: Vec::new(),
            }),
        },
        _ => problem.by_status(format!("storing {uri}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Blame;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
        -----END PRIVATE KEY-----\n";

    fn uri(text: &str) -> ResourceUri {
        text.parse().unwrap()
    }

    #[test]
    fn the_request_carries_a_token_and_hides_it() {
        let key = SigningKey::from_pem(KEY).unwrap();
        let admin = Administrator::new(&KbsConfig::new("https://kbs"), key, "test").unwrap();
        let bearer = admin.bearer(UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
        let request = request(&uri("kbs:///a/b/c"), &Secret::new(vec![1, 2]), bearer).unwrap();
        assert_eq!((request.uri().path(), request.body().as_ref()), ("/kbs/v0/resource/a/b/c", &[1, 2][..]));
        assert!(!format!("{request:?}").contains("eyJ"));
        let token =
            request.headers()["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        let parts: Vec<_> = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
        let claims: serde_json::Value = serde_json::from_slice(&parts[1]).unwrap();
        assert_eq!(claims, json!({"iss": "test", "role": "admin", "aud": ["kbs"], "iat": 1000, "exp": 8200}));
        assert_eq!(parts[2].len(), 64);
    }

    #[test]
    fn only_resources_of_three_parts_are_stored() {
        for text in ["kbs:///a/b", "kbs:///a/b/c/d", "kbs+pkcs11:///a/b/c", "kbs:///a/b/c?x=1"] {
            let refused =
                request(&uri(text), &Secret::new(Vec::new()), HeaderValue::from_static("x")).unwrap_err();
            assert_eq!(refused.code(), "RESOURCE_URI_INVALID", "{text}");
        }
    }

    #[test]
    fn every_answer_but_200_is_an_error() {
        for (status, code, blame) in [
            (401, "KBS_DENIED_ADMIN", Blame::Denied),
            (403, "KBS_DENIED_ADMIN", Blame::Denied),
            (201, "KBS_BAD_RESPONSE", Blame::Misbehaved),
            (302, "KBS_REDIRECT", Blame::Misbehaved),
            (500, "KBS_SERVER_ERROR", Blame::Unavailable),
        ] {
            let answer = Response::builder().status(status).body(Secret::new(Vec::new())).unwrap();
            let e = on_answer(&uri("kbs:///a/b/c"), &answer).unwrap_err();
            assert_eq!((e.code(), e.blame()), (code, blame), "{status}");
        }
        let answer = Response::builder().status(200).body(Secret::new(Vec::new())).unwrap();
        assert!(on_answer(&uri("kbs:///a/b/c"), &answer).is_ok());
    }
}
