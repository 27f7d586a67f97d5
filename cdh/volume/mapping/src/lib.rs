//! A mapping of the device mapper (Linux `Documentation/admin-guide/device-mapper`): what is in its table, and its end.
//!
//! Only mappings of one target, of type `crypt`. Making one is cryptsetup's work; whether it is as it should be says
//! [`CryptTarget`].

mod error;
mod sys;

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use cc_volume::dm_crypt::CryptTarget;

pub use self::error::MappingError as Error;
use self::sys::{REMOVE, Request, TABLE_STATUS};

/// The door of the device mapper.
const CONTROL: &str = "/dev/mapper/control";
/// Bytes of the sector that the kernel counts in.
const SECTOR_LEN: u64 = 512;

/// A mapping by name.
#[derive(Debug)]
pub struct Mapping {
    control: File,
    name: String,
    path: PathBuf,
}

impl Mapping {
    /// The mapping `name`, whether there is one or not.
    ///
    /// # Errors
    /// [`Error::Unreadable`] without a device mapper, or without the right to use it.
    pub fn open(name: &str) -> Result<Self, Error> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        let control = control.map_err(|source| failed("opening the device mapper", source))?;
        Ok(Self { control, name: name.to_owned(), path: Path::new("/dev/mapper").join(name) })
    }

    /// Whether something has the name `name`. Without a device mapper nothing has.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if the kernel does not tell, [`Error::Differs`] for a name that no mapping has.
    pub fn is_there(name: &str) -> Result<bool, Error> {
        if Path::new("/dev/mapper").join(name).symlink_metadata().is_ok() {
            return Ok(true);
        }
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        let control = match control {
            // No node, or one whose driver is not there.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error::is_absent(&error) => {
                return Ok(false);
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                return Ok(false);
            }
            other => other.map_err(|source| failed("opening the device mapper", source))?,
        };
        let mapping = Self { control, name: name.to_owned(), path: PathBuf::new() };
        let mut request = Request::new(name).map_err(|why| mapping.differs(why))?;
        match request.send::<TABLE_STATUS>(&mapping.control) {
            Ok(()) => Ok(true),
            Err(error) if error::is_absent(&error) => Ok(false),
            Err(source) => Err(failed(&format!("asking for the mapping {name}"), source)),
        }
    }

    /// The path of its device.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its one target.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if there is none, [`Error::Differs`] if it is not one target of type `crypt`.
    pub fn target(&self) -> Result<CryptTarget, Error> {
        let mut request = Request::new(&self.name).map_err(|why| self.differs(why))?;
        request
            .send::<TABLE_STATUS>(&self.control)
            .map_err(|source| failed(&format!("asking for the mapping {}", self.name), source))?;
        let (start, length, kind, text) = request.only_target().map_err(|why| self.differs(why))?;
        if kind != "crypt" {
            return Err(self.differs("it is no target of type crypt"));
        }
        CryptTarget::parse(start, length, text)
            .map_err(|error| Error::Differs { path: self.path.clone(), error })
    }

    /// Takes the mapping away.
    ///
    /// # Errors
    /// What the kernel says: it is in use, or not there.
    pub fn remove(&self) -> io::Result<()> {
        let mut request = Request::new(&self.name).map_err(io::Error::other)?;
        request.send::<REMOVE>(&self.control)
    }

    /// Bytes of the device `MAJOR:MINOR`.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if there is no such device, [`Error::Differs`] if it has no length.
    pub fn length_below(&self, device: &str) -> Result<u64, Error> {
        let plain = device.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
        let path = format!("/sys/dev/block/{device}/size");
        let text = if plain { fs::read_to_string(&path) } else { Err(io::ErrorKind::InvalidInput.into()) };
        let text = text.map_err(|source| failed(&format!("reading {path}"), source))?;
        let sectors = text.trim().parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(SECTOR_LEN));
        sectors.ok_or_else(|| self.differs("the device below has no length"))
    }

    fn differs(&self, why: &str) -> Error {
        Error::Differs { path: self.path.clone(), error: cc_volume::Error::Mapping { why: why.to_owned() } }
    }
}

fn failed(doing: &str, source: io::Error) -> Error {
    Error::Unreadable { doing: doing.to_owned(), source }
}
