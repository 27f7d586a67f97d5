//! Where a volume appears: a file system on an empty folder, or a link to the mapping.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use cc_mapping::MappingError;
use cc_storage::{Content, Volume};
use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use super::{file_system, place, record::Entry};
use crate::Failure;

/// Whether it can appear there: nothing that is there is hidden or replaced, and no file of the system either.
pub(super) fn check(volume: &Volume) -> Result<(), Failure> {
    if !volume.link {
        return folder(volume).map(drop);
    }
    let (parent, name) = parent(volume)?;
    match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(refused(&volume.mount_point, &std::io::Error::from(error).to_string())),
        Ok(_) => Err(refused(&volume.mount_point, "it exists already")),
    }
}

/// Lets it appear.
pub(super) fn appear(volume: &Volume) -> Result<(), Failure> {
    let mapping = mapping(&volume.name);
    if volume.link {
        let (parent, name) = parent(volume)?;
        return rustix::fs::symlinkat(&mapping, &parent, &name)
            .map_err(|error| refused(&volume.mount_point, &std::io::Error::from(error).to_string()));
    }
    if let Content::Fresh { integrity } = volume.content {
        file_system::make(&volume.name, &volume.mkfs, integrity)?;
    }
    let folder = folder(volume)?;
    let target = format!("/proc/self/fd/{}", folder.as_raw_fd());
    let mut flags = MountFlags::NOATIME | MountFlags::NODEV;
    // A tag says who made the header, not what is in the file system by now.
    if matches!(volume.content, Content::Volume { .. }) {
        flags |= MountFlags::NOSUID;
    }
    rustix::mount::mount(&mapping, &target, "ext4", flags, None).map_err(|error| Failure::FileSystem {
        doing: format!("mount {} on {}", mapping.display(), volume.mount_point),
        why: std::io::Error::from(error).to_string(),
    })
}

/// Whether what [`appear`] did is there. `number` is that of the mapping, if there is one.
pub(super) fn is_there(entry: &Entry, number: Option<u64>) -> bool {
    let place = Path::new(&entry.mount_point);
    if entry.link {
        return std::fs::read_link(place).is_ok_and(|target| target == mapping(&entry.name));
    }
    number.is_some() && rustix::fs::lstat(place).ok().map(|status| status.st_dev) == number
}

/// Takes away what [`appear`] did, and nothing else. `number` is that of the mapping, if there is one.
pub(super) fn vanish(entry: &Entry, number: Option<u64>) -> Result<(), Failure> {
    let place = Path::new(&entry.mount_point);
    if !is_there(entry, number) {
        return Ok(());
    }
    if entry.link {
        return std::fs::remove_file(place)
            .map_err(Failure::storage(format!("remove {}", entry.mount_point)));
    }
    match rustix::mount::unmount(place, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MappingError::InUse { name: entry.name.clone() }.into()),
        Err(error) => Err(Failure::storage(format!("unmount {}", entry.mount_point))(error)),
    }
}

/// The path of a mapping.
pub(super) fn mapping(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// The folder where a file system is to appear, which is empty and no link.
fn folder(volume: &Volume) -> Result<OwnedFd, Failure> {
    let path = &volume.mount_point;
    let folder = place::folder(path.as_ref(), volume.below.as_deref()).map_err(|why| refused(path, &why))?;
    let failed = |error: Errno| refused(path, &std::io::Error::from(error).to_string());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rustix::fs::openat(&folder, ".", flags, Mode::empty()).map_err(failed)?;
    for entry in Dir::new(listed).map_err(failed)? {
        if !matches!(entry.map_err(failed)?.file_name().to_bytes(), b"." | b"..") {
            return Err(refused(path, "the folder is not empty, and what is in it would be hidden"));
        }
    }
    Ok(folder)
}

/// The folder in which a link is to appear, and its name.
fn parent(volume: &Volume) -> Result<(OwnedFd, PathBuf), Failure> {
    let path = &volume.mount_point;
    place::parent(path.as_ref(), volume.below.as_deref()).map_err(|why| refused(path, &why))
}

fn refused(path: &str, why: &str) -> Failure {
    Failure::MountPoint { path: path.chars().take(200).collect(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_there_is_hidden_or_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name).display().to_string();
        for name in ["empty", "full/x"] {
            std::fs::create_dir_all(path(name)).unwrap();
        }
        std::fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink(path("empty"), path("link")).unwrap();
        let check = |name: &str, link: bool| {
            check(&Volume {
                opening: [0; 32].into(),
                below: Some(vec![root.path().display().to_string()]),
                device: cc_storage::Device::Number(0, 0),
                name: "x".to_owned(),
                content: Content::Fresh { integrity: false },
                mount_point: path(name),
                link,
                mkfs: Vec::new(),
            })
        };
        assert!(check("empty", false).is_ok() && check("absent", true).is_ok());
        for (name, link) in [
            ("full", false),
            ("file", false),
            ("link", false),
            ("absent", false),
            ("empty", true),
            ("file", true),
            ("link", true),
            ("file/x", true),
        ] {
            assert_eq!(check(name, link).unwrap_err().code(), "MOUNT_POINT_REFUSED", "{name} {link}");
        }
    }
}
