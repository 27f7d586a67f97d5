//! `guest_services.v1.VolumeService`: what `guestctl disk` asks about volumes. For the superuser alone.

use std::sync::Arc;

use cc_crypto::Secret;
use cc_daemon::address::Address;
use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_protos::guest_services::volume_service_server::VolumeService;
use cc_protos::guest_services::{
    GetVolumeKeyRequest, GetVolumeKeyResponse, HeaderPolicy, ListVolumesRequest, ListVolumesResponse,
    PrepareVolumeRequest, PrepareVolumeResponse, Volume,
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{Checked, Entry, Read, Volumes};
use crate::audit::{Ask, Door};
use crate::error::HubError;

/// The service over the configured volumes.
#[derive(Debug)]
pub struct VolumeRpc {
    /// The volumes.
    pub volumes: Arc<Volumes>,
    /// Where their keys are given.
    pub key_socket: Address,
}

#[tonic::async_trait]
impl VolumeService for VolumeRpc {
    async fn list_volumes(
        &self,
        request: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        require_root(&Caller::of(&request))?;
        let volumes = self.volumes.entries().iter().map(|entry| self.describe(entry)).collect();
        let key_socket = match &self.key_socket {
            Address::Unix(path) => path.display().to_string(),
            other @ Address::Tcp(_) => other.to_string(),
        };
        Ok(Response::new(ListVolumesResponse { volumes, key_socket }))
    }

    async fn prepare_volume(
        &self,
        request: Request<PrepareVolumeRequest>,
    ) -> Result<Response<PrepareVolumeResponse>, Status> {
        let caller = Caller::of(&request);
        require_root(&caller)?;
        let deadline = Deadline::of(&request);
        let PrepareVolumeRequest { name, header, area_length, second_header } = request.into_inner();
        let read = Read { first: &header, second: &second_header, given: area_length };
        match self.volumes.prepare(&name, read, &caller, deadline).await {
            Ok(Checked { authentic, armed, notes }) => {
                tracing::info!(name, authentic, armed, "the header of a volume is good");
                for note in &notes {
                    tracing::warn!(name, "{note}");
                }
                Ok(Response::new(PrepareVolumeResponse { authentic, notes, armed }))
            }
            Err(e) => {
                tracing::warn!(code = e.code(), hint = e.hint(), "a volume is not prepared: {e}");
                Err(e.into())
            }
        }
    }

    async fn get_volume_key(
        &self,
        request: Request<GetVolumeKeyRequest>,
    ) -> Result<Response<GetVolumeKeyResponse>, Status> {
        // Root's tools get it as they get a resource.
        let ask = Ask::of_caller(Door::GetResource, Caller::of(&request));
        let deadline = Deadline::of(&request);
        let result = self.key(&ask, &request.into_inner().name, deadline).await;
        ask.answer(&result);
        Ok(Response::new(GetVolumeKeyResponse { key: result?.into_exposed() }))
    }
}

impl VolumeRpc {
    async fn key(&self, ask: &Ask, name: &str, deadline: Instant) -> Result<Secret, HubError> {
        require_root(ask.caller().unwrap_or(&Caller::UNKNOWN))?;
        self.volumes.key_for_tools(name, ask, deadline).await
    }

    fn describe(&self, entry: &Entry) -> Volume {
        let policy = &entry.policy;
        Volume {
            name: entry.name.clone(),
            uuid: entry.uuid.clone(),
            key_uri: entry.key.to_string(),
            signed: entry.signed,
            policy: Some(HeaderPolicy {
                max_keyslots: u32::try_from(policy.max_keyslots).unwrap_or(u32::MAX),
                require_integrity: policy.require_integrity,
                allow_discards: policy.allow_discards,
            }),
            prepared: self.volumes.is_prepared(&entry.name),
            tag_uri: entry.tag.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// Root of the machine: root in a container, or of a process that the kernel does not place here, is somebody else.
fn require_root(caller: &Caller) -> Result<(), HubError> {
    let outside = caller.place.as_ref().is_some_and(|place| place.container.is_none());
    if caller.uid == Some(0) && outside && !caller.local_http {
        return Ok(());
    }
    Err(HubError::VolumeCaller { caller: caller.to_string() })
}

#[cfg(test)]
mod tests {
    use cc_daemon::peer::Place;

    use super::*;

    #[test]
    fn root_of_the_machine_alone_asks_about_volumes() {
        let place = |container: Option<&str>| {
            Some(Arc::new(Place { unit: None, container: container.map(str::to_owned) }))
        };
        let root = Caller { uid: Some(0), place: place(None), ..Caller::UNKNOWN };
        assert!(require_root(&root).is_ok());
        for other in [
            Caller { uid: Some(1000), ..root.clone() },
            Caller { uid: None, ..root.clone() },
            Caller { place: place(Some("0123")), ..root.clone() },
            Caller { place: None, ..root.clone() },
            Caller { local_http: true, ..root },
        ] {
            assert_eq!(require_root(&other).unwrap_err().code(), "VOLUME_CALLER_REFUSED", "{other}");
        }
    }
}
