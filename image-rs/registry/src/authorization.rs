//! Credentials for one repository, in the form that its registry asks for.
//!
//! A registry that wants to know who asks answers 401 with a challenge. Either it wants user and password with each request
//! (RFC 7617), or a token from the service that it names (the token protocol of Docker's registry; RFC 6750). A token is
//! asked for with the least scope, to pull this one repository, kept in memory for as long as the service says, and got once
//! for all threads that wait for it.
//!
//! To whom credentials go: to the registry that they are for, and to the token service that this registry names, over TLS
//! with a certificate of that service's name; a registry that is spoken to in plain http by configuration may name one in
//! plain http. The registry could ask for the password itself, so naming the service gains it nothing. A registry on the
//! internet cannot name a service inside our network.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_crypto::Secret;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
use zeroize::Zeroizing;

use crate::{
    Challenge, RegistryError, Stop,
    connection::{Answer, Fault},
    http_client::{HttpClient, Question, refusal},
    options::Login,
    reach::Reach,
};

/// Longest answer of a token service, and longest token, in bytes.
const MAX_ANSWER: usize = 128 << 10;
const MAX_TOKEN: usize = 64 << 10;
/// How long a token lasts whose service does not say (Docker's token protocol), and most that is believed.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// So much before its end a token is not used any more.
const MARGIN: Duration = Duration::from_secs(5);

/// What is sent with requests to one repository.
#[derive(Debug, Default)]
pub(crate) struct Authorization {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Value of the header.
    value: Option<Secret>,
    /// When it ends, if it does.
    until: Option<Instant>,
    /// Counts what was held.
    version: u64,
}

/// One value of the header, and which one it was.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) value: Option<HeaderValue>,
    version: u64,
}

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) http: &'a HttpClient,
    pub(crate) repository: &'a str,
    pub(crate) login: Option<&'a Login>,
    /// Whether the registry is spoken to in plain http.
    pub(crate) plain_http: bool,
    pub(crate) stop: &'a Stop,
    pub(crate) until: Option<Instant>,
}

impl Authorization {
    /// What is to be sent now.
    pub(crate) fn current(&self) -> Sent {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let valid = held.until.is_none_or(|until| Instant::now() < until);
        Sent { value: held.value.as_ref().filter(|_| valid).and_then(header_value), version: held.version }
    }

    /// Meets the challenge of `answer`, a 401 to what was `sent`. Whoever comes second finds it done.
    pub(crate) fn renew(
        &self,
        asker: &Asker<'_>,
        answer: &Answer,
        reach: Reach,
        sent: &Sent,
    ) -> Result<(), Fault> {
        // Held while the token is fetched: the others wait for it.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.version != sent.version {
            return Ok(());
        }
        let host = answer.origin().authority();
        let challenges = answer.head.headers().get_all(header::WWW_AUTHENTICATE);
        let challenge = Challenge::choose(challenges.iter().map(HeaderValue::as_bytes)).map_err(|why| {
            RegistryError::bad(&host, "a request without credentials", &format!("its challenge: {why}"))
        })?;
        let (value, life) = match challenge {
            Challenge::Basic => {
                let login = asker.login.ok_or_else(|| {
                    RegistryError::denied(
                        &host,
                        asker.repository,
                        "it asks for user and password, and none are given for it",
                    )
                })?;
                (basic(login), None)
            }
            Challenge::Bearer { realm, service } => {
                let (token, life) = asker.token(&host, &realm, service.as_deref(), reach)?;
                (token, Some(life.saturating_sub(MARGIN)))
            }
        };
        *held = Held {
            value: Some(value),
            until: life.map(|life| Instant::now() + life),
            version: held.version.wrapping_add(1),
        };
        Ok(())
    }
}

impl Asker<'_> {
    /// `Bearer` and a token, and how long it lasts.
    fn token(
        &self,
        host: &str,
        realm: &str,
        service: Option<&str>,
        reach: Reach,
    ) -> Result<(Secret, Duration), Fault> {
        let bad = |why: &str| {
            RegistryError::bad(host, "a request without credentials", &format!("its challenge: {why}"))
        };
        let mut url = Url::parse(realm).map_err(|_| bad("its realm is no URL"))?;
        match url.scheme() {
            "https" => {}
            "http" if self.plain_http => {}
            _ => return Err(bad("its realm is not https").into()),
        }
        url.set_fragment(None);
        {
            let mut query = url.query_pairs_mut();
            if let Some(login) = self.login {
                query.append_pair("account", &login.user);
            }
            query.append_pair("scope", &format!("repository:{}:pull", self.repository));
            if let Some(service) = service {
                query.append_pair("service", service);
            }
        }
        self.fetch_token(&url, &["token", "access_token"], Some(reach))
    }

    /// Asks a token service for what one of `members` of its answer holds.
    pub(crate) fn fetch_token(
        &self,
        url: &Url,
        members: &[&str],
        from: Option<Reach>,
    ) -> Result<(Secret, Duration), Fault> {
        let login = self.login.map(basic);
        let login = login.as_ref().and_then(header_value);
        let question = Question {
            url,
            headers: &[(header::ACCEPT, HeaderValue::from_static("application/json"))],
            authorization: login.as_ref(),
            from,
            until: self.until,
            stop: self.stop,
        };
        let what = format!("a token for {}", self.repository);
        self.http.patiently(self.stop, self.until, || {
            let mut answer = self.http.get(&question)?.answer;
            if answer.head.status() != StatusCode::OK {
                return Err(refusal(&mut answer, &what, self.stop));
            }
            let host = answer.origin().authority();
            let body = answer.bytes(MAX_ANSWER, self.stop)?;
            let body =
                Zeroizing::new(body.ok_or_else(|| RegistryError::bad(&host, &what, "it is too long"))?);
            self.http.keep(answer);
            read_token(&body, members).map_err(|why| RegistryError::bad(&host, &what, why).into())
        })
    }
}

fn read_token(body: &[u8], members: &[&str]) -> Result<(Secret, Duration), &'static str> {
    let answer = cc_crypto::unique_json::parse("answer", body)
        .map_err(|_| "it is not JSON, or a member is there twice")?;
    let token = members.iter().find_map(|name| answer.get(name)?.as_str().filter(|token| !token.is_empty()));
    let token = token.ok_or("it has no token")?;
    if token.len() > MAX_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token is longer than 65536 bytes, or has characters that no token has");
    }
    let life = answer.get("expires_in").and_then(Value::as_u64).map_or(DEFAULT_LIFE, Duration::from_secs);
    let mut value = Vec::with_capacity(7 + token.len());
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(token.as_bytes());
    Ok((Secret::new(value), life.clamp(DEFAULT_LIFE, MAX_LIFE)))
}

fn basic(login: &Login) -> Secret {
    let mut plain = Zeroizing::new(Vec::with_capacity(login.user.len() + 1 + login.password.len()));
    plain.extend_from_slice(login.user.as_bytes());
    plain.push(b':');
    plain.extend_from_slice(login.password.expose());
    let encoded = Zeroizing::new(BASE64_STANDARD.encode(&*plain));
    let mut value = Vec::with_capacity(6 + encoded.len());
    value.extend_from_slice(b"Basic ");
    value.extend_from_slice(encoded.as_bytes());
    Secret::new(value)
}

pub(crate) fn header_value(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(secret.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_by_either_name() {
        let read = |text: &str| read_token(text.as_bytes(), &["token", "access_token"]);
        let (token, life) = read("{\"access_token\":\"x\",\"expires_in\":300}").unwrap();
        assert_eq!((token.expose(), life.as_secs()), (&b"Bearer x"[..], 300));
        assert_eq!(read("{\"token\":\"a\",\"access_token\":\"b\"}").unwrap().0.expose(), b"Bearer a");
        assert_eq!(read("{\"token\":\"\",\"access_token\":\"b\"}").unwrap().0.expose(), b"Bearer b");
        assert_eq!(read("{\"token\":\"a\"}").unwrap().1, DEFAULT_LIFE);
        assert_eq!(read("{\"token\":\"a\",\"expires_in\":1}").unwrap().1, DEFAULT_LIFE);
        assert_eq!(read("{\"token\":\"a\",\"expires_in\":99999999}").unwrap().1, MAX_LIFE);
        let long = format!("{{\"token\":\"{}\"}}", "a".repeat(MAX_TOKEN + 1));
        for bad in [
            "",
            "[]",
            "{}",
            "{\"token\":1}",
            "{\"token\":\"a b\"}",
            "{\"token\":\"a\\r\\nb\"}",
            "{\"token\":\"a\",\"token\":\"b\"}",
            &long,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_are_sent_as_rfc_7617_says() {
        let login = Login::parse(b"Aladdin:open sesame").unwrap();
        assert_eq!(basic(&login).expose(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(header_value(&basic(&login)).unwrap().is_sensitive());
    }
}
