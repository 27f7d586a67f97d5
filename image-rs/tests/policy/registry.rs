//! A registry in memory, as [`Signatures`] sees it.

use std::collections::{BTreeMap, BTreeSet};

use cc_evidence::blame::Blame;
use image_rs::{Algorithm, Descriptor, Digest, Document, Error, Pointer, policy::Signatures};
use serde_json::{Value, json};

pub(crate) const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) tags: BTreeMap<String, Vec<u8>>,
    pub(crate) manifests: BTreeMap<Digest, Vec<u8>>,
    pub(crate) referrers: BTreeMap<Digest, Vec<Value>>,
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// OpenPGP messages that the registry keeps itself.
    pub(crate) kept: Vec<Vec<u8>>,
    /// Begins of what cannot be had.
    pub(crate) broken: BTreeSet<String>,
    /// Begins of keys that are not given to this machine.
    pub(crate) withheld: BTreeSet<String>,
    /// Whether the registry knows the call for referrers.
    pub(crate) old: bool,
    pub(crate) calls: usize,
}

impl Registry {
    fn store(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        self.blobs.insert(digest, bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    /// Attaches signed payloads to `image`, each with its annotations.
    pub(crate) fn attach(&mut self, image: Digest, signatures: &[(Vec<u8>, Value)]) {
        let mut layers = Vec::new();
        for (payload, annotations) in signatures {
            let mut layer = self.store(SIMPLE_SIGNING, payload);
            layer["annotations"] = annotations.clone();
            layers.push(layer);
        }
        let manifest = json!({"schemaVersion": 2, "layers": layers}).to_string().into_bytes();
        self.tags.insert(format!("sha256-{}.sig", image.hex()), manifest);
    }

    /// Lets a bundle refer to `image`.
    pub(crate) fn refer(&mut self, image: Digest, bundle: &[u8]) {
        let layer = self.store(BUNDLE, bundle);
        let manifest =
            json!({"schemaVersion": 2, "artifactType": BUNDLE, "layers": [layer]}).to_string().into_bytes();
        let digest = sha256(&manifest);
        let entry = json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": BUNDLE,
            "digest": digest.to_string(), "size": manifest.len(),
        });
        self.manifests.insert(digest, manifest);
        let list = self.referrers.entry(image).or_default();
        list.push(entry);
        let index = json!({"schemaVersion": 2, "manifests": list}).to_string().into_bytes();
        self.tags.insert(format!("sha256-{}", image.hex()), index);
    }

    fn check(&mut self, what: &str) -> Result<(), Error> {
        self.calls += 1;
        if self.broken.iter().any(|beginning| what.starts_with(beginning)) {
            return Err(Error::Read { what: what.to_owned(), source: std::io::ErrorKind::TimedOut.into() });
        }
        Ok(())
    }
}

fn found(what: &str, bytes: Option<&Vec<u8>>) -> Result<Vec<u8>, Error> {
    bytes.cloned().ok_or_else(|| Error::NotFound { what: what.to_owned() })
}

impl Signatures for Registry {
    fn document(&mut self, pointer: &Pointer) -> Result<Document, Error> {
        let what = pointer.to_string();
        self.check(&what)?;
        let bytes = match pointer {
            Pointer::Tag(tag) => found(&what, self.tags.get(tag))?,
            Pointer::Digest(digest) => found(&what, self.manifests.get(digest))?,
        };
        Ok(Document { media_type: None, bytes })
    }

    fn referrers(&mut self, subject: &Digest) -> Result<Vec<u8>, Error> {
        self.check("referrers")?;
        match self.referrers.get(subject) {
            Some(list) if !self.old => {
                Ok(json!({"schemaVersion": 2, "manifests": list}).to_string().into_bytes())
            }
            None if !self.old => Ok(json!({"schemaVersion": 2, "manifests": []}).to_string().into_bytes()),
            _ => Err(Error::NotFound { what: "call".to_owned() }),
        }
    }

    fn blob(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let what = descriptor.digest.to_string();
        self.check(&what)?;
        found(&what, self.blobs.get(&descriptor.digest))
    }

    fn kept_by_registry(&mut self, _: &Digest) -> Result<Vec<Vec<u8>>, Error> {
        self.check("kept")?;
        Ok(self.kept.clone())
    }

    fn lookaside(&mut self, url: &str) -> Result<Vec<u8>, Error> {
        self.check(url)?;
        found(url, self.files.get(url))
    }

    fn key(&mut self, location: &str) -> Result<Vec<u8>, Error> {
        self.check(location)?;
        match self.withheld.iter().any(|beginning| location.starts_with(beginning)) {
            true => Err(Error::Source(Box::new(Withheld))),
            false => found(location, self.files.get(location)),
        }
    }
}

/// What a key broker says that refuses.
#[derive(Debug)]
struct Withheld;

impl std::fmt::Display for Withheld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the key broker's policy denies it")
    }
}

impl std::error::Error for Withheld {}

impl image_rs::SourceFault for Withheld {
    fn code(&self) -> &'static str {
        "KBS_DENIED_POLICY"
    }

    fn blame(&self) -> Blame {
        Blame::Denied
    }

    fn hint(&self) -> &str {
        "ask for it"
    }
}
