//! `guest_services.v1.AgentInfoService`: what the data hub and the operator ask beyond the existing contract.

use std::sync::Arc;

use cc_daemon::config::Source;
use cc_daemon::peer::Caller;
use cc_protos::guest_services::agent_info_service_server::AgentInfoService;
use cc_protos::guest_services::{
    AgentStatus, AgentStatusRequest, ConfigSource, DevicesAcceptedRequest, DevicesAcceptedResponse,
    GetInitDataRequest, GetInitDataResponse, Measurement,
};
use tonic::{Request, Response, Status};

use crate::access::Access;
use crate::agent::Agent;
use crate::measurement::Account;

/// The service over one agent.
#[derive(Debug)]
pub struct AgentInfo {
    /// The agent asked about.
    pub agent: Arc<Agent>,
    /// Where its configuration came from.
    pub source: Source,
    /// Who may read the init-data.
    pub access: Access,
}

#[tonic::async_trait]
impl AgentInfoService for AgentInfo {
    /// The host knows the document, but a workload need not: it may name registries and their credentials.
    async fn get_init_data(
        &self,
        request: Request<GetInitDataRequest>,
    ) -> Result<Response<GetInitDataResponse>, Status> {
        self.access.check(&Caller::of(&request), "init-data")?;
        let answer = match self.agent.init_data().await {
            Some(d) => GetInitDataResponse {
                present: true,
                toml: d.toml.unwrap_or_default(),
                digest: d.digest,
                algorithm: d.algorithm,
                hardware_checked: d.hardware_checked,
            },
            None => GetInitDataResponse::default(),
        };
        Ok(Response::new(answer))
    }

    /// Nobody but the data hub has seen the key broker's answer, so nobody else is believed, in any mode.
    async fn devices_accepted(
        &self,
        request: Request<DevicesAcceptedRequest>,
    ) -> Result<Response<DevicesAcceptedResponse>, Status> {
        self.access.check_named(&Caller::of(&request), "setting devices ready")?;
        self.agent.devices_accepted().await?;
        Ok(Response::new(DevicesAcceptedResponse {}))
    }

    async fn get_status(
        &self,
        _request: Request<AgentStatusRequest>,
    ) -> Result<Response<AgentStatus>, Status> {
        let vouched = match self.source.depends_on_init_data() {
            true => self.agent.init_data().await.and_then(|d| d.vouched_document()),
            false => None,
        };
        Ok(Response::new(AgentStatus {
            version: crate::VERSION.to_owned(),
            tee: self.agent.tee().to_owned(),
            additional_tees: self.agent.additional_tees(),
            strict: self.access.strict,
            config: Some(ConfigSource {
                path: self.source.path.clone(),
                provenance: self.source.provenance(vouched.as_ref()).as_str().to_owned(),
                unknown_keys: self.source.unknown_keys.clone(),
            }),
            probes: self.agent.probes().to_vec(),
            evidence_collected: self.agent.evidence_collected(),
            measurement: self.agent.measurement().map(measurement),
            confinement: cc_daemon::sandbox::confinement(),
        }))
    }
}

fn measurement(account: &Account) -> Measurement {
    let mut told = Measurement {
        state: account.state.to_owned(),
        why: account.why.clone(),
        log: account.log.display().to_string(),
        ..Measurement::default()
    };
    if let Some((pcr, register, hash)) = account.register {
        told = Measurement { registers: true, pcr, register, algorithm: hash.to_string(), ..told };
    }
    told
}
