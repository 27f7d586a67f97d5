//! Headers in memory: made for a fresh device, or checked for a volume.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use cc_crypto::Secret;
use cc_volume::luks2::{Copies, Header, HeaderKey, Policy, format::MAX_AREA_LEN};
use libcryptsetup_rs::{
    CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, Either,
    consts::{flags::CryptVolumeKey, vals::EncryptionFormat},
};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::device::Device;
use crate::{
    Failure,
    volume::{SECTOR_LEN, VOLUME_KEY_LEN, derivation, failed, path, sign},
};

/// First byte of the data of a volume whose header is before it.
pub(super) const DATA_OFFSET: u64 = MAX_AREA_LEN as u64;
/// Bytes of the sector that offsets are given in.
const UNIT: u64 = 512;
/// Bytes of the key of HMAC-SHA-256.
const MAC_KEY_LEN: usize = 32;

/// A header for the device at `device`, whose data begins at byte `offset`.
pub(super) fn make(
    device: &str,
    integrity: bool,
    offset: u64,
    uuid: Option<uuid::Uuid>,
    key: &Secret,
) -> Result<OwnedFd, Failure> {
    let memory = memory(MAX_AREA_LEN as u64)?;
    let mut volume = CryptInit::init(&path(&memory)).map_err(failed("open a file for a header"))?;
    volume.settings_handle().set_pbkdf_type(&derivation()).map_err(failed("set the derivation of keys"))?;
    if offset > 0 {
        volume.set_data_offset(offset / UNIT).map_err(failed("say where the data begins"))?;
    }
    let parameters = CryptParamsLuks2 {
        pbkdf: Some(derivation()),
        integrity: integrity.then(|| "hmac(sha256)".to_owned()),
        integrity_params: None,
        data_alignment: 0,
        data_device: Some(device.into()),
        sector_size: SECTOR_LEN,
        label: None,
        subsystem: None,
    };
    let mut parameters: CryptParamsLuks2Ref<'_> =
        (&parameters).try_into().map_err(failed("say what the volume is like"))?;
    let key_len = if integrity { VOLUME_KEY_LEN + MAC_KEY_LEN } else { VOLUME_KEY_LEN };
    volume
        .context_handle()
        .format(
            EncryptionFormat::Luks2,
            ("aes", "xts-plain64"),
            uuid,
            Either::Right(key_len),
            Some(&mut parameters),
        )
        .map_err(failed("make a header"))?;
    volume
        .keyslot_handle()
        .add_by_key(None, None, key.expose(), CryptVolumeKey::empty())
        .map_err(failed("add the key"))?;
    Ok(memory)
}

/// Loads the header in `memory`, and puts a tag into it.
pub(super) fn load_and_sign(
    mut volume: CryptDevice,
    memory: &OwnedFd,
    key: &HeaderKey,
) -> Result<(), Failure> {
    volume
        .context_handle()
        .load::<CryptParamsLuks2Ref<'_>>(Some(EncryptionFormat::Luks2), None)
        .map_err(failed("load the header"))?;
    sign(volume, memory, key, &Policy::default())
}

/// Judges the header of the volume on `device`: in memory is the one copy to open it with. Gives whether it was authenticated, too.
pub(super) fn check(
    device: &Device,
    signed: bool,
    require_integrity: bool,
    key: &Secret,
) -> Result<(OwnedFd, bool), Failure> {
    let policy = Policy { require_integrity, ..Policy::default() };
    // The second copy takes a damaged one's place where a tag has to fit.
    let copies = if signed { Copies::Either } else { Copies::First };
    let header = device.header(copies, |header| {
        let verdict = policy.judge(header);
        for note in &verdict.notes {
            tracing::warn!(device = device.path(), "{note}");
        }
        verdict.into_result()
    })?;
    // A tag that is there has to fit, whether it is asked for or not.
    let authentic = match header.header().tag() {
        Some(tag) => HeaderKey::derive(key)?.verify(header.header(), tag).map(|()| true)?,
        None if signed => return Err(cc_volume::Error::TagMissing.into()),
        None => false,
    };
    let canonical = header.canonical();
    let memory = memory(canonical.length() as u64)?;
    let file = File::from(memory.try_clone().map_err(Failure::storage("make a file in memory"))?);
    for (at, piece) in canonical.pieces() {
        file.write_all_at(piece, at).map_err(Failure::storage("keep a header in memory"))?;
    }
    Ok((memory, authentic))
}

/// Nobody changes it any more.
pub(super) fn seal(memory: &OwnedFd) -> Result<(), Failure> {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(memory, all).map_err(Failure::storage("seal a header in memory"))
}

/// Copies the header area from one file to another.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Failure> {
    let failed = || Failure::storage("hand over a header");
    let mut area = Vec::new();
    let mut file = File::from(from.as_fd().try_clone_to_owned().map_err(failed())?);
    file.seek(SeekFrom::Start(0)).map_err(failed())?;
    file.take(MAX_AREA_LEN as u64).read_to_end(&mut area).map_err(failed())?;
    let target = File::from(to.as_fd().try_clone_to_owned().map_err(failed())?);
    target.write_all_at(&area, 0).map_err(failed())
}

pub(super) fn has_integrity(header: &Header) -> bool {
    let segment = header.metadata().segments.get(&0).and_then(|segment| segment.crypt.as_ref());
    segment.is_some_and(|segment| segment.integrity.is_some())
}

fn memory(length: u64) -> Result<OwnedFd, Failure> {
    let failed = || Failure::storage("make a file in memory");
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = memfd_create("header", flags).map_err(failed())?;
    rustix::fs::ftruncate(&memory, length).map_err(failed())?;
    Ok(memory)
}
