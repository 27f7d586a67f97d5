//! A block device, found by its number or path, which nobody else uses.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
};

use cc_volume::luks2::{Copies, DetachedHeader, Header};
use rustix::fs::OFlags;

use crate::{Failure, volume::read_from};

/// A device that this process has to itself.
#[derive(Debug)]
pub(super) struct Device {
    file: File,
    path: String,
    number: (u32, u32),
}

impl Device {
    /// Finds it. One that is mounted or used by anybody else in the kernel is refused.
    pub(super) fn find(device: &cc_storage::Device) -> Result<Self, Failure> {
        let (path, number) = match device {
            cc_storage::Device::Path(path) => (path.clone(), None),
            cc_storage::Device::Number(major, minor) => (by_number(*major, *minor)?, Some((*major, *minor))),
        };
        let refused = |why: String| Failure::Device { path: path.chars().take(200).collect(), why };
        // Links of the device manager lead to the device's own name.
        let real = std::fs::canonicalize(&path).map_err(|error| refused(error.to_string()))?;
        let real = real.to_str().ok_or_else(|| refused("its name is no text".to_owned()))?.to_owned();
        let flags = OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let is_block = |status: &std::fs::Metadata| status.file_type().is_block_device();
        if !std::fs::metadata(&real).is_ok_and(|status| is_block(&status)) {
            return Err(refused("it is no block device".to_owned()));
        }
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&real);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Failure::DeviceInUse { path: real.clone() },
            _ => refused(error.to_string()),
        })?;
        let status = file.metadata().map_err(|error| refused(error.to_string()))?;
        let found = (rustix::fs::major(status.rdev()), rustix::fs::minor(status.rdev()));
        if !is_block(&status) || number.is_some_and(|number| number != found) {
            return Err(refused("it is another device by now".to_owned()));
        }
        Ok(Self { file, path: real, number: found })
    }

    /// Its own path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Its number, `MAJOR:MINOR`.
    pub(super) fn number(&self) -> String {
        format!("{}:{}", self.number.0, self.number.1)
    }

    /// The header of the volume on it, from one of the `copies`, with its keyslots unless `admit` says something against it; each byte
    /// is read once.
    pub(super) fn header(
        &self,
        copies: Copies,
        admit: impl FnOnce(&Header) -> Result<(), cc_volume::Error>,
    ) -> Result<DetachedHeader, Failure> {
        read_from(&self.file, &format!("read {}", self.path), copies, admit)
    }

    /// Whether it begins with `mark`.
    ///
    /// # Errors
    /// [`Failure::Device`] if not.
    pub(super) fn require_start(&self, mark: &[u8]) -> Result<(), Failure> {
        let mut start = vec![0; mark.len()];
        self.file.read_exact_at(&mut start, 0).map_err(Failure::storage(format!("read {}", self.path)))?;
        if start == mark {
            return Ok(());
        }
        let why = "it does not begin with the mark of this format: it is another device than the one that was looked at".to_owned();
        Err(Failure::Device { path: self.path.clone(), why })
    }

    /// Leaves it to others; its path.
    pub(super) fn release(self) -> String {
        self.path
    }
}

/// The path that the kernel has for a number (sysfs(5), `uevent`).
fn by_number(major: u32, minor: u32) -> Result<String, Failure> {
    let refused = |why: &str| Failure::Device { path: format!("{major}:{minor}"), why: why.to_owned() };
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"));
    let text = text.map_err(|_| refused("there is no such block device"))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let name = name.filter(|name| !name.is_empty() && !name.split('/').any(|part| part == ".."));
    name.map(|name| format!("/dev/{name}")).ok_or_else(|| refused("the kernel has no name for it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [file.as_path(), &link, folder.path(), "/dev/null".as_ref(), "/dev/absent".as_ref()] {
            let device = cc_storage::Device::Path(path.display().to_string());
            assert_eq!(Device::find(&device).unwrap_err().code(), "DEVICE_REFUSED", "{}", path.display());
        }
        assert_eq!(Device::find(&cc_storage::Device::Number(4095, 1)).unwrap_err().code(), "DEVICE_REFUSED");
    }
}
