//! `attestation_agent.AttestationAgentService`, the service kata-agent, the data hub and the REST server call.
//!
//! Each method decodes, asks [`crate::access`], calls, encodes. One handler serves gRPC and ttrpc alike.

use std::sync::Arc;

use cc_daemon::deadline::Deadline;
use cc_daemon::peer::Caller;
use cc_evidence::aael::Event;
use cc_protos::attestation_agent::attestation_agent_service_server::AttestationAgentService;
use cc_protos::attestation_agent::{
    BindInitDataRequest, BindInitDataResponse, ExtendRuntimeMeasurementRequest,
    ExtendRuntimeMeasurementResponse, GetAdditionalEvidenceRequest, GetAdditionalTeesRequest,
    GetAdditionalTeesResponse, GetEvidenceRequest, GetEvidenceResponse, GetTeeTypeRequest,
    GetTeeTypeResponse, GetTokenRequest, GetTokenResponse, RuntimeMeasurementResult,
};
use tonic::{Request, Response, Status};

use crate::access::{self, Access};
use crate::agent::Agent;
use crate::error::AgentError;
use crate::init_data::BoundInitData;
use crate::measurement::Measuring;
use crate::token::Tokens;

/// The method that only gRPC serves: over ttrpc any container could use up the one chance to bind.
pub const BIND_INIT_DATA: &str = "/attestation_agent.AttestationAgentService/BindInitData";

/// The service over one agent.
#[derive(Debug)]
pub struct AgentService {
    /// What collects evidence.
    pub agent: Arc<Agent>,
    /// What gets tokens.
    pub tokens: Arc<Tokens>,
    /// Who may have either.
    pub access: Access,
}

#[tonic::async_trait]
impl AttestationAgentService for AgentService {
    async fn get_evidence(
        &self,
        request: Request<GetEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        self.access.check(&Caller::of(&request), "evidence")?;
        let evidence = self.agent.evidence(&request.into_inner().runtime_data).await?;
        Ok(Response::new(GetEvidenceResponse { evidence: evidence.into_bytes() }))
    }

    async fn get_additional_evidence(
        &self,
        request: Request<GetAdditionalEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        self.access.check(&Caller::of(&request), "evidence")?;
        let evidence = self.agent.additional_evidence(&request.into_inner().runtime_data).await?;
        Ok(Response::new(GetEvidenceResponse { evidence: evidence.into_bytes() }))
    }

    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let caller = Caller::of(&request);
        self.access.check(&caller, "a token")?;
        let deadline = Deadline::of(&request);
        let token = match request.into_inner().token_type.as_str() {
            "kbs" => self.tokens.kbs(self.access.gives_token_key(&caller), deadline).await?,
            "coco_as" => self.tokens.coco_as(deadline).await?,
            other => return Err(AgentError::TokenType(other.chars().take(64).collect()).into()),
        };
        Ok(Response::new(GetTokenResponse { token }))
    }

    async fn extend_runtime_measurement(
        &self,
        request: Request<ExtendRuntimeMeasurementRequest>,
    ) -> Result<Response<ExtendRuntimeMeasurementResponse>, Status> {
        let caller = Caller::of(&request);
        let result = match self.agent.measuring() {
            Measuring::Off => RuntimeMeasurementResult::NotEnabled,
            Measuring::Unsupported(_) => RuntimeMeasurementResult::NotSupported,
            Measuring::On(log) => {
                self.access.check(&caller, "measuring an event")?;
                let asked = request.into_inner();
                let pcr = log.register(asked.register_index, &caller)?;
                let event =
                    Event::new(&asked.domain, &asked.operation, &asked.content).map_err(AgentError::Event)?;
                tracing::info!(
                    caller = access::describe(&caller),
                    pcr,
                    bytes = event.text().len(),
                    "measuring an event"
                );
                self.agent.measure(log, event, pcr, caller).await?;
                RuntimeMeasurementResult::Ok
            }
        };
        Ok(Response::new(ExtendRuntimeMeasurementResponse { result: result.into() }))
    }

    async fn bind_init_data(
        &self,
        request: Request<BindInitDataRequest>,
    ) -> Result<Response<BindInitDataResponse>, Status> {
        let caller = Caller::of(&request);
        if caller.uid != Some(0) || caller.local_http {
            let caller = access::describe(&caller);
            return Err(
                AgentError::Refused { what: "binding init-data", caller, why: "only root may" }.into()
            );
        }
        let digest = request.into_inner().digest;
        if !matches!(digest.len(), 32 | 48 | 64) {
            let e = format!("a digest of {} bytes was given, 32, 48 and 64 are valid", digest.len());
            return Err(AgentError::InitData(e).into());
        }
        let slot = self.agent.reserve_init_data().await;
        self.agent.bind_init_data(BoundInitData::of_digest(digest), slot).await?;
        Ok(Response::new(BindInitDataResponse {}))
    }

    async fn get_tee_type(
        &self,
        _request: Request<GetTeeTypeRequest>,
    ) -> Result<Response<GetTeeTypeResponse>, Status> {
        Ok(Response::new(GetTeeTypeResponse { tee: self.agent.tee().to_owned() }))
    }

    async fn get_additional_tees(
        &self,
        _request: Request<GetAdditionalTeesRequest>,
    ) -> Result<Response<GetAdditionalTeesResponse>, Status> {
        let additional_tees = self.agent.additional_tees();
        Ok(Response::new(GetAdditionalTeesResponse { additional_tees }))
    }
}
