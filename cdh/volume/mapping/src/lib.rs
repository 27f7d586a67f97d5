//! Mappings of the device mapper (Linux `Documentation/admin-guide/device-mapper`): what is in their tables, and their end.
//!
//! Only mappings of one target: of type `crypt`, and of type `integrity` below one with integrity. What such a table may say is
//! [`cc_volume`]'s; here is the way to the kernel. Making and changing mappings is libcryptsetup's work.

mod error;
mod sys;

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
    time::Duration,
};

use cc_volume::{
    dm_crypt::{CryptTarget, mapping_uuid},
    dm_integrity::{IntegrityTarget, is_tags_uuid, is_temporary, tags_name},
    luks2::Header,
};
use rustix::io::Errno;

pub use error::MappingError;
use sys::{REMOVE, Request, TABLE_STATUS};

/// The door of the device mapper.
const CONTROL: &str = "/dev/mapper/control";
/// Bytes of the sector that the kernel counts in.
const SECTOR_LEN: u64 = 512;
/// How often a mapping that is in use is tried again: the device manager looks into new ones for a moment.
const TRIES: u32 = 50;
/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// What the kernel says of a mapping of one target.
#[derive(Debug)]
struct State {
    uuid: String,
    device: String,
    start: u64,
    length: u64,
    parameters: String,
}

/// A mapping by name, whether there is one or not.
#[derive(Debug)]
pub struct Mapping {
    control: File,
    name: String,
}

impl Mapping {
    /// The mapping `name`.
    ///
    /// # Errors
    /// [`MappingError::Unreadable`] without the device mapper, or the right to use it.
    pub fn open(name: &str) -> Result<Self, MappingError> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        let control = control.map_err(unreadable("opening the device mapper"))?;
        Ok(Self { control, name: name.to_owned() })
    }

    /// Whether something has the name `name`. Without a device mapper nothing has.
    ///
    /// # Errors
    /// [`MappingError::Unreadable`].
    pub fn is_there(name: &str) -> Result<bool, MappingError> {
        if Path::new("/dev/mapper").join(name).symlink_metadata().is_ok() {
            return Ok(true);
        }
        let asked = Self::open(name).and_then(|mapping| mapping.ask(name));
        match asked {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its one target, of type `crypt`.
    ///
    /// # Errors
    /// [`MappingError::Unreadable`]; [`MappingError::Differs`] for another kind of table.
    pub fn target(&self) -> Result<CryptTarget, MappingError> {
        let state = self.state(&self.name, "crypt")?;
        CryptTarget::parse(state.start, state.length, &state.parameters).map_err(|error| self.differs(error))
    }

    /// Compares it, and what lies below it where there is integrity, with the header that the volume was opened with.
    /// `allow_discards` is the policy's.
    ///
    /// # Errors
    /// [`MappingError::Foreign`] for the mapping of another volume; [`MappingError::Differs`] with the first difference;
    /// [`MappingError::Unreadable`].
    pub fn verify(&self, header: &Header, allow_discards: bool) -> Result<CryptTarget, MappingError> {
        self.verify_over(header, allow_discards, None)
    }

    /// The same, and that it lies on the device `device` (`MAJOR:MINOR`), if that is known: with integrity, that of the tags does.
    ///
    /// # Errors
    /// As [`Mapping::verify`].
    pub fn verify_over(
        &self,
        header: &Header,
        allow_discards: bool,
        device: Option<&str>,
    ) -> Result<CryptTarget, MappingError> {
        let state = self.own(&header.binary().uuid)?;
        let differs = |error| self.differs(error);
        let target = CryptTarget::parse(state.start, state.length, &state.parameters).map_err(differs)?;
        target.check(header, allow_discards).map_err(differs)?;
        target.check_length(self.length_below(&target.device)?).map_err(differs)?;
        let mut lowest = target.device.clone();
        let segment = header.metadata().segments.get(&0).and_then(|segment| segment.crypt.as_ref());
        if segment.is_some_and(|segment| segment.integrity.is_some()) {
            let below = self.state(&tags_name(&self.name), "integrity")?;
            if below.device != target.device {
                return Err(self.otherwise("the device below is not the one that keeps its tags"));
            }
            let tags =
                IntegrityTarget::parse(below.start, below.length, &below.parameters).map_err(differs)?;
            tags.check(header, target.length, allow_discards).map_err(differs)?;
            lowest = tags.device;
        }
        match device {
            Some(device) if lowest != device => {
                Err(self
                    .otherwise(&format!("it lies on the device {lowest}, its header was read from {device}")))
            }
            _ => Ok(target),
        }
    }

    /// Takes it away, and the one that keeps its tags, if they are those of the volume `uuid`; what others made stays. That of the tags goes
    /// as well if it is alone: whoever made the two may have been killed between them. Waits for a moment if one is in use. Gives whether
    /// there was any.
    ///
    /// # Errors
    /// [`MappingError::Foreign`]; [`MappingError::InUse`]; [`MappingError::Unreadable`].
    pub fn close(&self, uuid: &str) -> Result<bool, MappingError> {
        let closed = self.take_away(&self.name, |found| found == mapping_uuid(uuid, &self.name))?;
        match self.close_tags(uuid) {
            Err(MappingError::Foreign { .. }) => Ok(closed),
            tags => Ok(tags? || closed),
        }
    }

    /// Before the mapping `name` of the volume `uuid` is made: takes away the one with its tags if that was left alone. Gives whether it was.
    ///
    /// # Errors
    /// [`MappingError::Foreign`] if another one has its name; [`MappingError::InUse`]; [`MappingError::Unreadable`].
    pub fn clear_leftover(name: &str, uuid: &str) -> Result<bool, MappingError> {
        if Self::is_there(name)? {
            return Ok(false);
        }
        match Self::open(name).and_then(|mapping| mapping.close_tags(uuid)) {
            // There is no device mapper yet.
            Err(error) if error.is_absent() => Ok(false),
            cleared => cleared,
        }
    }

    /// Takes away what libcryptsetup has made over the block device `number` for the moment in which it formats, and not removed because
    /// it was ended. Gives whether there was any.
    ///
    /// # Errors
    /// [`MappingError::InUse`]; [`MappingError::Unreadable`].
    pub fn close_temporary(number: u64) -> Result<bool, MappingError> {
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let holders = fs::read_dir(format!("/sys/dev/block/{major}:{minor}/holders"));
        let mut closed = false;
        // Neither a holder that goes meanwhile nor one that is no mapping has a name.
        for holder in holders.into_iter().flatten().flatten() {
            let Ok(name) = fs::read_to_string(holder.path().join("dm/name")) else { continue };
            let mapping = Self::open(name.trim_end())?;
            match mapping.take_away(&mapping.name, |found| is_temporary(&mapping.name, found)) {
                Ok(gone) => closed |= gone,
                Err(MappingError::Foreign { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(closed)
    }

    fn close_tags(&self, uuid: &str) -> Result<bool, MappingError> {
        self.take_away(&tags_name(&self.name), |found| is_tags_uuid(found, uuid, &self.name))
    }

    /// Removes the mapping `name` if its identifier says that it is `ours`, whatever its table is: one that was being made may have none.
    #[allow(
        clippy::disallowed_methods,
        reason = "on a command's or device thread, which has nothing else to do"
    )]
    fn take_away(&self, name: &str, ours: impl Fn(&str) -> bool) -> Result<bool, MappingError> {
        for attempt in 0..TRIES {
            let found = match self.ask(name) {
                Ok(request) => request.identity().map_or_else(String::new, |(found, _)| found),
                Err(error) if error.is_absent() => return Ok(attempt > 0),
                Err(error) => return Err(error),
            };
            if !ours(&found) {
                return Err(MappingError::Foreign { name: name.to_owned(), found });
            }
            match self.remove(name) {
                Ok(()) => return Ok(true),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => std::thread::sleep(PAUSE),
                Err(source) if error::is_absent(&source) => return Ok(true),
                Err(source) => return Err(unreadable(&format!("removing the mapping {name}"))(source)),
            }
        }
        Err(MappingError::InUse { name: name.to_owned() })
    }

    /// The number of its block device, if it is that of the volume `uuid`.
    #[must_use]
    pub fn number(&self, uuid: &str) -> Option<u64> {
        let device = self.own(uuid).ok()?.device;
        let (major, minor) = device.split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether it is that of the volume `uuid`.
    ///
    /// # Errors
    /// [`MappingError::Foreign`]; [`MappingError::Unreadable`].
    pub fn check_owner(&self, uuid: &str) -> Result<(), MappingError> {
        self.own(uuid).map(drop)
    }

    /// Its state, if the kernel knows it as that of the volume `uuid`.
    fn own(&self, uuid: &str) -> Result<State, MappingError> {
        let state = self.state(&self.name, "crypt")?;
        if state.uuid != mapping_uuid(uuid, &self.name) {
            return Err(MappingError::Foreign { name: self.name.clone(), found: state.uuid });
        }
        Ok(state)
    }

    fn state(&self, name: &str, kind: &str) -> Result<State, MappingError> {
        let request = self.ask(name)?;
        let (start, length, found, text) = request.only_target().map_err(|why| self.otherwise(why))?;
        let (uuid, device) = request.identity().ok_or_else(|| self.otherwise("it has no identifier"))?;
        if found != kind {
            return Err(self.otherwise(&format!("the target of {name} is not of type {kind}")));
        }
        Ok(State { uuid, device, start, length, parameters: text.to_owned() })
    }

    fn ask(&self, name: &str) -> Result<Request, MappingError> {
        let mut request = Request::new(name).map_err(|why| self.otherwise(why))?;
        request
            .send::<TABLE_STATUS>(&self.control)
            .map_err(unreadable(&format!("asking for the mapping {name}")))?;
        Ok(request)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut request = Request::new(name).map_err(io::Error::other)?;
        request.send::<REMOVE>(&self.control)
    }

    /// Bytes of the device `MAJOR:MINOR`.
    fn length_below(&self, device: &str) -> Result<u64, MappingError> {
        let plain = device.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
        let path = format!("/sys/dev/block/{device}/size");
        let text = if plain { fs::read_to_string(&path) } else { Err(io::ErrorKind::InvalidInput.into()) };
        let text = text.map_err(unreadable(&format!("reading {path}")))?;
        let sectors = text.trim().parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(SECTOR_LEN));
        sectors.ok_or_else(|| self.otherwise("the device below has no length"))
    }

    fn otherwise(&self, why: &str) -> MappingError {
        self.differs(cc_volume::Error::Mapping { why: why.to_owned() })
    }

    fn differs(&self, error: cc_volume::Error) -> MappingError {
        MappingError::Differs { name: self.name.clone(), error }
    }
}

fn unreadable(doing: &str) -> impl FnOnce(io::Error) -> MappingError + use<> {
    let doing = doing.to_owned();
    move |source| MappingError::Unreadable { doing, source }
}
