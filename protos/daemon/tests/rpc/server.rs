//! The server under test: two services of the contract with simple behaviour, and clients for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cc_daemon::Blame;
use cc_daemon::address::Address;
use cc_daemon::connect::Channel;
use cc_daemon::fault::Fault;
use cc_daemon::listen::{ListenError, Listener, SocketOptions};
use cc_daemon::peer::Caller;
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::ttrpc::envelope;
use cc_daemon::ttrpc::frame::{self, Decoder, Event, Frame, Kind};
use cc_protos::api::get_resource_service_client::GetResourceServiceClient;
use cc_protos::api::get_resource_service_server::{GetResourceService, GetResourceServiceServer};
use cc_protos::api::{GetResourceRequest, GetResourceResponse};
use cc_protos::attestation_agent::attestation_agent_service_server::{
    AttestationAgentService, AttestationAgentServiceServer,
};
use cc_protos::attestation_agent::*;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// Longer than anything here takes on a loaded machine; reached only by a failing test.
pub(crate) const PLENTY: Duration = Duration::from_secs(30);

/// What requests wait for, and how tests learn that one has arrived.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) arrived: Notify,
    pub(crate) open: Semaphore,
}

/// The resources: their name says what happens.
struct Resources(Arc<Gate>);

#[tonic::async_trait]
impl GetResourceService for Resources {
    async fn get_resource(
        &self,
        request: Request<GetResourceRequest>,
    ) -> Result<Response<GetResourceResponse>, Status> {
        let caller = Caller::of(&request);
        let path = request.get_ref().resource_path.clone();
        let resource = match path.split_once(':').unwrap_or((&path, "")) {
            ("echo", rest) => rest.as_bytes().to_vec(),
            ("bytes", count) => vec![7; count.parse().unwrap()],
            ("caller", _) => format!("{caller} rest={}", caller.local_http).into_bytes(),
            ("metadata", key) => request.metadata().get(key).unwrap().as_bytes().to_vec(),
            ("wait", _) => {
                self.0.arrived.notify_one();
                self.0.open.acquire().await.unwrap().forget();
                b"waited".to_vec()
            }
            ("deny", _) => {
                let fault = Fault::new(Blame::Denied, "KBS_DENIED_POLICY", "the policy refused", "ask");
                return Err(fault.into_status("[CDH] [ERROR]: "));
            }
            _ => panic!("a defect, on purpose"),
        };
        Ok(Response::new(GetResourceResponse { resource }))
    }
}

/// An agent that knows its TEE, binds anything and lacks the rest.
struct Agent;

#[tonic::async_trait]
impl AttestationAgentService for Agent {
    async fn get_tee_type(
        &self,
        _: Request<GetTeeTypeRequest>,
    ) -> Result<Response<GetTeeTypeResponse>, Status> {
        Ok(Response::new(GetTeeTypeResponse { tee: "sample".to_owned() }))
    }

    async fn bind_init_data(
        &self,
        _: Request<BindInitDataRequest>,
    ) -> Result<Response<BindInitDataResponse>, Status> {
        Ok(Response::new(BindInitDataResponse {}))
    }

    async fn get_evidence(
        &self,
        _: Request<GetEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_additional_evidence(
        &self,
        _: Request<GetAdditionalEvidenceRequest>,
    ) -> Result<Response<GetEvidenceResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_token(&self, _: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn extend_runtime_measurement(
        &self,
        _: Request<ExtendRuntimeMeasurementRequest>,
    ) -> Result<Response<ExtendRuntimeMeasurementResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn get_additional_tees(
        &self,
        _: Request<GetAdditionalTeesRequest>,
    ) -> Result<Response<GetAdditionalTeesResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A running server.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    pub(crate) gate: Arc<Gate>,
    pub(crate) shutdown: Shutdown,
    pub(crate) ended: JoinHandle<Result<(), ListenError>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|server| server).await
    }

    pub(crate) async fn start_with(tune: impl FnOnce(RpcServer) -> RpcServer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate { arrived: Notify::new(), open: Semaphore::new(0) });
        let routes = Routes::default()
            .add_service(GetResourceServiceServer::new(Resources(Arc::clone(&gate))))
            .add_service(AttestationAgentServiceServer::new(Agent));
        let routes = cc_daemon::introspection::add(routes, &["api.GetResourceService"]).await.unwrap();
        let server =
            RpcServer::new(routes).hide_on_ttrpc("/attestation_agent.AttestationAgentService/BindInitData");
        let address = Address::Unix(folder.path().join("rpc.sock"));
        let mut listener = Listener::bind(&address, &SocketOptions::default()).unwrap();
        listener.publish().unwrap();
        let shutdown = Shutdown::new();
        let ended = tokio::spawn(tune(server).serve(vec![listener], shutdown.clone()));
        Self { folder, gate, shutdown, ended }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("rpc.sock")
    }

    /// A connection that has said nothing.
    pub(crate) async fn connect(&self) -> Raw {
        Raw::connect(&self.path()).await
    }

    pub(crate) fn channel(&self) -> Channel {
        cc_daemon::connect::channel(&Address::Unix(self.path()), PLENTY)
    }

    pub(crate) fn grpc(&self) -> GetResourceServiceClient<Channel> {
        GetResourceServiceClient::new(self.channel())
    }

    pub(crate) async fn ttrpc(&self) -> ttrpc::asynchronous::Client {
        ttrpc::asynchronous::Client::connect(&format!("unix://{}", self.path().display())).await.unwrap()
    }

    /// Waits until a request for `wait` is under way.
    pub(crate) async fn arrived(&self) {
        tokio::time::timeout(PLENTY, self.gate.arrived.notified()).await.unwrap();
    }

    /// One request over a new gRPC connection works: whatever happened before hurt nobody else.
    pub(crate) async fn still_serves(&self) {
        let response = self.grpc().get_resource(resource("echo:alive")).await.unwrap();
        assert_eq!(response.into_inner().resource, b"alive");
    }
}

pub(crate) fn resource(path: &str) -> GetResourceRequest {
    GetResourceRequest { resource_path: path.to_owned() }
}

/// The ttrpc crate's request for a resource.
pub(crate) fn ttrpc_resource(path: &str) -> ttrpc::proto::Request {
    ttrpc_request("api.GetResourceService", "GetResource", resource(path).encode_to_vec())
}

pub(crate) fn ttrpc_request(service: &str, method: &str, payload: Vec<u8>) -> ttrpc::proto::Request {
    ttrpc::proto::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        ..Default::default()
    }
}

/// Code, message and number of details of a refused ttrpc call.
pub(crate) fn refusal(
    result: Result<ttrpc::proto::Response, ttrpc::Error>,
) -> (ttrpc::proto::Code, String, usize) {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => {
            (status.code.enum_value().unwrap(), status.message, status.details.len())
        }
        other => panic!("{other}"),
    }
}

/// A connection on which a test writes what it likes.
pub(crate) struct Raw {
    pub(crate) stream: UnixStream,
    buffer: BytesMut,
    decoder: Decoder,
}

impl Raw {
    async fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).await.unwrap();
        Self { stream, buffer: BytesMut::new(), decoder: Decoder::default() }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(crate) async fn send_frame(&mut self, stream: u32, kind: Kind, payload: Vec<u8>) {
        let mut out = BytesMut::new();
        frame::encode(&Frame { stream, kind, flags: 0, payload: payload.into() }, &mut out).unwrap();
        self.send(&out).await;
    }

    /// Sends a ttrpc request for a resource.
    pub(crate) async fn ask(&mut self, stream: u32, path: &str) {
        self.ask_within(stream, path, Duration::ZERO).await;
    }

    /// Sends a ttrpc request for a resource that gives up after `limit`; zero: never.
    pub(crate) async fn ask_within(&mut self, stream: u32, path: &str, limit: Duration) {
        let request = envelope::Request {
            service: "api.GetResourceService".to_owned(),
            method: "GetResource".to_owned(),
            payload: resource(path).encode_to_vec().into(),
            timeout_nano: limit.as_nanos().try_into().unwrap(),
            metadata: Vec::new(),
        };
        self.send_frame(stream, Kind::Request, request.encode()).await;
    }

    /// The next response: stream, code, payload.
    pub(crate) async fn answer(&mut self) -> (u32, i32, Bytes) {
        tokio::time::timeout(PLENTY, async {
            loop {
                if let Some(event) = self.decoder.next(&mut self.buffer).unwrap() {
                    let Event::Frame(frame) = event else { panic!("{event:?}") };
                    assert_eq!(frame.kind, Kind::Response);
                    let response = envelope::Response::decode(frame.payload).unwrap();
                    return (frame.stream, response.status.unwrap().code, response.payload);
                }
                assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "closed");
            }
        })
        .await
        .unwrap()
    }

    /// The server closes the connection; gives how many bytes came before.
    pub(crate) async fn closed(&mut self) -> usize {
        tokio::time::timeout(PLENTY, async {
            let mut bytes = Vec::new();
            match self.stream.read_to_end(&mut bytes).await {
                // What we sent and the server never read makes the close a reset.
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            }
            bytes.len()
        })
        .await
        .expect("the connection was not closed")
    }
}
