//! Signatures that lie where the image is.
//!
//! Referrers are asked for by the call of the OCI distribution specification 1.1 ("Listing Referrers"), page by page; a
//! registry without it answers 404, after which `image_rs` tries the tag schema. OpenPGP messages come from lookaside
//! folders on the web, file by file, or from a registry that keeps them itself (`X-Registry-Supports-Signatures`, an
//! extension of OpenShift's registry).

use std::{fmt, io::Read, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, StatusCode, header};
use image_rs::{
    Descriptor, Digest, Document, Error, Pointer, Source,
    manifest::INDEX_TYPES,
    policy::{Fetch, Signatures},
    source::MAX_DOCUMENT,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use crate::{
    RegistryError, Repository,
    authorization::header_value,
    connection::Fault,
    http_client::{Question, refusal},
    link::next_page,
    repository::{Inner, told},
};

/// Most pages of a list of referrers.
const MAX_PAGES: usize = 32;
/// Longest file of a lookaside folder, in bytes.
const MAX_LOOKASIDE: usize = 1 << 20;
/// Most OpenPGP messages that a registry keeps of one image.
const MAX_KEPT: usize = 64;

/// What a policy needs to judge an image of a [`Repository`].
pub struct RepositorySignatures<'a> {
    repository: &'a Repository,
    fetch: Box<Fetch<'a>>,
}

impl Repository {
    /// The signatures beside the images here. Keys, and what lies under `file://`, are read by `fetch`.
    pub fn signatures<'a>(
        &'a self,
        fetch: impl FnMut(&str) -> Result<Vec<u8>, Error> + 'a,
    ) -> RepositorySignatures<'a> {
        RepositorySignatures { repository: self, fetch: Box::new(fetch) }
    }
}

impl fmt::Debug for RepositorySignatures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RepositorySignatures").field("repository", &self.repository).finish_non_exhaustive()
    }
}

impl Signatures for RepositorySignatures<'_> {
    fn document(&mut self, pointer: &Pointer) -> Result<Document, Error> {
        self.repository.document(pointer)
    }

    fn referrers(&mut self, subject: &Digest) -> Result<Vec<u8>, Error> {
        self.repository.0.referrers(subject)
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let blob = self.repository.document_blob(descriptor)?;
        let read = blob.take(descriptor.size.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| match error.downcast::<Error>() {
            Ok(told) => told,
            Err(source) => Error::Read { what: descriptor.digest.to_string(), source },
        })?;
        Ok(bytes)
    }

    fn lookaside(&mut self, url: &str) -> Result<Vec<u8>, Error> {
        if url.starts_with("file://") {
            return (self.fetch)(url);
        }
        self.repository.0.web_file(url)
    }

    fn kept_by_registry(&mut self, image: &Digest) -> Result<Vec<Vec<u8>>, Error> {
        self.repository.0.kept_signatures(image).map_err(told)
    }

    fn key(&mut self, location: &str) -> Result<Vec<u8>, Error> {
        (self.fetch)(location)
    }
}

fn most_of_document() -> usize {
    usize::try_from(MAX_DOCUMENT).unwrap_or(usize::MAX)
}

impl Inner {
    fn referrers(self: &Arc<Self>, subject: &Digest) -> Result<Vec<u8>, Error> {
        let what = format!("list of what refers to {subject}");
        let accept = [(header::ACCEPT, HeaderValue::from_static(INDEX_TYPES[0]))];
        let mut next = Some(self.url("referrers", &subject.to_string())?);
        let (mut pages, mut length) = (Vec::new(), 0);
        while let Some(url) = next {
            let most = most_of_document().saturating_sub(length);
            let page = match self.small(&url, &accept, most, &what) {
                // Registries from before the call answer in their own ways.
                Err(Fault::Registry(RegistryError::BadAnswer { .. })) if pages.is_empty() => None,
                page => page.map_err(told)?,
            };
            let page = page.ok_or_else(|| Error::NotFound { what: what.clone() })?;
            let host = self.reference.registry();
            let bad = |why: &str| Error::from(RegistryError::bad(host, &what, why));
            next = match page.link.as_deref().map(next_page).transpose().map_err(bad)?.flatten() {
                None => None,
                Some(_) if pages.len() + 1 >= MAX_PAGES => return Err(bad("it has more than 32 pages")),
                Some(link) => {
                    let link = page.url.join(&link).map_err(|_| bad("its next page is no URL"))?;
                    if link.origin() != url.origin() {
                        return Err(bad("its next page is elsewhere"));
                    }
                    Some(link)
                }
            };
            length += page.bytes.len();
            pages.push(page.bytes);
        }
        joined(pages).map_err(|why| RegistryError::bad(self.reference.registry(), &what, why).into())
    }

    /// A file of a lookaside folder on the web. It is signed itself, so plain http is no danger to it.
    fn web_file(self: &Arc<Self>, url: &str) -> Result<Vec<u8>, Error> {
        let parsed = Url::parse(url)
            .map_err(|e| RegistryError::config(format!("lookaside URL {url}"), e.to_string()))?;
        let until = Some(Instant::now() + self.http.patience().document);
        let question =
            Question { url: &parsed, headers: &[], authorization: None, from: None, until, stop: &self.stop };
        let found = self.http.patiently(&self.stop, until, || {
            let mut answer = self.http.get(&question)?.answer;
            match answer.head.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                _ => return Err(refusal(&mut answer, url, &self.stop)),
            }
            let host = answer.origin().authority();
            let body = answer.bytes(MAX_LOOKASIDE, &self.stop)?;
            let body = body.ok_or_else(|| RegistryError::bad(&host, url, "it has more than 1 MiB"))?;
            self.http.keep(answer);
            Ok(Some(body))
        });
        found.map_err(told)?.ok_or_else(|| Error::NotFound { what: url.to_owned() })
    }

    /// OpenPGP messages that the registry keeps of `image`; none if it keeps no such thing.
    fn kept_signatures(self: &Arc<Self>, image: &Digest) -> Result<Vec<Vec<u8>>, Fault> {
        let path = |path: &str| {
            self.base.join(path).map_err(|e| RegistryError::config("name of the image", e.to_string()))
        };
        let root = path("/v2/")?;
        let supported = match self.small(&root, &[], 16 << 10, "GET /v2/") {
            // Whoever may read the image need not be allowed to ask this, and many registries answer it in their own ways: it
            // is known only that nothing was promised.
            Err(Fault::Registry(RegistryError::Denied { .. } | RegistryError::BadAnswer { .. })) => false,
            root => root?.is_some_and(|root| root.keeps_signatures),
        };
        if !supported {
            return Ok(Vec::new());
        }
        let what = format!("signatures of {image}");
        let repository = self.reference.repository();
        let until = Some(Instant::now() + self.http.patience().document);
        let mut authorization = None;
        if let Some(login) = &self.login {
            let mut url = path("/oauth/token")?;
            url.query_pairs_mut()
                .append_pair("account", &login.user)
                .append_pair("scope", &format!("repository:{repository}:pull"))
                .append_pair("service", "registry");
            let (token, _) = self.asker(until).fetch_token(&url, &["token"], None)?;
            authorization = header_value(&token);
        }
        let url = path(&format!("/extensions/v2/{repository}/signatures/{image}"))?;
        let question = Question {
            url: &url,
            headers: &[(header::ACCEPT, HeaderValue::from_static("application/json"))],
            authorization: authorization.as_ref(),
            from: None,
            until,
            stop: &self.stop,
        };
        let host = self.reference.registry();
        let body = self.http.patiently(&self.stop, until, || {
            let mut answer = self.http.get(&question)?.answer;
            match answer.head.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => return Ok(None),
                _ => return Err(refusal(&mut answer, &what, &self.stop)),
            }
            let body = answer.bytes(most_of_document(), &self.stop)?;
            let body = body.ok_or_else(|| RegistryError::bad(host, &what, "it has more than 4 MiB"))?;
            self.http.keep(answer);
            Ok(Some(body))
        })?;
        let Some(body) = body else { return Ok(Vec::new()) };
        kept(&body).map_err(|why| RegistryError::bad(host, &what, why).into())
    }
}

/// One list out of its pages.
fn joined(mut pages: Vec<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
    if pages.len() == 1 {
        return Ok(pages.pop().unwrap_or_default());
    }
    let mut all = Vec::new();
    for page in pages {
        let mut page = cc_crypto::unique_json::parse("page", &page).map_err(|_| "a page is not JSON")?;
        match page.get_mut("manifests") {
            Some(Value::Array(manifests)) => all.append(manifests),
            _ => return Err("a page has no manifests"),
        }
    }
    let list = json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": all});
    Ok(list.to_string().into_bytes())
}

/// The messages in the answer of a registry that keeps them.
fn kept(body: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    let answer = cc_crypto::unique_json::parse("answer", body)
        .map_err(|_| "it is not JSON, or a member is there twice")?;
    let signatures = match answer.get("signatures") {
        Some(Value::Array(signatures)) if signatures.len() <= MAX_KEPT => signatures,
        Some(Value::Array(_)) => return Err("it has more than 64 signatures"),
        None | Some(Value::Null) if answer.is_object() => return Ok(Vec::new()),
        _ => return Err("signatures is not an array"),
    };
    // Versions and types to come are not for us.
    let known = |signature: &&Value| {
        signature.get("schemaVersion").and_then(Value::as_u64) == Some(2)
            && signature.get("type").and_then(Value::as_str) == Some("atomic")
    };
    let content = |signature: &Value| {
        let content = signature.get("content").and_then(Value::as_str).ok_or("a signature has no content")?;
        BASE64_STANDARD.decode(content).map_err(|_| "the content of a signature is not base64")
    };
    signatures.iter().filter(known).map(content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_one_list() {
        let page = |names: &[&str]| json!({"schemaVersion": 2, "manifests": names}).to_string().into_bytes();
        assert_eq!(joined(vec![b"as it is".to_vec()]).unwrap(), b"as it is");
        let list: Value =
            serde_json::from_slice(&joined(vec![page(&["a"]), page(&[]), page(&["b"])]).unwrap()).unwrap();
        assert_eq!(list["manifests"], json!(["a", "b"]));
        for bad in [&b"{}"[..], b"x", b"{\"manifests\":{}}"] {
            assert!(joined(vec![page(&[]), bad.to_vec()]).is_err());
        }
    }

    #[test]
    fn kept_signatures_are_those_of_the_known_kind() {
        let entry = |version: u64, kind: &str| json!({"schemaVersion": version, "type": kind, "name": "x", "content": "AQI="});
        let body =
            json!({"signatures": [entry(2, "atomic"), entry(3, "atomic"), entry(2, "new")]}).to_string();
        assert_eq!(kept(body.as_bytes()).unwrap(), [[1, 2]]);
        assert!(kept(b"{}").unwrap().is_empty());
        let many = json!({"signatures": vec![entry(2, "atomic"); MAX_KEPT + 1]}).to_string();
        let unreadable =
            json!({"signatures": [{"schemaVersion": 2, "type": "atomic", "content": "!"}]}).to_string();
        for bad in ["[]", "{\"signatures\":{}}", &many, &unreadable] {
            assert!(kept(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
