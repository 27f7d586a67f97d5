//! Images from a real registry through `guestctl pull` and through the hub's `PullImage`: trees as another unpacker makes them,
//! images that mean harm, disks that are full, and pulls that are killed or cut off.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stderr,
    missing_docs,
    reason = "tests fail loudly and start programs"
)]

mod disk;
mod hostile;
mod hub;
mod kill;
mod line;
mod memory;
mod random;
mod refusal;
mod resume;
mod tree;
mod trees;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use cc_tests::{
    image::Layout,
    process::{command, own_binary},
    registry::Registry,
    stack::skip,
};
use tempfile::TempDir;

/// A registry, and a layout from which images are sent to it.
struct Workshop {
    registry: Registry,
    layout: Layout,
    folder: TempDir,
}

impl Workshop {
    fn open() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("pulling images needs root");
            return None;
        }
        if command("docker-registry").arg("--version").output().is_err() {
            skip("needs docker-registry");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("images-").tempdir().unwrap();
        let registry = Registry::start(folder.path()).unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        Some(Self { registry, layout, folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The name of an image in the registry.
    fn name(&self, tag: &str) -> String {
        format!("{}/app:{tag}", self.registry.address())
    }

    /// Sends the image `tag` of the layout to the registry.
    fn push(&self, tag: &str) {
        self.layout.push(tag, &self.registry, "app", tag).unwrap();
    }

    /// `guestctl pull` of the image `tag` into the folder `target`.
    fn pull_command(&self, tag: &str, target: &Path, more: &[&str]) -> Command {
        let mut guestctl = own_binary("guestctl").unwrap();
        guestctl.args(["pull", &self.name(tag), "--plain-http", "--rootfs"]).arg(target).args(more);
        for proxy in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            guestctl.env_remove(proxy);
        }
        guestctl
    }

    fn pull(&self, tag: &str, target: &Path, more: &[&str]) -> Output {
        self.pull_command(tag, target, more).output().unwrap()
    }

    /// Pulls, which has to succeed.
    #[track_caller]
    fn pulled(&self, tag: &str, target: &Path) {
        let out = self.pull(tag, target, &[]);
        assert!(out.status.success(), "{tag}: {}", String::from_utf8_lossy(&out.stderr));
    }

    /// Pulls, which has to be refused with this code and leave nothing; what was said.
    #[track_caller]
    fn refused(&self, tag: &str, more: &[&str], code: &str) -> String {
        let place = self.path("place");
        fs::create_dir_all(&place).unwrap();
        let out = self.pull(tag, &place.join("out"), more);
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && error.contains(&format!("[{code}]")), "{tag}: {error}");
        assert_eq!(left_in(&place), [""; 0], "{tag}: nothing stays behind");
        error
    }
}

/// The names in a folder.
fn left_in(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Runs a program, which has to succeed; its output.
#[track_caller]
fn run(command: &mut Command) -> Vec<u8> {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// What GNU tar makes of a folder.
fn archive(folder: &Path) -> Vec<u8> {
    let mut tar = command("tar");
    tar.args(["--create", "--format=posix", "--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*"]);
    run(tar.arg("--directory").arg(folder).arg("."))
}
