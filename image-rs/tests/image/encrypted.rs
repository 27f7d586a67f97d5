//! Encrypted layers: what is compared, who is asked for keys and when, and that real skopeo reads what is written here.

pub mod writer;

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, Barrier, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use cc_crypto::{KeyAlgorithm, Secret, TeeKeyPair, jwe};
use cc_evidence::blame::Blame;
use cc_sealed::WrappedOptions;
use image_rs::{
    Compression, Error, Event, Image, KeyRefusal, LayerKeys, NoKeys, Observer, Order, Pointer, Silent,
    Target, layer::Options, source::Layout, unpack_rootfs,
};
use serde_json::{Value, json};
use writer::{Layer, PREFIX, base64, in_clear};

use crate::{
    archive::Archive,
    is_root,
    layout::{self, named},
    rootfs::{AMD64, admitted},
    snapshot,
};

/// Opens what [`in_clear`] wraps.
#[derive(Debug)]
pub struct Open;

impl LayerKeys for Open {
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        match wrapped {
            WrappedOptions::Provider(packet) => Some(Ok(Secret::new(packet.clone()))),
            WrappedOptions::Jwe(_) => None,
        }
    }
}

fn archive(name: &str) -> Vec<u8> {
    let content: Vec<u8> = (0..700_000u32).map(|n| n.wrapping_mul(n).to_le_bytes()[1]).collect();
    Archive::default().file(name, &content).file(&format!("{name}-after"), name.as_bytes()).end()
}

/// A layout whose layers have these descriptors.
fn finish(image: layout::Image, layers: &[Value], diff_ids: &[String]) -> layout::Image {
    let manifest = image.manifest(&json!(layers), &json!(diff_ids));
    image.index(&[named(&manifest, "it")]);
    image
}

fn encrypted(layers: &[Layer]) -> layout::Image {
    let image = layout::Image::empty();
    let descriptors: Vec<Value> = layers.iter().map(|layer| layer.store(&image, in_clear)).collect();
    let ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    finish(image, &descriptors, &ids)
}

fn pull(
    image: &layout::Image,
    keys: Arc<dyn LayerKeys>,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<(), Error> {
    let source = Layout::open(image.path())?;
    let resolved = Image::resolve(&source, &Pointer::Tag("it".into()), &AMD64())?;
    let at = File::open(folder).unwrap();
    let admitted = admitted(&source, &resolved);
    let order = Order { source: &source, image: &resolved, admitted: &admitted, keys };
    let options = Options { parallel: 2, ..Options::default() };
    unpack_rootfs(&order, &Target::new(at.as_fd(), OsStr::new("out")), &options, observer).map(drop)
}

/// The error of a pull, after which there must be nothing.
fn refused(image: &layout::Image, keys: Arc<dyn LayerKeys>) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let error = pull(image, keys, folder.path(), &Silent).unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind: {error}");
    error
}

#[test]
fn right_layers_pass_in_every_compression() {
    if !is_root("right_layers_pass_in_every_compression") {
        return;
    }
    let all = [Compression::None, Compression::Gzip, Compression::Zstd];
    let layers: Vec<Layer> =
        (1..).zip(all).map(|(seed, how)| Layer::new(how, &archive(&format!("{how:?}")), seed)).collect();
    let folder = tempfile::tempdir().unwrap();
    pull(&encrypted(&layers), Arc::new(Open), folder.path(), &Silent).unwrap();
    let names = snapshot::names(&folder.path().join("out"));
    assert_eq!(names, ["Gzip", "Gzip-after", "None", "None-after", "Zstd", "Zstd-after"]);
}

#[test]
fn what_is_not_what_was_encrypted_leaves_nothing() {
    if !is_root("what_is_not_what_was_encrypted_leaves_nothing") {
        return;
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        for (what, code, edit) in [
            ("first byte", "LAYER_MAC", (|l: &mut Layer| l.cipher_text[0] ^= 1) as fn(&mut Layer)),
            ("a byte", "LAYER_MAC", |l| {
                let at = l.cipher_text.len() / 2;
                l.cipher_text[at] ^= 1;
            }),
            ("last byte", "LAYER_MAC", |l| *l.cipher_text.last_mut().unwrap() ^= 0x80),
            ("cut", "LAYER_MAC", |l| l.cipher_text.truncate(l.cipher_text.len() - 1)),
            ("longer", "LAYER_MAC", |l| l.cipher_text.push(0)),
            ("empty", "LAYER_MAC", |l| l.cipher_text.clear()),
            ("another code", "LAYER_MAC", |l| l.public["hmac"] = json!(base64([0; 32]))),
            ("another key", "LAYER_MAC", |l| l.private["symkey"] = json!(base64([9; 32]))),
            ("a short key", "LAYER_ENCRYPTION", |l| l.private["symkey"] = json!(base64([1; 31]))),
            ("a short nonce", "LAYER_ENCRYPTION", |l| {
                l.private["cipheroptions"]["nonce"] = json!(base64([1; 15]));
            }),
            ("two nonces", "LAYER_ENCRYPTION", |l| {
                l.public["cipheroptions"]["nonce"] = json!(base64([1; 16]));
            }),
            ("no digest", "LAYER_ENCRYPTION", |l| l.private["digest"] = json!("")),
            ("another digest", "LAYER_PLAIN_DIGEST", |l| {
                l.private["digest"] = json!(layout::sha256(b"other").to_string());
            }),
            ("no code", "IMAGE_DOCUMENT_INVALID", |l| l.public["hmac"] = json!("")),
            ("no cipher", "IMAGE_DOCUMENT_INVALID", |l| l.public["cipher"] = json!("")),
            ("another cipher", "IMAGE_DOCUMENT_INVALID", |l| l.public["cipher"] = json!("AES_256_GCM")),
            ("no public options", "IMAGE_DOCUMENT_INVALID", |l| l.public = json!(null)),
            ("10,000 wrapped keys", "IMAGE_DOCUMENT_INVALID", |l| {
                let many = vec!["YQ=="; 10_000].join(",");
                l.more.insert(format!("{PREFIX}keys.provider.attestation-agent"), many);
            }),
            ("another archive", "LAYER_DIGEST_MISMATCH", |l| {
                l.diff_id = layout::sha256(b"other").to_string();
            }),
        ] {
            let mut layer = Layer::new(compression, &archive("a"), 1);
            edit(&mut layer);
            let good = Layer::new(Compression::Gzip, &archive("b"), 2);
            let error = refused(&encrypted(&[good, layer]), Arc::new(Open));
            assert_eq!(error.code(), code, "{what}, {compression:?}: {error}");
        }
    }
}

/// The nonce is covered by no code: with another one every digest is wrong.
#[test]
fn another_nonce_shows_in_the_digest() {
    if !is_root("another_nonce_shows_in_the_digest") {
        return;
    }
    let mut layer = Layer::new(Compression::None, &archive("a"), 1);
    layer.private["cipheroptions"]["nonce"] = json!(base64([7; 16]));
    assert_eq!(refused(&encrypted(&[layer]), Arc::new(Open)).code(), "LAYER_PLAIN_DIGEST");
}

#[test]
fn annotations_of_another_layer_do_not_open_this_one() {
    if !is_root("annotations_of_another_layer_do_not_open_this_one") {
        return;
    }
    let layers = [("a", 1), ("b", 2)].map(|(name, seed)| Layer::new(Compression::Gzip, &archive(name), seed));
    let image = layout::Image::empty();
    let mut descriptors = layers.each_ref().map(|layer| layer.store(&image, in_clear));
    let first = descriptors[0]["annotations"].take();
    descriptors[0]["annotations"] = descriptors[1]["annotations"].take();
    descriptors[1]["annotations"] = first;
    let image = finish(image, &descriptors, &layers.map(|layer| layer.diff_id));
    assert_eq!(refused(&image, Arc::new(Open)).code(), "LAYER_MAC");
}

/// Refuses, as a key broker does.
#[derive(Debug)]
struct Denied;

impl LayerKeys for Denied {
    fn open(&self, _: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        Some(Err(KeyRefusal {
            blame: Blame::Denied,
            code: "KBS_DENIED_POLICY".to_owned(),
            message: "the key broker refuses it".to_owned(),
            hint: "ask the security officer".to_owned(),
        }))
    }
}

#[test]
fn a_refused_key_is_told_with_its_layer_and_reason() {
    if !is_root("a_refused_key_is_told_with_its_layer_and_reason") {
        return;
    }
    let image = encrypted(&[Layer::new(Compression::Gzip, &archive("a"), 1)]);
    let error = refused(&image, Arc::new(Denied));
    assert_eq!(
        (error.code(), error.blame(), error.hint()),
        ("LAYER_KEY_REFUSED", Blame::Denied, "ask the security officer")
    );
    let text = error.to_string();
    assert!(text.contains("layer sha256:") && text.contains("[KBS_DENIED_POLICY]"), "{text}");
    let nobody = refused(&image, Arc::new(NoKeys));
    assert_eq!((nobody.code(), nobody.blame()), ("LAYER_KEY_UNKNOWN", Blame::Misused));
}

/// Counts, and answers when as many keys were asked for as expected.
#[derive(Debug)]
struct Together {
    asked: AtomicUsize,
    all: Barrier,
}

impl LayerKeys for Together {
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.all.wait();
        Open.open(wrapped)
    }
}

#[test]
fn all_keys_are_asked_for_at_once_and_equal_ones_once() {
    if !is_root("all_keys_are_asked_for_at_once_and_equal_ones_once") {
        return;
    }
    let one = Layer::new(Compression::Gzip, &archive("a"), 1);
    let layers: Vec<Layer> =
        (2..7).map(|seed| Layer::new(Compression::Gzip, &archive(&seed.to_string()), seed)).collect();
    let image = encrypted(&[layers, vec![one.clone(), one]].concat());
    let keys = Arc::new(Together { asked: AtomicUsize::new(0), all: Barrier::new(6) });
    let folder = tempfile::tempdir().unwrap();
    pull(&image, keys.clone(), folder.path(), &Silent).unwrap();
    assert_eq!(keys.asked.load(Ordering::Relaxed), 6);
}

/// Answers when another layer is done, or not at all.
#[derive(Debug, Default)]
struct Slow {
    asked: AtomicUsize,
    done: Mutex<bool>,
    changed: Condvar,
}

impl Slow {
    fn release(&self) {
        *self.done.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl LayerKeys for Slow {
    fn open(&self, wrapped: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let done = self.done.lock().unwrap();
        drop(self.changed.wait_while(done, |done| !*done).unwrap());
        Open.open(wrapped)
    }
}

/// Lets the key come when all plain layers are unpacked.
struct WhenUnpacked<'a>(&'a Slow, AtomicUsize);

impl Observer for WhenUnpacked<'_> {
    fn event(&self, event: Event) {
        if matches!(event, Event::LayerUnpacked { .. }) && self.1.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.release();
        }
    }
}

#[test]
fn layers_that_need_no_key_do_not_wait_for_one() {
    if !is_root("layers_that_need_no_key_do_not_wait_for_one") {
        return;
    }
    let image = layout::Image::empty();
    // The encrypted ones are larger, and more than can be unpacked at once.
    let secret: Vec<Layer> =
        (1..4).map(|seed| Layer::new(Compression::None, &archive(&format!("e{seed}")), seed)).collect();
    let plain = ["p1", "p2", "p3"].map(|name| Archive::default().file(name, b"plain").end());
    let mut descriptors: Vec<Value> = secret.iter().map(|layer| layer.store(&image, in_clear)).collect();
    let mut ids: Vec<String> = secret.iter().map(|layer| layer.diff_id.clone()).collect();
    for archive in &plain {
        descriptors.push(image.blob("application/vnd.oci.image.layer.v1.tar", archive));
        ids.push(layout::sha256(archive).to_string());
    }
    let image = finish(image, &descriptors, &ids);
    let keys = Arc::new(Slow::default());
    let folder = tempfile::tempdir().unwrap();
    let observer = WhenUnpacked(&keys, AtomicUsize::new(plain.len()));
    pull(&image, keys.clone(), folder.path(), &observer).unwrap();
    assert_eq!(snapshot::names(&folder.path().join("out")).len(), 9);
}

/// Stops the pull when it has been waiting for a key for some questions whether to.
struct WhenAsked<'a>(&'a Slow, AtomicUsize);

impl Observer for WhenAsked<'_> {
    fn event(&self, _: Event) {}

    fn stopped(&self) -> bool {
        self.0.asked.load(Ordering::Relaxed) > 0 && self.1.fetch_add(1, Ordering::Relaxed) > 5
    }
}

#[test]
fn a_pull_that_waits_for_a_key_can_be_stopped() {
    if !is_root("a_pull_that_waits_for_a_key_can_be_stopped") {
        return;
    }
    let image = encrypted(&[Layer::new(Compression::Gzip, &archive("a"), 1)]);
    let keys = Arc::new(Slow::default());
    let folder = tempfile::tempdir().unwrap();
    let observer = WhenAsked(&keys, AtomicUsize::new(0));
    let error = pull(&image, keys.clone(), folder.path(), &observer).unwrap_err();
    assert_eq!(error.code(), "IMAGE_INTERRUPTED");
    assert_eq!(keys.asked.load(Ordering::Relaxed), 1, "it was waited for");
    assert!(!*keys.done.lock().unwrap(), "and did not come");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    keys.release();
}

/// Panics.
#[derive(Debug)]
struct Broken;

impl LayerKeys for Broken {
    fn open(&self, _: &WrappedOptions) -> Option<Result<Secret, KeyRefusal>> {
        panic!("the fault that the test makes");
    }
}

#[test]
fn a_panic_of_whoever_opens_keys_does_not_leave_the_pull_waiting() {
    if !is_root("a_panic_of_whoever_opens_keys_does_not_leave_the_pull_waiting") {
        return;
    }
    let image = encrypted(&[Layer::new(Compression::Gzip, &archive("a"), 1)]);
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(refused(&image, Arc::new(Broken)).code()));
    let code = end.recv_timeout(std::time::Duration::from_secs(60));
    assert_eq!(code, Ok("LAYER_KEY_LOST"));
}

#[test]
fn skopeo_decrypts_what_is_written_here() {
    let pair = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let wrap = |options: &Value| {
        ("keys.jwe", jwe::seal(&pair.public_jwk(), options.to_string().as_bytes()).unwrap())
    };
    let archives = [archive("a"), archive("b")];
    let layers: Vec<Layer> =
        (1..).zip(&archives).map(|(seed, archive)| Layer::new(Compression::Gzip, archive, seed)).collect();
    let image = layout::Image::empty();
    let descriptors: Vec<Value> = layers.iter().map(|layer| layer.store(&image, wrap)).collect();
    let ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let image = finish(image, &descriptors, &ids);
    let folder = tempfile::tempdir().unwrap();
    let (key, plain) = (folder.path().join("key.pem"), folder.path().join("plain"));
    fs::write(&key, pair.private_pem().unwrap().expose()).unwrap();
    let out = std::process::Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--decryption-key"])
        .arg(&key)
        .arg(format!("oci:{}:it", image.path().display()))
        .arg(format!("oci:{}:it", plain.display()))
        .output();
    let Ok(out) = out else {
        assert!(std::env::var_os("CI").is_none(), "no skopeo");
        return crate::skip("skopeo_decrypts_what_is_written_here", "no skopeo");
    };
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let source = Layout::open(&plain).unwrap();
    let resolved = Image::resolve(&source, &Pointer::Tag("it".into()), &AMD64()).unwrap();
    for (layer, archive) in resolved.layers().iter().zip(&archives) {
        let (blob, _) = layout::compress(Compression::Gzip, archive);
        assert_eq!(layer.descriptor.digest, layout::sha256(&blob));
        assert!(layer.encryption.is_none());
    }
}
