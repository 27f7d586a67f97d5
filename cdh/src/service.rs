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

use crate::audit::{Ask, Door};
use crate::hub::Hub;

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
        let ask = Ask::of_caller(Door::of_resource(&caller), caller);
        let result = self.hub.fetch_for(&ask, &reference, deadline).await;
        ask.answer(&result);
        Ok(Response::new(GetResourceResponse { resource: result?.into_exposed() }))
    }
}
