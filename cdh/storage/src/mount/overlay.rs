//! One overlay of up to 500 layers (Linux, Documentation/filesystems/overlayfs.rst).
//!
//! Kernels from 6.7 take the layers one by one. Older ones take one line of options that has to fit into a page; there the
//! layers are named by short links (`l/0`) in the working directory, which is the store.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::{Mutex, PoisonError},
};

use cc_storage::Name;
use rustix::{
    fs::AtFlags,
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags},
};

use super::mounted;
use crate::Failure;

/// What layers may not say, whatever this kernel's defaults are: where else to look for a file or its content.
const OPTIONS: [(&str, &str); 3] = [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off")];

/// The names of links are free again when the mount is made.
static LINKS: Mutex<()> = Mutex::new(());

/// How layers are told to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One by one, in a row of calls.
    OneByOne,
    /// All in one line of options.
    OneLine,
}

/// An overlay that is mounted. It is unmounted when this goes, unless it is kept.
#[derive(Debug)]
pub(super) struct Mounted {
    upper: String,
    kept: bool,
}

impl Mounted {
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.kept
            && let Err(failure) = unmount(&self.upper)
        {
            tracing::error!(error = %failure, upper = self.upper, "an overlay stays mounted");
        }
    }
}

/// Mounts `layers`, directories relative to the store, which is the working directory, the lowest first, with what is below `overlay/<name>`, on the
/// directory `target`.
pub(super) fn mount(layers: &[String], name: &Name, target: BorrowedFd<'_>) -> Result<Mounted, Errno> {
    match mount_by(Way::OneByOne, layers, name, target) {
        // This kernel does not know `lowerdir+`, or not even the calls.
        Err(Errno::INVAL | Errno::NOSYS) => mount_by(Way::OneLine, layers, name, target),
        other => other,
    }
}

fn mount_by(way: Way, layers: &[String], name: &Name, target: BorrowedFd<'_>) -> Result<Mounted, Errno> {
    let (upper, work) = (upper(name), format!("overlay/{name}/work"));
    match way {
        Way::OneByOne => one_by_one(layers, &upper, &work, target)?,
        Way::OneLine => one_line(layers, &upper, &work, target)?,
    }
    Ok(Mounted { upper, kept: false })
}

/// The directory that takes what is written, as the kernel's list of mounts shows it.
pub(super) fn upper(name: &Name) -> String {
    format!("overlay/{name}/upper")
}

/// Unmounts the overlay with this upper directory wherever it is mounted.
pub(super) fn unmount(upper: &str) -> Result<(), Failure> {
    for point in mounted::points(upper)? {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(&point, flags)
            .map_err(Failure::storage(format!("unmount {}", point.display())))?;
    }
    Ok(())
}

fn one_by_one(layers: &[String], upper: &str, work: &str, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let options = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| rustix::mount::fsconfig_set_string(options.as_fd(), key, value);
    set("source", "overlay")?;
    for layer in layers.iter().rev() {
        set("lowerdir+", layer)?;
    }
    set("upperdir", upper)?;
    set("workdir", work)?;
    OPTIONS.iter().try_for_each(|(key, value)| set(key, value))?;
    rustix::mount::fsconfig_create(options.as_fd())?;
    let mount =
        rustix::mount::fsmount(options.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(&mount, "", target, "", here)
}

fn one_line(layers: &[String], upper: &str, work: &str, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let _links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
    let link = |number: usize| format!("l/{number}");
    let clear = || {
        (0..layers.len()).try_for_each(|number| {
            match rustix::fs::unlinkat(rustix::fs::CWD, link(number), AtFlags::empty()) {
                Err(Errno::NOENT) | Ok(()) => Ok(()),
                other => other,
            }
        })
    };
    clear()?;
    let made = layers
        .iter()
        .enumerate()
        .try_for_each(|(number, layer)| rustix::fs::symlink(format!("../{layer}"), link(number)));
    let mounted = made.and_then(|()| {
        let lower: Vec<String> = (0..layers.len()).rev().map(link).collect();
        let mut line = format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":"));
        OPTIONS.iter().for_each(|(key, value)| line.push_str(&format!(",{key}={value}")));
        // The kernel would cut a longer one, and with it layers, without a word (copy_mount_options).
        if line.len() >= rustix::param::page_size().min(4096) {
            return Err(Errno::TOOBIG);
        }
        let line = std::ffi::CString::new(line).map_err(|_| Errno::INVAL)?;
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), line.as_c_str())
    });
    clear()?;
    mounted
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd};

    use super::*;

    #[test]
    fn both_ways_take_as_many_layers_as_linux_stacks() {
        if !rustix::process::geteuid().is_root() {
            cc_vectors::skip("needs root");
            return;
        }
        let store = tempfile::tempdir().unwrap();
        let name = |number: usize| format!("{number:064x}").parse::<Name>().unwrap();
        let tree = |number: usize| format!("layers/{}/tree", name(number));
        let layers: Vec<String> = (0..cc_storage::MAX_LAYERS).map(tree).collect();
        for (number, layer) in layers.iter().enumerate() {
            let tree = store.path().join(layer);
            fs::create_dir_all(&tree).unwrap();
            fs::write(tree.join("newest"), number.to_string()).unwrap();
            fs::write(tree.join(number.to_string()), "").unwrap();
        }
        fs::create_dir(store.path().join("l")).unwrap();
        // The only test of this process that needs a working directory of its own.
        rustix::process::chdir(store.path()).unwrap();
        for (way, number) in [(Way::OneByOne, 1000), (Way::OneLine, 1001)] {
            let name = name(number);
            for directory in [upper(&name), format!("overlay/{name}/work")] {
                fs::create_dir_all(directory).unwrap();
            }
            let target = store.path().join(format!("{way:?}"));
            fs::create_dir(&target).unwrap();
            let mounted = match mount_by(way, &layers, &name, fs::File::open(&target).unwrap().as_fd()) {
                Err(Errno::INVAL | Errno::NOSYS) if way == Way::OneByOne => continue,
                mounted => mounted.unwrap(),
            };
            assert_eq!(fs::read_to_string(target.join("newest")).unwrap(), "499", "{way:?}");
            assert_eq!(fs::read_dir(&target).unwrap().count(), 501, "{way:?}");
            fs::write(target.join("written"), "").unwrap();
            assert!(store.path().join(upper(&name)).join("written").exists());
            assert_eq!(mounted::points(&upper(&name)).unwrap(), std::slice::from_ref(&target));
            drop(mounted);
            assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "{way:?}");
        }
        assert_eq!(fs::read_dir("l").unwrap().count(), 0);
        rustix::process::chdir("/").unwrap();
    }
}
