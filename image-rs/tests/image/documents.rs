//! Layouts and the documents in them, from the name to the configuration.

use std::{fs, os::unix::fs::symlink, path::Path};

use image_rs::{
    Compression, Error, Image, Platform, Pointer,
    manifest::{INDEX_TYPES, MANIFEST_TYPES},
    source::Layout,
};
use serde_json::{Value, json};

use crate::{archive::Archive, layout};

fn platform() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), variant: None }
}

fn resolve(image: &layout::Image) -> Result<Image, Error> {
    Image::resolve(&Layout::open(image.path())?, &Pointer::Tag("it".into()), &platform())
}

fn simple() -> layout::Image {
    layout::Image::of_layers(&[(Compression::Gzip, Archive::default().file("a", b"1").end())])
}

/// The descriptor that the index has for `it`.
fn entry(image: &layout::Image) -> Value {
    let index: Value = serde_json::from_slice(&fs::read(image.path().join("index.json")).unwrap()).unwrap();
    index["manifests"][0].clone()
}

fn edit(path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    edit(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_image_is_found_by_name_by_digest_and_alone() {
    let image = simple();
    let digest = entry(&image)["digest"].as_str().unwrap().to_owned();
    let resolved = resolve(&image).unwrap();
    assert_eq!(resolved.manifest_digest().to_string(), digest);
    assert_eq!((resolved.index_digest(), resolved.layers().len()), (None, 1));
    let source = Layout::open(image.path()).unwrap();
    for pointer in [source.only().unwrap(), Pointer::Digest(digest.parse().unwrap())] {
        let found = Image::resolve(&source, &pointer, &platform()).unwrap();
        assert_eq!(found.config_digest(), resolved.config_digest());
    }
    let other = entry(&simple());
    image.index(&[entry(&image), layout::named(&other, "other")]);
    let error = Layout::open(image.path()).unwrap().only().unwrap_err();
    assert_eq!(error.code(), "IMAGE_AMBIGUOUS");
    assert!(error.to_string().ends_with("it, other"), "{error}");
}

#[test]
fn the_manifest_of_this_platform_is_taken_from_an_index() {
    let image = simple();
    let mut chosen = entry(&image);
    chosen["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut other = chosen.clone();
    other["platform"]["architecture"] = json!("s390x");
    let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [other, chosen]});
    let descriptor = image.blob(INDEX_TYPES[0], index.to_string().as_bytes());
    image.index(&[layout::named(&descriptor, "it")]);
    let resolved = resolve(&image).unwrap();
    assert_eq!(resolved.index_digest().unwrap().to_string(), descriptor["digest"].as_str().unwrap());
    assert_eq!(resolved.manifest_digest().to_string(), chosen["digest"].as_str().unwrap());

    let nested = json!({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": [
        {"mediaType": MANIFEST_TYPES[0], "digest": descriptor["digest"], "size": descriptor["size"], "platform": chosen["platform"]},
    ]});
    let descriptor = image.blob(INDEX_TYPES[0], nested.to_string().as_bytes());
    image.index(&[layout::named(&descriptor, "it")]);
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_DOCUMENT_INVALID", "announced as something else");
}

#[test]
fn every_document_is_compared_with_its_name() {
    let image = simple();
    let manifest = entry(&image)["digest"].as_str().unwrap().to_owned();
    let document: Value = serde_json::from_slice(&fs::read(image.blob_path(&manifest)).unwrap()).unwrap();
    let config = image.blob_path(document["config"]["digest"].as_str().unwrap());
    edit(&config, |bytes| bytes[0] = b' ');
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_DIGEST_MISMATCH");
    edit(&config, |bytes| bytes.push(b' '));
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_LENGTH");
    edit(&config, |bytes| bytes.truncate(9));
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_LENGTH");
    fs::remove_file(&config).unwrap();
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_NOT_FOUND");
    symlink("/etc/hostname", &config).unwrap();
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_READ", "no link is followed inside a layout");

    let image = simple();
    edit(&image.blob_path(&manifest), |bytes| bytes.push(b' '));
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_DIGEST_MISMATCH", "also under a name");
}

#[test]
fn an_image_for_another_machine_is_refused_also_where_no_index_says_so() {
    let image = simple();
    let source = Layout::open(image.path()).unwrap();
    let pointer = Pointer::Tag("it".into());
    let error = Image::resolve(&source, &pointer, &"linux/s390x".parse().unwrap()).unwrap_err();
    assert_eq!(error.code(), "IMAGE_PLATFORM_MISSING");
    assert!(error.to_string().contains("linux/amd64"), "{error}");
}

#[test]
fn layers_and_their_digests_are_as_many() {
    for ids in [json!([]), json!([layout::sha256(b"").to_string(), layout::sha256(b"").to_string()])] {
        let image = layout::Image::empty();
        let blob = image.blob("application/vnd.oci.image.layer.v1.tar", b"");
        let manifest = image.manifest(&json!([blob]), &ids);
        image.index(&[layout::named(&manifest, "it")]);
        let error = resolve(&image).unwrap_err();
        assert!(error.to_string().contains("diff_ids"), "{error}");
    }
}

#[test]
fn folders_that_are_no_layouts_are_told() {
    let image = simple();
    let open = || Layout::open(image.path()).map(|_| ()).unwrap_err().code();
    assert_eq!(Layout::open(Path::new("/nowhere")).unwrap_err().code(), "IMAGE_NOT_FOUND");
    for bad in [r#"{"imageLayoutVersion":"2.0.0"}"#, "{}", "[]"] {
        fs::write(image.path().join("oci-layout"), bad).unwrap();
        assert_eq!(open(), "IMAGE_DOCUMENT_INVALID", "{bad}");
    }
    fs::remove_file(image.path().join("oci-layout")).unwrap();
    assert_eq!(open(), "IMAGE_NOT_FOUND");
    let image = simple();
    let unknown = Pointer::Tag("unknown".into());
    let error = Image::resolve(&Layout::open(image.path()).unwrap(), &unknown, &platform()).unwrap_err();
    assert_eq!(error.code(), "IMAGE_NOT_FOUND");
    let twice = [entry(&image), layout::named(&image.manifest(&json!([]), &json!([])), "it")];
    image.index(&twice);
    assert_eq!(resolve(&image).unwrap_err().code(), "IMAGE_AMBIGUOUS");
}
