//! `api.SecureMountService`: a block device with LUKS2 is opened, and mounted or linked to; and the way back, which is ours.
//!
//! ```toml
//! [secure_mount]
//! header = "signed"            # or "allow-list", the default without `strict`: rules alone, no tag
//! require_integrity = false
//! ```
//!
//! The host chose every option, so they are read strictly ([`cc_volume::mount_request`]). The hub gets the key, by the rules of
//! `[access]`; everything with privileges is `cdh-storage`'s. Only root of the machine may ask.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
use cc_storage::{Answer, Content, Device, Fault, Opened, Request, StorageError, Volume};
use cc_volume::mount_request::{self, Key, Plan, Source, Target};
use serde::Deserialize;
use tokio::time::Instant;
use tonic::{Request as Call, Response, Status};

use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::image::config::ImageConfig;
use crate::image::storage::{Mode, Storage};
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
    header: Option<HeaderRule>,
    require_integrity: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum HeaderRule {
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

    /// Whether a header needs a tag. Devices of the existing stack have none.
    fn signed(&self) -> bool {
        let default =
            if self.unsealer.hub().is_strict() { HeaderRule::Signed } else { HeaderRule::AllowList };
        self.config.header.unwrap_or(default) == HeaderRule::Signed
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
            device: match plan.device {
                mount_request::Device::Number { major, minor } => Device::Number(major, minor),
                mount_request::Device::Path(path) => Device::Path(path),
            },
            name: name.clone(),
            content: match plan.source {
                Source::Empty { integrity } => Content::Fresh { integrity },
                Source::Encrypted => Content::Volume {
                    signed: self.signed(),
                    require_integrity: self.config.require_integrity,
                },
            },
            mount_point: plan.mount_point.clone(),
            link,
            mkfs,
        };
        let fresh = matches!(volume.content, Content::Fresh { .. });
        let answer = self.open(volume, key).await?;
        match answer {
            Answer::Open { authentic } => {
                if !(authentic || fresh) {
                    tracing::warn!(
                        name,
                        "a volume is open whose header nobody signed: it keeps the rules, and may be the host's; \
                         [secure_mount] header = \"signed\" refuses such"
                    );
                }
                tracing::info!(name, mount_point = plan.mount_point, authentic, fresh, "a volume is open");
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    /// Opens the volume. If nobody waits for it any more when it is open, it is closed again.
    async fn open(&self, volume: Volume, key: Secret) -> Result<Answer, HubError> {
        let wanted = Arc::new(AtomicBool::new(true));
        let given_up = Unwanted(Some(Arc::clone(&wanted)));
        let storage = Arc::clone(&self.storage);
        let task = tokio::task::spawn_blocking(move || {
            let mount_point = volume.mount_point.clone();
            let answer = ask_storage(&storage, Request::OpenVolume(volume), Some(key))?;
            if !wanted.load(Ordering::SeqCst) {
                tracing::warn!(mount_point, "nobody waits for a volume any more: it is closed again");
                ask_storage(&storage, Request::CloseVolume { mount_point }, None)?;
            }
            Ok(answer)
        });
        let answer = task.await.map_err(|_| HubError::Stopping)?;
        given_up.keep();
        answer
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

    async fn ask(&self, request: Request) -> Result<Answer, HubError> {
        let storage = Arc::clone(&self.storage);
        let task = tokio::task::spawn_blocking(move || ask_storage(&storage, request, None));
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
        let Answer::Volumes(volumes) = self.ask(Request::ListVolumes).await? else {
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
        let mount_point = request.into_inner().mount_point;
        self.ask(Request::CloseVolume { mount_point: mount_point.clone() }).await?;
        tracing::info!(mount_point, "a volume is closed");
        Ok(Response::new(SecureUnmountResponse {}))
    }
}

/// Says that nobody waits when it is dropped, unless it is kept.
struct Unwanted(Option<Arc<AtomicBool>>);

impl Unwanted {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        if let Some(wanted) = &self.0 {
            wanted.store(false, Ordering::SeqCst);
        }
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

fn ask_storage(storage: &Storage, request: Request, key: Option<Secret>) -> Result<Answer, HubError> {
    let answered =
        storage.channel(Mode::Disk).and_then(|mut channel| Ok(channel.ask(request, key, &[])?.body));
    answered.map_err(|error| match error {
        // It ends at once where it does not know the mode.
        HubError::Image(fault) if fault.code == StorageError::Gone.code() => Fault::new(
            Blame::Platform,
            "STORAGE_HELPER",
            "cdh-storage ended, or was built without the feature luks",
            "install cdh-storage built with the feature luks, and libcryptsetup; its log says more",
        )
        .into(),
        other => other,
    })
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
