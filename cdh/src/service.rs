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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::{Cli, Config, Surroundings};

    #[tokio::test]
    async fn the_key_of_a_volume_leaves_by_no_other_door() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("resources.json");
        std::fs::write(&store, "{\"disk/a/key\": \"a2V5\", \"disk/a/tag\": \"dGFn\"}").unwrap();
        let file = folder.path().join("hub.toml");
        let volumes = "[[volumes]]\nname = \"data\"\nuuid = \"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10\"\n\
                       key = \"kbs://broker:8080/disk/a/key\"\n";
        let rule = "[[access.rules]]\nlocal = true\nresources = [\"kbs:///disk/a/key\"]\n";
        let ask = async |rules: &str, reference: &str, local_http: bool| {
            std::fs::write(&file, format!("[kbc]\nname = \"offline_fs_kbc\"\n{volumes}{rules}")).unwrap();
            let surroundings =
                Surroundings { offline_files: Some(store.display().to_string()), ..Surroundings::default() };
            let cli = Cli::try_parse_from(["hub", "-c", file.to_str().unwrap()]).unwrap();
            let hub = Arc::new(Hub::new(&Config::build(cli, &surroundings).unwrap()).unwrap());
            let mut request = Request::new(GetResourceRequest { resource_path: reference.to_owned() });
            request.extensions_mut().insert(Caller { uid: Some(0), local_http, ..Caller::UNKNOWN });
            let answer = ResourceService { hub }.get_resource(request).await;
            answer
                .map(|answer| answer.into_inner().resource)
                .map_err(|status| status.message().contains("no rule of [access] gives"))
        };
        for local_http in [false, true] {
            for spelling in ["kbs:///disk/a/key", "kbs://x/disk/a/key?y", "kbs+pkcs11:///disk/a/key"] {
                let answer = ask("", spelling, local_http).await;
                assert_eq!(answer, Err(true), "{spelling} {local_http}");
            }
            assert_eq!(ask("", "kbs:///disk/a/tag", local_http).await.unwrap(), b"tag", "{local_http}");
        }
        assert_eq!(ask(rule, "kbs:///disk/a/key", true).await.unwrap(), b"key", "a rule names it");
        assert_eq!(ask(rule, "kbs:///disk/a/key", false).await, Err(true), "it is for local HTTP alone");
    }
}
