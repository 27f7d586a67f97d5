//! Daemons that answer what a test says, on a Unix socket in a folder of their own.
#![allow(clippy::result_large_err)] // the services' own signature

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use cc_daemon::fault::Fault;
use cc_protos::{
    api::{
        GetResourceRequest, GetResourceResponse,
        get_resource_service_server::{GetResourceService, GetResourceServiceServer},
    },
    attestation_agent::{
        BindInitDataRequest, BindInitDataResponse, ExtendRuntimeMeasurementRequest,
        ExtendRuntimeMeasurementResponse, GetAdditionalEvidenceRequest, GetAdditionalTeesRequest,
        GetAdditionalTeesResponse, GetEvidenceRequest, GetEvidenceResponse, GetTeeTypeRequest,
        GetTeeTypeResponse, GetTokenRequest, GetTokenResponse,
        attestation_agent_service_server::{AttestationAgentService, AttestationAgentServiceServer},
    },
    guest_services::{
        AgentStatus, AgentStatusRequest, DevicesAcceptedRequest, DevicesAcceptedResponse, GetInitDataRequest,
        GetInitDataResponse, HubStatus, HubStatusRequest, ProbeKbsRequest, ProbeKbsResponse,
        agent_info_service_server::{AgentInfoService, AgentInfoServiceServer},
        hub_info_service_server::{HubInfoService, HubInfoServiceServer},
    },
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{net::UnixListener, task::JoinHandle};
use tonic::{
    Request, Response, Status, async_trait, codegen::tokio_stream::wrappers::UnixListenerStream,
    transport::Server,
};

/// What the stand-in answers. Without `agent` or `hub` it lacks the status services, like daemons of another make.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) resource: Result<Vec<u8>, Fault>,
    pub(crate) token: Result<Vec<u8>, Fault>,
    pub(crate) tee: &'static str,
    pub(crate) evidence: String,
    pub(crate) agent: Option<AgentStatus>,
    pub(crate) hub: Option<HubStatus>,
    pub(crate) probe: ProbeKbsResponse,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            resource: Ok(Vec::new()),
            token: Ok(Vec::new()),
            tee: "snp",
            evidence: String::new(),
            agent: None,
            hub: None,
            probe: ProbeKbsResponse::default(),
        }
    }
}

/// A running stand-in; stops when dropped.
pub(crate) struct StandIn {
    folder: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl StandIn {
    pub(crate) async fn start(answers: Answers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let service = Service { answers: Arc::new(answers), asked: Arc::clone(&asked) };
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let answers = Arc::clone(&service.answers);
        let server = Server::builder()
            .add_service(GetResourceServiceServer::new(service.clone()))
            .add_service(AttestationAgentServiceServer::new(service.clone()))
            .add_optional_service(
                answers.agent.is_some().then(|| AgentInfoServiceServer::new(service.clone())),
            )
            .add_optional_service(answers.hub.is_some().then(|| HubInfoServiceServer::new(service)))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { folder, asked, server }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.path().display())
    }

    /// What the requests asked for, in order: URI, token type or report data in hexadecimal.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A token that is valid for the next five minutes, with a signature that nobody made.
pub(crate) fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = part(json!({"typ": "JWT", "alg": "ES256"}));
    let payload =
        part(json!({"iat": now, "exp": now + 300, "submods": {"cpu0": {"ear.status": "affirming"}}}));
    format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode([7; 64]))
}

#[derive(Clone)]
struct Service {
    answers: Arc<Answers>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }
}

#[async_trait]
impl GetResourceService for Service {
    async fn get_resource(
        &self,
        request: Request<GetResourceRequest>,
    ) -> Result<Response<GetResourceResponse>, Status> {
        self.note(request.into_inner().resource_path);
        match &self.answers.resource {
            Ok(resource) => Ok(Response::new(GetResourceResponse { resource: resource.clone() })),
            Err(fault) => Err(fault.clone().into_status("[CDH] [ERROR]: ")),
        }
    }
}

#[async_trait]
impl AttestationAgentService for Service {
    async fn get_evidence(
        &self,
        request: Request<GetEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        self.note(hex::encode(request.into_inner().runtime_data));
        Ok(Response::new(GetEvidenceResponse { evidence: self.answers.evidence.clone().into_bytes() }))
    }

    async fn get_additional_evidence(
        &self,
        _: Request<GetAdditionalEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        Ok(Response::new(GetEvidenceResponse { evidence: Vec::new() }))
    }

    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        self.note(request.into_inner().token_type);
        match &self.answers.token {
            Ok(token) => Ok(Response::new(GetTokenResponse { token: token.clone() })),
            Err(fault) => Err(fault.clone().into_status("[ERROR:attestation-agent] ")),
        }
    }

    async fn extend_runtime_measurement(
        &self,
        _: Request<ExtendRuntimeMeasurementRequest>,
    ) -> Result<Response<ExtendRuntimeMeasurementResponse>, Status> {
        Err(Status::internal("the tool extends nothing"))
    }

    async fn bind_init_data(
        &self,
        _: Request<BindInitDataRequest>,
    ) -> Result<Response<BindInitDataResponse>, Status> {
        Err(Status::internal("the tool binds nothing"))
    }

    async fn get_tee_type(
        &self,
        _: Request<GetTeeTypeRequest>,
    ) -> Result<Response<GetTeeTypeResponse>, Status> {
        Ok(Response::new(GetTeeTypeResponse { tee: self.answers.tee.into() }))
    }

    async fn get_additional_tees(
        &self,
        _: Request<GetAdditionalTeesRequest>,
    ) -> Result<Response<GetAdditionalTeesResponse>, Status> {
        Ok(Response::new(GetAdditionalTeesResponse::default()))
    }
}

#[async_trait]
impl AgentInfoService for Service {
    async fn devices_accepted(
        &self,
        _: Request<DevicesAcceptedRequest>,
    ) -> Result<Response<DevicesAcceptedResponse>, Status> {
        Ok(Response::new(DevicesAcceptedResponse {}))
    }

    async fn get_init_data(
        &self,
        _: Request<GetInitDataRequest>,
    ) -> Result<Response<GetInitDataResponse>, Status> {
        Ok(Response::new(GetInitDataResponse::default()))
    }

    async fn get_status(&self, _: Request<AgentStatusRequest>) -> Result<Response<AgentStatus>, Status> {
        Ok(Response::new(self.answers.agent.clone().unwrap_or_default()))
    }
}

#[async_trait]
impl HubInfoService for Service {
    async fn get_status(&self, _: Request<HubStatusRequest>) -> Result<Response<HubStatus>, Status> {
        Ok(Response::new(self.answers.hub.clone().unwrap_or_default()))
    }

    async fn probe_kbs(&self, _: Request<ProbeKbsRequest>) -> Result<Response<ProbeKbsResponse>, Status> {
        Ok(Response::new(self.answers.probe.clone()))
    }
}
