//! The mode that opens block devices with LUKS2, and lets them appear: mounted, or as a link to the mapping.
//!
//! The header that a device is opened with is in memory, and nowhere else: of a fresh device it was made there and never was on the
//! device, of a volume it is the one copy that was read, judged, and authenticated. libcryptsetup gets it as a sealed file in memory,
//! so that nothing can change it any more. After opening, the kernel's table is compared with it.
//!
//! Whatever fails, nothing stays: each opening has a record in a folder in memory, written before the first step and complete after
//! the last. What is not complete is undone by this call, or when the program is started again.

mod appear;
mod device;
mod file_system;
mod header;
mod place;
mod record;

use std::{
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use cc_crypto::Secret;
use cc_mapping::Mapping;
use cc_storage::{
    Answer, Answered, Channel, Content, Name, Packet, Request, StorageError, Volume, format_mark,
};
use cc_volume::luks2::{Header, HeaderKey};
use libcryptsetup_rs::{
    CryptInit, CryptParamsLuks2Ref, Either,
    consts::{flags::CryptActivate, vals::EncryptionFormat},
};

use self::{
    device::Device,
    record::{Entry, Record},
};
use crate::{
    Failure,
    serve::{Job, Worker, done},
    volume::{failed, path, read, refused},
};

/// Where records are unless told otherwise.
pub const STATE: &str = "/run/confidential-containers/cdh-storage/open";

/// The mode's worker.
#[derive(Debug)]
pub struct Disks {
    state: PathBuf,
}

impl Disks {
    /// Works with records in the folder `state`, which is made if it is not there. What a killed process left half open is closed.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(state: &Path) -> Result<Self, Failure> {
        record::prepare(state)?;
        let disks = Self { state: state.to_owned() };
        disks.tidy()?;
        Ok(disks)
    }

    /// Closes what was left half open. What is still held, by a program that outlived the one which started it, stays until the next
    /// request.
    fn tidy(&self) -> Result<(), Failure> {
        for record in Record::abandoned(&self.state)? {
            let name = record.entry().name.clone();
            if let Err(failure) = undo(record) {
                tracing::error!(name, error = %failure, "a volume that was half open stays");
            }
        }
        Ok(())
    }

    fn open_volume(&self, volume: &Volume, key: &Secret, channel: &Channel) -> Result<bool, Failure> {
        if Mapping::is_there(&volume.name)? {
            return Err(Failure::NameTaken { name: volume.name.clone() });
        }
        let device = Device::find(&volume.device)?;
        appear::check(volume)?;
        let entry = Entry {
            name: volume.name.clone(),
            uuid: String::new(),
            device: device.path().to_owned(),
            mount_point: volume.mount_point.clone(),
            link: volume.link,
            fresh: matches!(volume.content, Content::Fresh { .. }),
            complete: false,
            opening: volume.opening.as_str().to_owned(),
        };
        let mut record = Record::begin(&self.state, entry)?;
        let opened = match record.is_crowded(&self.state, appears) {
            Ok(false) => open_recorded(volume, device, key, channel, &mut record),
            Ok(true) => Err(Failure::MountPoint {
                path: volume.mount_point.clone(),
                why: "another volume is open there (`guestctl disk close` closes it), or being opened or closed"
                    .to_owned(),
            }),
            Err(failure) => Err(failure),
        };
        match opened {
            Ok(authentic) => Ok(authentic),
            Err(failure) => {
                if let Err(left) = undo(record) {
                    tracing::error!(name = volume.name, error = %left, "what failed to open was not undone");
                }
                Err(failure)
            }
        }
    }

    fn close_volume(&self, mount_point: &str, opening: Option<&Name>) -> Result<(), Failure> {
        let record = Record::at(&self.state, mount_point, opening.map(Name::as_str), appears)?;
        undo(record.ok_or_else(|| Failure::NotOpen { path: mount_point.chars().take(200).collect() })?)
    }

    fn format(
        &self,
        file: &OwnedFd,
        uuid: &str,
        (device, integrity): (&cc_storage::Device, bool),
        key: &Secret,
    ) -> Result<(), Failure> {
        let uuid = uuid::Uuid::parse_str(uuid).map_err(|_| refused("the UUID is none"))?;
        let signing = HeaderKey::derive(key)?;
        let device = Device::find(device)?;
        // Whoever asks has looked whether it may be formatted, and left this mark.
        device.require_start(format_mark(&uuid.to_string()).as_bytes())?;
        let (number, device) = (device.number(), device.release());
        // It appears nowhere, and is open only for the making.
        let entry = Entry {
            name: format!("format-{uuid}"),
            uuid: uuid.to_string(),
            device,
            fresh: true,
            ..Entry::default()
        };
        let record = Record::begin(&self.state, entry)?;
        let made = make_with_file_system(uuid, record.entry(), (&number, integrity), key);
        let undone = undo(record);
        let made = made?;
        undone?;
        let volume = CryptInit::init(&path(&made)).map_err(failed("open the header"))?;
        header::load_and_sign(volume, &made, &signing)?;
        header::copy(&made, file)
    }
}

impl Worker for Disks {
    type Memory = ();

    fn work(&self, mut job: Job<'_>, (): &mut ()) -> Result<Answered, Failure> {
        if matches!(job.request, Request::OpenVolume(_) | Request::CloseVolume { .. } | Request::ListVolumes)
        {
            self.tidy()?;
        }
        let secret = job.secret.take();
        let secret = || secret.as_ref().ok_or_else(|| refused("a secret belongs to the request"));
        let body = match &job.request {
            Request::OpenVolume(volume) => {
                Answer::Open { authentic: self.open_volume(volume, secret()?, job.channel)? }
            }
            Request::CloseVolume { mount_point, opening } => {
                self.close_volume(mount_point, opening.as_ref())?;
                Answer::Done
            }
            Request::ListVolumes => {
                let entries = record::entries(&self.state)?;
                Answer::Volumes(entries.iter().filter(|entry| entry.complete).map(Entry::opened).collect())
            }
            Request::FormatWithFileSystem { uuid, device, integrity } => {
                let (uuid, device, integrity) = (uuid.clone(), device.clone(), *integrity);
                self.format(&job.only_fd()?, &uuid, (&device, integrity), secret()?)?;
                Answer::Done
            }
            Request::ResizeVolume { name } => {
                let name = name.clone();
                resize(&job.only_fd()?, &name, secret()?)?;
                return Ok(done());
            }
            _ => return Err(refused("it is no work of the mode for disks")),
        };
        Ok(Packet { body, secret: None })
    }
}

/// All steps from the header to the place where the volume appears; whether the header was authenticated.
fn open_recorded(
    volume: &Volume,
    device: Device,
    key: &Secret,
    channel: &Channel,
    record: &mut Record,
) -> Result<bool, Failure> {
    let number = device.number();
    let (memory, authentic) = match &volume.content {
        Content::Fresh { integrity } => {
            // The device mapper has to have it to itself.
            drop(device);
            wanted(channel)?;
            (header::make(&record.entry().device, *integrity, 0, None, key)?, false)
        }
        Content::Volume { signed, require_integrity } => {
            let checked = header::check(&device, *signed, *require_integrity, key)?;
            drop(device);
            checked
        }
    };
    header::seal(&memory)?;
    let header = read(&memory)?;
    record.update(|entry| header.binary().uuid.clone_into(&mut entry.uuid))?;
    let flags = match volume.content {
        // What is lost with the guest needs no journal.
        Content::Fresh { integrity: true } => CryptActivate::NO_JOURNAL,
        _ => CryptActivate::empty(),
    };
    // Another device that hangs may have held this up until now.
    wanted(channel)?;
    activate(&memory, &header, (record.entry(), &number), flags, key)?;
    wanted(channel)?;
    appear::appear(volume)?;
    wanted(channel)?;
    record.update(|entry| entry.complete = true)?;
    Ok(authentic)
}

/// Whether whoever asked still waits. Nothing else comes before the answer than the end: that of somebody who has given up.
fn wanted(channel: &Channel) -> Result<(), Failure> {
    if channel.wait(Duration::ZERO)? { Err(StorageError::Gone.into()) } else { Ok(()) }
}

/// Opens the mapping of `entry` with the header in memory, and compares what the kernel then has; `number` is that of the device.
fn activate(
    memory: &OwnedFd,
    header: &Header,
    (entry, number): (&Entry, &str),
    flags: CryptActivate,
    key: &Secret,
) -> Result<(), Failure> {
    if Mapping::clear_leftover(&entry.name, &header.binary().uuid)? {
        tracing::warn!(name = entry.name, "the tags of a volume that was half open were still mapped");
    }
    let doing = failed("look at the header and the device");
    let mut volume =
        CryptInit::init_with_data_device(Either::Right((&path(memory), Path::new(&entry.device))))
            .map_err(doing)?;
    volume
        .context_handle()
        .load::<CryptParamsLuks2Ref<'_>>(Some(EncryptionFormat::Luks2), None)
        .map_err(failed("load the header"))?;
    volume
        .activate_handle()
        .activate_by_passphrase(Some(&entry.name), None, key.expose(), flags)
        .map_err(failed("open the volume with its key"))?;
    // By its path another device may have been opened than the one that was looked at.
    Mapping::open(&entry.name)?.verify_over(header, false, Some(number))?;
    Ok(())
}

/// Whether a volume is where it appeared when it was opened.
fn appears(entry: &Entry) -> bool {
    let number = Mapping::open(&entry.name).ok().and_then(|mapping| mapping.number(&entry.uuid));
    appear::is_there(entry, number)
}

/// Undoes an opening, however far it came, and forgets it.
fn undo(record: Record) -> Result<(), Failure> {
    let entry = record.entry();
    if entry.fresh && !entry.complete {
        // A device that is gone has nothing over it.
        let number = std::fs::metadata(&entry.device).map(|status| status.rdev());
        number.map_or(Ok(false), Mapping::close_temporary)?;
    }
    if !entry.uuid.is_empty() {
        match Mapping::open(&entry.name) {
            Ok(mapping) => {
                appear::vanish(entry, mapping.number(&entry.uuid))?;
                mapping.close(&entry.uuid)?;
            }
            // Without a device mapper nothing was ever mapped.
            Err(error) if error.is_absent() => appear::vanish(entry, None)?,
            Err(error) => return Err(error.into()),
        }
    }
    record.remove()
}

/// Lays down a file system on the device of `entry`, and tags if they are asked for; the header.
fn make_with_file_system(
    uuid: uuid::Uuid,
    entry: &Entry,
    (number, integrity): (&str, bool),
    key: &Secret,
) -> Result<OwnedFd, Failure> {
    let made = header::make(&entry.device, integrity, header::DATA_OFFSET, Some(uuid), key)?;
    activate(&made, &read(&made)?, (entry, number), CryptActivate::empty(), key)?;
    file_system::make(&entry.name, &[], integrity)?;
    Ok(made)
}

fn resize(file: &OwnedFd, name: &str, key: &Secret) -> Result<(), Failure> {
    let header = read(file)?;
    if header::has_integrity(&header) {
        return Err(Failure::Device {
            path: format!("/dev/mapper/{name}"),
            why: "a volume with integrity keeps the size that it was formatted with".to_owned(),
        });
    }
    let mapping = Mapping::open(name)?;
    // The data is on the same device afterwards.
    mapping.check_owner(&header.binary().uuid)?;
    let device = mapping.target()?.device;
    let mut volume = CryptInit::init_by_name_and_header(name, Some(&path(file)))
        .map_err(failed("look at the open volume"))?;
    volume
        .activate_handle()
        .activate_by_passphrase(None, None, key.expose(), CryptActivate::KEYRING_KEY)
        .map_err(failed("try the key"))?;
    volume.context_handle().resize(name, 0).map_err(failed("resize the mapping"))?;
    // Whether discards may pass is said by the policy that it was opened by; the caller has that, and compares again.
    mapping.verify_over(&header, true, Some(&device))?;
    Ok(())
}
