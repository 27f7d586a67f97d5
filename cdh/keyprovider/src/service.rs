//! `keyprovider.KeyProviderService`: image tools that encrypt have keys wrapped.

use std::sync::Arc;

use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_protos::keyprovider::key_provider_service_server::KeyProviderService;
use cc_protos::keyprovider::{KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput};
use tonic::{Request, Response, Status};

use crate::wrap::Wrapper;

/// The service over one wrapper.
#[derive(Clone, Debug)]
pub struct WrapService {
    /// What wraps.
    pub wrapper: Arc<Wrapper>,
}

#[tonic::async_trait]
impl KeyProviderService for WrapService {
    async fn wrap_key(
        &self,
        request: Request<KeyProviderKeyWrapProtocolInput>,
    ) -> Result<Response<KeyProviderKeyWrapProtocolOutput>, Status> {
        let (caller, deadline) = (Caller::of(&request), Deadline::of(&request));
        let input = request.into_inner().key_provider_key_wrap_protocol_input;
        match self.wrapper.wrap(&input, deadline).await {
            Ok((output, kid)) => {
                tracing::info!(%caller, kid, "wrapped an image key");
                Ok(Response::new(KeyProviderKeyWrapProtocolOutput {
                    key_provider_key_wrap_protocol_output: output,
                }))
            }
            Err(e) => {
                tracing::warn!(%caller, code = e.code(), hint = e.hint(), "wrapped no image key: {e}");
                Err(e.into())
            }
        }
    }

    async fn un_wrap_key(
        &self,
        _request: Request<KeyProviderKeyWrapProtocolInput>,
    ) -> Result<Response<KeyProviderKeyWrapProtocolOutput>, Status> {
        Err(Status::unimplemented(
            "images are decrypted inside of a guest; ask the confidential-data-hub there",
        ))
    }
}
