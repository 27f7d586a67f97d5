//! Where OpenPGP signatures of registries lie: the files of containers-registries.d(5).
//!
//! Each file is YAML with `default-docker` and, under `docker`, namespaces. A namespace of two files, or two defaults, is
//! an error, because which one counted would depend on the order of reading. `lookaside` is the newer name of `sigstore`
//! and wins; the staging ones are for writers and are left alone.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::identity;
use crate::{Digest, Error, Reference, prefix_in_one_form};

/// Longest file read, in bytes.
const MAX_LEN: usize = 1 << 20;

/// Base URLs of signature folders, by namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookaside {
    default: Option<String>,
    docker: BTreeMap<String, Option<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    default_docker: Option<Entry>,
    docker: Option<BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Entry {
    lookaside: Option<String>,
    sigstore: Option<String>,
    #[serde(rename = "lookaside-staging")]
    _lookaside_staging: Option<String>,
    #[serde(rename = "sigstore-staging")]
    _sigstore_staging: Option<String>,
    #[serde(rename = "use-sigstore-attachments")]
    _use_sigstore_attachments: Option<bool>,
}

impl Lookaside {
    /// Reads `files`, each a name for messages and YAML of at most 1 MiB.
    ///
    /// # Errors
    /// `IMAGE_POLICY_INVALID` names the file and what is wrong.
    pub fn parse<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        let mut all = Self::default();
        let mut default_seen = false;
        for (name, text) in files {
            let invalid =
                |why: String| Error::Policy { place: format!("lookaside configuration {name}"), why };
            if text.len() > MAX_LEN {
                return Err(invalid(format!("it has more than {MAX_LEN} bytes")));
            }
            let file: File = serde_saphyr::from_str(text).map_err(|error| {
                invalid(error.without_snippet().to_string().lines().next().unwrap_or("not YAML").to_owned())
            })?;
            if let Some(entry) = file.default_docker {
                if std::mem::replace(&mut default_seen, true) {
                    return Err(invalid("default-docker is given a second time".to_owned()));
                }
                all.default = entry.base().map_err(invalid)?;
            }
            for (namespace, entry) in file.docker.unwrap_or_default() {
                let base = entry.base().map_err(invalid)?;
                if all.docker.insert(prefix_in_one_form(&namespace), base).is_some() {
                    return Err(invalid(format!("docker {namespace:?} is given a second time")));
                }
            }
        }
        Ok(all)
    }

    /// URL of the folder with the signatures of the manifest `digest` of `image`, without a slash at its end; `None` if no
    /// file gives one.
    pub(crate) fn folder(&self, image: &Reference, digest: &Digest) -> Option<String> {
        let mut scopes = identity::scopes(image);
        // Wildcards are of policies alone.
        scopes.retain(|scope| !scope.starts_with("*."));
        let nearest = scopes.iter().find_map(|scope| self.docker.get(scope)?.as_deref());
        let base = nearest.or(self.default.as_deref())?;
        let base = base.trim_end_matches('/');
        Some(format!("{base}/{}@{}={}", image.repository(), digest.algorithm().as_str(), digest.hex()))
    }
}

impl Entry {
    fn base(self) -> Result<Option<String>, String> {
        let base = self.lookaside.or(self.sigstore);
        let known =
            |url: &str| ["file:///", "http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
        match base {
            Some(url) if !known(&url) => Err("a location is no file:///, http:// or https:// URL".to_owned()),
            base => Ok(base),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn folder(lookaside: &Lookaside, image: &str) -> Option<String> {
        lookaside.folder(&image.parse().unwrap(), &format!("sha256:{HEX}").parse().unwrap())
    }

    #[test]
    fn the_nearest_namespace_wins() {
        let files = [
            ("a.yaml", "default-docker:\n  sigstore: file:///var/lib/containers/sigstore\n"),
            (
                "b.yaml",
                "docker:\n  quay.io/ns: {lookaside: 'https://a.example/', sigstore: 'file:///no'}\n  quay.io: {}\n",
            ),
            ("c.yaml", "docker:\n  quay.io/ns/x:1: {sigstore: 'file:///etc/sigs'}\n"),
            ("empty.yaml", "{}\n"),
        ];
        let all = Lookaside::parse(files).unwrap();
        for (image, base) in [
            ("quay.io/ns/x:1", "file:///etc/sigs/ns/x"),
            ("quay.io/ns/x:2", "https://a.example/ns/x"),
            ("quay.io/other/x", "file:///var/lib/containers/sigstore/other/x"),
            ("busybox", "file:///var/lib/containers/sigstore/library/busybox"),
        ] {
            assert_eq!(folder(&all, image).unwrap(), format!("{base}@sha256={HEX}"));
        }
        assert_eq!(folder(&Lookaside::default(), "busybox"), None);
    }

    #[test]
    fn mistakes_name_the_file() {
        let twice = "docker:\n  quay.io: {sigstore: 'file:///a'}\n";
        for (files, expected) in [
            (vec![("a", twice), ("b", twice)], "second time"),
            (vec![("a", "default-docker: {}"), ("b", "default-docker: {}")], "second time"),
            (vec![("a", "{}"), ("b", "docker: [x]")], "lookaside configuration b"),
            (vec![("b", "dockers: {}")], "lookaside configuration b"),
            (vec![("b", "docker:\n  quay.io: {sigstore: '../x'}")], "no file:///"),
        ] {
            let error = Lookaside::parse(files).unwrap_err();
            assert_eq!(error.code(), "IMAGE_POLICY_INVALID");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn namespaces_are_found_however_they_are_written() {
        let text = "docker: {'QUAY.io:443/ns': {lookaside: 'https://sigs.example'}}";
        let lookaside = Lookaside::parse([("a", text)]).unwrap();
        assert!(folder(&lookaside, "quay.io/ns/repo:1").is_some());
        let twice = "docker: {'QUAY.io': {lookaside: 'https://a'}, 'quay.io': {lookaside: 'https://b'}}";
        assert!(Lookaside::parse([("a", twice)]).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,120}") {
            let _ = Lookaside::parse([("x", text.as_str())]);
        }
    }
}
