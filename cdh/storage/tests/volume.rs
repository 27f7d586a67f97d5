//! The program in the mode for volumes: what it makes is opened by cryptsetup, and kept by our rules.
#![cfg(feature = "luks")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests fail loudly and start programs"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};

use cc_crypto::Secret;
use cc_storage::{Channel, Client, Request, StorageError, join_keys};
use cc_volume::luks2::{Header, HeaderKey, Policy, format::Kdf};

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";

struct Storage {
    client: Option<Client>,
    child: Child,
}

impl Storage {
    fn start() -> Self {
        let (ours, theirs) = Channel::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_cdh-storage"))
            .arg("volume")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        Self { client: Some(Client::new(ours)), child }
    }

    fn ask(&mut self, request: Request, secret: Secret, file: &File) -> Result<(), StorageError> {
        self.client.as_mut().unwrap().ask(request, Some(secret), &[file.as_fd()]).map(drop)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        drop(self.client.take());
        self.child.wait().unwrap();
    }
}

fn key(byte: u8) -> Secret {
    Secret::new(vec![byte; 64])
}

fn opens(path: &Path, key: &Secret) -> bool {
    let mut child = Command::new(CRYPTSETUP)
        .args(["open", "--test-passphrase", "--key-file", "-"])
        .arg(path)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(key.expose()).unwrap();
    child.wait().unwrap().success()
}

#[test]
fn a_new_volume_is_signed_cheap_to_open_and_takes_a_new_key() {
    if Command::new(CRYPTSETUP).arg("--version").output().is_err() {
        return cc_vectors::skip("needs cryptsetup");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volume");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut storage = Storage::start();
    storage.ask(Request::FormatVolume { uuid: UUID.to_owned() }, key(1), &file).unwrap();
    let header = || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(
            &mut std::io::Read::take(File::open(&path).unwrap(), 16 << 20),
            &mut bytes,
        )
        .unwrap();
        Header::read(&bytes).unwrap()
    };
    let made = header();
    assert_eq!(made.binary().uuid, UUID);
    assert!(Policy::default().judge(&made).is_admitted());
    HeaderKey::derive(&key(1)).unwrap().verify(&made, made.tag().unwrap()).unwrap();
    let slot = made.metadata().keyslots[&0].slot.clone().unwrap();
    assert!(matches!(slot.kdf, Kdf::Pbkdf2 { iterations: 1000, .. }), "{:?}", slot.kdf);
    assert!(opens(&path, &key(1)) && !opens(&path, &key(2)));

    storage.ask(Request::RotateVolume, join_keys(&key(1), &key(2)).unwrap(), &file).unwrap();
    let rotated = header();
    assert!(Policy::default().judge(&rotated).is_admitted());
    HeaderKey::derive(&key(2)).unwrap().verify(&rotated, rotated.tag().unwrap()).unwrap();
    let digest = |header: &Header| header.metadata().digests[&0].pbkdf2.clone().unwrap().digest;
    assert_eq!(digest(&made), digest(&rotated), "the volume key stays");
    assert!(opens(&path, &key(2)) && !opens(&path, &key(1)));

    let before = fs::metadata(&path).unwrap().modified().unwrap();
    let error = storage.ask(Request::RotateVolume, join_keys(&key(9), &key(3)).unwrap(), &file).unwrap_err();
    assert_eq!(error.code(), "CRYPTSETUP_FAILED");
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before, "a wrong key changes nothing");
    let weak = storage.ask(Request::FormatVolume { uuid: UUID.to_owned() }, Secret::new(vec![1; 8]), &file);
    assert_eq!(weak.unwrap_err().code(), "LUKS_SECRET_WEAK");
}
