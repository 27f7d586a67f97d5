//! The manifest of an artifact.
//!
//! Pure. As strict as for images ([`crate::manifest`]); what differs is that media types are free, and that titles decide where
//! bytes get to.

use std::collections::BTreeMap;

use cc_sealed::LayerEncryption;

use super::{Part, PartForm, Title};
use crate::{
    Compression, Descriptor, Digest, Error, Index,
    image::MAX_TOTAL,
    json,
    manifest::{self, Kind, WHAT},
};

/// Names the file (OCI image specification, annotations.md).
const TITLE: &str = "org.opencontainers.image.title";
/// Says that it is an archive to be unpacked, and names the digest of that before compression (ORAS).
const UNPACK: &str = "io.deis.oras.content.unpack";
const ARCHIVE_DIGEST: &str = "io.deis.oras.content.digest";
const ENCRYPTED: &str = "+encrypted";

/// What a manifest says.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) kind: String,
    pub(super) parts: Vec<Part>,
    pub(super) untitled: Vec<Digest>,
}

/// A document that a name or an index entry can stand for.
#[derive(Debug)]
pub(super) enum Top {
    Manifest(Document),
    Index(Index),
}

impl Top {
    /// Reads a manifest or an index; `announced` is the media type that came with it.
    pub(super) fn parse(announced: Option<&str>, bytes: &[u8]) -> Result<Self, Error> {
        let value = json::parse(WHAT, bytes)?;
        let document = match manifest::open(announced, &value)? {
            (Kind::Index, document) => return Index::read(&document).map(Self::Index),
            (Kind::Manifest, document) => document,
        };
        let kind = document.text("artifactType")?.filter(|kind| !kind.is_empty());
        let (config, layers) = manifest::read_descriptors(&document)?;
        if kind.is_none() && manifest::is_image_config(&config.media_type) {
            let why = "it is an image, and its layers are no files".to_owned();
            return Err(Error::Artifact { why });
        }
        if layers.iter().try_fold(0u64, |sum, d| sum.checked_add(d.size)).is_none_or(|sum| sum > MAX_TOTAL) {
            return Err(document.malformed("its layers are larger than any artifact"));
        }
        let kind = kind.unwrap_or(&config.media_type).chars().take(160).collect();
        let (mut parts, mut untitled) = (Vec::new(), Vec::new());
        for (number, layer) in layers.into_iter().enumerate() {
            let digest = layer.digest;
            match read_part(layer).map_err(|fault| fault.of_layer(number))? {
                Some(part) => parts.push(part),
                None => untitled.push(digest),
            }
        }
        if parts.is_empty() {
            let why = format!("none of its {} layers has a title, {TITLE}", untitled.len());
            return Err(Error::Artifact { why });
        }
        disjoint(&parts)?;
        Ok(Self::Manifest(Document { kind, parts, untitled }))
    }
}

enum Fault {
    Title { title: String, why: &'static str },
    Malformed(String),
}

impl Fault {
    fn of_layer(self, number: usize) -> Error {
        match self {
            Self::Title { title, why } => refused(&title, why.to_owned()),
            Self::Malformed(why) => json::malformed(WHAT, format!("layer {number}: {why}")),
        }
    }
}

fn refused(title: &str, why: String) -> Error {
    Error::Title { title: title.chars().take(100).collect(), why }
}

/// A layer as a part; `None` if it has no title.
fn read_part(descriptor: Descriptor) -> Result<Option<Part>, Fault> {
    let Some(title) = descriptor.annotations.get(TITLE) else { return Ok(None) };
    let bad_title = |why| Fault::Title { title: title.clone(), why };
    let title = Title::parse(title).map_err(bad_title)?;
    let (plain_type, encrypted) = match descriptor.media_type.strip_suffix(ENCRYPTED) {
        Some(plain) if plain.ends_with(ENCRYPTED) => {
            return Err(Fault::Malformed("it is encrypted twice".to_owned()));
        }
        Some(plain) => (plain, true),
        None => (descriptor.media_type.as_str(), false),
    };
    let encryption = encrypted.then(|| LayerEncryption::parse(&descriptor.annotations)).transpose();
    let encryption = encryption.map_err(|error| Fault::Malformed(error.to_string()))?;
    let form = read_form(plain_type, &descriptor.annotations)?;
    if form == PartForm::File && title.as_str().is_empty() {
        return Err(bad_title("only a directory can stand for the folder itself"));
    }
    Ok(Some(Part { title, encryption, form, descriptor }))
}

fn read_form(media_type: &str, annotations: &BTreeMap<String, String>) -> Result<PartForm, Fault> {
    match annotations.get(UNPACK).map(String::as_str) {
        None | Some("false") => return Ok(PartForm::File),
        Some("true") => {}
        Some(_) => return Err(Fault::Malformed(format!("{UNPACK} is neither true nor false"))),
    }
    // ORAS compresses directories by gzip whatever it calls them.
    let compression = match media_type {
        zstd if zstd.ends_with("+zstd") => Compression::Zstd,
        plain if plain.ends_with(".tar") || plain.ends_with("+tar") => Compression::None,
        _ => Compression::Gzip,
    };
    let digest = annotations.get(ARCHIVE_DIGEST).map(|text| text.parse::<Digest>()).transpose();
    let digest = digest.map_err(|error| Fault::Malformed(format!("{ARCHIVE_DIGEST}: {error}")))?;
    Ok(PartForm::Archive { compression, digest })
}

/// Refuses parts of which one would be written into another.
fn disjoint(parts: &[Part]) -> Result<(), Error> {
    let mut sorted: Vec<&Title> = parts.iter().map(|part| &part.title).collect();
    // What lies in a directory comes after it, but perhaps not at once: "a", "a-b", "a/b".
    sorted.sort_by(|one, other| one.as_str().split('/').cmp(other.as_str().split('/')));
    let pairs = sorted.iter().zip(sorted.iter().skip(1));
    match pairs.into_iter().find(|(one, other)| one.meets(other)) {
        None => Ok(()),
        Some((one, other)) if one == other => Err(refused(&one.to_string(), "two layers have it".to_owned())),
        Some((one, other)) => Err(refused(
            &other.to_string(),
            format!("it lies in {:?}, which is another layer", one.to_string()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::{INDEX_TYPES, MANIFEST_TYPES};

    const EMPTY: &str = "application/vnd.oci.empty.v1+json";

    fn layer(annotations: Value) -> Value {
        json!({
            "mediaType": "application/vnd.example.weights", "digest": format!("sha256:{}", "11".repeat(32)), "size": 3,
            "annotations": annotations,
        })
    }

    fn titled(titles: &[&str]) -> Vec<Value> {
        titles.iter().map(|title| layer(json!({TITLE: title}))).collect()
    }

    fn read(config: &str, layers: &[Value]) -> Result<Document, Error> {
        let mut of_config = layer(json!({}));
        of_config["mediaType"] = json!(config);
        let value = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "config": of_config, "layers": layers,
        });
        match Top::parse(None, value.to_string().as_bytes())? {
            Top::Manifest(document) => Ok(document),
            Top::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn layers_with_titles_are_parts_and_others_are_told() {
        let layers = [titled(&["model/a.bin", "b"]), vec![layer(json!({}))]].concat();
        let document = read(EMPTY, &layers).unwrap();
        assert_eq!((document.kind.as_str(), document.parts.len(), document.untitled.len()), (EMPTY, 2, 1));
        assert_eq!(document.parts[0].title.as_str(), "model/a.bin");
        assert_eq!(document.parts[0].form, PartForm::File);
    }

    #[test]
    fn images_and_empty_manifests_are_no_artifacts() {
        for (config, layers) in [
            ("application/vnd.oci.image.config.v1+json", titled(&["a"])),
            ("application/vnd.docker.container.image.v1+json", titled(&["a"])),
            (EMPTY, vec![]),
            (EMPTY, vec![layer(json!({}))]),
        ] {
            assert_eq!(read(config, &layers).unwrap_err().code(), "ARTIFACT_INVALID");
        }
    }

    #[test]
    fn parts_do_not_lie_in_each_other() {
        for titles in [
            &["../a"][..],
            &["/a"],
            &["a", "a"],
            &["a", "a/b"],
            &["a/b", "a-b", "a"],
            &["a/b/c", "x", "a/b"],
            &["."],
        ] {
            let error = read(EMPTY, &titled(titles)).unwrap_err();
            assert_eq!(error.code(), "ARTIFACT_TITLE_REFUSED", "{titles:?}: {error}");
        }
        assert!(read(EMPTY, &titled(&["a/b", "a-b", "a/c", "ab"])).is_ok());
        let whole = layer(json!({TITLE: ".", UNPACK: "true"}));
        assert!(read(EMPTY, std::slice::from_ref(&whole)).is_ok());
        assert_eq!(
            read(EMPTY, &[vec![whole], titled(&["a"])].concat()).unwrap_err().code(),
            "ARTIFACT_TITLE_REFUSED"
        );
    }

    #[test]
    fn archives_are_told_by_their_annotation() {
        let form = |media_type: &str, more: Value| {
            let mut layer = layer(json!({TITLE: "d", UNPACK: "true"}));
            layer["mediaType"] = json!(media_type);
            for (name, value) in more.as_object().unwrap() {
                layer["annotations"][name] = value.clone();
            }
            read(EMPTY, &[layer]).map(|document| document.parts[0].form)
        };
        for (media_type, compression) in [
            ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
            ("application/x-anything", Compression::Gzip),
            ("application/vnd.oci.image.layer.v1.tar", Compression::None),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
        ] {
            let expected = PartForm::Archive { compression, digest: None };
            assert_eq!(form(media_type, json!({})).unwrap(), expected, "{media_type}");
        }
        for bad in [json!({UNPACK: "yes"}), json!({ARCHIVE_DIGEST: "sha256:1"})] {
            assert_eq!(form("x", bad).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID");
        }
        for bad in ["x+encrypted", "x+encrypted+encrypted"] {
            assert_eq!(form(bad, json!({})).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID", "no wrapped key");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), title in "\\PC{0,20}") {
            let _ = Top::parse(None, &bytes);
            let _ = Top::parse(Some(INDEX_TYPES[0]), &bytes);
            let _ = read(EMPTY, &titled(&[&title, "a"]));
        }

        #[test]
        fn parts_that_pass_never_meet(titles in proptest::collection::vec("[ab-](/[ab-]){0,2}", 1..6)) {
            let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
            let any_meet = titles.iter().enumerate().any(|(i, one)| {
                let one = Title::parse(one).unwrap();
                titles[i + 1..].iter().any(|other| one.meets(&Title::parse(other).unwrap()))
            });
            prop_assert_eq!(read(EMPTY, &titled(&titles)).is_err(), any_meet);
        }
    }
}
