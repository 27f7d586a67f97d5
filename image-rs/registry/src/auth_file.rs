//! Credentials by registry: containers-auth.json(5), which is also Docker's `config.json`.
//!
//! Read are `auths` and in it `auth`. Helpers that would have to be run (`credHelpers`, `credsStore`) and refresh tokens
//! (`identitytoken`) are not used.

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use image_rs::{Reference, prefix_in_one_form};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{Login, RegistryError};

/// Longest file read, in bytes.
const MAX_LEN: usize = 4 << 20;
/// What `docker.io` is called by Docker.
const DOCKER_INDEX: &str = "index.docker.io";

/// Credentials of a file. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct AuthFile {
    /// `None`: the entry has no credentials.
    entries: Arc<BTreeMap<String, Option<Login>>>,
}

impl AuthFile {
    /// Reads `text`, of at most 4 MiB.
    ///
    /// # Errors
    /// [`RegistryError::Config`] names the entry that is malformed, never what is in it.
    pub fn parse(text: &[u8]) -> Result<Self, RegistryError> {
        let bad = |why: &str| RegistryError::config("credentials file", why);
        if text.len() > MAX_LEN {
            return Err(bad("it has more than 4 MiB"));
        }
        let file = cc_crypto::unique_json::parse("file", text)
            .map_err(|_| bad("not JSON, or a member is there twice"))?;
        let auths = match file.get("auths") {
            None | Some(Value::Null) if file.is_object() => return Ok(Self::default()),
            Some(Value::Object(auths)) => auths,
            _ => return Err(bad("auths is not an object")),
        };
        let mut entries = BTreeMap::new();
        for (key, entry) in auths {
            let login = match entry.get("auth") {
                None | Some(Value::Null) if entry.is_object() => None,
                Some(Value::String(auth)) if auth.is_empty() => None,
                Some(Value::String(auth)) => {
                    let login = decode(auth).map_err(|why| bad(&format!("auth of {key:?} {why}")))?;
                    Some(login)
                }
                _ => return Err(bad(&format!("auth of {key:?} is not a string"))),
            };
            let one_form = one_form(key);
            // Of two ways to write one key the one that names have counts.
            if one_form == *key || !entries.contains_key(&one_form) {
                entries.insert(one_form, login);
            }
        }
        Ok(Self { entries: Arc::new(entries) })
    }

    /// The credentials for `image`: those of its repository, the next above it, and so on to its registry.
    #[must_use]
    pub(crate) fn login(&self, image: &Reference) -> Option<&Login> {
        let name = format!("{}/{}", image.registry(), image.repository());
        let mut key = name.as_str();
        loop {
            if let Some(entry) = self.entries.get(key) {
                return entry.as_ref();
            }
            let Some((above, _)) = key.rsplit_once('/') else { break };
            key = above;
        }
        let registry = normal(image.registry());
        self.entries.iter().find(|(key, _)| normal(key) == registry)?.1.as_ref()
    }
}

fn decode(auth: &str) -> Result<Login, String> {
    let decoded = BASE64_STANDARD.decode(auth.trim()).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| "is not base64".to_owned())?;
    // Tools that encode the output of others leave line feeds at the end, and Docker zeros.
    let end = decoded.iter().rposition(|b| !matches!(b, b'\n' | b'\r' | 0)).map_or(0, |at| at + 1);
    Login::parse(decoded.get(..end).unwrap_or_default()).map_err(|_| "is not user:password".to_owned())
}

/// A key as the names of images have it. One with a scheme names a host in its own way.
fn one_form(key: &str) -> String {
    if key.contains("://") { key.to_owned() } else { prefix_in_one_form(key) }
}

/// The registry of a key, in one form: without scheme and what follows the host then, and Docker's by one name.
fn normal(key: &str) -> String {
    let stripped = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    let host = stripped.map_or(key, |rest| rest.split('/').next().unwrap_or_default());
    match prefix_in_one_form(host).as_str() {
        "docker.io" | "registry-1.docker.io" => DOCKER_INDEX.to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn file(entries: &[(&str, &str)]) -> AuthFile {
        let entry =
            |(key, login): &(&str, &str)| ((*key).to_owned(), json!({"auth": BASE64_STANDARD.encode(login)}));
        let auths: serde_json::Map<_, _> = entries.iter().map(entry).collect();
        AuthFile::parse(json!({"auths": auths}).to_string().as_bytes()).unwrap()
    }

    fn user<'a>(file: &'a AuthFile, image: &str) -> Option<&'a str> {
        file.login(&image.parse().unwrap()).map(|login| login.user.as_str())
    }

    #[test]
    fn the_nearest_entry_counts() {
        let file = file(&[
            ("quay.io", "registry:x"),
            ("quay.io/ns", "namespace:x"),
            ("quay.io/ns/repo", "repository:x"),
            ("https://index.docker.io/v1/", "hub:x"),
            ("http://plain.example/v2/x", "plain:x"),
            ("with-path.example/x", "below:x"),
        ]);
        for (image, expected) in [
            ("quay.io/ns/repo:1", Some("repository")),
            ("quay.io/ns/repo/more", Some("repository")),
            ("quay.io/ns/repo2", Some("namespace")),
            ("quay.io/nsx/repo", Some("registry")),
            ("busybox", Some("hub")),
            ("docker.io/a/b", Some("hub")),
            ("plain.example/a", Some("plain")),
            ("quay.io:443/ns/repo", Some("repository")),
            ("quay.io:5000/ns/repo", None),
            ("evil.quay.io/ns/repo", None),
            ("with-path.example/y", None),
        ] {
            assert_eq!(user(&file, image), expected, "{image}");
        }
    }

    #[test]
    fn keys_are_found_however_they_are_written() {
        let file = file(&[
            ("Quay.IO/ns", "namespace:x"),
            ("ghcr.io:443", "port:x"),
            ("https://Plain.Example:443/v2/", "scheme:x"),
            ("TWICE.example", "capitals:x"),
            ("twice.example", "exact:x"),
        ]);
        for (image, expected) in [
            ("quay.io/ns/repo", "namespace"),
            ("GHCR.io/a/b", "port"),
            ("plain.example/a", "scheme"),
            ("twice.example/a", "exact"),
        ] {
            assert_eq!(user(&file, image), Some(expected), "{image}");
        }
    }

    #[test]
    fn an_entry_without_credentials_means_none() {
        let text = json!({"auths": {"a.b/c": {}, "a.b": {"auth": BASE64_STANDARD.encode("u:p")}}, "credsStore": "x"});
        let file = AuthFile::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(user(&file, "a.b/c"), None);
        assert_eq!(user(&file, "a.b/d"), Some("u"));
        assert_eq!(user(&AuthFile::parse(b"{}").unwrap(), "a.b/c"), None);
    }

    #[test]
    fn line_feeds_at_the_end_of_a_password_are_left_out() {
        let file = file(&[("a.b", "u:p:q\n\n")]);
        assert_eq!(file.login(&"a.b/c".parse().unwrap()).unwrap().password.expose(), b"p:q");
    }

    #[test]
    fn what_is_malformed_is_an_error_without_the_secret() {
        let hunter = BASE64_STANDARD.encode("hunter2");
        for bad in [
            "[]".to_owned(),
            "{".to_owned(),
            "{\"auths\":[]}".to_owned(),
            "{\"auths\":{\"a\":1}}".to_owned(),
            "{\"auths\":{\"a\":{\"auth\":1}}}".to_owned(),
            "{\"auths\":{\"a\":{\"auth\":\"hunter2!\"}}}".to_owned(),
            format!("{{\"auths\":{{\"a\":{{\"auth\":\"{hunter}\"}}}}}}"),
            "{\"auths\":{\"a\":{},\"a\":{}}}".to_owned(),
        ] {
            let error = AuthFile::parse(bad.as_bytes()).unwrap_err();
            assert!(
                error.code() == "REGISTRY_CONFIG" && !error.to_string().contains("hunter2"),
                "{bad}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), key in "\\PC{0,20}", auth in "[A-Za-z0-9+/=]{0,20}") {
            let _ = AuthFile::parse(&bytes);
            let text = json!({"auths": {key: {"auth": auth}}}).to_string();
            if let Ok(file) = AuthFile::parse(text.as_bytes()) {
                let _ = file.login(&"a.b/c/d".parse().unwrap());
            }
        }
    }
}
