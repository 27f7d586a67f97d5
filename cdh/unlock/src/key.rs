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

    /// The first of `disks` whose header fits its tag under `key`.
    ///
    /// # Errors
    /// [`Failure::Header`] of the last disk, or what fetching the tag says.
    pub(crate) async fn authentic(
        &self,
        volume: &Volume,
        disks: Vec<Disk>,
        key: &Secret,
    ) -> Result<Disk, Failure> {
        let kept = match &volume.tag {
            Some(uri) => Some(self.session.fetch(uri, self.deadline).await?),
            None => None,
        };
        let mut last = None;
        for disk in disks {
            match verify(&disk, kept.as_ref(), key) {
                Ok(()) => return Ok(disk),
                Err(error) => last = Some(Failure::Header { path: disk.path, error }),
            }
        }
        Err(last.unwrap_or_else(|| Failure::Header {
            path: volume.name.clone().into(),
            error: cc_volume::Error::TagMissing,
        }))
    }
}

/// Compares the header with the tag that was kept elsewhere, else with its own.
fn verify(disk: &Disk, kept: Option<&Secret>, key: &Secret) -> Result<(), cc_volume::Error> {
    let header = disk.header.header();
    let tag: Tag = match kept {
        Some(text) => std::str::from_utf8(text.expose())
            .map_err(|_| cc_volume::Error::TagMalformed)
            .and_then(|text| text.trim().parse())?,
        None => header.tag().copied().ok_or(cc_volume::Error::TagMissing)?,
    };
    HeaderKey::derive(key)?.verify(header, &tag)
}
