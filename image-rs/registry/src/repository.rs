//! One repository of one registry as a [`Source`] (OCI distribution specification 1.1, "Pull").
//!
//! What it gives is not checked beyond what concerns the transport: digests are for whoever asked. A blob that is asked for
//! twice is downloaded twice; sharing layers between pulls is the store's business, which knows them by what was verified.

use std::{io::Read, sync::Arc};

use http::{HeaderName, HeaderValue, StatusCode, header};
use image_rs::{
    Descriptor, Digest, Document, Error, Mismatch, Pointer, Reference, Source,
    manifest::{INDEX_TYPES, MANIFEST_TYPES},
    source::MAX_DOCUMENT,
};
use tokio::time::Instant;
use url::Url;

use crate::{
    RegistryError, Stop,
    authorization::{Asker, Authorization},
    blob,
    connection::{Answer, Fault},
    http_client::{Answered, HttpClient, Question, refusal},
    options::{Login, Ranges},
    pieces::Buffers,
};

/// Where `docker.io` is.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");
const SUPPORTS_SIGNATURES: HeaderName = HeaderName::from_static("x-registry-supports-signatures");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// A repository that can be read. Clones are the same.
#[derive(Clone, Debug)]
pub struct Repository(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) http: Arc<HttpClient>,
    pub(crate) reference: Reference,
    pub(crate) base: Url,
    pub(crate) plain_http: bool,
    pub(crate) login: Option<Login>,
    pub(crate) authorization: Authorization,
    pub(crate) stop: Stop,
    pub(crate) ranges: Ranges,
    pub(crate) buffers: Arc<Buffers>,
}

impl Repository {
    pub(crate) fn base(reference: &Reference, plain_http: bool) -> Result<Url, RegistryError> {
        let registry = reference.registry();
        let host = if registry == DOCKER.0 { DOCKER.1 } else { registry };
        let scheme = if plain_http { "http" } else { "https" };
        Url::parse(&format!("{scheme}://{host}/"))
            .map_err(|e| RegistryError::config(format!("registry {registry}"), e.to_string()))
    }

    /// The name that the image has here, after mirrors and rewriting: what a policy judges by.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.0.reference
    }

    /// The same place, also where this one was given up ([`Source::give_up`]).
    #[must_use]
    pub fn again(&self) -> Self {
        let of = &self.0;
        Self(Arc::new(Inner {
            http: Arc::clone(&of.http),
            reference: of.reference.clone(),
            base: of.base.clone(),
            plain_http: of.plain_http,
            login: of.login.as_ref().map(Login::copy),
            authorization: Authorization::default(),
            stop: of.stop.again(),
            ranges: of.ranges,
            buffers: Arc::clone(&of.buffers),
        }))
    }

    /// Whether it is read over plain http.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        self.0.plain_http
    }
}

impl Inner {
    pub(crate) fn url(&self, kind: &str, name: &str) -> Result<Url, RegistryError> {
        let path = format!("/v2/{}/{kind}/{name}", self.reference.repository());
        self.base.join(&path).map_err(|e| RegistryError::config("name of the image", e.to_string()))
    }

    pub(crate) fn asker(&self, until: Option<Instant>) -> Asker<'_> {
        Asker {
            http: &self.http,
            repository: self.reference.repository(),
            login: self.login.as_ref(),
            plain_http: self.plain_http,
            stop: &self.stop,
            until,
        }
    }

    /// Asks once, with credentials if the registry wants them.
    pub(crate) fn get(
        &self,
        url: &Url,
        headers: &[(HeaderName, HeaderValue)],
        until: Option<Instant>,
        what: &str,
        stop: &Stop,
    ) -> Result<Answered, Fault> {
        let mut renewed = false;
        // A token is a document also where a blob is asked for, which has no limit itself.
        let document = Instant::now() + self.http.patience().document;
        let token_until = until.map_or(document, |until| until.min(document));
        loop {
            let sent = self.authorization.current();
            let question =
                Question { url, headers, authorization: sent.value.as_ref(), from: None, until, stop };
            let mut answered = self.http.get(&question)?;
            if answered.answer.head.status() != StatusCode::UNAUTHORIZED {
                return Ok(answered);
            }
            // Only the registry may ask for its credentials, not whom it sends us to.
            let of_registry = answered.url.origin() == url.origin();
            if renewed || !of_registry {
                return Err(refusal(&mut answered.answer, what, stop));
            }
            self.authorization.renew(
                &self.asker(Some(token_until)),
                &answered.answer,
                answered.reach,
                &sent,
            )?;
            renewed = true;
            self.reuse(answered.answer);
        }
    }

    /// Keeps the connection of an answer whose body nobody wants, if it is short.
    fn reuse(&self, mut answer: Answer) {
        answer.limit(std::time::Duration::from_secs(1));
        if let Ok(Some(_)) = answer.bytes(16 << 10, &self.stop) {
            self.http.keep(answer);
        }
    }

    /// The whole of a small answer, tried as often as is due. `None` if there is no such thing.
    pub(crate) fn small(
        &self,
        url: &Url,
        accept: &[(HeaderName, HeaderValue)],
        most: usize,
        what: &str,
    ) -> Result<Option<Small>, Fault> {
        let until = Some(Instant::now() + self.http.patience().document);
        self.http.patiently(&self.stop, until, || {
            let Answered { mut answer, url, .. } = self.get(url, accept, until, what, &self.stop)?;
            match answer.head.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    self.reuse(answer);
                    return Ok(None);
                }
                _ => return Err(refusal(&mut answer, what, &self.stop)),
            }
            check_encoding(&answer, what)?;
            let body = answer.bytes(most, &self.stop)?;
            let long = || {
                RegistryError::bad(
                    &answer.origin().authority(),
                    what,
                    &format!("it has more than {most} bytes"),
                )
            };
            let bytes = body.ok_or_else(long)?;
            let text = |name| answer.header(name).map(str::to_owned);
            let small = Small {
                media_type: text(header::CONTENT_TYPE),
                digest: text(CONTENT_DIGEST),
                link: text(header::LINK),
                keeps_signatures: answer.header(SUPPORTS_SIGNATURES) == Some("1"),
                url,
                bytes,
            };
            self.http.keep(answer);
            Ok(Some(small))
        })
    }

    pub(crate) fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
        let what =
            format!("manifest {pointer} of {}/{}", self.reference.registry(), self.reference.repository());
        let url = self.url("manifests", &pointer.to_string())?;
        let types = MANIFEST_TYPES.into_iter().chain(INDEX_TYPES);
        let accept: Vec<_> = types.map(|kind| (header::ACCEPT, HeaderValue::from_static(kind))).collect();
        let most = usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX);
        let small = self.small(&url, &accept, most, &what).map_err(told)?;
        let small = small.ok_or(Error::NotFound { what: what.clone() })?;
        if let Some(named) = small.digest.as_deref() {
            same_digest(&what, named, &small.bytes)?;
        }
        let media_type = small.media_type.as_deref().and_then(essence);
        Ok(Document { media_type, bytes: small.bytes })
    }
}

/// A short answer.
#[derive(Debug)]
pub(crate) struct Small {
    pub(crate) media_type: Option<String>,
    digest: Option<String>,
    pub(crate) link: Option<String>,
    /// Whether the registry says that it keeps signatures.
    pub(crate) keeps_signatures: bool,
    /// Where it came from.
    pub(crate) url: Url,
    pub(crate) bytes: Vec<u8>,
}

impl Source for Repository {
    fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
        self.0.document(pointer)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        blob::open(&self.0, descriptor, 0)
    }

    fn blob_from(&self, descriptor: &Descriptor, at: u64) -> Result<Box<dyn Read + Send>, Error> {
        blob::open(&self.0, descriptor, at)
    }

    fn document_blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        blob::open_document(&self.0, descriptor)
    }

    fn give_up(&self) {
        self.0.stop.stop();
    }
}

/// What went wrong, for whoever reads images.
pub(crate) fn told(fault: Fault) -> Error {
    match fault {
        Fault::Registry(error) => error.into(),
        Fault::Image(error) => *error,
        Fault::Stopped => Error::Interrupted,
        Fault::Stale => RegistryError::unreachable("the registry", "the connection was closed").into(),
    }
}

/// What servers that keep files call a manifest: it is what it calls itself then.
const GENERAL: [&str; 4] =
    ["application/json", "application/octet-stream", "binary/octet-stream", "text/plain"];

/// The media type without its parameters, if it says what a document is.
fn essence(media_type: &str) -> Option<String> {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    (!essence.is_empty() && !GENERAL.contains(&essence)).then(|| essence.to_owned())
}

/// Refuses a document that the registry itself calls by another digest than it has. Equality proves nothing.
fn same_digest(what: &str, named: &str, bytes: &[u8]) -> Result<(), Error> {
    let Ok(expected) = named.parse::<Digest>() else { return Ok(()) };
    let actual = Digest::of(expected.algorithm(), bytes);
    if actual == expected {
        return Ok(());
    }
    Err(Error::DigestMismatch { what: what.to_owned(), digests: Box::new(Mismatch { expected, actual }) })
}

/// No encoding was asked for; one that is there all the same would change the bytes.
pub(crate) fn check_encoding(answer: &Answer, what: &str) -> Result<(), RegistryError> {
    let encodings = answer.head.headers().get_all(header::CONTENT_ENCODING);
    if encodings.iter().all(|value| value == "identity") {
        return Ok(());
    }
    Err(RegistryError::bad(
        &answer.origin().authority(),
        what,
        "it has a content encoding that was not asked for",
    ))
}

#[cfg(test)]
mod tests {
    use image_rs::Algorithm;

    use super::*;

    #[test]
    fn docker_hub_has_another_name_for_machines() {
        let url = |text: &str, plain| Repository::base(&text.parse().unwrap(), plain).unwrap().to_string();
        assert_eq!(url("busybox", false), "https://registry-1.docker.io/");
        assert_eq!(url("docker.io/a/b", false), "https://registry-1.docker.io/");
        assert_eq!(url("[::1]:5000/x", true), "http://[::1]:5000/");
        assert_eq!(url("localhost:5000/x", true), "http://localhost:5000/");
    }

    #[test]
    fn a_digest_in_the_head_has_to_be_that_of_the_body() {
        let digest = Digest::of(Algorithm::Sha256, b"body").to_string();
        assert!(same_digest("x", &digest, b"body").is_ok());
        assert!(same_digest("x", "nothing", b"body").is_ok());
        assert_eq!(same_digest("x", &digest, b"other").unwrap_err().code(), "IMAGE_DIGEST_MISMATCH");
    }

    #[test]
    fn a_media_type_counts_without_parameters_and_if_it_says_something() {
        assert_eq!(essence("application/vnd.a; charset=utf-8").as_deref(), Some("application/vnd.a"));
        assert_eq!(essence("text/html").as_deref(), Some("text/html"));
        for general in [" ; x", "", "application/json; charset=utf-8", "text/plain", "binary/octet-stream"] {
            assert_eq!(essence(general), None, "{general}");
        }
    }
}
