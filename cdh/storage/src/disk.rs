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
mod record;

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use cc_crypto::Secret;
use cc_mapping::Mapping;
use cc_storage::{Answer, Answered, Content, Packet, Request, Volume};
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
        for record in Record::abandoned(state)? {
            let name = record.entry().name.clone();
            if let Err(failure) = undo(record) {
                tracing::error!(name, error = %failure, "a volume that was half open stays");
            }
        }
        Ok(Self { state: state.to_owned() })
    }

    fn open_volume(&self, volume: &Volume, key: &Secret) -> Result<bool, Failure> {
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
        };
        let mut record = Record::begin(&self.state, entry)?;
        match open_recorded(volume, device, key, &mut record) {
            Ok(authentic) => Ok(authentic),
            Err(failure) => {
                if let Err(left) = undo(record) {
                    tracing::error!(name = volume.name, error = %left, "what failed to open was not undone");
                }
                Err(failure)
            }
        }
    }

    fn close_volume(&self, mount_point: &str) -> Result<(), Failure> {
        let record = Record::at(&self.state, mount_point)?;
        undo(record.ok_or_else(|| Failure::NotOpen { path: mount_point.chars().take(200).collect() })?)
    }
}

impl Worker for Disks {
    type Memory = ();

    fn work(&self, mut job: Job<'_>, (): &mut ()) -> Result<Answered, Failure> {
        let secret = job.secret.take();
        let secret = || secret.as_ref().ok_or_else(|| refused("a secret belongs to the request"));
        let body = match &job.request {
            Request::OpenVolume(volume) => {
                Answer::Open { authentic: self.open_volume(&volume.clone(), secret()?)? }
            }
            Request::CloseVolume { mount_point } => {
                self.close_volume(mount_point)?;
                Answer::Done
            }
            Request::ListVolumes => {
                let entries = record::entries(&self.state)?;
                Answer::Volumes(entries.iter().filter(|entry| entry.complete).map(Entry::opened).collect())
            }
            Request::FormatWithIntegrity { uuid, device } => {
                let (uuid, device) = (uuid.clone(), device.clone());
                format_with_integrity(&job.only_fd()?, &uuid, device, secret()?)?;
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
    record: &mut Record,
) -> Result<bool, Failure> {
    let (memory, authentic) = match &volume.content {
        Content::Fresh { integrity } => {
            // The device mapper has to have it to itself.
            let device = device.release();
            (header::make(&device, *integrity, 0, None, key)?, false)
        }
        Content::Volume { signed, require_integrity } => {
            let checked = header::check(device.head()?, *signed, *require_integrity, key)?;
            drop(device.release());
            checked
        }
    };
    header::seal(&memory)?;
    let header = read(&memory)?;
    record.update(|entry| header.binary().uuid.clone_into(&mut entry.uuid))?;
    activate(&memory, &header, record.entry(), key)?;
    appear::appear(volume)?;
    record.update(|entry| entry.complete = true)?;
    Ok(authentic)
}

/// Opens the mapping with the header in memory, and compares what the kernel then has.
fn activate(memory: &OwnedFd, header: &Header, entry: &Entry, key: &Secret) -> Result<(), Failure> {
    let mut flags = CryptActivate::empty();
    if entry.fresh && header::has_integrity(header) {
        // What is lost with the guest needs no journal.
        flags |= CryptActivate::NO_JOURNAL;
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
    Mapping::open(&entry.name)?.verify(header, false)?;
    Ok(())
}

/// Undoes an opening, however far it came, and forgets it.
fn undo(record: Record) -> Result<(), Failure> {
    let entry = record.entry();
    if !entry.uuid.is_empty() {
        let mapping = Mapping::open(&entry.name)?;
        appear::vanish(entry, mapping.number(&entry.uuid))?;
        mapping.close(&entry.uuid)?;
    }
    record.remove()
}

fn format_with_integrity(file: &OwnedFd, uuid: &str, device: String, key: &Secret) -> Result<(), Failure> {
    let uuid = uuid::Uuid::parse_str(uuid).map_err(|_| refused("the UUID is none"))?;
    let signing = HeaderKey::derive(key)?;
    let device = Device::find(&cc_storage::Device::Path(device))?.release();
    let made = header::make(&device, true, header::DATA_OFFSET, Some(uuid), key)?;
    let name = format!("format-{uuid}");
    let entry = Entry { name: name.clone(), device, ..Entry::default() };
    let opened = activate(&made, &read(&made)?, &entry, key);
    let made_file_system = opened.and_then(|()| file_system::make(&name, &[], true));
    let closed = Mapping::open(&name).and_then(|mapping| mapping.close(&uuid.to_string()));
    made_file_system?;
    closed?;
    let volume = CryptInit::init(&path(&made)).map_err(failed("open the header"))?;
    header::load_and_sign(volume, &made, &signing)?;
    header::copy(&made, file)
}

fn resize(file: &OwnedFd, name: &str, key: &Secret) -> Result<(), Failure> {
    let header = read(file)?;
    if header::has_integrity(&header) {
        return Err(Failure::Device {
            path: format!("/dev/mapper/{name}"),
            why: "a volume with integrity keeps the size that it was formatted with".to_owned(),
        });
    }
    Mapping::open(name)?.check_owner(&header.binary().uuid)?;
    let mut volume = CryptInit::init_by_name_and_header(name, Some(&path(file)))
        .map_err(failed("look at the open volume"))?;
    volume
        .activate_handle()
        .activate_by_passphrase(None, None, key.expose(), CryptActivate::KEYRING_KEY)
        .map_err(failed("try the key"))?;
    volume.context_handle().resize(name, 0).map_err(failed("resize the mapping"))?;
    Mapping::open(name)?.verify(&header, false)?;
    Ok(())
}
