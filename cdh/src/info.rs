//! `guest_services.v1.HubInfoService`: the state of the hub, for the operator. It says nothing secret.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use cc_protos::guest_services::hub_info_service_server::HubInfoService;
use cc_protos::guest_services::{
    ConfigSource, Denial, HubStatus, HubStatusRequest, ProbeKbsRequest, ProbeKbsResponse,
};
use tonic::{Request, Response, Status};

use crate::credential::Credentials;
use crate::hub::Hub;
use cc_daemon::config::Source;

/// How long the key broker may take to answer a probe.
const PROBE_TIME_LIMIT: Duration = Duration::from_secs(5);

/// The service over one hub.
#[derive(Debug)]
pub struct HubInfo {
    /// The hub asked about.
    pub hub: Arc<Hub>,
    /// The files it keeps filled.
    pub credentials: Arc<Credentials>,
    /// Which client is configured.
    pub kbc: String,
    /// Where its configuration came from.
    pub source: Source,
}

#[tonic::async_trait]
impl HubInfoService for HubInfo {
    async fn get_status(&self, _request: Request<HubStatusRequest>) -> Result<Response<HubStatus>, Status> {
        let session = self.hub.session();
        let last_denial = session.as_ref().and_then(|s| s.last_denial.clone()).map(|d| Denial {
            code: d.code.to_string(),
            message: d.message,
            unix_seconds: d.at.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs()),
        });
        Ok(Response::new(HubStatus {
            version: crate::VERSION.to_owned(),
            kbc: self.kbc.clone(),
            kbs_url: session.as_ref().map(|s| s.url.clone()).unwrap_or_default(),
            attested: session.as_ref().is_some_and(|s| s.attested),
            token_seconds_left: session.as_ref().map_or(0, |s| s.seconds_left),
            handshakes: session.as_ref().map_or(0, |s| s.handshakes),
            last_denial,
            config: Some(ConfigSource {
                path: self.source.path.clone(),
                provenance: self.source.provenance.as_str().to_owned(),
                unknown_keys: self.source.unknown_keys.clone(),
            }),
            credentials: self.credentials.states(),
        }))
    }

    async fn probe_kbs(
        &self,
        _request: Request<ProbeKbsRequest>,
    ) -> Result<Response<ProbeKbsResponse>, Status> {
        let answer = match self.hub.probe(PROBE_TIME_LIMIT).await {
            None => ProbeKbsResponse {
                message: "no key broker is configured: resources come from files of the image".to_owned(),
                code: "KBS_NOT_CONFIGURED".to_owned(),
                hint: "set kbc.name = \"cc_kbc\" and kbc.url to use one".to_owned(),
                ..ProbeKbsResponse::default()
            },
            Some(Ok(())) => ProbeKbsResponse {
                reachable: true,
                protocol_version: cc_kbs::PROTOCOL_VERSION.to_owned(),
                ..ProbeKbsResponse::default()
            },
            Some(Err(e)) => ProbeKbsResponse {
                code: e.code().to_owned(),
                message: e.to_string(),
                hint: e.hint(),
                ..ProbeKbsResponse::default()
            },
        };
        Ok(Response::new(answer))
    }
}
