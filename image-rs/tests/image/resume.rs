//! Pulls that are cut off, and the ones after them: what is asked for again, and what is not.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use image_rs::{
    Artifact, ArtifactOrder, Compression, Descriptor, Document, Error, Image, NoKeys, Order, Pointer, Silent,
    Source, Target, discard_kept,
    layer::Options,
    policy::{Beside, Policy, Subject},
    pull_artifact,
    source::Layout,
    unpack_rootfs,
};

use crate::{
    archive::Archive,
    artifact::{TAR, WEIGHTS, artifact, packed, titled},
    layout,
    rootfs::{AMD64, admitted},
};

/// Between two marks, and what is not written when a pull is cut off.
const BETWEEN_MARKS: u64 = 4 << 20;

/// A layout behind a line that breaks.
#[derive(Debug)]
struct Line {
    layout: Layout,
    /// How much of each large blob comes before the line breaks.
    breaks_at: Option<u64>,
    /// Where large blobs were asked for, and how much came of them.
    asked: Mutex<Vec<(u64, u64)>>,
}

impl Line {
    fn to(image: &layout::Image, breaks_at: Option<u64>) -> Self {
        Self { layout: Layout::open(image.path()).unwrap(), breaks_at, asked: Mutex::default() }
    }

    /// Bytes of large blobs that were given.
    fn given(&self) -> u64 {
        self.asked.lock().unwrap().iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Source for Line {
    fn document(&self, pointer: &Pointer) -> Result<Document, Error> {
        self.layout.document(pointer)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        self.blob_from(descriptor, 0)
    }

    fn blob_from(&self, descriptor: &Descriptor, at: u64) -> Result<Box<dyn Read + Send>, Error> {
        let blob = self.layout.blob_from(descriptor, at)?;
        if descriptor.size < 1 << 20 {
            return Ok(blob);
        }
        let comes = self.breaks_at.map_or(descriptor.size, |most| most.min(descriptor.size)) - at;
        self.asked.lock().unwrap().push((at, comes));
        match comes + at < descriptor.size {
            true => Ok(Box::new(blob.take(comes).chain(Broken))),
            false => Ok(blob),
        }
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// Bytes that do not compress.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    std::iter::repeat_with(next).take(length).collect()
}

const LENGTH: usize = 14_000_000;

/// Two files and an archive, in two of which the line breaks.
fn model() -> (layout::Image, [Vec<u8>; 3]) {
    let files = [noise(LENGTH, 1), noise(3_000_000, 2), noise(12_000_000, 3)];
    let image = artifact(|image| {
        let archive = Archive::default().file("tok/vocab", &files[2]).end();
        vec![
            titled(image.blob(WEIGHTS, &files[0]), "model/weights.bin"),
            titled(image.blob(WEIGHTS, &files[1]), "small"),
            packed(image.blob(TAR, &archive), "tok"),
            // A blob may have two titles.
            titled(image.blob(WEIGHTS, &files[1]), "again"),
        ]
    });
    (image, files)
}

fn pull(source: &dyn Source, folder: &Path) -> Result<(), Error> {
    let artifact = Artifact::resolve(source, &Pointer::Tag("it".into()), &AMD64())?;
    let subject = Subject { reference: None, manifest: artifact.manifest_digest(), index: None };
    let mut signatures = Beside::new(source, |what| Err(Error::NotFound { what: what.to_owned() }));
    let admitted = Policy::admit_all().decide(&subject, SystemTime::now(), &mut signatures).admitted()?;
    let order = ArtifactOrder { source, artifact: &artifact, admitted: &admitted, keys: Arc::new(NoKeys) };
    let at = File::open(folder).unwrap();
    // One after the other, so that it is known what came.
    let options = Options { parallel: 1, ..Options::default() };
    pull_artifact(&order, &Target::new(at.as_fd(), OsStr::new("out")), &options, &Silent).map(drop)
}

fn pull_image(source: &dyn Source, folder: &Path) -> Result<(), Error> {
    let image = Image::resolve(source, &Pointer::Tag("it".into()), &AMD64())?;
    let admitted = admitted(source, &image);
    let order = Order { source, image: &image, admitted: &admitted, keys: Arc::new(NoKeys) };
    let at = File::open(folder).unwrap();
    let options = Options { parallel: 1, ..Options::default() };
    unpack_rootfs(&order, &Target::new(at.as_fd(), OsStr::new("out")), &options, &Silent).map(drop)
}

#[track_caller]
fn is_cut_off(result: Result<(), Error>) {
    let error = result.unwrap_err();
    assert!(error.may_go_on() && error.code() == "LAYER_READ", "{error}");
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn is_whole(folder: &Path, files: &[Vec<u8>; 3]) {
    for (path, file) in ["model/weights.bin", "small", "tok/vocab"].into_iter().zip(files) {
        assert!(fs::read(folder.join(path)).unwrap() == *file, "{path}");
    }
    assert!(fs::read(folder.join("again")).unwrap() == files[1]);
}

#[test]
fn an_artifact_goes_on_where_it_was_cut_off() {
    let (image, files) = model();
    let folder = tempfile::tempdir().unwrap();
    let partial = folder.path().join(".out.guestctl-partial");
    let first = Line::to(&image, Some(9_000_000));
    is_cut_off(pull(&first, folder.path()));
    assert_eq!((first.given(), names(folder.path())), (9_000_000, vec![".out.guestctl-partial".to_owned()]));
    // The second time the largest comes to its end, and the archive breaks.
    let second = Line::to(&image, Some(13_000_000));
    is_cut_off(pull(&second, folder.path()));
    let (at, given) = second.asked.lock().unwrap()[0];
    assert!(at >= 9_000_000 - BETWEEN_MARKS && at + given == 13_000_000, "{at}");
    let third = Line::to(&image, None);
    pull(&third, folder.path()).unwrap();
    is_whole(&folder.path().join("out"), &files);
    assert_eq!(names(folder.path()), ["out"]);
    assert!(!partial.exists());
    let (at, _) = third.asked.lock().unwrap()[0];
    assert!(at >= 13_000_000 - BETWEEN_MARKS, "{at}");
    let all = 14_000_000 + 12_000_000 + 2 * 3_000_000;
    let asked = first.given() + second.given() + third.given();
    assert!(asked <= all + 3 * BETWEEN_MARKS, "{asked} of {all}");
}

#[test]
fn layers_of_an_image_are_not_fetched_again_either() {
    let layers: Vec<_> =
        (1..4u32).map(|n| Archive::default().file(&format!("f{n}"), &noise(5_000_000, n))).collect();
    let layers: Vec<_> = layers.into_iter().map(|layer| (Compression::Gzip, layer.end())).collect();
    let image = layout::Image::of_layers(&layers);
    // On a disk: in memory there are no copies.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    is_cut_off(pull_image(&Line::to(&image, Some(4_900_000)), folder.path()));
    let second = Line::to(&image, None);
    pull_image(&second, folder.path()).unwrap();
    assert_eq!(names(folder.path()), ["out"]);
    for number in 1..4 {
        let file = fs::read(folder.path().join(format!("out/f{number}"))).unwrap();
        assert!(file == noise(5_000_000, number), "{number}");
    }
    let asked = second.asked.lock().unwrap();
    assert!(asked.len() == 3 && asked[0].0 >= 4_000_000 && asked[1].0 == 0, "{asked:?}");
}

#[test]
fn what_is_kept_is_thrown_away_for_another_image_or_when_that_is_wanted() {
    let (image, files) = model();
    let other = artifact(|image| vec![titled(image.blob(WEIGHTS, &noise(LENGTH, 1)), "weights.bin")]);
    let folder = tempfile::tempdir().unwrap();
    is_cut_off(pull(&Line::to(&image, Some(9_000_000)), folder.path()));
    // The same bytes, but of another manifest.
    let line = Line::to(&other, None);
    pull(&line, folder.path()).unwrap();
    assert_eq!((line.asked.lock().unwrap()[0].0, names(folder.path())), (0, vec!["out".to_owned()]));
    fs::remove_dir_all(folder.path().join("out")).unwrap();
    is_cut_off(pull(&Line::to(&image, Some(9_000_000)), folder.path()));
    let at = File::open(folder.path()).unwrap();
    assert!(discard_kept(&Target::new(at.as_fd(), OsStr::new("out"))).unwrap());
    assert_eq!(names(folder.path()), [""; 0]);
    let line = Line::to(&image, None);
    pull(&line, folder.path()).unwrap();
    assert_eq!(line.asked.lock().unwrap()[0].0, 0);
    is_whole(&folder.path().join("out"), &files);
}

/// What is kept of the largest file.
fn kept(folder: &Path) -> PathBuf {
    let kept = folder.join(".out.guestctl-partial/kept");
    let names = names(&kept);
    let name = names.iter().find(|name| !name.ends_with(".marks")).unwrap();
    kept.join(name)
}

#[test]
fn what_was_changed_on_the_disk_is_fetched_again() {
    let (image, files) = model();
    for (place, from) in [(100, 0), (4_600_000, 4 << 20)] {
        let folder = tempfile::tempdir().unwrap();
        is_cut_off(pull(&Line::to(&image, Some(13_000_000)), folder.path()));
        let kept = kept(folder.path());
        let mut bytes = fs::read(&kept).unwrap();
        bytes[place] ^= 1;
        fs::write(&kept, bytes).unwrap();
        let line = Line::to(&image, None);
        pull(&line, folder.path()).unwrap();
        let at = line.asked.lock().unwrap()[0].0;
        assert!(at >= from && at <= place as u64, "{at}");
        is_whole(&folder.path().join("out"), &files);
    }
}

#[test]
fn wrong_content_leaves_nothing_of_what_was_right_before() {
    let (image, _) = model();
    let folder = tempfile::tempdir().unwrap();
    is_cut_off(pull(&Line::to(&image, Some(13_000_000)), folder.path()));
    let small = image.blob_path(&layout::sha256(&noise(3_000_000, 2)).to_string());
    let mut bytes = fs::read(&small).unwrap();
    bytes[7] ^= 1;
    fs::write(&small, bytes).unwrap();
    assert_eq!(pull(&Line::to(&image, None), folder.path()).unwrap_err().code(), "LAYER_DIGEST_MISMATCH");
    assert_eq!(names(folder.path()), [""; 0]);
}

/// A file system in memory, gone at the end.
struct Mount(PathBuf);

impl Mount {
    fn at(path: &Path, options: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status();
        assert!(mounted.unwrap().success());
        Self(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn an_empty_mount_point_is_filled_and_goes_on_too() {
    if !crate::is_root("an_empty_mount_point_is_filled_and_goes_on_too") {
        return;
    }
    let (image, files) = model();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let mount = Mount::at(&out, "size=60m");
    // As a new file system of a disk has it.
    fs::create_dir(out.join("lost+found")).unwrap();
    is_cut_off(pull(&Line::to(&image, Some(13_000_000)), folder.path()));
    assert_eq!(names(&out), [".guestctl-partial", "lost+found"]);
    let line = Line::to(&image, None);
    pull(&line, folder.path()).unwrap();
    assert!(line.asked.lock().unwrap()[0].0 >= 13_000_000 - BETWEEN_MARKS);
    is_whole(&out, &files);
    assert_eq!(names(&out), ["again", "lost+found", "model", "small", "tok"]);
    assert_eq!(names(folder.path()), ["out"], "nothing beside it");
    assert_eq!(pull(&line, folder.path()).unwrap_err().code(), "IMAGE_TARGET_EXISTS");
    assert_eq!(names(&out), ["again", "lost+found", "model", "small", "tok"]);
    drop(mount);
    // Too small: nothing stays.
    let mount = Mount::at(&out, "size=8m");
    let error = pull(&Line::to(&image, None), folder.path()).unwrap_err();
    assert!(error.code() == "LAYER_STORAGE" && error.to_string().contains(out.to_str().unwrap()), "{error}");
    assert_eq!(names(&out), [""; 0]);
    drop(mount);
}

#[test]
fn a_mount_point_that_was_filled_in_part_by_a_killed_pull_is_taken_down_first() {
    if !crate::is_root("a_mount_point_that_was_filled_in_part") {
        return;
    }
    let (image, files) = model();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let _mount = Mount::at(&out, "size=80m");
    is_cut_off(pull(&Line::to(&image, Some(13_000_000)), folder.path()));
    // As it is when the last step was begun: the names are written down, one is in its place, one is not.
    let partial = out.join(".guestctl-partial");
    fs::remove_dir_all(partial.join("kept")).unwrap();
    fs::create_dir_all(partial.join("work/artifact/model")).unwrap();
    fs::write(partial.join("work/artifact/model/weights.bin"), &files[0]).unwrap();
    fs::write(out.join("small"), &files[1]).unwrap();
    fs::write(partial.join("published"), b"small\0model\0tok\0..\0a/b\0").unwrap();
    let line = Line::to(&image, None);
    pull(&line, folder.path()).unwrap();
    is_whole(&out, &files);
    assert_eq!(names(&out), ["again", "model", "small", "tok"]);
    let asked = line.asked.lock().unwrap();
    assert!(asked.iter().all(|(at, _)| *at == 0), "{asked:?}");
    assert_eq!(asked.iter().map(|(_, bytes)| bytes / 1_000_000).collect::<Vec<_>>(), [12, 3]);
}

#[test]
fn nothing_is_taken_down_for_a_folder_of_others() {
    if !crate::is_root("nothing_is_taken_down_for_a_folder_of_others") {
        return;
    }
    let (image, _) = model();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let _mount = Mount::at(&out, "size=60m,mode=1777");
    fs::write(out.join("of-root"), "1").unwrap();
    let partial = out.join(".guestctl-partial");
    let plant = || {
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join("published"), b"of-root\0").unwrap();
        std::os::unix::fs::chown(&partial, Some(1000), Some(1000)).unwrap();
    };
    plant();
    assert_eq!(pull(&Line::to(&image, None), folder.path()).unwrap_err().code(), "IMAGE_TARGET_EXISTS");
    assert_eq!(names(&out), ["of-root"]);
    plant();
    let at = File::open(folder.path()).unwrap();
    assert!(discard_kept(&Target::new(at.as_fd(), OsStr::new("out"))).unwrap());
    assert_eq!(names(&out), ["of-root"]);
}

#[test]
fn a_title_that_the_mount_point_has_is_refused_before_anything_is_fetched() {
    if !crate::is_root("a_title_that_the_mount_point_has") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let _mount = Mount::at(&out, "size=60m");
    fs::create_dir(out.join("lost+found")).unwrap();
    for title in ["lost+found/weights", ".guestctl-partial"] {
        let image = artifact(|image| vec![titled(image.blob(WEIGHTS, &noise(2_000_000, 1)), title)]);
        let line = Line::to(&image, None);
        let error = pull(&line, folder.path()).unwrap_err();
        assert!(error.code() == "ARTIFACT_TITLE_REFUSED" && error.to_string().contains(title), "{error}");
        assert_eq!((line.given(), names(&out)), (0, vec!["lost+found".to_owned()]));
    }
}
