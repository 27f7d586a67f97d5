//! Where signatures are found: beside the image in its registry, or in a folder of signatures apart from it.
//!
//! Three places are known. The tag `sha256-<digest>.sig` names a manifest whose layers are signed payloads (cosign, and
//! containers-image's "sigstore attachments"). The referrers of a manifest (OCI distribution specification 1.1, "Listing
//! Referrers", or its tag schema `sha256-<digest>`) are manifests whose layers are Sigstore bundles. A lookaside folder
//! (containers-registries.d(5)) has OpenPGP messages, and some registries keep them.
//!
//! Fetching is the caller's ([`Signatures`]); what is fetched is not trusted: lengths and digests are compared here, and
//! the number of signatures is bounded. Nothing found here is proved to be a signature.

use std::{collections::BTreeMap, fmt};

use super::{Cause, Rejection, payload};
use crate::{
    Descriptor, Digest, Document, Error, Pointer, descriptor,
    json::{self, Object},
    source::{MAX_DOCUMENT, check_digest},
};

/// Most signatures of one kind that are looked at, the newest: tools append theirs.
const MAX_SIGNATURES: usize = 64;
/// Most entries of a list of signatures or referrers.
const MAX_LISTED: usize = 1000;
/// Media type of a payload that a signature in an annotation is over.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Beginning of the media types of bundles.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
const MANIFEST_MEMBERS: [&str; 5] = ["schemaVersion", "mediaType", "layers", "manifests", "annotations"];
const REFERRER_MEMBERS: [&str; 6] =
    ["mediaType", "digest", "size", "annotations", "platform", "artifactType"];

/// What a decision needs from outside. Calls block. An error with the code `IMAGE_NOT_FOUND` means that there is no
/// such thing; every other one, that it could not be had.
pub trait Signatures: fmt::Debug {
    /// The manifest or index that `pointer` names in the image's repository, at most 4 MiB.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND`, or what the transport says.
    fn document(&mut self, pointer: &Pointer) -> Result<Document, Error>;

    /// The index of what refers to the manifest `subject`, at most 4 MiB, as
    /// `GET /v2/<name>/referrers/<digest>` answers it.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND` if there is no such list, or the registry has no such call: then the tag schema is tried.
    fn referrers(&mut self, subject: &Digest) -> Result<Vec<u8>, Error>;

    /// The blob that `descriptor` names in the image's repository; more bytes than its size need not be read.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND`, or what the transport says.
    fn blob(&mut self, descriptor: &Descriptor) -> Result<Vec<u8>, Error>;

    /// The file under `url`, which begins with `file://`, `http://` or `https://`, at most 1 MiB.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND`, or what the transport says.
    fn lookaside(&mut self, url: &str) -> Result<Vec<u8>, Error>;

    /// OpenPGP messages that the registry itself keeps of the manifest `image`; none from one that keeps no such thing.
    ///
    /// # Errors
    /// What the transport says.
    fn kept_by_registry(&mut self, image: &Digest) -> Result<Vec<Vec<u8>>, Error> {
        let _ = image;
        Ok(Vec::new())
    }

    /// The key, certificate or trusted root at `location`, a path or a resource URI of the policy, at most 4 MiB.
    ///
    /// # Errors
    /// `IMAGE_NOT_FOUND`, or what the source says.
    fn key(&mut self, location: &str) -> Result<Vec<u8>, Error>;
}

/// A payload and what was found beside it.
#[derive(Debug, Clone)]
pub(super) struct Attached {
    pub(super) payload: Vec<u8>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// What each signature lacks that was looked at, and which could not be had.
pub(super) type Rejections = Vec<Rejection>;

/// Shows the payloads attached to `image` under its signature tag to `accept`, one by one, until it says who signed.
pub(super) fn attached(
    signatures: &mut dyn Signatures,
    image: &Digest,
    rejections: &mut Rejections,
    accept: impl Fn(&Attached) -> Result<String, Rejection>,
) -> Option<String> {
    let tag = format!("{}-{}.sig", image.algorithm().as_str(), image.hex());
    let document = found(&tag, signatures.document(&Pointer::Tag(tag.clone())), rejections)?;
    let layers = layers(&document.bytes, |media_type| media_type == SIMPLE_SIGNING);
    let layers = newest(well_formed(&tag, layers, rejections)?, &tag, rejections);
    for (number, layer) in layers {
        let what = format!("signature {number} of {tag}");
        let Some(payload) = blob(signatures, &layer, payload::MAX_LEN as u64, &what, rejections) else {
            continue;
        };
        match accept(&Attached { payload, annotations: layer.annotations }) {
            Ok(by) => return Some(by),
            Err(rejection) => rejections.push(rejection.about(what)),
        }
    }
    None
}

/// Shows the bundles that refer to `image` to `accept`, one by one, until it says who signed.
pub(super) fn referring(
    signatures: &mut dyn Signatures,
    image: &Digest,
    rejections: &mut Rejections,
    accept: impl Fn(&[u8]) -> Result<String, Rejection>,
) -> Option<String> {
    let what = format!("referrers of {image}");
    let tag = format!("{}-{}", image.algorithm().as_str(), image.hex());
    let list = match signatures.referrers(image) {
        Err(Error::NotFound { .. }) => signatures.document(&Pointer::Tag(tag)).map(|document| document.bytes),
        answer => answer,
    };
    let list = found(&what, list, rejections)?;
    let mut looked_at = 0;
    let listed = newest(well_formed(&what, referrers(&list), rejections)?, &what, rejections);
    for (_, referrer) in listed {
        let what = format!("referrer {}", referrer.digest);
        let document = signatures.document(&Pointer::Digest(referrer.digest));
        let Some(document) = found(&what, document, rejections) else { continue };
        let layers = check_digest(&what, &document.bytes, referrer.digest)
            .and_then(|()| layers(&document.bytes, |media_type| media_type.starts_with(BUNDLE)));
        let layers = well_formed(&what, layers, rejections).unwrap_or_default();
        for (_, layer) in newest(layers, &what, rejections) {
            let what = format!("bundle {}", layer.digest);
            looked_at += 1;
            if looked_at > MAX_SIGNATURES {
                let why = format!("there are more than {MAX_SIGNATURES} bundles");
                rejections.push(Rejection::new(Cause::Malformed, why));
                return None;
            }
            let most = super::sigstore::MAX_LEN as u64;
            let Some(bundle) = blob(signatures, &layer, most, &what, rejections) else { continue };
            match accept(&bundle) {
                Ok(by) => return Some(by),
                Err(rejection) => rejections.push(rejection.about(what)),
            }
        }
    }
    None
}

/// Shows the OpenPGP messages in `folder`, a URL without a slash at its end, to `accept`, one by one, until it says who
/// signed.
pub(super) fn lookaside(
    signatures: &mut dyn Signatures,
    folder: &str,
    rejections: &mut Rejections,
    accept: impl Fn(&[u8]) -> Result<String, Rejection>,
) -> Option<String> {
    for number in 1..=MAX_SIGNATURES {
        let url = format!("{folder}/signature-{number}");
        let message = found(&url, signatures.lookaside(&url), rejections)?;
        match accept(&message) {
            Ok(by) => return Some(by),
            Err(rejection) => rejections.push(rejection.about(url)),
        }
    }
    None
}

/// Shows the OpenPGP messages that the registry keeps of `image` to `accept`, one by one, until it says who signed.
pub(super) fn kept_by_registry(
    signatures: &mut dyn Signatures,
    image: &Digest,
    rejections: &mut Rejections,
    accept: impl Fn(&[u8]) -> Result<String, Rejection>,
) -> Option<String> {
    let kept = found("signatures kept by the registry", signatures.kept_by_registry(image), rejections)?;
    for (i, message) in kept.iter().take(MAX_SIGNATURES).enumerate() {
        match accept(message) {
            Ok(by) => return Some(by),
            Err(rejection) => {
                rejections.push(rejection.about(format!("signature {} of the registry", i + 1)))
            }
        }
    }
    None
}

/// The last of a list, as many as are looked at, each with its number from 1 on. That there are more is noted.
fn newest(
    listed: Vec<Descriptor>,
    what: &str,
    rejections: &mut Rejections,
) -> impl Iterator<Item = (usize, Descriptor)> + use<> {
    if listed.len() > MAX_SIGNATURES {
        let why = format!("of {} the last {MAX_SIGNATURES} are looked at", listed.len());
        rejections.push(Rejection::new(Cause::Malformed, why).about(what));
    }
    let passed_over = listed.len().saturating_sub(MAX_SIGNATURES);
    listed.into_iter().enumerate().skip(passed_over).map(|(i, one)| (i + 1, one))
}

/// The value, or nothing where there is none, or where the failure to have it was noted.
fn found<T>(what: &str, answer: Result<T, Error>, rejections: &mut Rejections) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(Error::NotFound { .. }) => None,
        Err(error) => {
            rejections.push(Rejection::new(Cause::Unavailable, error.to_string()).about(what));
            None
        }
    }
}

/// The value, or nothing where it is malformed, which was noted.
fn well_formed<T>(what: &str, value: Result<T, Error>, rejections: &mut Rejections) -> Option<T> {
    value
        .map_err(|error| rejections.push(Rejection::new(Cause::Malformed, error.to_string()).about(what)))
        .ok()
}

fn blob(
    signatures: &mut dyn Signatures,
    descriptor: &Descriptor,
    most: u64,
    what: &str,
    rejections: &mut Rejections,
) -> Option<Vec<u8>> {
    if descriptor.size > most {
        let why = format!("it has {} bytes, more than {most}", descriptor.size);
        rejections.push(Rejection::new(Cause::Malformed, why).about(what));
        return None;
    }
    let bytes = match signatures.blob(descriptor) {
        Ok(bytes) => bytes,
        // The manifest promises it, so its absence is no answer to "is there a signature".
        Err(error) => {
            rejections.push(Rejection::new(Cause::Unavailable, error.to_string()).about(what));
            return None;
        }
    };
    let length = bytes.len() as u64;
    let checked = if length == descriptor.size {
        check_digest(what, &bytes, descriptor.digest)
    } else {
        let (what, expected) = (what.to_owned(), descriptor.size);
        Err(Error::Length { what, expected, actual: length.to_string() })
    };
    well_formed(what, checked, rejections).map(|()| bytes)
}

/// The layers of a manifest whose media type is one `wanted`; other layers are left alone.
pub(super) fn layers(manifest: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Vec<Descriptor>, Error> {
    const WHAT: &str = "manifest of signatures";
    let value = bounded(WHAT, manifest)?;
    let document = Object::new(WHAT, &value, &MANIFEST_MEMBERS)?;
    if document.has("manifests") {
        return Err(document.malformed("it is an index"));
    }
    let layers = document.objects("layers", &descriptor::MEMBERS, MAX_LISTED)?;
    let layers = layers.ok_or_else(|| document.malformed("layers is missing"))?;
    let layers: Vec<Descriptor> = layers.iter().map(Descriptor::read).collect::<Result<_, _>>()?;
    Ok(layers.into_iter().filter(|layer| wanted(&layer.media_type)).collect())
}

/// The entries of a list of referrers that may hold bundles.
pub(super) fn referrers(list: &[u8]) -> Result<Vec<Descriptor>, Error> {
    const WHAT: &str = "list of referrers";
    let value = bounded(WHAT, list)?;
    let document = Object::new(WHAT, &value, &MANIFEST_MEMBERS)?;
    if document.has("layers") {
        return Err(document.malformed("it is a manifest"));
    }
    let entries = document.objects("manifests", &REFERRER_MEMBERS, MAX_LISTED)?;
    let entries = entries.ok_or_else(|| document.malformed("manifests is missing"))?;
    let mut bundles = Vec::new();
    for entry in &entries {
        // Lists kept by the tag schema may lack the type; then the manifest's layers tell.
        if entry.text("artifactType")?.is_none_or(|kind| kind.starts_with(BUNDLE)) {
            bundles.push(Descriptor::read(entry)?);
        }
    }
    Ok(bundles)
}

fn bounded(what: &str, bytes: &[u8]) -> Result<serde_json::Value, Error> {
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(json::malformed(what, format!("it has more than {MAX_DOCUMENT} bytes")));
    }
    json::parse(what, bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "11".repeat(32)), "size": 3})
    }

    #[test]
    fn only_layers_of_the_kind_count() {
        let manifest = json!({
            "schemaVersion": 2, "config": descriptor("x"),
            "layers": [descriptor(SIMPLE_SIGNING), descriptor("application/other"), descriptor(SIMPLE_SIGNING)],
        });
        let read = |value: &Value| layers(value.to_string().as_bytes(), |kind| kind == SIMPLE_SIGNING);
        assert_eq!(read(&manifest).unwrap().len(), 2);
        for edit in [
            (|m: &mut Value| m["manifests"] = json!([])) as fn(&mut Value),
            |m| m["layers"] = json!({}),
            |m| m["Layers"] = json!([]),
            |m| m["layers"] = json!(vec![descriptor(SIMPLE_SIGNING); MAX_LISTED + 1]),
            |m| m["layers"][0]["digest"] = json!("sha256:0"),
        ] {
            let mut manifest = manifest.clone();
            edit(&mut manifest);
            assert!(read(&manifest).is_err(), "{manifest}");
        }
    }

    #[test]
    fn the_newest_of_many_are_looked_at() {
        let list = |length| {
            vec![
                Descriptor::read(&Object::new("x", &descriptor("y"), &descriptor::MEMBERS).unwrap()).unwrap();
                length
            ]
        };
        for (length, expected, notes) in [(3, vec![1, 2, 3], 0), (200, (137..=200).collect(), 1)] {
            let mut rejections = Vec::new();
            let seen: Vec<_> = newest(list(length), "x", &mut rejections).map(|(number, _)| number).collect();
            assert_eq!((seen, rejections.len()), (expected, notes));
        }
    }

    #[test]
    fn referrers_are_chosen_by_their_type() {
        let mut bundle = descriptor("application/vnd.oci.image.manifest.v1+json");
        let untyped = bundle.clone();
        let mut other = bundle.clone();
        bundle["artifactType"] = json!("application/vnd.dev.sigstore.bundle.v0.3+json");
        other["artifactType"] = json!("application/spdx+json");
        let list = |manifests: Vec<Value>| json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        assert_eq!(referrers(list(vec![bundle.clone(), other, untyped]).as_bytes()).unwrap().len(), 2);
        assert!(referrers(list(vec![bundle; MAX_LISTED + 1]).as_bytes()).is_err());
        assert!(referrers(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = layers(&bytes, |_| true);
            let _ = referrers(&bytes);
        }
    }
}
