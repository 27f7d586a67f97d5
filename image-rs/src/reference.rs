//! Image references: `[registry[:port]/]repository[:tag][@digest]`.
//!
//! The grammar of the OCI distribution specification 1.1 (repository and tag) with the customs of Docker's command line
//! around it: no registry means `docker.io`, one word there means `library/`, neither tag nor digest means `latest`.
//! Whether the registry was written is kept, because the search list of containers-registries.conf(5) is for names
//! without one only. It does not know where the image really lies: mirrors and rewriting are decided elsewhere, on
//! [`Reference::to_string`].

use std::fmt;
use std::str::FromStr;

use crate::{Digest, Error, Pointer};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Bytes of registry and repository together, as in the grammar of Docker's registry.
const MAX_NAME: usize = 255;
/// No reference can be longer: name, tag of 128, digest of SHA-512.
const MAX_TEXT: usize = MAX_NAME + 1 + 128 + 1 + 7 + 128;

/// A parsed, completed image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    registry_named: bool,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Registry host, with port if one was given. Never empty; `docker.io` for Docker's own.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether the text named a registry.
    #[must_use]
    pub const fn registry_named(&self) -> bool {
        self.registry_named
    }

    /// Repository without registry, tag and digest.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag: the one given, or `latest` if no digest was given either.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest if there is one, else the tag.
    #[must_use]
    pub fn pointer(&self) -> Pointer {
        match (self.digest, &self.tag) {
            (Some(digest), _) => Pointer::Digest(digest),
            (None, Some(tag)) => Pointer::Tag(tag.clone()),
            (None, None) => Pointer::Tag(DEFAULT_TAG.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::Reference { text: text.chars().take(160).collect(), why })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.len() > MAX_TEXT {
        return Err("it is too long");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| "the digest is malformed")?)),
        None => (text, None),
    };
    // A colon after the last slash starts a tag; any other belongs to the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag has other characters than letters, digits, '_', '.', '-', or more than 128");
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, repository)) if is_host(first) => (Some(first), repository.to_owned()),
        _ => (None, name.to_owned()),
    };
    if registry.is_some_and(|registry| !is_registry(registry)) {
        return Err("the registry is not a host name or address with an optional port");
    }
    // Told from a repository by its case alone: written in lower case, it would be another name.
    if registry.is_some_and(|registry| !is_host(&registry.to_ascii_lowercase())) {
        return Err("a registry of one word needs a domain or a port, in lower case");
    }
    let registry_named = registry.is_some();
    let registry = registry.map_or_else(|| DEFAULT_REGISTRY.to_owned(), registry_in_one_form);
    let repository = match registry.as_str() {
        DEFAULT_REGISTRY if !repository.contains('/') => format!("library/{repository}"),
        _ => repository,
    };
    if !is_repository(&repository) {
        return Err(
            "the name has other parts than lower-case letters and digits joined by '.', '_', '__' or '-'",
        );
    }
    if registry.len() + 1 + repository.len() > MAX_NAME {
        return Err("the name is longer than 255 characters");
    }
    let tag = match (tag, digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (None, Some(_)) => None,
    };
    Ok(Reference { registry, registry_named, repository, tag, digest })
}

/// The name that a registry has everywhere, so that no rule or scope is got around by another way to write it: in lower case
/// (host names have none, RFC 4343), without the port that https has anyway, and Docker's own by one name.
///
/// A host of one word keeps its port: without it, it would be read as part of a repository.
fn registry_in_one_form(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let host = match lower.strip_suffix(":443") {
        Some(host) if is_host(host) => host,
        _ => lower.as_str(),
    };
    match host {
        "index.docker.io" => DEFAULT_REGISTRY.to_owned(),
        host => host.to_owned(),
    }
}

/// `text`, the beginning of image names such as `quay.io/team` or `*.example.com`, as it is in the text of a [`Reference`]. For
/// scopes of policies, rules for registries and keys of credentials.
#[must_use]
pub fn prefix_in_one_form(text: &str) -> String {
    match text.split_once('/') {
        Some((registry, rest)) => format!("{}/{rest}", registry_in_one_form(registry)),
        None => registry_in_one_form(text),
    }
}

/// Whether the part before the first slash is a registry and not the first part of a repository.
fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, _)) => (Some(host), text.get(host.len()..).unwrap_or_default()),
            None => (Some(text), ""),
        },
    };
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => {
            // No zeros before it: another way to write the same.
            !digits.starts_with('0')
                && digits.bytes().all(|b| b.is_ascii_digit())
                && digits.parse::<u16>().is_ok()
        }
        None => port.is_empty(),
    };
    port_fits && host.is_none_or(|host| host.split('.').all(is_label))
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Whether `text` can be a tag: at most 128 of `[A-Za-z0-9_.-]`, the first neither dot nor dash.
pub(crate) fn is_tag(text: &str) -> bool {
    text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !text.is_empty()
        && !text.starts_with(['.', '-'])
}

fn is_repository(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let edges = [text.bytes().next(), text.bytes().next_back()];
    if !edges.into_iter().all(|edge| edge.is_some_and(is_word)) {
        return false;
    }
    text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let at = |text: &str| format!("{text}@{digest}");
        for (given, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("quay.io/ns/repo", "quay.io/ns/repo:latest"),
            ("quay.io/repo", "quay.io/repo:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("127.0.0.1:5000/a/b/c:t", "127.0.0.1:5000/a/b/c:t"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("Registry:5000/x", "registry:5000/x:latest"),
            ("LocalHost/x", "localhost/x:latest"),
            ("QUAY.io/team/app", "quay.io/team/app:latest"),
            ("quay.io:443/team/app", "quay.io/team/app:latest"),
            ("Index.Docker.io:443/app", "docker.io/library/app:latest"),
            ("[::1]:443/x", "[::1]/x:latest"),
            ("registry:443/x", "registry:443/x:latest"),
            ("quay.io:4430/x", "quay.io:4430/x:latest"),
            ("a__b/c---d/e.f", "docker.io/a__b/c---d/e.f:latest"),
            (at("a.b/c").as_str(), at("a.b/c").as_str()),
            (at("c:t").as_str(), at("docker.io/library/c:t").as_str()),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), whole, "{given}");
        }
    }

    #[test]
    fn whether_the_registry_was_written_is_kept() {
        assert!(!"busybox".parse::<Reference>().unwrap().registry_named());
        assert!("docker.io/library/busybox".parse::<Reference>().unwrap().registry_named());
    }

    #[test]
    fn a_digest_goes_before_the_tag() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let reference: Reference = format!("a/b:c@{digest}").parse().unwrap();
        assert_eq!(reference.pointer(), Pointer::Digest(digest.parse().unwrap()));
        assert_eq!("a/b:c".parse::<Reference>().unwrap().pointer(), Pointer::Tag("c".into()));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "a".repeat(250);
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a/B",
            "a b",
            "a:",
            "a:-b",
            "a@",
            "a@sha256:00",
            "a.",
            "-a",
            "a___b",
            "a..b",
            "http://a/b",
            "a.b:/c",
            "a.b:0/c",
            "a.b:65536/c",
            "a.b:+80/c",
            "[::1/x",
            "[x]/y",
            "a.-b/c",
            "..:5/c",
            "a\n",
            "ä/b",
            "a:t:t",
            "user@host/x",
            "Registry/x",
            "[::1]x/y",
            long.as_str(),
        ] {
            assert_eq!(bad.parse::<Reference>().unwrap_err().code(), "IMAGE_REFERENCE_INVALID", "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn the_whole_form_means_the_same(text in "([a-zA-Z0-9.:\\[\\]-]{1,9}/)?[a-z0-9._-]{1,9}(/[a-z0-9._-]{1,4})?(:[a-zA-Z0-9._-]{1,5})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again.to_string(), reference.to_string());
                prop_assert_eq!(again.pointer(), reference.pointer());
            }
        }
    }
}
