//! `api.SecureMountService`: a block device with LUKS2 is opened, and mounted or linked to; and the way back, which is ours.
//!
//! ```toml
//! [secure_mount]
//! header = "allow-list"        # volumes without a tag, as those of the existing stack are; by default "signed"
//! keys = ["kbs:///disk/**"]    # under which a tag counts, besides those that rules of [access] name for the caller
//! require_integrity = false
//! below = ["/srv"]             # where devices may appear; by default everywhere but over files of the system
//! ```
//!
//! The host chose every option, so they are read strictly ([`cc_volume::mount_request`]). The hub gets the key, by the rules of
//! `[access]`; everything with privileges is `cdh-storage`'s. Only root of the machine may ask.

mod opening;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use cc_crypto::Secret;
use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_evidence::blame::Blame;
use cc_protos::api::secure_mount_service_server::SecureMountService;
use cc_protos::api::{SecureMountRequest, SecureMountResponse};
use cc_protos::guest_services::secure_unmount_service_server::SecureUnmountService;
use cc_protos::guest_services::{
    ListSecureMountsRequest, ListSecureMountsResponse, SecureMounted, SecureUnmountRequest,
    SecureUnmountResponse,
};
use cc_storage::{Answer, Content, Device, Fault, Name, Opened, Request, StorageError, Volume};
use cc_volume::mount_request::{self, Key, Plan, Source, Target};
use serde::Deserialize;
use tokio::time::Instant;
use tonic::{Request as Call, Response, Status};

use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::image::config::ImageConfig;
use crate::image::storage::Storage;
use crate::pattern::Pattern;
use crate::reference::SecretRef;
use crate::unseal::Unsealer;

/// Most bytes of a key: it goes to the privileged half in one message.
pub const MAX_KEY_LEN: usize = 64 << 10;
/// Bytes of a key that is made up: as many as the volume key has.
const RANDOM_KEY_LEN: usize = 64;

/// The table `[secure_mount]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MountConfig {
    header: HeaderRule,
    keys: Vec<Pattern>,
    require_integrity: bool,
    below: Option<Folders>,
}

/// Absolute paths of folders.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
struct Folders(Vec<String>);

impl TryFrom<Vec<String>> for Folders {
    type Error = String;

    fn try_from(folders: Vec<String>) -> Result<Self, String> {
        let plain = |folder: &&String| {
            folder.starts_with('/') && !folder.split('/').any(|part| part == "." || part == "..")
        };
        match folders.iter().find(|folder| !plain(folder)) {
            Some(other) => Err(format!("{other:?} is no absolute path without . and ..")),
            None => Ok(Self(folders)),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum HeaderRule {
    #[default]
    Signed,
    AllowList,
}

/// The service.
#[derive(Clone, Debug)]
pub struct SecureMounts {
    unsealer: Arc<Unsealer>,
    config: MountConfig,
    storage: Arc<Storage>,
    // Of [[volumes]], which other doors open by these names.
    taken: Arc<[String]>,
}

impl SecureMounts {
    /// Mounts as `config` says, with keys from `unsealer` and its hub. `cdh-storage` is found as for images. Nothing is started yet.
    /// No mapping gets one of the names `taken`, those of the volumes that systemd opens.
    #[must_use]
    pub fn new(
        unsealer: Arc<Unsealer>,
        config: MountConfig,
        image: &ImageConfig,
        taken: Arc<[String]>,
    ) -> Self {
        Self { unsealer, config, storage: Arc::new(Storage::new(image)), taken }
    }

    async fn mount(&self, ask: &Ask, request: SecureMountRequest, deadline: Instant) -> Result<(), HubError> {
        let caller = ask.caller().unwrap_or(&Caller::UNKNOWN);
        require_root(caller, "have a volume mounted")?;
        let SecureMountRequest { volume_type, options, mount_point, .. } = request;
        let plan = read(&volume_type, &options, &mount_point)?;
        check_name(plan.name.as_deref(), &self.taken)?;
        self.unsealer.hub().check_access(ask, &shown(&plan.device))?;
        if !plan.unknown.is_empty() {
            tracing::warn!(options = ?plan.unknown, "options of a volume are not known and have no effect");
        }
        let signed = self.config.header == HeaderRule::Signed;
        let vouched = vouches(&self.config.keys, |name| self.unsealer.hub().vouches(caller, name), &plan.key);
        if signed && !vouched && plan.source == Source::Encrypted {
            return Err(unvouched());
        }
        let content = content(plan.source, &self.config)?;
        let key = self.key(&plan.key, caller, deadline).await?;
        let name = match plan.name {
            Some(name) => name,
            None => random_name()?,
        };
        let (link, mkfs) = match plan.target {
            Target::Device => (true, Vec::new()),
            Target::FileSystem { mkfs } => (false, mkfs),
        };
        let volume = Volume {
            opening: random_opening()?,
            device: match plan.device {
                mount_request::Device::Number { major, minor } => Device::Number(major, minor),
                mount_request::Device::Path(path) => Device::Path(path),
            },
            name: name.clone(),
            content,
            mount_point: plan.mount_point.clone(),
            below: self.config.below.clone().map(|folders| folders.0),
            link,
            mkfs,
        };
        let fresh = matches!(volume.content, Content::Fresh { .. });
        let answer = self.open(volume, key, deadline).await?;
        match answer {
            Answer::Open { authentic } => {
                let authentic = authentic && vouched;
                if !(authentic || fresh) {
                    tracing::warn!(
                        name,
                        "a volume is open whose header nobody signed: it keeps the rules, and may be the host's; \
                         without [secure_mount] header = \"allow-list\" such are refused"
                    );
                }
                tracing::info!(name, mount_point = plan.mount_point, authentic, fresh, "a volume is open");
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    /// Opens the volume. If this is dropped before its end, the volume is closed again.
    async fn open(&self, volume: Volume, key: Secret, deadline: Instant) -> Result<Answer, HubError> {
        let storage = Arc::clone(&self.storage);
        let task =
            tokio::task::spawn_blocking(move || opening::open(&storage, volume, key, deadline.into_std()));
        let (answer, opening) = task.await.map_err(|_| HubError::Stopping)??;
        opening.keep();
        Ok(answer)
    }

    async fn key(&self, key: &Key, caller: &Caller, deadline: Instant) -> Result<Secret, HubError> {
        let ask = || Ask::of_caller(Door::SecureMount, caller.clone());
        let key = match key {
            Key::Random => return random(RANDOM_KEY_LEN),
            Key::Reference(text) => {
                let reference = SecretRef::try_from(text.clone());
                let reference = reference
                    .map_err(|why| mount_request::MountRequestError::Option { option: "key", why })?;
                let ask = ask();
                let key = reference.resolve(&self.unsealer, &ask, deadline).await;
                ask.answer(&key);
                key?
            }
            Key::File(path) => {
                let ask = ask();
                let allowed = self.unsealer.hub().check_access(&ask, &format!("file://{path}"));
                let key = allowed.and_then(|()| read_file(path));
                ask.answer(&key);
                key?
            }
        };
        match key.len() {
            1..=MAX_KEY_LEN => Ok(key),
            length => Err(HubError::MountKeyLength { length }),
        }
    }

    async fn ask(&self, request: Request, deadline: Instant) -> Result<Answer, HubError> {
        let storage = Arc::clone(&self.storage);
        let task = tokio::task::spawn_blocking(move || opening::ask(&storage, request, deadline.into_std()));
        task.await.map_err(|_| HubError::Stopping)?
    }
}

#[tonic::async_trait]
impl SecureMountService for SecureMounts {
    async fn secure_mount(
        &self,
        request: Call<SecureMountRequest>,
    ) -> Result<Response<SecureMountResponse>, Status> {
        let ask = Ask::of_caller(Door::SecureMount, Caller::of(&request));
        let deadline = Deadline::of(&request);
        let result = Box::pin(self.mount(&ask, request.into_inner(), deadline)).await;
        ask.answer(&result);
        self.unsealer.hub().tell_outcome("block devices", &result);
        result.inspect_err(|e| {
            tracing::warn!(code = e.code(), hint = e.hint(), "a volume is not mounted: {e}")
        })?;
        Ok(Response::new(SecureMountResponse {}))
    }
}

#[tonic::async_trait]
impl SecureUnmountService for SecureMounts {
    async fn list_secure_mounts(
        &self,
        request: Call<ListSecureMountsRequest>,
    ) -> Result<Response<ListSecureMountsResponse>, Status> {
        require_root(&Caller::of(&request), "see what is mounted")?;
        let Answer::Volumes(volumes) = self.ask(Request::ListVolumes, Deadline::of(&request)).await? else {
            return Err(unexpected().into());
        };
        let mounts = volumes.into_iter().map(|Opened { name, device, mount_point, fresh }| SecureMounted {
            mapper_name: name,
            mount_point,
            device,
            ephemeral: fresh,
        });
        Ok(Response::new(ListSecureMountsResponse { mounts: mounts.collect() }))
    }

    async fn secure_unmount(
        &self,
        request: Call<SecureUnmountRequest>,
    ) -> Result<Response<SecureUnmountResponse>, Status> {
        require_root(&Caller::of(&request), "have a volume closed")?;
        let deadline = Deadline::of(&request);
        // As it was opened.
        let mut mount_point = request.into_inner().mount_point;
        if mount_point.len() > 1 && mount_point.ends_with('/') {
            mount_point.pop();
        }
        let close = Request::CloseVolume { mount_point: mount_point.clone(), opening: None };
        self.ask(close, deadline).await?;
        tracing::info!(mount_point, "a volume is closed");
        Ok(Response::new(SecureUnmountResponse {}))
    }
}

fn read(volume_type: &str, options: &HashMap<String, String>, mount_point: &str) -> Result<Plan, HubError> {
    let options = options.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(Plan::read(volume_type, options, mount_point)?)
}

/// A device that the host has named does not appear where the machine expects a volume of its own.
fn check_name(name: Option<&str>, taken: &[String]) -> Result<(), HubError> {
    let is_taken = |name: &str| {
        // With integrity there is a second mapping, of this ending.
        let name = name.strip_suffix("_dif").unwrap_or(name);
        taken.iter().any(|volume| volume == name)
    };
    if name.is_some_and(is_taken) {
        let why = "a volume of [[volumes]] has this name".to_owned();
        return Err(mount_request::MountRequestError::Option { option: "mapperName", why }.into());
    }
    Ok(())
}

/// What a device is called in rules: `device:/dev/vdb` or `device:253:16`.
fn shown(device: &mount_request::Device) -> String {
    match device {
        mount_request::Device::Number { major, minor } => format!("device:{major}:{minor}"),
        mount_request::Device::Path(path) => format!("device:{path}"),
    }
}

/// Root of the machine: root in a container, or of a process that the kernel does not place here, is somebody else.
fn require_root(caller: &Caller, what: &'static str) -> Result<(), HubError> {
    let outside = caller.place.as_ref().is_some_and(|place| place.container.is_none());
    if caller.uid == Some(0) && outside && !caller.local_http {
        return Ok(());
    }
    Err(HubError::RootOnly { caller: caller.to_string(), what })
}

/// The content of a plain file, at most one byte more than a key may have.
fn read_file(path: &str) -> Result<Secret, HubError> {
    let failed = |why: String| HubError::MountKey { path: path.to_owned(), why };
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file =
        File::options().read(true).custom_flags(flags).open(path).map_err(|e| failed(e.to_string()))?;
    if !file.metadata().is_ok_and(|status| status.is_file()) {
        return Err(failed("it is no plain file".to_owned()));
    }
    let mut bytes = Vec::with_capacity(MAX_KEY_LEN + 1);
    let read = file.take(MAX_KEY_LEN as u64 + 1).read_to_end(&mut bytes);
    let secret = Secret::new(bytes);
    read.map_err(|error| failed(error.to_string()))?;
    Ok(secret)
}

fn random(length: usize) -> Result<Secret, HubError> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|error| {
        Fault::new(
            Blame::Platform,
            "RANDOM_FAILED",
            format!("drawing random bytes: {error}"),
            "check that the machine's random number source works",
        )
    })?;
    Ok(Secret::new(bytes))
}

/// A random UUID (RFC 9562 section 5.4).
fn random_name() -> Result<String, HubError> {
    let bytes = random(16)?;
    let mut digits = String::new();
    for (place, byte) in bytes.expose().iter().enumerate() {
        let byte = match place {
            6 => byte & 0x0f | 0x40,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        if matches!(place, 4 | 6 | 8 | 10) {
            digits.push('-');
        }
        digits.push_str(&format!("{byte:02x}"));
    }
    Ok(digits)
}

fn random_opening() -> Result<Name, HubError> {
    let mut name = [0; 32];
    name.copy_from_slice(random(32)?.expose());
    Ok(Name::from(name))
}

/// Whether a tag under `key` says that a volume is its owner's. The host names the key too: one that it knows, such as a file of the image
/// or a public resource, signs whatever the host likes.
fn vouches(keys: &[Pattern], has_rule: impl Fn(&str) -> bool, key: &Key) -> bool {
    let Key::Reference(text) = key else { return false };
    let name = SecretRef::try_from(text.clone()).ok().and_then(|reference| reference.leads_to());
    name.is_some_and(|name| keys.iter().any(|pattern| pattern.covers(&name)) || has_rule(&name))
}

fn unvouched() -> HubError {
    let why = "neither [secure_mount] keys nor a rule of [access] for this caller names it, so a tag under it proves nothing (a rule about \
               all resources, and what a rule with local = true opens, do not count); with header = \"allow-list\" the volume is opened \
               as one that nobody signed";
    mount_request::MountRequestError::Option { option: "key", why: why.to_owned() }.into()
}

/// What is to be on the device, as the host asks for it and the configuration admits it.
fn content(source: Source, config: &MountConfig) -> Result<Content, HubError> {
    match source {
        Source::Empty { integrity: false } if config.require_integrity => {
            let why = "[secure_mount] require_integrity refuses volumes whose sectors are not authenticated: ask for \"true\"";
            Err(mount_request::MountRequestError::Option { option: "dataIntegrity", why: why.to_owned() }
                .into())
        }
        Source::Empty { integrity } => Ok(Content::Fresh { integrity }),
        Source::Encrypted => Ok(Content::Volume {
            signed: config.header == HeaderRule::Signed,
            require_integrity: config.require_integrity,
        }),
    }
}

fn unexpected() -> HubError {
    StorageError::Protocol { why: "the answer does not fit the request".to_owned() }.into()
}

#[cfg(test)]
mod tests {
    use cc_daemon::peer::Place;

    use super::*;

    #[test]
    fn root_outside_of_containers_alone_has_volumes_mounted() {
        let place = |container: Option<&str>| {
            Some(Arc::new(Place { unit: None, container: container.map(str::to_owned) }))
        };
        let root = Caller { uid: Some(0), place: place(None), ..Caller::UNKNOWN };
        assert!(require_root(&root, "x").is_ok());
        for other in [
            Caller { uid: Some(1), ..root.clone() },
            Caller { uid: None, ..root.clone() },
            Caller { local_http: true, ..root.clone() },
            Caller { place: None, ..root.clone() },
            Caller { place: place(Some("0123")), ..root },
        ] {
            assert_eq!(require_root(&other, "x").unwrap_err().code(), "CALLER_NOT_ROOT");
        }
    }

    #[test]
    fn no_device_appears_by_the_name_of_a_configured_volume() {
        let taken = ["data".to_owned()];
        for free in [None, Some("other"), Some("data2"), Some("dat")] {
            assert!(check_name(free, &taken).is_ok(), "{free:?}");
        }
        for name in ["data", "data_dif"] {
            assert_eq!(check_name(Some(name), &taken).unwrap_err().code(), "SECURE_MOUNT_OPTION_REFUSED");
        }
    }

    #[test]
    fn a_tag_counts_under_keys_that_the_host_did_not_choose() {
        let config: MountConfig = toml::from_str("keys = [\"kbs:///disk/**\"]").unwrap();
        let rules = "[[rules]]\nuid = [0]\nresources = [\"kbs:///vm/*/*\"]\n";
        let table: crate::access::AccessTable = toml::from_str(rules).unwrap();
        let place = Arc::new(Place { unit: None, container: None });
        let root = Caller { uid: Some(0), place: Some(place), ..Caller::UNKNOWN };
        let reference = |text: &str| Key::Reference(text.to_owned());
        for (key, without, with) in [
            (reference("kbs:///disk/a/key"), true, true),
            (reference("kbs://any.host/disk/a/key"), true, true),
            (reference("kbs:///vm/a/key"), false, true),
            (reference("kbs:///default/image-policy/main"), false, false),
            (reference("sealed.e30.e30.e30"), false, false),
            (Key::File("/etc/services".to_owned()), false, false),
            (Key::Random, false, false),
        ] {
            assert_eq!(vouches(&config.keys, |_| false, &key), without, "{key:?}");
            assert_eq!(vouches(&config.keys, |name| table.vouches(&root, name), &key), with, "{key:?}");
        }
        // A rule for somebody else, for everybody, or about everything says nothing about this key.
        for rules in [
            "[[rules]]\nuid = [70]\nresources = [\"kbs:///vm/*/*\"]\n",
            "[[rules]]\nlocal = true\nresources = [\"kbs:///vm/*/*\"]\n",
            "[[rules]]\nuid = [0]\nresources = [\"**\"]\n",
            "[[rules]]\nuid = [0]\nresources = [\"kbs:///*/*/*\"]\n",
            "[[rules]]\nuid = [0]\nresources = [\"kbs:///vm/*/*\"]\n[[rules]]\nlocal = true\nresources = [\"**\"]\n",
        ] {
            let table: crate::access::AccessTable = toml::from_str(rules).unwrap();
            let key = reference("kbs:///vm/a/key");
            assert!(!vouches(&[], |name| table.vouches(&root, name), &key), "{rules}");
        }
        assert_eq!(MountConfig::default().header, HeaderRule::Signed);
        assert!(unvouched().to_string().contains("[secure_mount] keys"), "{}", unvouched());
    }

    #[test]
    fn whoever_requires_integrity_gets_it_on_fresh_volumes_too() {
        let config: MountConfig = toml::from_str("require_integrity = true").unwrap();
        let error = content(Source::Empty { integrity: false }, &config).unwrap_err();
        assert_eq!(error.code(), "SECURE_MOUNT_OPTION_REFUSED");
        assert!(error.to_string().contains("dataIntegrity"), "{error}");
        let fresh = |integrity| Content::Fresh { integrity };
        assert_eq!(content(Source::Empty { integrity: true }, &config).unwrap(), fresh(true));
        assert_eq!(
            content(Source::Encrypted, &config).unwrap(),
            Content::Volume { signed: true, require_integrity: true }
        );
        let content = content(Source::Empty { integrity: false }, &MountConfig::default());
        assert_eq!(content.unwrap(), fresh(false));
    }

    #[test]
    fn places_are_absolute_paths() {
        let read = |text: &str| toml::from_str::<MountConfig>(text);
        let config = read("below = [\"/srv\", \"/var/lib/x\"]").unwrap();
        assert_eq!(config.below.unwrap().0, ["/srv", "/var/lib/x"]);
        assert_eq!(read("").unwrap().below, None);
        for bad in ["srv", "", "/srv/../etc", "/srv/./x"] {
            let error = read(&format!("below = [\"/mnt\", {bad:?}]")).unwrap_err();
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn a_key_in_a_file_is_plain_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("key"), "secret\n").unwrap();
        assert_eq!(read_file(&path("key")).unwrap().expose(), b"secret\n", "as it is");
        std::fs::write(path("long"), vec![7; MAX_KEY_LEN + 9]).unwrap();
        assert_eq!(read_file(&path("long")).unwrap().len(), MAX_KEY_LEN + 1);
        for bad in [path("absent"), path(""), "/dev/zero".to_owned()] {
            assert_eq!(read_file(&bad).unwrap_err().code(), "SECURE_MOUNT_KEY", "{bad}");
        }
    }

    #[test]
    fn names_are_random_uuids() {
        let (one, other) = (random_name().unwrap(), random_name().unwrap());
        assert_ne!(one, other);
        assert!(one.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && one.as_bytes()[14] == b'4', "{one}");
    }
}
