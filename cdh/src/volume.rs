//! Encrypted volumes: which there are, whether their headers are good, and who gets their keys.
//!
//! ```toml
//! [[volumes]]
//! name = "data"                               # of the mapping: /dev/mapper/data
//! uuid = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10"
//! key = "kbs:///disk-encryption/db-1/luks-key-0"
//! header = "signed"                           # or "allow-list": rules alone, no tag
//! tag = "kbs:///disk-encryption/db-1/tag"     # where the tag is not in the header itself
//! require_integrity = false
//! allow_discards = false
//! max_keyslots = 1
//! ```
//!
//! In `key` and `tag`, `%m` and `%u` stand for ids of the machine ([`cc_volume::client_id`]).
//!
//! A disk belongs to the host, so a volume is known by its UUID and by a tag that only the holder of its key can make, never
//! by the place where it is attached. The header is read elsewhere, once, by somebody who may read disks; here its bytes are
//! judged and authenticated with the key from the key broker ([`Volumes::prepare`]). Only then is the key given, once, to the
//! unit of systemd-cryptsetup that has the volume's name ([`KeyDoor`]), which opens the volume with those bytes.
//!
//! Not here: disks, files and mappings. The hub reads and writes none.

mod door;
mod entry;
mod service;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cc_crypto::Secret;
use cc_daemon::peer::Caller;
use cc_volume::luks2::{Copies, Header, HeaderKey, Tag, format::MAX_AREA_LEN};
use tokio::time::Instant;

pub use door::KeyDoor;
pub use entry::{Entry, EntryConfig, distinct};
pub use service::VolumeRpc;

use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::unseal::Unsealer;

/// Where the socket for keys is unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "unix:///run/confidential-containers/cryptsetup.sock";
/// Most bytes of a key; cryptsetup reads no longer key file.
pub const MAX_KEY_LEN: usize = 8 << 20;
/// How long a header that was checked opens a volume: systemd asks for the key at once.
const PREPARED_LIFE: Duration = Duration::from_secs(120);

/// A header as somebody has read it.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    /// The first copy, without the zeros at its end.
    pub first: &'a [u8],
    /// The second copy, likewise.
    pub second: &'a [u8],
    /// How many bytes of the header area were read.
    pub given: u64,
}

/// What was found when a header was checked.
#[derive(Debug, PartialEq, Eq)]
pub struct Checked {
    /// Whether its tag was verified.
    pub authentic: bool,
    /// Whether the key is given now.
    pub armed: bool,
    /// What is unusual and does no harm.
    pub notes: Vec<String>,
}

/// The configured volumes with their state.
#[derive(Debug)]
pub struct Volumes {
    entries: Vec<Entry>,
    unsealer: Arc<Unsealer>,
    /// Those whose header their own unit has checked, and when; until their key is given.
    prepared: Mutex<HashMap<String, Instant>>,
}

impl Volumes {
    /// Nothing is prepared yet.
    #[must_use]
    pub fn new(entries: Vec<Entry>, unsealer: Arc<Unsealer>) -> Self {
        Self { entries, unsealer, prepared: Mutex::default() }
    }

    /// The volumes, in the order of the configuration.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether the key of `name` would be given now.
    #[must_use]
    pub fn is_prepared(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(is_fresh)
    }

    /// Checks the header of the volume `name`. If whoever asks is in the unit that opens it, the key is given to that unit
    /// afterwards, and whatever was prepared before is forgotten first; for anybody else it is a check and no more.
    ///
    /// # Errors
    /// [`HubError::VolumeUnknown`], [`HubError::VolumeUuid`], [`HubError::VolumeHeader`] with the rules that are broken, and
    /// whatever getting the key says.
    pub async fn prepare(
        &self,
        name: &str,
        read: Read<'_>,
        caller: &Caller,
        deadline: Instant,
    ) -> Result<Checked, HubError> {
        let entry = self.entry(name)?;
        let armed = caller.unit() == Some(door::unit(name).as_str());
        if armed {
            self.lock().remove(name);
        }
        let refused = |error| HubError::VolumeHeader { name: name.to_owned(), error };
        let given = usize::try_from(read.given).unwrap_or(MAX_AREA_LEN).min(MAX_AREA_LEN);
        // The second copy takes a damaged one's place where a tag has to fit.
        let copies = if entry.signed { Copies::Either } else { Copies::First };
        let header = Header::read_trimmed(read.first, read.second, given, copies).map_err(refused)?;
        let found = &header.binary().uuid;
        if *found != entry.uuid {
            return Err(HubError::VolumeUuid {
                name: name.to_owned(),
                expected: entry.uuid.clone(),
                found: found.chars().take(40).collect(),
            });
        }
        let verdict = entry.policy.judge(&header);
        let notes = verdict.notes.clone();
        verdict.into_result().map_err(refused)?;
        // Attested and fetched also where no tag is asked for: what is wrong shows before anything is opened.
        let ask = Ask::of_configuration(Door::VolumeCheck);
        let key = self.key(entry, &ask, deadline).await;
        ask.answer(&key);
        let key = key?;
        if entry.signed {
            let tag = self.tag(entry, &header, deadline).await?;
            HeaderKey::derive(&key).and_then(|key| key.verify(&header, &tag)).map_err(refused)?;
        }
        if armed {
            self.lock().insert(name.to_owned(), Instant::now());
        }
        Ok(Checked { authentic: entry.signed, armed, notes })
    }

    /// The key of the volume `name` for whoever asks, once for every time that its header was checked.
    ///
    /// # Errors
    /// [`HubError::VolumeUnknown`], [`HubError::VolumeUnprepared`], [`HubError::AccessDenied`], and whatever getting the key
    /// says; then the header has to be checked anew.
    async fn give(&self, name: &str, ask: &Ask, deadline: Instant) -> Result<Secret, HubError> {
        let entry = self.entry(name)?;
        ask.concerns(&entry.key.to_string());
        if !self.lock().remove(name).as_ref().is_some_and(is_fresh) {
            return Err(HubError::VolumeUnprepared { name: name.to_owned() });
        }
        self.key(entry, ask, deadline).await
    }

    /// The key of the volume `name` for the tools that make and change its header. Who may have it is said by the rules of `[access]`, as
    /// for any resource.
    ///
    /// # Errors
    /// [`HubError::VolumeUnknown`], [`HubError::AccessDenied`], and whatever getting the key says.
    pub async fn key_for_tools(&self, name: &str, ask: &Ask, deadline: Instant) -> Result<Secret, HubError> {
        self.key(self.entry(name)?, ask, deadline).await
    }

    async fn key(&self, entry: &Entry, ask: &Ask, deadline: Instant) -> Result<Secret, HubError> {
        ask.concerns(&entry.key.to_string());
        let key = entry.key.resolve(&self.unsealer, ask, deadline).await?;
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Err(HubError::VolumeKeyLength { name: entry.name.clone(), length: key.len() });
        }
        Ok(key)
    }

    /// The tag of the header: the one that the configuration names, else the one that it carries.
    async fn tag(&self, entry: &Entry, header: &Header, deadline: Instant) -> Result<Tag, HubError> {
        let refused = |error| HubError::VolumeHeader { name: entry.name.clone(), error };
        let Some(reference) = &entry.tag else {
            return header.tag().copied().ok_or_else(|| refused(cc_volume::Error::TagMissing));
        };
        let ask = Ask::of_configuration(Door::VolumeCheck);
        ask.concerns(&reference.to_string());
        let tag = reference.resolve(&self.unsealer, &ask, deadline).await;
        ask.answer(&tag);
        let text = std::str::from_utf8(tag?.expose()).map(|text| text.trim().parse()).ok();
        text.unwrap_or(Err(cc_volume::Error::TagMalformed)).map_err(refused)
    }

    fn entry(&self, name: &str) -> Result<&Entry, HubError> {
        let unknown = || HubError::VolumeUnknown { name: name.chars().take(64).collect() };
        self.entries.iter().find(|entry| entry.name == name).ok_or_else(unknown)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh(checked: &Instant) -> bool {
    checked.elapsed() < PREPARED_LIFE
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cc_volume::client_id::ClientIds;
    use clap::Parser as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::{Cli, Config, Surroundings};
    use crate::hub::Hub;

    const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    /// Volumes over an offline store in `folder`: `data` wants a signed header, `plain` does not, `elsewhere` has its tag in the
    /// store, the key of `absent` is not there, and that of `sealed` is a sealed secret.
    pub(super) fn volumes(folder: &Path) -> Volumes {
        use base64::Engine as _;
        let text = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let tag = HeaderKey::derive(&Secret::new(KEY.to_vec())).unwrap().sign(&header("3")).unwrap();
        let store = folder.join("resources.json");
        let resources = json!({"disk/a/key": text(KEY), "disk/a/tag": text(format!("{tag}\n").as_bytes())});
        std::fs::write(&store, resources.to_string()).unwrap();
        let surroundings = Surroundings {
            aa_kbc_params: Some("offline_fs_kbc::null".to_owned()),
            offline_files: Some(store.display().to_string()),
            skip_sealed_secret_verification: Some("true".to_owned()),
            ..Surroundings::default()
        };
        let config = Config::build(Cli::try_parse_from(["hub"]).unwrap(), &surroundings).unwrap();
        let hub = Arc::new(Hub::new(&config).unwrap());
        let directories = config.kms_directories.clone();
        let kms = cc_kms::Surroundings { broker: Some(hub.clone()), directories, names: None };
        let providers = cc_kms::Providers::new(&config.kms, kms).unwrap();
        let unsealer = Arc::new(Unsealer::new(hub, config.signing_keys, providers));
        let entry = |name: &str, number: u32, key: &str, more: &str| -> Entry {
            let uuid = UUID.replace("6a2d7e1", &format!("6a2d7e{number}"));
            let text = format!("name = {name:?}\nuuid = {uuid:?}\nkey = \"kbs:///disk/a/{key}\"\n{more}");
            toml::from_str::<EntryConfig>(&text).unwrap().on(&ClientIds::default()).unwrap()
        };
        let payload = json!({"version": "0.1.0", "type": "vault", "provider": "kbs", "name": "kbs:///disk/a/key",
            "provider_settings": {}, "annotations": {}});
        let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload.to_string());
        let mut sealed = entry("sealed", 5, "key", "");
        sealed.key = format!("sealed.e30.{payload}.e30").try_into().unwrap();
        let entries = vec![
            entry("data", 1, "key", ""),
            entry("plain", 2, "key", "header = \"allow-list\"\n"),
            entry("elsewhere", 3, "key", "tag = \"kbs:///disk/a/tag\"\n"),
            entry("absent", 4, "nothing", ""),
            sealed,
        ];
        Volumes::new(entries, unsealer)
    }

    /// Both copies of a header, with `tokens`.
    fn copies(number: &str, tokens: &Value) -> Vec<u8> {
        use sha2::{Digest as _, Sha256};
        let salt = "c2FsdHNhbHRzYWx0c2FsdHNhbHRzYWx0c2FsdHNhbHQ=";
        let metadata = json!({
            "keyslots": {"0": {
                "type": "luks2", "key_size": 64,
                "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
                "area": {"type": "raw", "offset": "32768", "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64},
                "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": salt},
            }},
            "tokens": tokens,
            "segments": {"0": {
                "type": "crypt", "offset": "1048576", "size": "dynamic", "iv_tweak": "0",
                "encryption": "aes-xts-plain64", "sector_size": 4096,
            }},
            "digests": {"0": {
                "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": 1000,
                "salt": salt, "digest": salt,
            }},
            "config": {"json_size": "12288", "keyslots_size": "262144"},
        });
        let mut bytes = Vec::new();
        for (magic, at) in [(b"LUKS\xba\xbe", 0_u64), (b"SKUL\xba\xbe", 0x4000)] {
            let mut copy = vec![0; 0x4000];
            copy[..6].copy_from_slice(magic);
            copy[6..8].copy_from_slice(&2_u16.to_be_bytes());
            copy[8..16].copy_from_slice(&0x4000_u64.to_be_bytes());
            copy[72..78].copy_from_slice(b"sha256");
            let uuid = UUID.replace("6a2d7e1", &format!("6a2d7e{number}"));
            copy[168..204].copy_from_slice(uuid.as_bytes());
            copy[256..264].copy_from_slice(&at.to_be_bytes());
            let text = metadata.to_string();
            copy[4096..4096 + text.len()].copy_from_slice(text.as_bytes());
            let checksum = Sha256::digest(&copy);
            copy[448..480].copy_from_slice(&checksum);
            bytes.extend(copy);
        }
        bytes
    }

    fn header(number: &str) -> Header {
        Header::read_copies(&copies(number, &json!({})), 1 << 20).unwrap()
    }

    fn signed(number: &str, key: &[u8]) -> Vec<u8> {
        let tag = HeaderKey::derive(&Secret::new(key.to_vec())).unwrap().sign(&header(number)).unwrap();
        copies(number, &json!({"0": tag.to_token()}))
    }

    /// Root in this unit.
    pub(super) fn caller(unit: &str) -> Caller {
        let place = cc_daemon::peer::Place { unit: Some(unit.to_owned()), container: None };
        Caller { uid: Some(0), place: Some(Arc::new(place)), ..Caller::UNKNOWN }
    }

    async fn prepare(volumes: &Volumes, name: &str, copies: &[u8], unit: &str) -> Result<Checked, HubError> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let (first, second) = copies.split_at(copies.len() / 2);
        let read = Read { first, second, given: 1 << 20 };
        volumes.prepare(name, read, &caller(unit), deadline).await
    }

    async fn code(volumes: &Volumes, name: &str, copies: &[u8]) -> String {
        match prepare(volumes, name, copies, &door::unit(name)).await {
            Ok(checked) if checked.authentic => "authentic".to_owned(),
            Ok(_) => "admitted".to_owned(),
            Err(e) => e.code().to_owned(),
        }
    }

    #[tokio::test]
    async fn a_header_is_good_if_it_keeps_the_rules_and_fits_its_tag() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(folder.path());
        for (name, copies, expected) in [
            ("data", signed("1", KEY), "authentic"),
            ("data", copies("1", &json!({})), "LUKS_TAG_MISSING"),
            ("data", signed("1", &[7; 32]), "LUKS_TAG_MISMATCH"),
            ("data", signed("2", KEY), "VOLUME_UUID_DIFFERS"),
            ("data", copies("1", &json!({"0": {"type": "clevis", "keyslots": []}})), "LUKS_HEADER_REFUSED"),
            ("data", vec![0; 0x8000], "LUKS_HEADER_MALFORMED"),
            ("data", Vec::new(), "LUKS_HEADER_MALFORMED"),
            ("plain", copies("2", &json!({})), "admitted"),
            ("elsewhere", copies("3", &json!({})), "authentic"),
            ("elsewhere", copies("3", &json!({"0": {"type": "x", "keyslots": []}})), "LUKS_HEADER_REFUSED"),
            ("absent", signed("4", KEY), "OFFLINE_NOT_FOUND"),
            ("other", signed("1", KEY), "VOLUME_UNKNOWN"),
        ] {
            assert_eq!(code(&volumes, name, &copies).await, expected, "{name}");
            assert_eq!(volumes.is_prepared(name), ["authentic", "admitted"].contains(&expected), "{name}");
        }
    }

    #[tokio::test]
    async fn a_torn_first_copy_counts_only_where_a_tag_has_to_fit() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(folder.path());
        let torn = |mut copies: Vec<u8>| {
            copies[4608] ^= 1;
            copies
        };
        for (name, copies, expected) in [
            ("data", torn(signed("1", KEY)), "authentic"),
            ("data", torn(signed("1", &[7; 32])), "LUKS_TAG_MISMATCH"),
            ("data", torn(copies("1", &json!({}))), "LUKS_TAG_MISSING"),
            ("elsewhere", torn(copies("3", &json!({}))), "authentic"),
            ("plain", torn(copies("2", &json!({}))), "LUKS_HEADER_MALFORMED"),
        ] {
            assert_eq!(code(&volumes, name, &copies).await, expected, "{name}");
        }
        let checked = prepare(&volumes, "data", &torn(signed("1", KEY)), &door::unit("data")).await.unwrap();
        assert!(checked.notes[0].contains("first copy is damaged"), "{:?}", checked.notes);
    }

    #[tokio::test]
    async fn tools_get_a_key_by_the_name_of_its_volume_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(folder.path());
        let deadline = Instant::now() + Duration::from_secs(5);
        let root = caller("guestctl.service");
        let ask = |caller: Caller| Ask::of_caller(Door::GetResource, caller);
        for name in ["data", "plain", "sealed"] {
            let key = volumes.key_for_tools(name, &ask(root.clone()), deadline).await.unwrap();
            assert_eq!(key.expose(), KEY, "{name}");
        }
        let unknown = volumes.key_for_tools("other", &ask(root.clone()), deadline).await.unwrap_err();
        assert_eq!(unknown.code(), "VOLUME_UNKNOWN");
    }

    #[tokio::test]
    async fn a_key_is_given_once_for_every_check() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(folder.path());
        let give = async || {
            let deadline = Instant::now() + Duration::from_secs(5);
            let ask = Ask::of_configuration(Door::Volume);
            let given = volumes.give("data", &ask, deadline).await;
            ask.unchanged();
            given.map(Secret::into_exposed)
        };
        assert_eq!(give().await.unwrap_err().code(), "VOLUME_UNPREPARED");
        assert_eq!(code(&volumes, "data", &signed("1", KEY)).await, "authentic");
        assert_eq!(give().await.unwrap(), KEY);
        assert_eq!(give().await.unwrap_err().code(), "VOLUME_UNPREPARED");
        // A bad header takes back what a good one brought.
        assert_eq!(code(&volumes, "data", &signed("1", KEY)).await, "authentic");
        assert_eq!(code(&volumes, "data", &signed("1", &[7; 32])).await, "LUKS_TAG_MISMATCH");
        assert_eq!(give().await.unwrap_err().code(), "VOLUME_UNPREPARED");
    }

    #[tokio::test]
    async fn a_key_is_given_only_to_the_unit_that_checked_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = volumes(folder.path());
        let own = door::unit("data");
        for other in ["session-1.scope", "systemd-cryptsetup@plain.service", "containerd.service"] {
            let checked = prepare(&volumes, "data", &signed("1", KEY), other).await.unwrap();
            assert!(checked.authentic && !checked.armed && !volumes.is_prepared("data"), "{other}");
        }
        assert!(prepare(&volumes, "data", &signed("1", KEY), &own).await.unwrap().armed);
        // Somebody else's check takes nothing back.
        assert!(prepare(&volumes, "data", &signed("1", &[7; 32]), "session-1.scope").await.is_err());
        assert!(volumes.is_prepared("data"));
        tokio::time::pause();
        tokio::time::advance(PREPARED_LIFE).await;
        assert!(!volumes.is_prepared("data"));
        let ask = Ask::of_configuration(Door::Volume);
        let given = volumes.give("data", &ask, Instant::now() + Duration::from_secs(5)).await;
        ask.unchanged();
        assert_eq!(given.unwrap_err().code(), "VOLUME_UNPREPARED");
    }
}
