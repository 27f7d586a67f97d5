//! Services that speak HTTP: the key broker's client with its limits (no redirects, no proxy, bounded answers), and its errors in
//! the words of this crate.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cc_crypto::Secret;
use cc_kbs::foreign::json_fault;
use cc_kbs::{CertificateMode, Client, KbsConfig, Names};
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::bounded;
use crate::error::KmsError;

const AGENT: &str = concat!("confidential-data-hub/", env!("CARGO_PKG_VERSION"));

/// How to reach one server, and whom to believe that it is the one.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    /// The configuration key of `url`, for errors.
    pub(crate) key: &'static str,
    pub(crate) url: &'a str,
    /// Whether it may be plain http to another machine.
    pub(crate) allow_plain_http: bool,
    pub(crate) certificate: Option<&'a str>,
    pub(crate) certificate_mode: CertificateMode,
    pub(crate) names: Option<&'a Arc<dyn Names>>,
}

/// One server with a warm client.
#[derive(Debug)]
pub(crate) struct Server {
    client: Client,
}

impl Server {
    /// The server at `place`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`KmsError::Config`] for a URL that is no `https://host[:port]` (plain http goes to this machine only), or a certificate
    /// that cannot be used.
    pub(crate) fn new(place: &Place<'_>) -> Result<Self, KmsError> {
        let config = KbsConfig {
            root_certificate: place.certificate.map(str::to_owned),
            certificate_mode: place.certificate_mode,
            allow_plain_http: place.allow_plain_http,
            ..KbsConfig::new(place.url)
        };
        let client = match place.names {
            Some(names) => Client::with_names(&config, Arc::clone(names)),
            None => Client::new(&config),
        };
        let bad = |why: String| KmsError::Config { key: place.key, why };
        let client = client.map_err(|e| {
            bad(match e {
                cc_kbs::Error::PlainHttp { url } => format!("plain http to {url}, which is not this machine"),
                cc_kbs::Error::Config { what, why } => format!("{what}: {why}"),
                other => other.to_string(),
            })
        })?;
        // Requests are signed for the path that they name.
        if client.base().splitn(4, '/').nth(3).is_some() {
            return Err(bad("the URL has a path".to_owned()));
        }
        Ok(Self { client })
    }

    /// `https://host[:port]`.
    pub(crate) fn base(&self) -> &str {
        self.client.base()
    }

    /// `host[:port]`.
    pub(crate) fn authority(&self) -> &str {
        self.base().split_once("://").map_or("", |(_, authority)| authority)
    }

    /// Sends `request`, whose URI is a path, by `deadline`, and reads an answer of at most `limit` bytes. `doing` says what
    /// for.
    ///
    /// # Errors
    /// [`KmsError::Unreachable`], [`KmsError::Timeout`], [`KmsError::UntrustedTls`], [`KmsError::AnswerTooLarge`],
    /// [`KmsError::BadAnswer`], the last one for redirects as well.
    pub(crate) async fn ask(
        &self,
        doing: &str,
        mut request: Request<Bytes>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Response<Secret>, KmsError> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let doing = || doing.to_owned();
        let answer =
            self.client.send(&doing(), request, limit, bounded(deadline)).await.map_err(|e| match e {
                cc_kbs::Error::Unreachable { url, why } => KmsError::Unreachable { server: url, why },
                cc_kbs::Error::Timeout { doing } => KmsError::Timeout { doing },
                cc_kbs::Error::UntrustedTls { url, why } => KmsError::UntrustedTls { server: url, why },
                cc_kbs::Error::ResponseTooLarge { limit, .. } => {
                    KmsError::AnswerTooLarge { doing: doing(), limit }
                }
                cc_kbs::Error::BadResponse { what, why } => {
                    KmsError::BadAnswer { doing: doing(), why: format!("{what}: {why}") }
                }
                other => KmsError::BadAnswer { doing: doing(), why: other.to_string() },
            })?;
        if answer.status().is_redirection() {
            let why = format!("a redirect (status {}), which is not followed", answer.status().as_u16());
            return Err(KmsError::BadAnswer { doing: doing(), why });
        }
        Ok(answer)
    }
}

/// Servers whose clients are kept warm: a few, of which the oldest goes first.
#[derive(Debug, Default)]
pub(crate) struct Servers(Mutex<Vec<(Key, Arc<Server>)>>);

/// URL and certificate.
type Key = (String, Option<String>);

/// Two services in a few regions.
const MAX_SERVERS: usize = 6;

impl Servers {
    /// The server at `place`, with the client of the last time if the place is still the same.
    ///
    /// # Errors
    /// As [`Server::new`].
    pub(crate) fn at(&self, place: &Place<'_>) -> Result<Arc<Server>, KmsError> {
        let key = (place.url.to_owned(), place.certificate.map(str::to_owned));
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, server)) = servers.iter().find(|(known, _)| *known == key) {
            return Ok(Arc::clone(server));
        }
        let server = Arc::new(Server::new(place)?);
        if servers.len() == MAX_SERVERS {
            servers.remove(0);
        }
        servers.push((key, Arc::clone(&server)));
        Ok(server)
    }
}

/// A request body that is wiped when it was sent.
pub(crate) fn secret_body(body: Zeroizing<Vec<u8>>) -> Bytes {
    Bytes::from_owner(body)
}

/// Reads the JSON object `answer`. Its text is never quoted.
///
/// # Errors
/// [`KmsError::BadAnswer`].
pub(crate) fn read_json<T: DeserializeOwned>(doing: &str, answer: &Secret) -> Result<T, KmsError> {
    let bad = |why| KmsError::BadAnswer { doing: doing.to_owned(), why };
    // Derived readers take a list of the members' values as well.
    if answer.expose().trim_ascii_start().first() == Some(&b'[') {
        return Err(bad("a list where an object is expected".to_owned()));
    }
    serde_json::from_slice(answer.expose()).map_err(|e| bad(json_fault(&e)))
}
