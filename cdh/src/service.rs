//! `api.GetResourceService`: the method through which kata-agent, the REST server and applications get secrets.
//!
//! One handler serves gRPC and ttrpc alike. Services of this package whose function does not exist yet are not
//! registered, so that the transport itself says so.

use std::sync::Arc;

use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_protos::api::get_resource_service_server::GetResourceService;
use cc_protos::api::{GetResourceRequest, GetResourceResponse};
use tonic::{Request, Response, Status};

use crate::hub::Hub;

/// How much of a reference is logged, in characters.
const LOGGED_REFERENCE: usize = 256;

/// The service over one hub.
#[derive(Debug)]
pub struct ResourceService {
    /// What fetches.
    pub hub: Arc<Hub>,
}

#[tonic::async_trait]
impl GetResourceService for ResourceService {
    async fn get_resource(
        &self,
        request: Request<GetResourceRequest>,
    ) -> Result<Response<GetResourceResponse>, Status> {
        let caller = Caller::of(&request);
        let deadline = Deadline::of(&request);
        let reference = request.into_inner().resource_path;
        let result = self.hub.fetch_for(&caller, &reference, deadline).await;
        // The audit line: who, what, decision; never content. The reference is quoted, so that a line feed in
        // it cannot forge another line, and cut, so that it cannot fill the log.
        let reference: String = reference.chars().take(LOGGED_REFERENCE).collect();
        match &result {
            Ok(_) => tracing::info!(%caller, ?reference, "gave a resource"),
            Err(e) => {
                tracing::warn!(%caller, ?reference, code = e.code(), "refused a resource")
            }
        }
        Ok(Response::new(GetResourceResponse { resource: result?.into_exposed() }))
    }
}
