use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::*;
use crate::{Algorithm, Silent};

fn image(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn begin(parent: &File, text: &str) -> Result<Staging, Error> {
    Staging::begin(&Target::new(parent.as_fd(), OsStr::new("out")), image(text))
}

fn names(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Ends as if the network were gone, with something kept.
fn cut_off(staging: Staging, folder: &Path) {
    drop(staging.kept().unwrap());
    fs::write(folder.join(".out.guestctl-partial/kept/blob"), "1").unwrap();
    staging.end(&Error::Interrupted, &Silent);
}

#[test]
fn a_result_appears_complete_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let parent = File::open(folder.path()).unwrap();
    let staging = begin(&parent, "a").unwrap();
    staging.make("half").unwrap();
    assert_eq!(begin(&parent, "a").unwrap_err().code(), "IMAGE_TARGET_BUSY");
    drop(staging);
    assert_eq!(names(folder.path()), 0);
    let staging = begin(&parent, "a").unwrap();
    staging.make("done").unwrap();
    staging.make("waste").unwrap();
    staging.publish("done").unwrap();
    assert_eq!(names(folder.path()), 1);
    assert_eq!(begin(&parent, "a").unwrap_err().code(), "IMAGE_TARGET_EXISTS");
}

#[test]
fn what_is_kept_is_for_the_same_image_alone() {
    let folder = tempfile::tempdir().unwrap();
    let parent = File::open(folder.path()).unwrap();
    let partial = folder.path().join(".out.guestctl-partial");
    let kept = partial.join("kept/blob");
    let staging = begin(&parent, "a").unwrap();
    staging.make("half").unwrap();
    cut_off(staging, folder.path());
    assert!(kept.exists() && !partial.join("work").exists());
    assert_eq!(fs::metadata(&partial).unwrap().permissions().mode() & 0o777, 0o700);
    // A killed process leaves more.
    fs::create_dir_all(partial.join("work/half/x")).unwrap();
    cut_off(begin(&parent, "a").unwrap(), folder.path());
    assert!(kept.exists());
    drop(begin(&parent, "b").unwrap());
    assert_eq!(names(folder.path()), 0);
    // What others can enter, they may have made.
    cut_off(begin(&parent, "a").unwrap(), folder.path());
    fs::set_permissions(&partial, PermissionsExt::from_mode(0o777)).unwrap();
    let staging = begin(&parent, "a").unwrap();
    assert!(!kept.exists() && fs::metadata(&partial).unwrap().permissions().mode() & 0o777 == 0o700);
    drop(staging);
}

#[test]
fn only_a_pull_that_was_cut_off_leaves_something() {
    let folder = tempfile::tempdir().unwrap();
    let parent = File::open(folder.path()).unwrap();
    let what = "layer".to_owned();
    for error in [
        Error::Length { what: what.clone(), expected: 1, actual: "2".to_owned() },
        Error::NotFound { what: what.clone() },
        Error::Storage { doing: what, source: std::io::ErrorKind::StorageFull.into() },
    ] {
        let staging = begin(&parent, "a").unwrap();
        drop(staging.kept().unwrap());
        fs::write(folder.path().join(".out.guestctl-partial/kept/blob"), "1").unwrap();
        staging.end(&error, &Silent);
        assert_eq!(names(folder.path()), 0, "{error}");
    }
    // Nor is anything left for nothing.
    let staging = begin(&parent, "a").unwrap();
    drop(staging.kept().unwrap());
    fs::write(folder.path().join(".out.guestctl-partial/kept/blob.marks"), "1").unwrap();
    staging.end(&Error::Interrupted, &Silent);
    assert_eq!(names(folder.path()), 0);
}

#[test]
fn what_is_kept_can_be_thrown_away_but_not_under_a_running_pull() {
    let folder = tempfile::tempdir().unwrap();
    let parent = File::open(folder.path()).unwrap();
    let target = Target::new(parent.as_fd(), OsStr::new("out"));
    assert!(!discard_kept(&target).unwrap());
    cut_off(begin(&parent, "a").unwrap(), folder.path());
    let staging = begin(&parent, "a").unwrap();
    assert!(!discard_kept(&target).unwrap());
    cut_off(staging, folder.path());
    assert!(discard_kept(&target).unwrap());
    assert_eq!(names(folder.path()), 0);
}
