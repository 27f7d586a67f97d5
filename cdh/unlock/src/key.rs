//! Keys and tags out of the key broker, after one attestation for all of them.

use std::sync::Arc;
use std::time::Duration;

use cc_crypto::Secret;
use cc_kbs::Session;
use cc_volume::luks2::{HeaderKey, Tag};
use tokio::time::{Instant, sleep};
use trustee_attester::{DnsFiles, Machine, MachineOptions};

use crate::{
    config::{Config, Volume},
    disk::Disk,
    failure::Failure,
};

/// How long a driver of the TEE may take to appear: udev loads it while this program runs.
const PATIENCE: Duration = Duration::from_secs(15);
/// Pause between two looks.
const GLANCE: Duration = Duration::from_millis(200);
/// Longest key, in bytes: what a pipe takes at once.
const MAX_KEY_LEN: usize = 64 << 10;

/// The session with the key broker.
#[derive(Debug)]
pub(crate) struct KeyBroker {
    session: Session,
    deadline: Instant,
}

impl KeyBroker {
    /// Looks for the TEE. The key broker is asked later.
    ///
    /// # Errors
    /// There is no TEE, or the configuration cannot be used.
    pub(crate) async fn of(config: &Config, deadline: Instant) -> Result<Self, Failure> {
        let patience = deadline.min(Instant::now() + PATIENCE);
        let machine = loop {
            let options = MachineOptions {
                sys_root: "/".into(),
                sample: false,
                init_data: None,
                tpm: config.tpm(),
                // So that a device that hangs is named, and not just the end of the time.
                quote_time_limit: config.time_limit() / 2,
            };
            match Machine::find(options) {
                Ok(machine) => break machine,
                Err(_) if Instant::now() < patience => sleep(GLANCE).await,
                Err(error) => return Err(error.into()),
            }
        };
        let names = Arc::new(DnsFiles::of_system());
        Ok(Self { session: Session::with_names(config.key_broker(), Arc::new(machine), names)?, deadline })
    }

    /// The key of a volume. Waits for the network and for the key broker.
    ///
    /// # Errors
    /// As [`Session::fetch`], and [`Failure::KeyLength`].
    pub(crate) async fn key(&self, volume: &Volume) -> Result<Secret, Failure> {
        let key = self.session.fetch(&volume.key, self.deadline).await?;
        if key.is_empty() || key.len() > MAX_KEY_LEN {
            return Err(Failure::KeyLength { length: key.len() });
        }
        Ok(key)
    }

    /// What shows that a disk is this volume, whose key is `key`.
    ///
    /// # Errors
    /// [`Failure::Header`] if the key or the tag that is kept elsewhere is none, or what fetching that says.
    pub(crate) async fn proof(&self, volume: &Volume, key: &Secret) -> Result<Proof, Failure> {
        let proof = Proof::of_header(&volume.name, key)?;
        let Some(uri) = &volume.tag else { return Ok(proof) };
        let text = self.session.fetch(uri, self.deadline).await?;
        let tag = std::str::from_utf8(text.expose())
            .map_err(|_| cc_volume::Error::TagMalformed)
            .and_then(|text| text.trim().parse())
            .map_err(|error| Failure::Header { path: uri.to_string().into(), error })?;
        Ok(Proof { kept: Some(tag), ..proof })
    }
}

/// What shows that a disk is a volume: its header fits a tag under the volume's key.
pub(crate) struct Proof {
    key: HeaderKey,
    /// The tag that is kept elsewhere; else the header's own.
    kept: Option<Tag>,
}

impl Proof {
    /// By the tag in the header, under `key`, that of the volume `name`.
    ///
    /// # Errors
    /// [`Failure::Header`] if the key is too short to be one.
    pub(crate) fn of_header(name: &str, key: &Secret) -> Result<Self, Failure> {
        let key = HeaderKey::derive(key).map_err(|error| Failure::Header { path: name.into(), error })?;
        Ok(Self { key, kept: None })
    }

    /// Whether `disk` is the volume.
    ///
    /// # Errors
    /// [`Failure::Header`].
    pub(crate) fn check(&self, disk: &Disk) -> Result<(), Failure> {
        let header = disk.header.header();
        let tag = self.kept.as_ref().or_else(|| header.tag()).ok_or(cc_volume::Error::TagMissing);
        tag.and_then(|tag| self.key.verify(header, tag))
            .map_err(|error| Failure::Header { path: disk.path.clone(), error })
    }
}
