//! Trees that are deeper than a process may have files open. A program of its own: the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs::{self, File},
    os::fd::AsFd,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_tree_deeper_than_the_limit_of_descriptors_goes() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    for branch in ["a", "b", ".1"] {
        let mut path = tree.join(branch);
        for _ in 0..256 {
            path.push("d");
            fs::create_dir_all(path.join("beside")).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let at = File::open(folder.path()).unwrap();
    image_rs::tree::remove(at.as_fd(), "tree").unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
