//! Where devices may appear. The host names the place, so it has to be one whose files the system does not believe: a file system over
//! an empty `/etc/systemd/system/x.service.d` or `/root/.ssh` would be the host's word about this machine.
//!
//! A path is followed once, by openat2(2), and what it led to is judged and used by its descriptor; links on the way may lead
//! elsewhere, but not unseen.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// Where devices may appear unless told otherwise: kata-agent's places, and where devices are mounted by custom (Filesystem Hierarchy
/// Standard 3.0, sections 3.11, 3.12 and 3.17), also as image-based systems have these.
const USUAL: [&str; 7] =
    ["/run/kata-containers", "/media", "/mnt", "/srv", "/var/media", "/var/mnt", "/var/srv"];

/// Opens the folder at `path`, which is no link itself, if something may appear there. The descriptor gives no more than the place.
///
/// # Errors
/// What is wrong, in half a sentence.
pub(super) fn folder(path: &Path, below: Option<&[String]>) -> Result<OwnedFd, String> {
    let (folder, real) = resolve(path, OFlags::NOFOLLOW).map_err(|error| error.to_string())?;
    check(&real, below)?;
    Ok(folder)
}

/// Opens the folder that the new name `path` is in, if something may appear there; the folder and the name in it.
///
/// # Errors
/// What is wrong, in half a sentence.
pub(super) fn parent(path: &Path, below: Option<&[String]>) -> Result<(OwnedFd, PathBuf), String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("it is no name in a folder".to_owned());
    };
    let (folder, real) = resolve(parent, OFlags::empty()).map_err(|error| error.to_string())?;
    check(&real.join(name), below)?;
    Ok((folder, name.into()))
}

/// The folder at `path`, and where that really is.
fn resolve(path: &Path, more: OFlags) -> io::Result<(OwnedFd, PathBuf)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | more;
    // Links of /proc lead past every path.
    let folder = loop {
        match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => break other?,
        }
    };
    let real = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
    Ok((folder, real))
}

/// Whether something may appear at the place `real`, in which no component is a link.
fn check(real: &Path, below: Option<&[String]>) -> Result<(), String> {
    let admitted = match below {
        // What is configured is followed as well.
        Some(folders) => folders
            .iter()
            .any(|folder| real.starts_with(std::fs::canonicalize(folder).unwrap_or_else(|_| folder.into()))),
        None => USUAL.iter().any(|folder| real.starts_with(folder)),
    };
    if admitted {
        return Ok(());
    }
    let folders = below.map_or_else(|| USUAL.join(", "), |folders| folders.join(", "));
    Err(format!("it is {}, which is not below {folders}: see [secure_mount] below", real.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_appear_in_usual_places_or_configured_ones_alone() {
        let no: [&str; 0] = [];
        for (place, below, admitted) in [
            ("/", None, false),
            ("/etc/systemd/system/x.d", None, false),
            ("/usr/local/lib/x", None, false),
            ("/root/.ssh", None, false),
            ("/run/systemd/system", None, false),
            ("/run/kata-containers-else", None, false),
            ("/var/lib/x", None, false),
            ("/opt", None, false),
            ("/data", None, false),
            ("/run/kata-containers/image", None, true),
            ("/run/kata-containers/sandbox/storage/a", None, true),
            ("/mnt/encrypted-disk", None, true),
            ("/var/mnt/x", None, true),
            ("/srv", None, true),
            ("/srv/x", Some(&["/absent-data"][..]), false),
            ("/absent-data/x", Some(&["/absent-data"][..]), true),
            ("/absent-data2/x", Some(&["/absent-data"][..]), false),
            ("/etc/x", Some(&["/absent", "/etc/x"][..]), true),
            ("/etc/x", Some(&["/"][..]), true),
            ("/srv/x", Some(&no[..]), false),
        ] {
            let below: Option<Vec<String>> =
                below.map(|below| below.iter().map(ToString::to_string).collect());
            let checked = check(place.as_ref(), below.as_deref());
            assert_eq!(checked.is_ok(), admitted, "{place} {below:?}");
            if let Err(why) = checked {
                assert!(why.contains(place) && why.contains("[secure_mount]"), "{why}");
            }
        }
    }

    #[test]
    fn a_link_on_the_way_is_followed_and_what_it_leads_to_is_judged() {
        let root = tempfile::tempdir().unwrap();
        let (inside, outside) = (root.path().join("inside"), root.path().join("outside"));
        std::fs::create_dir_all(inside.join("a")).unwrap();
        std::fs::create_dir_all(outside.join("b")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("out")).unwrap();
        std::os::unix::fs::symlink(&inside, root.path().join("in")).unwrap();
        std::os::unix::fs::symlink("/etc", root.path().join("etc")).unwrap();
        let below = [inside.display().to_string()];
        let below = Some(&below[..]);
        assert!(folder(&inside.join("a"), below).is_ok());
        assert!(folder(&root.path().join("in/a"), below).is_ok(), "it leads to a good place");
        for bad in [inside.join("out/b"), inside.join("out"), outside.join("b"), "/proc/self/root/etc".into()]
        {
            assert!(folder(&bad, below).is_err(), "{}", bad.display());
        }
        assert!(parent(&inside.join("a/new"), below).is_ok());
        assert!(parent(&root.path().join("in/new"), below).is_ok());
        assert!(parent(&inside.join("out/new"), below).is_err());
        let why = parent(&root.path().join("etc/new"), None).unwrap_err();
        assert!(why.contains("/etc/new") && why.contains("/run/kata-containers"), "{why}");
        assert!(parent(Path::new("/"), None).is_err());
    }
}
