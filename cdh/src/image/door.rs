//! `api.ImagePullService`: kata-agent has an image pulled.
//!
//! The path of the bundle is the caller's choice, and something is mounted there, so only root may call.

use std::sync::Arc;

use cc_daemon::peer::Caller;
use cc_protos::api::image_pull_service_server::ImagePullService;
use cc_protos::api::{ImagePullRequest, ImagePullResponse};
use tonic::{Request, Response, Status};

use super::Puller;
use crate::audit::{Ask, Door};
use crate::error::HubError;
use crate::hub::Hub;

/// The service over one puller.
#[derive(Debug)]
pub struct ImageService {
    /// Who may call.
    pub hub: Arc<Hub>,
    /// What pulls.
    pub puller: Arc<Puller>,
}

impl ImageService {
    async fn pull(&self, ask: &Ask, request: ImagePullRequest) -> Result<String, HubError> {
        let ImagePullRequest { image_url, bundle_path } = request;
        let is_root = ask.caller().is_some_and(|caller| caller.uid == Some(0) && !caller.local_http);
        if !is_root {
            ask.concerns(&format!("image:{image_url}"));
            let caller = ask.caller().map(ToString::to_string).unwrap_or_default();
            return Err(HubError::RootOnly { caller, what: "have an image pulled" });
        }
        // Rules are about images, however they are spelled, and wherever a name without a registry leads to.
        let names = self.puller.names(&image_url).await;
        for name in names.inspect_err(|_| ask.concerns(&format!("image:{image_url}")))? {
            self.hub.check_access(ask, &format!("image:{name}"))?;
        }
        self.puller.pull(&image_url, &bundle_path).await
    }
}

#[tonic::async_trait]
impl ImagePullService for ImageService {
    async fn pull_image(
        &self,
        request: Request<ImagePullRequest>,
    ) -> Result<Response<ImagePullResponse>, Status> {
        let ask = Ask::of_caller(Door::PullImage, Caller::of(&request));
        let result = Box::pin(self.pull(&ask, request.into_inner())).await;
        ask.answer(&result);
        self.hub.tell_outcome("images", &result);
        Ok(Response::new(ImagePullResponse { manifest_digest: result? }))
    }
}
