//! `guest_services.v1.VolumeService`: what `guestctl disk` asks about volumes. For the superuser alone.

use std::sync::Arc;

use cc_daemon::address::Address;
use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_protos::guest_services::volume_service_server::VolumeService;
use cc_protos::guest_services::{
    HeaderPolicy, ListVolumesRequest, ListVolumesResponse, PrepareVolumeRequest, PrepareVolumeResponse,
    Volume,
};
use tonic::{Request, Response, Status};

use super::{Entry, Volumes};
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
        require_root(&Caller::of(&request))?;
        let deadline = Deadline::of(&request);
        let PrepareVolumeRequest { name, header, area_length } = request.into_inner();
        match self.volumes.prepare(&name, &header, area_length, deadline).await {
            Ok(checked) => {
                tracing::info!(name, authentic = checked.authentic, "the header of a volume is good");
                Ok(Response::new(PrepareVolumeResponse {
                    authentic: checked.authentic,
                    notes: checked.notes,
                }))
            }
            Err(e) => {
                tracing::warn!(code = e.code(), hint = e.hint(), "a volume is not prepared: {e}");
                Err(e.into())
            }
        }
    }
}

impl VolumeRpc {
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
        }
    }
}

fn require_root(caller: &Caller) -> Result<(), HubError> {
    if caller.uid == Some(0) && !caller.local_http {
        return Ok(());
    }
    Err(HubError::VolumeCaller { caller: caller.to_string() })
}
