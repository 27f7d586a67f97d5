//! The mode that makes and changes headers of LUKS2 volumes, with libcryptsetup and in memory.
//!
//! libcryptsetup never sees a disk here. It works on a file in memory that is as long as the volume's device and holds no more than
//! the header area; whoever asks has read that area once and checked it, and writes the result back himself, in an order that
//! a power cut does not hurt. What comes out of here is signed with the volume's key. Nothing is mapped, so the library's
//! device-mapper side, which is bound to one thread, is not used.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
};

use cc_crypto::Secret;
use cc_storage::{Answered, Request, split_keys};
use cc_volume::luks2::{Copies, DetachedHeader, Header, HeaderKey, NotRead, Policy};
use libcryptsetup_rs::{
    CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptPbkdfType, Either, LibcryptErr,
    TokenInput,
    consts::{
        flags::{CryptActivate, CryptPbkdf, CryptVolumeKey},
        vals::{CryptKdf, EncryptionFormat},
    },
};

use crate::{
    Failure,
    serve::{Job, Worker, done},
};

/// Rounds of PBKDF2. A key of a key broker has full entropy: the derivation protects nothing, and every boot waits for it.
const ROUNDS: u32 = 1000;
/// Bytes of the volume key: two keys of AES-256 for XTS.
pub(crate) const VOLUME_KEY_LEN: usize = 64;
/// Bytes of an encryption sector.
pub(crate) const SECTOR_LEN: u32 = 4096;

/// The mode's worker.
#[derive(Debug)]
pub struct Headers;

impl Worker for Headers {
    type Memory = ();

    fn work(&self, mut job: Job<'_>, (): &mut ()) -> Result<Answered, Failure> {
        let file = job.only_fd()?;
        let secret = job.secret.take().ok_or_else(|| refused("a secret belongs to the request"))?;
        match &job.request {
            Request::FormatVolume { uuid } => format(file, uuid, &secret)?,
            Request::RotateVolume => {
                let (old, new) = split_keys(&secret)?;
                rotate(file, &old, &new)?;
            }
            _ => return Err(refused("it is no work of the mode for volumes")),
        }
        Ok(done())
    }
}

fn format(file: OwnedFd, uuid: &str, key: &Secret) -> Result<(), Failure> {
    let uuid = uuid::Uuid::parse_str(uuid).map_err(|_| refused("the UUID is none"))?;
    let signing = HeaderKey::derive(key)?;
    let mut volume = open(&file)?;
    volume.settings_handle().set_pbkdf_type(&derivation()).map_err(failed("set the derivation of keys"))?;
    let parameters = CryptParamsLuks2 {
        pbkdf: Some(derivation()),
        integrity: None,
        integrity_params: None,
        data_alignment: 0,
        data_device: None,
        sector_size: SECTOR_LEN,
        label: None,
        subsystem: None,
    };
    let mut parameters: CryptParamsLuks2Ref<'_> =
        (&parameters).try_into().map_err(failed("say what the volume is like"))?;
    volume
        .context_handle()
        .format(
            EncryptionFormat::Luks2,
            ("aes", "xts-plain64"),
            Some(uuid),
            Either::Right(VOLUME_KEY_LEN),
            Some(&mut parameters),
        )
        .map_err(failed("make a header"))?;
    volume
        .keyslot_handle()
        .add_by_key(None, None, key.expose(), CryptVolumeKey::empty())
        .map_err(failed("add the key"))?;
    sign(volume, &file, &signing, &Policy::default())
}

fn rotate(file: OwnedFd, old: &Secret, new: &Secret) -> Result<(), Failure> {
    let signing = HeaderKey::derive(new)?;
    let mut volume = open(&file)?;
    volume
        .context_handle()
        .load::<CryptParamsLuks2Ref<'_>>(Some(EncryptionFormat::Luks2), None)
        .map_err(failed("load the header"))?;
    volume.settings_handle().set_pbkdf_type(&derivation()).map_err(failed("set the derivation of keys"))?;
    let former = opens_by(&mut volume, None, old).map_err(failed("open the volume with the present key"))?;
    let added = volume
        .keyslot_handle()
        .add_by_passphrase(None, old.expose(), new.expose())
        .map_err(failed("add the new key"))?;
    opens_by(&mut volume, Some(added), new).map_err(failed("open the volume with the new key"))?;
    volume.keyslot_handle().destroy(former).map_err(failed("drop the present key"))?;
    for (number, token) in read(&file)?.metadata().tokens.iter() {
        if token.tag.is_some() {
            let gone = volume.token_handle().json_set(TokenInput::RemoveToken(*number));
            gone.map_err(failed("remove the former tag"))?;
        }
    }
    // What the volume's own policy admits besides was there before, and is for the caller, who judges by that.
    let changed = Policy { max_keyslots: usize::MAX, allow_discards: true, ..Policy::default() };
    sign(volume, &file, &signing, &changed)
}

/// The keyslot that this key opens, of all or of one. Nothing is mapped.
fn opens_by(volume: &mut CryptDevice, slot: Option<u32>, key: &Secret) -> Result<u32, LibcryptErr> {
    volume.activate_handle().activate_by_passphrase(None, slot, key.expose(), CryptActivate::empty())
}

/// Puts the tag into the header, and looks whether the result is one that is opened later.
pub(crate) fn sign(
    mut volume: CryptDevice,
    file: &OwnedFd,
    key: &HeaderKey,
    policy: &Policy,
) -> Result<(), Failure> {
    let tag = key.sign(&read(file)?)?;
    let token = tag.to_token();
    volume.token_handle().json_set(TokenInput::AddToken(&token)).map_err(failed("add the tag"))?;
    drop(volume);
    let header = read(file)?;
    policy.judge(&header).into_result()?;
    Ok(key.verify(&header, &tag)?)
}

pub(crate) fn read(file: &OwnedFd) -> Result<Header, Failure> {
    let opened = File::open(path(file)).map_err(Failure::storage("open a header"))?;
    let header = read_from(&opened, "read a header", Copies::First, |_| Ok(()))?;
    Ok(header.header().clone())
}

/// The header of a volume at the start of `file`, from one of the `copies` and unless `admit` says something against it, with its keyslots.
pub(crate) fn read_from(
    mut file: &File,
    doing: &str,
    copies: Copies,
    admit: impl FnOnce(&Header) -> Result<(), cc_volume::Error>,
) -> Result<DetachedHeader, Failure> {
    let length = file.seek(SeekFrom::End(0)).map_err(Failure::storage(doing))?;
    let fill = |at: usize, into: &mut [u8]| file.read_exact_at(into, at as u64);
    DetachedHeader::read_from(fill, length, copies, admit).map_err(|error| match error {
        NotRead::Disk(error) => Failure::storage(doing)(error),
        NotRead::Header(error) => error.into(),
    })
}

fn open(file: &OwnedFd) -> Result<CryptDevice, Failure> {
    CryptInit::init(&path(file)).map_err(failed("open a file for a header"))
}

pub(crate) fn path(file: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

pub(crate) fn derivation() -> CryptPbkdfType {
    CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha256".to_owned()),
        time_ms: 0,
        iterations: ROUNDS,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    }
}

pub(crate) fn refused(why: &str) -> Failure {
    Failure::Request { why: why.to_owned() }
}

pub(crate) fn failed(doing: &'static str) -> impl FnOnce(LibcryptErr) -> Failure {
    move |error| Failure::Cryptsetup { doing, why: error.to_string() }
}
