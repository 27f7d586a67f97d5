//! The volumes of the hub's configuration, as the hub tells them.

use cc_protos::guest_services::{ListVolumesRequest, Volume};
use cc_volume::luks2::{Copies, Policy};

use crate::{
    connect::Hub,
    failure::{self, Failure},
};

/// Where udev shows a device by the UUID of its header. The name says nothing about who made the device: that is for the
/// header's tag to say.
const BY_UUID: &str = "/dev/disk/by-uuid";

/// A configured volume, and where its key is given.
#[derive(Debug)]
pub(super) struct Configured {
    pub(super) volume: Volume,
    pub(super) key_socket: String,
}

impl Configured {
    /// Asks the hub for the volume `name`.
    pub(super) async fn find(hub: &Hub<'_>, name: &str) -> Result<Self, Failure> {
        let doing = || format!("asking about the volume {name}");
        let answer = hub.volumes().list_volumes(ListVolumesRequest {}).await;
        let answer = answer.map_err(|status| hub.failed(&doing(), &status))?.into_inner();
        let volume = answer.volumes.into_iter().find(|volume| volume.name == name).ok_or_else(|| {
            failure::of(
                cc_evidence::blame::Blame::Absent,
                "VOLUME_UNKNOWN",
                &format!("no entry of [[volumes]] is called {name:?}"),
                "correct the name, or add an entry to [[volumes]] in the data hub's configuration",
            )
        })?;
        Ok(Self { volume, key_socket: answer.key_socket })
    }

    /// The path by which its device is found.
    pub(super) fn device(&self) -> String {
        format!("{BY_UUID}/{}", self.volume.uuid)
    }

    /// Which copies its header may come from: the second one takes a damaged one's place where a tag has to fit.
    pub(super) fn copies(&self) -> Copies {
        if self.volume.signed { Copies::Either } else { Copies::First }
    }

    /// What is demanded of its header.
    pub(super) fn policy(&self) -> Policy {
        let policy = self.volume.policy.unwrap_or_default();
        Policy {
            max_keyslots: usize::try_from(policy.max_keyslots).unwrap_or_default(),
            require_integrity: policy.require_integrity,
            allow_discards: policy.allow_discards,
            ..Policy::default()
        }
    }
}
