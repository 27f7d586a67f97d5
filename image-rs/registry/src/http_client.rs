//! Requests with what surrounds them: kept connections, redirects, answers that ask for another try.
//!
//! Redirects (RFC 9110 section 15.4) are followed five times at most, never from https to http, never from a registry into a
//! network that it is not in itself, and credentials stay with the origin that they are for.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::time::Instant;
use url::Url;

use crate::{
    RegistryError, Stop,
    connection::{Answer, Connection, Fault, Waits},
    dial::{Dialer, Origin},
    options::Patience,
    reach::Reach,
};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Most connections kept, and how long. Registries close theirs after a minute or more.
const MAX_KEPT: usize = 16;
const KEEP: Duration = Duration::from_secs(30);
/// Longest pause that a registry may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Most tries of a document from who cannot be reached.
const MAX_KNOCKS: u32 = 3;
/// Most bytes of the body of a redirect that are read to keep its connection.
const MAX_REDIRECT_BODY: usize = 16 << 10;

/// The connections of a client.
#[derive(Debug)]
pub(crate) struct HttpClient {
    dialer: Dialer,
    patience: Patience,
    kept: Mutex<Vec<(Instant, Connection)>>,
}

/// One GET.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    pub(crate) url: &'a Url,
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    /// For the origin of `url` alone.
    pub(crate) authorization: Option<&'a HeaderValue>,
    /// How far away is who named `url`, if it was not the operator.
    pub(crate) from: Option<Reach>,
    pub(crate) until: Option<Instant>,
    pub(crate) stop: &'a Stop,
}

/// An answer and where it came from after redirects.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) url: Url,
    /// How far away is who was asked first.
    pub(crate) reach: Reach,
}

impl HttpClient {
    pub(crate) const fn new(dialer: Dialer, patience: Patience) -> Self {
        Self { dialer, patience, kept: Mutex::new(Vec::new()) }
    }

    pub(crate) const fn patience(&self) -> &Patience {
        &self.patience
    }

    /// Asks, and follows redirects.
    pub(crate) fn get(&self, question: &Question<'_>) -> Result<Answered, Fault> {
        let mut url = question.url.clone();
        let (first, mut from) = (origin(&url)?, question.from);
        let mut headers = question.headers.to_vec();
        if let Some(authorization) = question.authorization {
            headers.push((header::AUTHORIZATION, authorization.clone()));
        }
        for _ in 0..=MAX_REDIRECTS {
            let here = origin(&url)?;
            // To whom the operator named nobody leads us.
            let led = from.filter(|_| question.from.is_some() || here != first);
            let mut answer = self.once(&here, &url, &headers, led, question)?;
            let reach = *from.get_or_insert_with(|| answer.reach());
            if !is_redirect(answer.head.status()) {
                return Ok(Answered { answer, url, reach });
            }
            let next = next_url(&here, &url, answer.header(header::LOCATION))?;
            // So that the connection can be used again; if not, nothing is lost.
            answer.limit(Duration::from_secs(2));
            if let Ok(Some(_)) = answer.bytes(MAX_REDIRECT_BODY, question.stop) {
                self.keep(answer);
            }
            url = next;
            if origin(&url)? != here {
                headers.retain(|(name, _)| name != header::AUTHORIZATION);
            }
        }
        let why = format!("answers with more than {MAX_REDIRECTS} redirects");
        Err(RegistryError::redirect(&first.authority(), &why).into())
    }

    fn once(
        &self,
        origin: &Origin,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        from: Option<Reach>,
        question: &Question<'_>,
    ) -> Result<Answer, Fault> {
        let waits = Waits { idle: self.patience.idle, until: question.until };
        while let Some(connection) = self.take(origin, from) {
            match connection.get(url, headers, waits, question.stop) {
                Err(Fault::Stale) => {}
                answer => return answer,
            }
        }
        let limit = self.patience.connect;
        let limit = question.until.map_or(limit, |until| limit.min(until - Instant::now()));
        let connection = Connection::open(&self.dialer, origin, from, limit, question.stop)?;
        connection.get(url, headers, waits, question.stop)
    }

    fn take(&self, origin: &Origin, from: Option<Reach>) -> Option<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.retain(|(since, _)| now.duration_since(*since) < KEEP);
        let fits = |(_, connection): &(Instant, Connection)| {
            connection.origin() == origin && from.is_none_or(|from| from.may_lead_to(connection.reach()))
        };
        let at = kept.iter().rposition(fits)?;
        Some(kept.swap_remove(at).1)
    }

    /// Takes back a connection whose answer was read to its end.
    pub(crate) fn keep(&self, answer: Answer) {
        let Some(connection) = answer.into_connection() else { return };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.remove(0);
        }
        kept.push((Instant::now(), connection));
    }

    /// Tries `ask` until it works, what is wrong does not pass, or it was tried often enough.
    pub(crate) fn patiently<T>(
        &self,
        stop: &Stop,
        until: Option<Instant>,
        mut ask: impl FnMut() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut tries = 1;
        loop {
            let error = match ask() {
                Err(Fault::Registry(error)) if error.is_passing() => error,
                other => return other,
            };
            // Who is not there now will hardly be in seconds, and a mirror or the operator waits.
            let most = match error {
                RegistryError::Unreachable { .. } => self.patience.tries.min(MAX_KNOCKS),
                _ => self.patience.tries,
            };
            if tries >= most || !self.pause(tries, &error, stop, until)? {
                return Err(error.into());
            }
            tries += 1;
        }
    }

    /// Waits before the next try; gives whether there is time for one.
    pub(crate) fn pause(
        &self,
        tries: u32,
        error: &RegistryError,
        stop: &Stop,
        until: Option<Instant>,
    ) -> Result<bool, Fault> {
        let own = self.patience.pause.saturating_mul(1 << tries.saturating_sub(1).min(6));
        let pause = match error {
            RegistryError::Busy { pause: Some(asked), .. } => own.max(*asked),
            _ => own,
        };
        let pause = pause.min(MAX_PAUSE);
        if until.is_some_and(|until| Instant::now() + pause >= until) {
            return Ok(false);
        }
        if stop.wait(pause) { Err(Fault::Stopped) } else { Ok(true) }
    }
}

fn origin(url: &Url) -> Result<Origin, RegistryError> {
    Origin::of(url).map_err(|why| RegistryError::redirect(url.host_str().unwrap_or("a URL"), why))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Where a redirect from `url` leads.
fn next_url(here: &Origin, url: &Url, location: Option<&str>) -> Result<Url, RegistryError> {
    let bad = |why: &str| RegistryError::redirect(&here.authority(), why);
    let location = location.ok_or_else(|| bad("answers with a redirect without one Location"))?;
    let next = url.join(location).map_err(|_| bad("answers with a redirect to what is no URL"))?;
    let there = Origin::of(&next).map_err(|why| bad(&format!("answers with a redirect to {why}")))?;
    if here.https && !there.https {
        return Err(bad(&format!("answers with a redirect to plain http at {}", there.authority())));
    }
    Ok(next)
}

/// What the status of an answer means if it is none of those that are expected; `what` was asked for.
pub(crate) fn refusal(answer: &mut Answer, what: &str, stop: &Stop) -> Fault {
    let (host, status) = (answer.origin().authority(), answer.head.status());
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
        let pause = answer.header(header::RETRY_AFTER).and_then(retry_after);
        return RegistryError::Busy { host, status: status.as_u16(), pause }.into();
    }
    let said = match said(answer, stop) {
        Ok(said) => said,
        Err(fault) => return fault,
    };
    let why = if said.is_empty() {
        format!("status {}", status.as_u16())
    } else {
        format!("status {}, {said}", status.as_u16())
    };
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::denied(&host, what, &why).into(),
        _ => RegistryError::bad(&host, what, &why).into(),
    }
}

/// What a registry tells about its refusal: the first of `errors` (OCI distribution specification 1.1, "Error Codes").
fn said(answer: &mut Answer, stop: &Stop) -> Result<String, Fault> {
    const MOST: usize = 16 << 10;
    answer.limit(Duration::from_secs(2));
    let body = match answer.bytes(MOST, stop) {
        Err(Fault::Stopped) => return Err(Fault::Stopped),
        Ok(Some(body)) => body,
        // The status is what counts.
        Ok(None) | Err(_) => return Ok(String::new()),
    };
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str| body.pointer(&format!("/errors/0/{name}")).and_then(serde_json::Value::as_str);
    let parts = [text("code"), text("message")];
    Ok(parts.into_iter().flatten().collect::<Vec<_>>().join(": "))
}

/// `Retry-After`: seconds or a date (RFC 9110 section 10.2.3).
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(url: &str, location: Option<&str>) -> Result<String, RegistryError> {
        let url = Url::parse(url).unwrap();
        next_url(&Origin::of(&url).unwrap(), &url, location).map(|url| url.to_string())
    }

    #[test]
    fn redirects_stay_encrypted() {
        let here = "https://r.example/v2/a/blobs/x?y=1";
        for (location, there) in [
            ("/other", "https://r.example/other"),
            ("//cdn.example/x?sig=1", "https://cdn.example/x?sig=1"),
            ("https://cdn.example/x", "https://cdn.example/x"),
            ("?z", "https://r.example/v2/a/blobs/x?z"),
        ] {
            assert_eq!(next(here, Some(location)).unwrap(), there);
        }
        for bad in
            ["http://cdn.example/x", "HTTP://r.example/", "ftp://x/", "https://", "https://u:p@x/", "data:,x"]
        {
            let error = next(here, Some(bad)).unwrap_err();
            assert_eq!(error.code(), "REGISTRY_REDIRECT", "{bad}: {error}");
        }
        assert!(next(here, None).is_err());
        assert!(next("http://r.example/", Some("https://r.example/")).is_ok());
        assert!(next("http://r.example/", Some("http://cdn.example/")).is_ok());
    }

    #[test]
    fn a_registry_may_ask_for_a_pause() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(retry_after(&later).is_some_and(|pause| pause > Duration::from_secs(90)));
        for none in ["", "-1", "soon", "Wed, 21 Oct 2015 07:28:00 GMT", "1e3"] {
            assert_eq!(retry_after(none), None, "{none}");
        }
    }
}
