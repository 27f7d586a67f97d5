//! `api.SealedSecretService` and `keyprovider.KeyProviderService`: kata-agent unseals, image tools unwrap.
//!
//! The same handlers serve gRPC and ttrpc. Wrapping keys is not the guest's business: `WrapKey` says so.

use std::sync::Arc;

use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_protos::api::sealed_secret_service_server::SealedSecretService;
use cc_protos::api::{UnsealSecretInput, UnsealSecretOutput};
use cc_protos::keyprovider::key_provider_service_server::KeyProviderService;
use cc_protos::keyprovider::{KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput};
use tonic::{Request, Response, Status};

use crate::audit::{Ask, Door};
use crate::unseal::Unsealer;

/// Both services over one unsealer.
#[derive(Clone, Debug)]
pub struct SealedService {
    /// What opens.
    pub unsealer: Arc<Unsealer>,
}

#[tonic::async_trait]
impl SealedSecretService for SealedService {
    async fn unseal_secret(
        &self,
        request: Request<UnsealSecretInput>,
    ) -> Result<Response<UnsealSecretOutput>, Status> {
        let ask = Ask::of_caller(Door::UnsealSecret, Caller::of(&request));
        let deadline = Deadline::of(&request);
        let result = self.unsealer.unseal(&ask, &request.into_inner().secret, deadline).await;
        ask.answer(&result);
        Ok(Response::new(UnsealSecretOutput { plaintext: result?.into_exposed() }))
    }
}

#[tonic::async_trait]
impl KeyProviderService for SealedService {
    async fn wrap_key(
        &self,
        _request: Request<KeyProviderKeyWrapProtocolInput>,
    ) -> Result<Response<KeyProviderKeyWrapProtocolOutput>, Status> {
        Err(Status::unimplemented("images are encrypted outside of the guest; use coco_keyprovider there"))
    }

    async fn un_wrap_key(
        &self,
        request: Request<KeyProviderKeyWrapProtocolInput>,
    ) -> Result<Response<KeyProviderKeyWrapProtocolOutput>, Status> {
        let ask = Ask::of_caller(Door::UnwrapKey, Caller::of(&request));
        let deadline = Deadline::of(&request);
        let input = request.into_inner().key_provider_key_wrap_protocol_input;
        let result = self.unsealer.unwrap_key(&ask, &input, deadline).await;
        ask.answer(&result);
        Ok(Response::new(KeyProviderKeyWrapProtocolOutput { key_provider_key_wrap_protocol_output: result? }))
    }
}
