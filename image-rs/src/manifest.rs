//! Image manifests and indexes (OCI image specification, manifest.md and image-index.md; Docker image manifest version 2,
//! schema 2, and its manifest list).
//!
//! Strict where two readers could see two documents: a document has the members of one kind only, its own `mediaType`
//! agrees with the one it was announced by, member names are unique and in the right case.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{
    Descriptor, Error, Platform, Storage, descriptor,
    json::{self, Object},
};

/// Media types of manifests, the preferred one first.
pub const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of indexes, the preferred one first.
pub const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Most layers of an image; overlay file systems take no more than 500.
const MAX_LAYERS: usize = 500;
/// Most entries of an index.
const MAX_ENTRIES: usize = 1000;
const MEMBERS: [&str; 7] =
    ["schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "fsLayers"];
pub(crate) const WHAT: &str = "image manifest";

/// Configuration and layers of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names the image configuration.
    pub config: Descriptor,
    /// Names the layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// Names the manifests.
    pub manifests: Vec<Descriptor>,
}

/// A document that a name or an index entry can stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Top {
    /// One image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

impl Top {
    /// Reads a manifest or an index.
    ///
    /// `announced` is the media type that came with it: from a descriptor, or a `Content-Type` header. Without one the
    /// document must name its own.
    ///
    /// # Errors
    /// `IMAGE_DOCUMENT_INVALID`, or `IMAGE_MEDIA_TYPE` for a document of another kind.
    pub fn parse(announced: Option<&str>, bytes: &[u8]) -> Result<Self, Error> {
        let value = json::parse(WHAT, bytes)?;
        match open(announced, &value)? {
            (Kind::Manifest, document) => read_manifest(&document).map(Self::Manifest),
            (Kind::Index, document) => Index::read(&document).map(Self::Index),
        }
    }
}

/// What a document with `schemaVersion` 2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Index,
}

/// Finds out which kind of document `value` is, announced as in [`Top::parse`].
pub(crate) fn open<'a>(announced: Option<&str>, value: &'a Value) -> Result<(Kind, Object<'a>), Error> {
    let document = Object::new(WHAT, value, &MEMBERS)?;
    let own = document.text("mediaType")?;
    let media_type = match (announced, own) {
        (Some(announced), Some(own)) if announced != own => {
            return Err(document.malformed(format!("it says {own:?} and was announced as {announced:?}")));
        }
        (Some(media_type), _) | (None, Some(media_type)) => media_type,
        (None, None) => return Err(document.malformed("nothing says which kind of document it is")),
    };
    let kinds = ["layers", "manifests", "fsLayers"];
    if kinds.iter().filter(|name| document.has(name)).count() > 1 {
        return Err(document.malformed("it is a manifest and an index at once"));
    }
    let kind = match media_type {
        known if MANIFEST_TYPES.contains(&known) => Kind::Manifest,
        known if INDEX_TYPES.contains(&known) => Kind::Index,
        other => return Err(media_type_of(WHAT.to_owned(), other)),
    };
    match document.required_number("schemaVersion")? {
        2 => Ok((kind, document)),
        other => Err(document.malformed(format!("schemaVersion is {other} instead of 2"))),
    }
}

fn media_type_of(what: String, media_type: &str) -> Error {
    Error::MediaType { what, media_type: media_type.chars().take(160).collect() }
}

/// The configuration and the layers that a manifest names, whatever they are.
pub(crate) fn read_descriptors(document: &Object<'_>) -> Result<(Descriptor, Vec<Descriptor>), Error> {
    let config = document.object("config", &descriptor::MEMBERS)?;
    let config = config.ok_or_else(|| document.malformed("config is missing"))?;
    let layers = document.objects("layers", &descriptor::MEMBERS, MAX_LAYERS)?;
    let layers = layers.ok_or_else(|| document.malformed("layers is missing"))?;
    let layers = layers.iter().map(Descriptor::read).collect::<Result<_, _>>()?;
    Ok((Descriptor::read(&config)?, layers))
}

/// Whether a manifest with a configuration of this type is an image's.
pub(crate) fn is_image_config(media_type: &str) -> bool {
    CONFIG_TYPES.contains(&media_type)
}

fn read_manifest(document: &Object<'_>) -> Result<Manifest, Error> {
    let (config, layers) = read_descriptors(document)?;
    if !is_image_config(&config.media_type) {
        return Err(media_type_of("image configuration".to_owned(), &config.media_type));
    }
    for (i, layer) in layers.iter().enumerate() {
        if Storage::of_media_type(&layer.media_type).is_none() {
            return Err(media_type_of(format!("layer {i}"), &layer.media_type));
        }
    }
    Ok(Manifest { config, layers })
}

impl Index {
    /// Reads an index whose kind is known already, such as the `index.json` of an image layout.
    pub(crate) fn read(document: &Object<'_>) -> Result<Self, Error> {
        let manifests = document.objects("manifests", &descriptor::MEMBERS, MAX_ENTRIES)?;
        let manifests = manifests.ok_or_else(|| document.malformed("manifests is missing"))?;
        let manifests = manifests.iter().map(Descriptor::read).collect::<Result<_, _>>()?;
        Ok(Self { manifests })
    }

    /// The first manifest that is made for `platform`.
    ///
    /// # Errors
    /// `IMAGE_PLATFORM_MISSING` names what there is.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor, Error> {
        let is_manifest = |d: &&Descriptor| MANIFEST_TYPES.contains(&d.media_type.as_str());
        let fits = |d: &&Descriptor| d.platform.as_ref().is_some_and(|offered| platform.runs(offered));
        self.manifests.iter().filter(is_manifest).find(fits).ok_or_else(|| {
            let offered: BTreeSet<String> =
                self.manifests.iter().filter_map(|d| d.platform.as_ref()).map(Platform::to_string).collect();
            let offered: Vec<String> = offered.into_iter().take(20).collect();
            let offered = if offered.is_empty() { "nothing named".to_owned() } else { offered.join(", ") };
            Error::NoPlatform { wanted: platform.to_string(), offered: offered.escape_debug().to_string() }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": format!("sha256:{}", "11".repeat(32)), "size": 3})
    }

    fn manifest() -> Value {
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPES[0],
            "config": descriptor(CONFIG_TYPES[0]),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
            "annotations": {"a": "b"}, "unknown": [1],
        })
    }

    fn entry(os: &str, architecture: &str, variant: Option<&str>) -> Value {
        let mut entry = descriptor(MANIFEST_TYPES[0]);
        entry["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
        entry
    }

    fn parse(announced: Option<&str>, value: &Value) -> Result<Top, Error> {
        Top::parse(announced, value.to_string().as_bytes())
    }

    fn edited(edit: impl FnOnce(&mut Value)) -> Result<Top, Error> {
        let mut value = manifest();
        edit(&mut value);
        parse(None, &value)
    }

    #[test]
    fn a_manifest_names_configuration_and_layers() {
        let Top::Manifest(manifest) = parse(Some(MANIFEST_TYPES[0]), &manifest()).unwrap() else { panic!() };
        assert_eq!((manifest.config.size, manifest.layers.len()), (3, 1));
        assert!(edited(|m| m["layers"] = json!([])).is_ok());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        let docker = MANIFEST_TYPES[1];
        assert_eq!(parse(Some(docker), &manifest()).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID");
        for edit in [
            (|m: &mut Value| m["manifests"] = json!([])) as fn(&mut Value),
            |m| m["Layers"] = json!([]),
            |m| m["layers"][0]["Digest"] = json!("x"),
            |m| m["config"]["DIGEST"] = json!("x"),
            |m| m["fsLayers"] = json!([]),
            |m| m["schemaVersion"] = json!(1),
            |m| m["schemaVersion"] = json!("2"),
            |m| m["schemaVersion"] = Value::Null,
            |m| m["mediaType"] = Value::Null,
            |m| m["config"] = Value::Null,
            |m| m["layers"] = Value::Null,
            |m| m["layers"][0]["size"] = json!(-1),
            |m| m["layers"][0]["size"] = json!(1.5),
            |m| m["layers"][0]["size"] = json!(u64::MAX),
            |m| m["layers"][0]["digest"] = json!("sha256:1"),
            |m| m["layers"][0]["annotations"] = json!({"a": 1}),
            |m| {
                m["layers"] =
                    json!(vec![descriptor("application/vnd.oci.image.layer.v1.tar"); MAX_LAYERS + 1])
            },
        ] {
            let error = edited(edit).unwrap_err();
            assert_eq!(error.code(), "IMAGE_DOCUMENT_INVALID", "{error}");
        }
        let twice =
            manifest().to_string().replacen("\"schemaVersion\"", "\"layers\":[],\"schemaVersion\"", 1);
        assert_eq!(Top::parse(None, twice.as_bytes()).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID");
    }

    #[test]
    fn other_kinds_are_named() {
        for edit in [
            (|m: &mut Value| m["mediaType"] = json!("application/vnd.docker.distribution.manifest.v1+json"))
                as fn(&mut Value),
            |m| m["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json"),
            |m| m["layers"][0]["mediaType"] = json!("application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
        ] {
            let error = edited(edit).unwrap_err();
            assert_eq!(error.code(), "IMAGE_MEDIA_TYPE");
        }
    }

    #[test]
    fn the_machines_platform_is_chosen() {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [
            descriptor(MANIFEST_TYPES[0]), entry("unknown", "unknown", None), entry("linux", "amd64", Some("v3")),
            entry("linux", "arm64", Some("v8")), entry("linux", "amd64", None),
        ]});
        let Top::Index(index) = parse(None, &index).unwrap() else { panic!() };
        let machine = |architecture: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: None,
        };
        assert_eq!(index.choose(&machine("amd64")).unwrap(), &index.manifests[4]);
        assert_eq!(index.choose(&machine("arm64")).unwrap(), &index.manifests[3]);
        let error = index.choose(&machine("s390x")).unwrap_err();
        assert_eq!(error.code(), "IMAGE_PLATFORM_MISSING");
        assert!(error.to_string().contains("linux/arm64/v8"), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Top::parse(None, &bytes);
            let _ = Top::parse(Some(INDEX_TYPES[0]), &bytes);
        }
    }
}
