//! A mapping of the device mapper (Linux `Documentation/admin-guide/device-mapper`): what is in its table, and its end.
//!
//! Only mappings of one target, of type `crypt`. Making one is cryptsetup's work.

mod sys;

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use cc_evidence::blame::Blame;
use cc_volume::dm_crypt::CryptTarget;

use self::sys::{REMOVE, Request, TABLE_STATUS};
use super::volume;
use crate::failure::{self, Failure};

/// The door of the device mapper.
const CONTROL: &str = "/dev/mapper/control";
/// Bytes of the sector that the kernel counts in.
const SECTOR_LEN: u64 = 512;

/// A mapping by name.
#[derive(Debug)]
pub(super) struct Mapping {
    control: File,
    name: String,
    path: PathBuf,
}

impl Mapping {
    /// The mapping `name`, whether there is one or not.
    pub(super) fn open(name: &str) -> Result<Self, Failure> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        let control = control.map_err(|source| failed("opening the device mapper", &source))?;
        Ok(Self { control, name: name.to_owned(), path: Path::new("/dev/mapper").join(name) })
    }

    /// Whether something has the name `name`. Without a device mapper nothing has.
    pub(super) fn is_there(name: &str) -> Result<bool, Failure> {
        if Path::new("/dev/mapper").join(name).symlink_metadata().is_ok() {
            return Ok(true);
        }
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        let control = match control {
            // No node, or one whose driver is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_absent(&error) => return Ok(false),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                return Ok(false);
            }
            other => other.map_err(|source| failed("opening the device mapper", &source))?,
        };
        let mapping = Self { control, name: name.to_owned(), path: PathBuf::new() };
        let mut request = Request::new(name).map_err(|why| mapping.differs(why))?;
        match request.send::<TABLE_STATUS>(&mapping.control) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(source) => Err(failed(&format!("asking for the mapping {name}"), &source)),
        }
    }

    /// The path of its device.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its one target.
    pub(super) fn target(&self) -> Result<CryptTarget, Failure> {
        let mut request = Request::new(&self.name).map_err(|why| self.differs(why))?;
        request
            .send::<TABLE_STATUS>(&self.control)
            .map_err(|source| failed(&format!("asking for the mapping {}", self.name), &source))?;
        let (start, length, kind, text) = request.only_target().map_err(|why| self.differs(why))?;
        if kind != "crypt" {
            return Err(self.differs("it is no target of type crypt"));
        }
        CryptTarget::parse(start, length, text).map_err(|error| volume(&self.path, error))
    }

    /// Takes the mapping away.
    pub(super) fn remove(&self) -> io::Result<()> {
        let mut request = Request::new(&self.name).map_err(io::Error::other)?;
        request.send::<REMOVE>(&self.control)
    }

    /// Bytes of the device `MAJOR:MINOR`.
    pub(super) fn length_below(&self, device: &str) -> Result<u64, Failure> {
        let plain = device.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
        let path = format!("/sys/dev/block/{device}/size");
        let text = if plain { fs::read_to_string(&path) } else { Err(io::ErrorKind::InvalidInput.into()) };
        let text = text.map_err(|source| failed(&format!("reading {path}"), &source))?;
        let sectors = text.trim().parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(SECTOR_LEN));
        sectors.ok_or_else(|| self.differs("the device below has no length"))
    }

    fn differs(&self, why: &str) -> Failure {
        volume(&self.path, cc_volume::Error::Mapping { why: why.to_owned() })
    }
}

/// Whether the kernel says that there is no such mapping.
fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

fn failed(doing: &str, source: &io::Error) -> Failure {
    let hint = if is_absent(source) {
        "there is no such mapping; `ls /dev/mapper` shows which volumes are open"
    } else {
        "run as root, on a kernel with the device mapper"
    };
    failure::of(Blame::Platform, "MAPPING_UNREADABLE", &format!("{doing}: {source}"), hint)
}
