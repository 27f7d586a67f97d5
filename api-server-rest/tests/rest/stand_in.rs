//! Stand-ins for the attestation agent and the confidential data hub, and a server in front of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_server_rest::config::Config;
use api_server_rest::door::{Door, Policy};
use api_server_rest::host::AllowedHosts;
use api_server_rest::routes::Features;
use api_server_rest::server::{Limits, Server};
use api_server_rest::upstream::Upstream;
use cc_daemon::Blame;
use cc_daemon::address::Address;
use cc_daemon::fault::Fault;
use cc_daemon::listen::{Listener, SocketOptions};
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_protos::api::get_resource_service_server::{GetResourceService, GetResourceServiceServer};
use cc_protos::api::{GetResourceRequest, GetResourceResponse};
use cc_protos::attestation_agent::attestation_agent_service_server::{
    AttestationAgentService, AttestationAgentServiceServer,
};
use cc_protos::attestation_agent::{
    BindInitDataRequest, BindInitDataResponse, ExtendRuntimeMeasurementRequest,
    ExtendRuntimeMeasurementResponse, GetAdditionalEvidenceRequest, GetAdditionalTeesRequest,
    GetAdditionalTeesResponse, GetEvidenceRequest, GetEvidenceResponse, GetTeeTypeRequest,
    GetTeeTypeResponse, GetTokenRequest, GetTokenResponse,
};
use tempfile::TempDir;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

pub(crate) const SECRET: &[u8] = b"\x00a secret\xff";
pub(crate) const PRIVATE_KEY: &str = "-----BEGIN PRIVATE KEY-----";

/// Both daemons in one; what it answers follows from what it is asked.
#[derive(Debug, Default)]
pub(crate) struct StandIn {
    /// One line per call: method and argument.
    pub(crate) calls: Mutex<Vec<String>>,
    /// What `ExtendRuntimeMeasurement` answers.
    pub(crate) outcome: AtomicI32,
    /// The names of devices.
    pub(crate) devices: Vec<String>,
}

impl StandIn {
    /// Notes a call, and that it carries the mark of the HTTP front.
    fn note<T>(&self, request: &Request<T>, call: String) {
        let marks: Vec<_> = request.metadata().get_all("x-forwarded-by").iter().collect();
        assert_eq!(marks, ["api-server-rest"], "{call}");
        self.calls.lock().unwrap().push(call);
    }

    pub(crate) fn last_call(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub(crate) fn call_count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

#[tonic::async_trait]
impl GetResourceService for StandIn {
    async fn get_resource(
        &self,
        request: Request<GetResourceRequest>,
    ) -> Result<Response<GetResourceResponse>, Status> {
        let uri = request.get_ref().resource_path.clone();
        self.note(&request, format!("GetResource {uri}"));
        let path = uri.strip_prefix("kbs:///").unwrap();
        let word = path.split('/').next().unwrap();
        let fault = |blame, code: &str| {
            Err(Fault::new(blame, code, format!("fetching {uri}: refused"), "ask the key broker")
                .into_status("[CDH] [ERROR]: "))
        };
        let resource = match word {
            "default" => SECRET.to_vec(),
            "large" => vec![7; 3 << 20],
            "slow" => {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                SECRET.to_vec()
            }
            "never" => std::future::pending().await,
            "late" => return fault(Blame::Unavailable, "KBS_TIMEOUT"),
            "old" => return Err(Status::internal("[CDH] [ERROR]: something")),
            word => match word.parse::<Blame>() {
                Ok(blame) => return fault(blame, "KBS_CODE"),
                Err(_) => uri.into_bytes(),
            },
        };
        Ok(Response::new(GetResourceResponse { resource }))
    }
}

#[tonic::async_trait]
impl AttestationAgentService for StandIn {
    async fn get_evidence(
        &self,
        request: Request<GetEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        let evidence = [b"evidence over ", request.get_ref().runtime_data.as_slice()].concat();
        self.note(&request, "GetEvidence".to_owned());
        Ok(Response::new(GetEvidenceResponse { evidence }))
    }

    async fn get_additional_evidence(
        &self,
        request: Request<GetAdditionalEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        self.note(&request, "GetAdditionalEvidence".to_owned());
        let evidence = match self.devices.is_empty() {
            true => Vec::new(),
            false => [b"devices over ", request.get_ref().runtime_data.as_slice()].concat(),
        };
        Ok(Response::new(GetEvidenceResponse { evidence }))
    }

    async fn get_token(
        &self,
        request: Request<GetTokenRequest>,
    ) -> Result<Response<GetTokenResponse>, Status> {
        let kind = request.get_ref().token_type.clone();
        self.note(&request, format!("GetToken {kind}"));
        let token = match kind.as_str() {
            "kbs" => format!(r#"{{"token":"a.b.c","tee_keypair":"{PRIVATE_KEY}"}}"#),
            "coco_as" => "x.y.z".to_owned(),
            _ => {
                let fault = Fault::new(
                    Blame::Misused,
                    "TOKEN_TYPE",
                    format!("no token of the type {kind:?}"),
                    "use kbs",
                );
                return Err(fault.into_status("[ERROR:attestation-agent] "));
            }
        };
        Ok(Response::new(GetTokenResponse { token: token.into_bytes() }))
    }

    async fn extend_runtime_measurement(
        &self,
        request: Request<ExtendRuntimeMeasurementRequest>,
    ) -> Result<Response<ExtendRuntimeMeasurementResponse>, Status> {
        let ExtendRuntimeMeasurementRequest { domain, operation, content, register_index } =
            request.get_ref().clone();
        self.note(&request, format!("Extend {domain}|{operation}|{content}|{register_index:?}"));
        Ok(Response::new(ExtendRuntimeMeasurementResponse { result: self.outcome.load(Ordering::Relaxed) }))
    }

    async fn bind_init_data(
        &self,
        _: Request<BindInitDataRequest>,
    ) -> Result<Response<BindInitDataResponse>, Status> {
        panic!("nothing binds init-data over HTTP");
    }

    async fn get_tee_type(
        &self,
        request: Request<GetTeeTypeRequest>,
    ) -> Result<Response<GetTeeTypeResponse>, Status> {
        self.note(&request, "GetTeeType".to_owned());
        Ok(Response::new(GetTeeTypeResponse { tee: "snp".to_owned() }))
    }

    async fn get_additional_tees(
        &self,
        request: Request<GetAdditionalTeesRequest>,
    ) -> Result<Response<GetAdditionalTeesResponse>, Status> {
        self.note(&request, "GetAdditionalTees".to_owned());
        Ok(Response::new(GetAdditionalTeesResponse { additional_tees: self.devices.clone() }))
    }
}

/// The stand-in on a socket; stops when dropped.
pub(crate) struct Daemons {
    pub(crate) stand_in: Arc<StandIn>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

impl Daemons {
    pub(crate) fn start(socket: &Path, stand_in: Arc<StandIn>) -> Self {
        let routes = Routes::new(GetResourceServiceServer::from_arc(Arc::clone(&stand_in)))
            .add_service(AttestationAgentServiceServer::from_arc(Arc::clone(&stand_in)));
        let options = SocketOptions { mode: 0o600, uid: None, gid: None };
        let mut listener = Listener::bind(&Address::Unix(socket.to_path_buf()), &options).unwrap();
        listener.publish().unwrap();
        let shutdown = Shutdown::new();
        let stop = shutdown.clone();
        let task =
            tokio::spawn(async move { RpcServer::new(routes).serve(vec![listener], stop).await.unwrap() });
        Self { stand_in, shutdown, task }
    }

    /// Stops it; its socket is gone afterwards.
    pub(crate) async fn stop(self) {
        self.shutdown.trigger();
        self.task.await.unwrap();
    }
}

/// A server in front of the daemons.
pub(crate) struct Rest {
    pub(crate) addr: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: tokio::task::JoinHandle<()>,
    _dir: TempDir,
}

/// How to set the server up.
pub(crate) struct SetUp {
    pub(crate) policy: Policy,
    pub(crate) limits: Limits,
    pub(crate) call_time: Duration,
}

impl Default for SetUp {
    fn default() -> Self {
        let policy =
            Policy { features: Features::All, strict: false, paths: Vec::new(), expose_token_key: false };
        Self { policy, limits: Limits::default(), call_time: Duration::from_secs(10) }
    }
}

impl SetUp {
    pub(crate) fn features(features: Features) -> Self {
        let mut set_up = Self::default();
        set_up.policy.features = features;
        set_up
    }

    pub(crate) fn door(self, socket: &Path) -> Door {
        let hosts = AllowedHosts::new([127, 0, 0, 1].into(), &[] as &[&str]).unwrap();
        let address = Address::Unix(socket.to_path_buf());
        Door::new(self.policy, hosts, Upstream::new(address.clone(), address, self.call_time))
    }

    /// Starts the server alone: nobody listens at its socket yet.
    pub(crate) async fn start_alone(self) -> Rest {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("daemons.sock");
        let limits = self.limits.clone();
        let server = Server::new(self.door(&socket), ([127, 0, 0, 1], 0).into()).with_limits(limits);
        let server = server.bind(None).await.unwrap();
        let addr = server.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(server.serve(shutdown.clone()));
        Rest { addr, socket, shutdown, task, _dir: dir }
    }

    /// Starts the server and the daemons.
    pub(crate) async fn start(self) -> (Rest, Daemons) {
        self.start_with(StandIn::default()).await
    }

    pub(crate) async fn start_with(self, stand_in: StandIn) -> (Rest, Daemons) {
        let rest = self.start_alone().await;
        let daemons = Daemons::start(&rest.socket, Arc::new(stand_in));
        (rest, daemons)
    }
}

/// A configuration as the command line would give it.
pub(crate) fn config(arguments: &[&str]) -> Config {
    Config::parse_from_arguments(std::iter::once("api-server-rest").chain(arguments.iter().copied())).unwrap()
}
