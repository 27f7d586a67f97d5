//! Artifacts: what gets into the folder, and what must not.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use image_rs::{
    Artifact, ArtifactOrder, Compression, Error, LayerKeys, Limits, Observer, Pointer, Pulled, Silent,
    Target,
    layer::Options,
    manifest::MANIFEST_TYPES,
    policy::{Beside, Policy, Subject},
    pull_artifact,
    source::Layout,
};
use serde_json::{Value, json};

use crate::{
    archive::{Archive, Header},
    encrypted::{
        Open,
        writer::{Layer, in_clear},
    },
    layout::{self, named, sha256},
    rootfs::AMD64,
};

const TITLE: &str = "org.opencontainers.image.title";
const UNPACK: &str = "io.deis.oras.content.unpack";
pub const WEIGHTS: &str = "application/vnd.example.weights";
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout with one artifact of these layers, called `it`.
pub fn artifact(layers: impl FnOnce(&layout::Image) -> Vec<Value>) -> layout::Image {
    let image = layout::Image::empty();
    let layers = layers(&image);
    let config = image.blob("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "artifactType": "application/vnd.example.model",
        "config": config, "layers": layers,
    });
    let manifest = image.blob(MANIFEST_TYPES[0], manifest.to_string().as_bytes());
    image.index(&[named(&manifest, "it")]);
    image
}

pub fn titled(mut descriptor: Value, title: &str) -> Value {
    descriptor["annotations"][TITLE] = json!(title);
    descriptor
}

pub fn packed(descriptor: Value, title: &str) -> Value {
    let mut descriptor = titled(descriptor, title);
    descriptor["annotations"][UNPACK] = json!("true");
    descriptor
}

/// An artifact of one archive, which is the directory `d`.
fn of_archive(archive: Archive) -> layout::Image {
    artifact(|image| vec![packed(image.blob(TAR, &archive.end()), "d")])
}

fn pull(image: &layout::Image, folder: &Path) -> Result<Pulled, Error> {
    pull_by(image, folder, Arc::new(image_rs::NoKeys), &Options::default(), &Silent)
}

fn pull_by(
    image: &layout::Image,
    folder: &Path,
    keys: Arc<dyn LayerKeys>,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Pulled, Error> {
    let source = Layout::open(image.path())?;
    let artifact = Artifact::resolve(&source, &Pointer::Tag("it".into()), &AMD64())?;
    let subject = Subject { reference: None, manifest: artifact.manifest_digest(), index: None };
    let mut signatures = Beside::new(&source, |what| Err(Error::NotFound { what: what.to_owned() }));
    let admitted = Policy::admit_all().decide(&subject, SystemTime::now(), &mut signatures).admitted()?;
    let order = ArtifactOrder { source: &source, artifact: &artifact, admitted: &admitted, keys };
    let at = File::open(folder).unwrap();
    pull_artifact(&order, &Target::new(at.as_fd(), OsStr::new("out")), options, observer)
}

/// Refused with this code, and nothing is left.
#[track_caller]
fn refused(image: &layout::Image, options: &Options, code: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let error = pull_by(image, folder.path(), Arc::new(Open), options, &Silent).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{error}");
    error.to_string()
}

#[test]
fn files_and_directories_get_to_where_their_titles_say() {
    let tree = Archive::default()
        .directory("tok/")
        .member(Header::new(b"tok/run", b'0', 3).mode(0o4755).owner(12, 34), b"run")
        .file("tok/deep/vocab.txt", b"vocab")
        .symlink("tok/latest", "deep/vocab.txt")
        .end();
    let zipped = layout::compress(Compression::Gzip, &tree).0;
    let image = artifact(|image| {
        let mut archive = packed(image.blob("application/vnd.example.tokenizer", &zipped), "tok");
        archive["annotations"]["io.deis.oras.content.digest"] = json!(sha256(&tree).to_string());
        vec![
            titled(image.blob(WEIGHTS, &[7; 300_000]), "model/weights.bin"),
            titled(image.blob(WEIGHTS, b""), "model/empty"),
            archive,
            image.blob(WEIGHTS, b"nameless"),
        ]
    });
    let folder = tempfile::tempdir().unwrap();
    let pulled = pull(&image, folder.path()).unwrap();
    assert_eq!(pulled.entries, 2 + 4);
    let at = |path: &str| folder.path().join("out").join(path);
    assert!(fs::read(at("model/weights.bin")).unwrap() == [7; 300_000]);
    assert_eq!(fs::read(at("model/empty")).unwrap(), b"");
    assert_eq!(fs::read(at("tok/latest")).unwrap(), b"vocab");
    let run = fs::metadata(at("tok/run")).unwrap();
    assert_eq!((run.permissions().mode() & 0o7777, run.uid()), (0o755, rustix::process::geteuid().as_raw()));
    assert_eq!(fs::metadata(at("")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(at("model/weights.bin")).unwrap().permissions().mode() & 0o7777, 0o644);
    assert_eq!(fs::read_dir(at("")).unwrap().count(), 2, "what has no title gets nowhere");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_whole_directory_may_be_the_folder() {
    let image = artifact(|image| {
        vec![packed(image.blob(TAR, &Archive::default().directory("./").file("./a/b", b"1").end()), ".")]
    });
    let folder = tempfile::tempdir().unwrap();
    pull(&image, folder.path()).unwrap();
    assert_eq!(fs::read(folder.path().join("out/a/b")).unwrap(), b"1");
}

#[test]
fn an_existing_folder_gives_way_only_if_it_is_empty() {
    let image = artifact(|image| vec![titled(image.blob(WEIGHTS, b"1"), "a")]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    pull(&image, folder.path()).unwrap();
    assert_eq!(fs::read(out.join("a")).unwrap(), b"1");
    assert_eq!(pull(&image, folder.path()).unwrap_err().code(), "IMAGE_TARGET_EXISTS", "not empty any more");
    fs::remove_dir_all(&out).unwrap();
    for make in
        [(|out: &Path| fs::write(out, "").unwrap()) as fn(&Path), |out| symlink("elsewhere", out).unwrap()]
    {
        make(&out);
        assert_eq!(pull(&image, folder.path()).unwrap_err().code(), "IMAGE_TARGET_EXISTS");
        fs::remove_file(&out).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn titles_do_not_lead_out_of_the_folder() {
    for titles in
        [&["../out2"][..], &["/etc/x"], &["a/../../x"], &["a", "a"], &["a", "a/b"], &["a\u{0}b"], &["."]]
    {
        let image = artifact(|image| {
            titles.iter().map(|title| titled(image.blob(WEIGHTS, title.as_bytes()), title)).collect()
        });
        refused(&image, &Options::default(), "ARTIFACT_TITLE_REFUSED");
    }
    let long = artifact(|image| vec![titled(image.blob(WEIGHTS, b"1"), &"a".repeat(2000))]);
    let told = refused(&long, &Options::default(), "ARTIFACT_TITLE_REFUSED");
    assert!(told.len() < 300, "{told}");
}

#[test]
fn archives_stay_in_the_directory_of_their_title() {
    let plain = Archive::default;
    for archive in [
        plain().file("e/x", b"1"),
        plain().file("x", b"1"),
        plain().file("d/../x", b"1"),
        plain().file("/d/x", b"1"),
        plain().file("d", b"1"),
        plain().symlink("d", "elsewhere"),
        plain().symlink("d/out", "/etc/passwd"),
        plain().symlink("d/out", "../../etc/passwd"),
        plain().symlink("d/deep/out", "a/.."),
        plain().symlink("d/link", "deep").file("d/link/x", b"1"),
        plain().file("d/x", b"1").file("d/x", b"2"),
        plain().file("d/x", b"1").file("d/x/y", b"2"),
        plain().file("d/x", b"1").link("d/y", "d/x"),
        plain().member(Header::new(b"d/null", b'3', 0).device(1, 3), b""),
        plain().member(&Header::new(b"d/pipe", b'6', 0), b""),
    ] {
        let shown = format!("{archive:?}");
        let image = of_archive(archive);
        let told = refused(&image, &Options::default(), "LAYER_ENTRY_REFUSED");
        assert!(told.contains("is refused: "), "{shown}: {told}");
    }
}

#[test]
fn what_is_another_blob_than_named_leaves_nothing() {
    let good = || artifact(|image| vec![titled(image.blob(WEIGHTS, b"weights"), "a/b")]);
    let blob = |image: &layout::Image| image.blob_path(&sha256(b"weights").to_string());
    for (content, code) in [
        (&b"waights"[..], "LAYER_DIGEST_MISMATCH"),
        (b"weight", "LAYER_LENGTH"),
        (b"weights and more", "LAYER_LENGTH"),
    ] {
        let image = good();
        fs::write(blob(&image), content).unwrap();
        refused(&image, &Options::default(), code);
    }
    let image = good();
    fs::remove_file(blob(&image)).unwrap();
    refused(&image, &Options::default(), "IMAGE_NOT_FOUND");
    let tree = Archive::default().file("d/a", b"1").end();
    let image = artifact(|image| {
        let mut archive = packed(image.blob(TAR, &tree), "d");
        archive["annotations"]["io.deis.oras.content.digest"] = json!(sha256(b"other").to_string());
        vec![archive]
    });
    refused(&image, &Options::default(), "LAYER_DIGEST_MISMATCH");
}

#[test]
fn bounds_are_of_the_whole_artifact() {
    let limits = |limits| Options { limits, ..Options::default() };
    let files = artifact(|image| {
        vec![titled(image.blob(WEIGHTS, &[1; 600]), "a"), titled(image.blob(WEIGHTS, &[2; 600]), "b")]
    });
    let told = refused(&files, &limits(Limits { bytes: 1000, ..Limits::default() }), "LAYER_LIMIT");
    assert!(told.contains("more than 1000 bytes"), "{told}");
    refused(&files, &limits(Limits { entries: 1, ..Limits::default() }), "LAYER_LIMIT");
    let bomb = Archive::default().file("d/a", &[0; 100_000]).end();
    let zipped = layout::compress(Compression::Gzip, &bomb).0;
    let bomb = artifact(|image| vec![packed(image.blob("x+gzip", &zipped), "d")]);
    refused(&bomb, &limits(Limits { bytes: 50_000, ..Limits::default() }), "LAYER_LIMIT");
}

#[test]
fn encrypted_files_are_decrypted_and_compared() {
    let secret: Vec<u8> = (0..700_000u32).map(|n| n.wrapping_mul(n).to_le_bytes()[1]).collect();
    let tree = Archive::default().file("d/secret", &secret).end();
    let made = |change: fn(&mut Layer)| {
        artifact(|image| {
            let mut file = Layer::new(Compression::None, &secret, 1);
            file.media_type = format!("{WEIGHTS}+encrypted");
            change(&mut file);
            let archive = Layer::new(Compression::Zstd, &tree, 2);
            vec![
                titled(file.store(image, in_clear), "weights"),
                packed(archive.store(image, in_clear), "d"),
                titled(image.blob(WEIGHTS, b"plain"), "readme"),
            ]
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let image = made(|_| ());
    pull_by(&image, folder.path(), Arc::new(Open), &Options::default(), &Silent).unwrap();
    for path in ["weights", "d/secret"] {
        assert!(fs::read(folder.path().join("out").join(path)).unwrap() == secret, "{path}");
    }
    refused(
        &made(|layer| layer.public["hmac"] = json!(crate::encrypted::writer::base64([7; 32]))),
        &Options::default(),
        "LAYER_MAC",
    );
    let other = |layer: &mut Layer| layer.private["digest"] = json!(sha256(b"other").to_string());
    refused(&made(other), &Options::default(), "LAYER_PLAIN_DIGEST");
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&image, folder.path()).unwrap_err();
    assert_eq!(error.code(), "LAYER_KEY_UNKNOWN", "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_image_is_no_artifact_and_an_artifact_no_image() {
    let image = layout::Image::of_layers(&[(Compression::Gzip, Archive::default().file("a", b"1").end())]);
    let told = refused(&image, &Options::default(), "ARTIFACT_INVALID");
    assert!(told.contains("it is an image"), "{told}");
    let artifact = artifact(|image| vec![titled(image.blob(WEIGHTS, b"1"), "a")]);
    let source = Layout::open(artifact.path()).unwrap();
    let error = image_rs::Image::resolve(&source, &Pointer::Tag("it".into()), &AMD64()).unwrap_err();
    assert_eq!(error.code(), "IMAGE_MEDIA_TYPE");
}
