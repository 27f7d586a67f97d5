//! Whole images into one folder: like an overlay, complete or not at all.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::{Cursor, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, SystemTime},
};

use image_rs::{
    Compression, Descriptor, Document, Error, Event, Image, NoKeys, Observer, Order, Platform, Pointer,
    Silent, Source, Target, Unpacked,
    layer::{self, Input, Options, Run, unpack::Form},
    policy::{Admitted, Beside, Policy, Subject},
    source::Layout,
    store::{
        below::{self, Below},
        marks::Marks,
    },
    unpack_rootfs,
};
use proptest::prelude::*;

use crate::{
    archive::{Archive, Header},
    is_root, layout, skip, snapshot,
    unpack::{ACCESS, DEFAULT, journal},
};

pub const AMD64: fn() -> Platform =
    || Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };

/// An order for an image that is not encrypted.
fn order<'a>(source: &'a dyn Source, image: &'a Image, admitted: &'a Admitted) -> Order<'a> {
    Order { source, image, admitted, keys: Arc::new(NoKeys) }
}

fn pull_watched(image: &layout::Image, folder: &Path, observer: &dyn Observer) -> Result<Unpacked, Error> {
    let source = Layout::open(image.path())?;
    let resolved = Image::resolve(&source, &Pointer::Tag("it".into()), &AMD64())?;
    let folder = File::open(folder).unwrap();
    let admitted = admitted(&source, &resolved);
    let order = order(&source, &resolved, &admitted);
    unpack_rootfs(&order, &Target::new(folder.as_fd(), OsStr::new("out")), &Options::default(), observer)
}

/// As without a policy.
pub fn admitted(source: &dyn Source, image: &Image) -> Admitted {
    let subject = Subject { reference: None, manifest: image.manifest_digest(), index: None };
    let mut signatures = Beside::new(source, |what| Err(Error::NotFound { what: what.to_owned() }));
    Policy::admit_all().decide(&subject, SystemTime::now(), &mut signatures).admitted().unwrap()
}

fn pull(image: &layout::Image, folder: &Path) -> Result<Unpacked, Error> {
    pull_watched(image, folder, &Silent)
}

fn plain(layers: &[Archive]) -> layout::Image {
    let compressions = [Compression::None, Compression::Gzip, Compression::Zstd].into_iter().cycle();
    let layers: Vec<_> = compressions.zip(layers.iter().map(|layer| layer.clone().end())).collect();
    layout::Image::of_layers(&layers)
}

#[test]
fn a_root_that_no_archive_names_is_open_to_every_user_of_the_image() {
    if !is_root("a_root_that_no_archive_names_is_open_to_every_user_of_the_image") {
        return;
    }
    let image = plain(&[Archive::default().file("a/b", b"1"), Archive::default().file("c", b"2")]);
    let folder = tempfile::tempdir().unwrap();
    pull(&image, folder.path()).unwrap();
    let root = fs::metadata(folder.path().join("out")).unwrap();
    assert_eq!((root.mode() & 0o7777, root.uid(), root.gid()), (0o755, 0, 0));
}

#[test]
fn layers_are_merged_in_their_order() {
    let header = |name: &str, mode, mtime| {
        let mut header = Header::new(name.as_bytes(), b'5', 0);
        header.mode(mode).mtime(mtime);
        header
    };
    let base = Archive::default()
        .member(&header("./", 0o751, 10), b"")
        .member(&header("tmp/", 0o1777, 11), b"")
        .member(&header("etc/", 0o755, 12), b"")
        .file("etc/gone", b"1")
        .file("etc/changed", b"1")
        .member(&header("old/", 0o700, 13), b"")
        .file("old/a", b"1")
        .symlink("lib", "usr/lib")
        .file("becomes-directory", b"1")
        .directory("becomes-file/")
        .file("becomes-file/x", b"1");
    let upper = Archive::default()
        .file("etc/.wh.gone", b"")
        .file("etc/.wh.never-there", b"")
        .file("nowhere/.wh.x", b"")
        .file("etc/changed", b"2")
        .file("tmp/new", b"2")
        .member(&header("old/", 0o711, 23), b"")
        .file("old/.wh..wh..opq", b"")
        .file("old/b", b"2")
        .file("lib/x", b"2")
        .directory("becomes-directory/")
        .file("becomes-file", b"2");
    let image = plain(&[base, upper.clone(), upper]);
    let folder = tempfile::tempdir().unwrap();
    let unpacked = pull(&image, folder.path()).unwrap();
    assert_eq!(unpacked.entries, 11 + 11 + 11);
    let out = folder.path().join("out");
    assert_eq!(
        snapshot::names(&out),
        [
            "becomes-directory",
            "becomes-file",
            "etc",
            "etc/changed",
            "lib",
            "lib/x",
            "old",
            "old/b",
            "tmp",
            "tmp/new",
        ]
    );
    let seen = snapshot::of(&out);
    let is = |name: &str| (seen[Path::new(name)].mode & 0o7777, seen[Path::new(name)].mtime.0);
    assert_eq!(is(""), (0o751, 10), "a layer that does not speak of the root leaves it");
    assert_eq!(is("tmp"), (0o1777, 11), "and so with any directory");
    assert_eq!((is("etc"), is("old")), ((0o755, 12), (0o711, 23)));
    assert_eq!(seen[Path::new("etc/changed")].content, b"2");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn lists_of_the_folder_around_it_are_not_handed_down_and_those_of_layers_are_merged() {
    if !is_root("lists_of_the_folder_around_it_are_not_handed_down_and_those_of_layers_are_merged") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let set = |path: &Path, name: &str, list: &[u8]| {
        rustix::fs::setxattr(path, name, list, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set(folder.path(), "system.posix_acl_default", &journal(5));
    let (five, four) = (journal(5), journal(4));
    let folder_of = |mode| Header::new(b"d/", b'5', 0).mode(mode).clone();
    let low = Archive::default()
        .pax(&[(ACCESS, &five), (DEFAULT, &five)])
        .member(&folder_of(0o755), b"")
        .file("d/low", b"");
    // Another list, no list, and nothing said at all.
    for (high, expected) in [
        (
            Archive::default().pax(&[(ACCESS, &four)]).member(&folder_of(0o754), b""),
            (0o754, Some(&four), None),
        ),
        (Archive::default().member(&folder_of(0o700), b""), (0o700, None, None)),
        (Archive::default(), (0o755, Some(&five), Some(&five))),
    ] {
        let image = plain(&[low.clone(), high.file("d/high", b"")]);
        pull(&image, folder.path()).unwrap();
        let out = folder.path().join("out");
        for name in ["", "d/low", "d/high"] {
            let attributes = snapshot::attributes(&out.join(name));
            assert!(attributes.is_empty(), "{name}: {attributes:?}");
        }
        let attributes = snapshot::attributes(&out.join("d"));
        let get = |name: &str| attributes.get(name);
        let mode = fs::metadata(out.join("d")).unwrap().mode() & 0o7777;
        let seen = (mode, get("system.posix_acl_access"), get("system.posix_acl_default"));
        assert_eq!(seen, expected);
        fs::remove_dir_all(out).unwrap();
    }
}

#[test]
fn nothing_is_left_of_an_image_that_fails() {
    let good = Archive::default().file("a", b"good");
    let image = plain(&[good.clone(), Archive::default().file("../b", b""), good]);
    let folder = tempfile::tempdir().unwrap();
    let error = pull(&image, folder.path()).unwrap_err();
    assert_eq!((error.code(), error.blame().as_str()), ("LAYER_ENTRY_REFUSED", "misbehaved"));
    let bad =
        layout::sha256(&layout::compress(Compression::Gzip, &Archive::default().file("../b", b"").end()).0);
    assert!(error.to_string().contains(&bad.to_string()), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::create_dir(folder.path().join("out")).unwrap();
    assert_eq!(pull(&image, folder.path()).unwrap_err().code(), "IMAGE_TARGET_EXISTS");
}

/// Stops once a layer is done.
struct Impatient;

impl Observer for Impatient {
    fn event(&self, _: Event) {}

    fn stopped(&self) -> bool {
        true
    }
}

#[test]
fn what_was_admitted_is_what_is_unpacked() {
    let (image, other) =
        (plain(&[Archive::default().file("a", b"1")]), plain(&[Archive::default().file("a", b"2")]));
    let folder = tempfile::tempdir().unwrap();
    let resolve = |image: &layout::Image| {
        let source = Layout::open(image.path()).unwrap();
        let resolved = Image::resolve(&source, &Pointer::Tag("it".into()), &AMD64()).unwrap();
        (source, resolved)
    };
    let ((source, image), (other_source, other)) = (resolve(&image), resolve(&other));
    let admitted = admitted(&other_source, &other);
    let at = File::open(folder.path()).unwrap();
    let (target, options) = (Target::new(at.as_fd(), OsStr::new("out")), Options::default());
    let error = unpack_rootfs(&order(&source, &image, &admitted), &target, &options, &Silent).unwrap_err();
    assert_eq!(error.code(), "IMAGE_DIGEST_MISMATCH");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_stopped_pull_leaves_nothing() {
    let image = plain(&[Archive::default().file("a", &[1; 100_000])]);
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(pull_watched(&image, folder.path(), &Impatient).unwrap_err().code(), "IMAGE_INTERRUPTED");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_image_may_have_no_layers_or_one_twice() {
    let folder = tempfile::tempdir().unwrap();
    pull(&plain(&[]), folder.path()).unwrap();
    assert!(snapshot::names(&folder.path().join("out")).is_empty());
    let folder = tempfile::tempdir().unwrap();
    let put = Archive::default().file("a", b"1");
    pull(&plain(&[put.clone(), Archive::default().file(".wh.a", b""), put]), folder.path()).unwrap();
    assert_eq!(snapshot::names(&folder.path().join("out")), ["a"], "applied again at its own place");
}

/// A layout whose layers wait for each other before they give their first byte.
#[derive(Debug)]
struct Meeting {
    layout: Layout,
    layers: usize,
    arrived: Mutex<usize>,
    all: Condvar,
}

impl Source for Meeting {
    fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
        self.layout.document(pointer)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        if descriptor.media_type != layout::CONFIG {
            let mut arrived = self.arrived.lock().unwrap();
            *arrived += 1;
            self.all.notify_all();
            let met = |arrived: &mut usize| *arrived < self.layers;
            let (_arrived, waited) =
                self.all.wait_timeout_while(arrived, Duration::from_secs(60), met).unwrap();
            assert!(!waited.timed_out(), "the layers were taken one after the other");
        }
        self.layout.blob(descriptor)
    }
}

#[test]
fn layers_are_unpacked_at_the_same_time() {
    let layers: Vec<_> = (0..3).map(|i| Archive::default().file(&format!("f{i}"), b"1")).collect();
    let image = plain(&layers);
    let layout = Layout::open(image.path()).unwrap();
    let source = Meeting { layout, layers: 3, arrived: Mutex::new(0), all: Condvar::new() };
    let resolved = Image::resolve(&source, &Pointer::Tag("it".into()), &AMD64()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = File::open(folder.path()).unwrap();
    let options = Options { parallel: 3, ..Options::default() };
    let admitted = admitted(&source, &resolved);
    let order = order(&source, &resolved, &admitted);
    unpack_rootfs(&order, &Target::new(at.as_fd(), OsStr::new("out")), &options, &Silent).unwrap();
    assert_eq!(snapshot::names(&folder.path().join("out")), ["f0", "f1", "f2"]);
}

/// Layers over few names, in which every directory is spoken of before something in it, as writers do it.
fn any_layer() -> impl Strategy<Value = Archive> {
    let name = prop::sample::select(vec!["a", "b", "a/a", "a/b", "b/a", "a/a/a", "a/a/b"]);
    let entry = (name, 0u8..6, 1u64..9);
    proptest::collection::vec(entry, 0..7).prop_map(|mut entries| {
        entries.sort();
        entries.dedup_by_key(|(name, ..)| *name);
        let mut directories: Vec<&str> = vec![""];
        let mut archive = Archive::default().member(Header::new(b"./", b'5', 0).mode(0o755).mtime(1), b"");
        for (name, kind, number) in entries {
            let (parent, last) = name.rsplit_once('/').unwrap_or(("", name));
            if !directories.contains(&parent) {
                continue;
            }
            let join =
                |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") };
            archive = match kind {
                0 | 1 => {
                    directories.push(name);
                    archive.member(
                        Header::new(format!("{name}/").as_bytes(), b'5', 0)
                            .mode(0o700 + number)
                            .mtime(number),
                        b"",
                    )
                }
                2 => archive.member(
                    Header::new(name.as_bytes(), b'0', 1).mtime(number),
                    number.to_string().as_bytes(),
                ),
                3 => archive.member(Header::new(name.as_bytes(), b'2', 0).link(b"a").mtime(number), b""),
                4 if parent.is_empty() => archive.file(&format!(".wh.{last}"), b""),
                4 => archive.file(&join(&format!(".wh.{last}")), b""),
                _ => archive.file(&join(".wh..wh..opq"), b""),
            };
        }
        archive
    })
}

/// The layers as an overlay file system, mounted until this goes.
struct Overlay<'a>(&'a Path);

impl Drop for Overlay<'_> {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0).status().unwrap().success());
    }
}

/// What the kernel shows of the layers, each unpacked for itself; none where mounting is not allowed.
fn overlay(
    layers: &[Archive],
    folder: &Path,
) -> Option<std::collections::BTreeMap<std::path::PathBuf, snapshot::Seen>> {
    let (mut lower, mut opened) = (Vec::new(), Vec::new());
    for (number, archive) in layers.iter().enumerate() {
        let path = folder.join(number.to_string());
        fs::create_dir(&path).unwrap();
        let (layer, blob) = layout::layer(Compression::None, &archive.clone().end());
        let target = OwnedFd::from(File::open(&path).unwrap());
        let input = Input { number: 0, layer: &layer, blob: Box::new(Cursor::new(blob)), key: None };
        let run = Run::new(Options::default());
        layer::unpack_layer(input, target, Form::Overlay, &run, &Silent).unwrap();
        lower.push(path.display().to_string());
        let tree = OwnedFd::from(File::open(&path).unwrap());
        opened.push(Below { tree, implied: BTreeSet::new(), marks: Marks::default() });
    }
    lower.drain(..below::hidden(&opened).unwrap());
    lower.reverse();
    let empty = folder.join("empty");
    fs::create_dir(&empty).unwrap();
    lower.push(empty.display().to_string());
    let merged = folder.join("merged");
    fs::create_dir(&merged).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &format!("lowerdir={}", lower.join(":"))])
        .arg(&merged)
        .output()
        .unwrap();
    if !mounted.status.success() {
        return None;
    }
    let _mounted = Overlay(&merged);
    Some(snapshot::of(&merged))
}

#[test]
fn the_result_is_what_an_overlay_shows() {
    const NAME: &str = "the_result_is_what_an_overlay_shows";
    if !is_root(NAME) {
        return;
    }
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(120));
    let skipped = std::cell::Cell::new(false);
    let compared = runner.run(&proptest::collection::vec(any_layer(), 1..5), |layers| {
        let folder = tempfile::tempdir().unwrap();
        let Some(shown) = overlay(&layers, folder.path()) else {
            skipped.set(true);
            return Ok(());
        };
        pull(&plain(&layers), folder.path()).unwrap();
        let mut shown = shown;
        for seen in shown.values_mut() {
            seen.attributes.retain(|name, _| !name.starts_with("trusted.overlay."));
        }
        prop_assert_eq!(snapshot::of(&folder.path().join("out")), shown);
        Ok(())
    });
    compared.unwrap();
    if skipped.get() {
        skip(NAME, "overlay file systems cannot be mounted here");
    }
}
