//! The two daemons behind the door: the attestation agent and the confidential data hub.
//!
//! One connection to each is opened on first use and kept; a call that fails because that connection was
//! closed is repeated once on a new one. Every call carries the mark [`peer::FORWARDED_BY`], so that a daemon can
//! tell a workload's request from one of root's. Nothing is cached here, and no answer is interpreted.
//!
//! Implements the client side of the gRPC services `attestation_agent.AttestationAgentService` and
//! `api.GetResourceService`.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use cc_daemon::Blame;
use cc_daemon::address::Address;
use cc_daemon::connect::{self, Channel};
use cc_daemon::fault::Fault;
use cc_daemon::notify::StatusLine;
use cc_daemon::peer;
use cc_protos::api::GetResourceRequest;
use cc_protos::api::get_resource_service_client::GetResourceServiceClient;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_protos::attestation_agent::{
    ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse, GetAdditionalEvidenceRequest,
    GetAdditionalTeesRequest, GetEvidenceRequest, GetTeeTypeRequest, GetTokenRequest,
};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

/// How long a call may take, the repetition included.
pub const CALL_TIME: Duration = Duration::from_secs(50);

/// The clients to both daemons.
#[derive(Debug)]
pub struct Upstream {
    agent: Peer<AttestationAgentServiceClient<Channel>>,
    hub: Peer<GetResourceServiceClient<Channel>>,
    call_time: Duration,
    line: StatusLine,
}

/// A daemon, its address, and the client to it.
#[derive(Debug)]
struct Peer<C> {
    daemon: Daemon,
    address: Address,
    client: C,
}

/// Which daemon a call went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Daemon {
    Agent,
    Hub,
}

/// Whether a call may reach its daemon twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Reading calls: repeat whenever the connection was lost.
    Freely,
    /// Calls that change something: repeat only what was certainly not sent.
    IfUnsent,
}

impl Upstream {
    /// Prepares the clients; nothing is connected yet. `call_time` bounds each call, [`CALL_TIME`] in production.
    #[must_use]
    pub fn new(agent: Address, hub: Address, call_time: Duration) -> Self {
        Self {
            agent: Peer {
                daemon: Daemon::Agent,
                client: AttestationAgentServiceClient::new(connect::channel(&agent, call_time)),
                address: agent,
            },
            hub: Peer {
                daemon: Daemon::Hub,
                client: GetResourceServiceClient::new(connect::channel(&hub, call_time)),
                address: hub,
            },
            call_time,
            line: StatusLine::default(),
        }
    }

    /// What the service manager shows.
    pub(crate) fn line(&self) -> &StatusLine {
        &self.line
    }

    /// Fetches a resource by its `kbs://` URI; the raw bytes.
    ///
    /// # Errors
    ///
    /// The fault that the hub told, or an `Unavailable` one of ours if it cannot be reached in time. The same
    /// goes for every method below, for the agent.
    pub async fn resource(&self, uri: String) -> Result<Vec<u8>, Fault> {
        let message = GetResourceRequest { resource_path: uri };
        let call = || {
            let (mut client, request) = (self.hub.client.clone(), marked(message.clone()));
            async move { client.get_resource(request).await }
        };
        Ok(self.call(&self.hub, Repeat::Freely, call).await?.resource)
    }

    /// Asks for an attestation token of `token_type`; the agent's bytes.
    ///
    /// # Errors
    ///
    /// See [`Self::resource`].
    pub async fn token(&self, token_type: String) -> Result<Vec<u8>, Fault> {
        let message = GetTokenRequest { token_type };
        let call = || {
            let (mut client, request) = (self.agent.client.clone(), marked(message.clone()));
            async move { client.get_token(request).await }
        };
        Ok(self.call(&self.agent, Repeat::Freely, call).await?.token)
    }

    /// Asks for the evidence of the primary platform over `runtime_data`; JSON text.
    ///
    /// # Errors
    ///
    /// See [`Self::resource`].
    pub async fn evidence(&self, runtime_data: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let message = GetEvidenceRequest { runtime_data };
        let call = || {
            let (mut client, request) = (self.agent.client.clone(), marked(message.clone()));
            async move { client.get_evidence(request).await }
        };
        Ok(self.call(&self.agent, Repeat::Freely, call).await?.evidence)
    }

    /// Asks for the evidence of all devices over `runtime_data`; JSON text, or nothing if there is no device.
    ///
    /// # Errors
    ///
    /// See [`Self::resource`].
    pub async fn additional_evidence(&self, runtime_data: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let message = GetAdditionalEvidenceRequest { runtime_data };
        let call = || {
            let (mut client, request) = (self.agent.client.clone(), marked(message.clone()));
            async move { client.get_additional_evidence(request).await }
        };
        Ok(self.call(&self.agent, Repeat::Freely, call).await?.evidence)
    }

    /// Extends the default runtime register; the agent's outcome.
    ///
    /// # Errors
    ///
    /// See [`Self::resource`]. The call is repeated only if it was certainly not sent: an event is not to be
    /// measured twice.
    pub async fn extend(
        &self,
        message: ExtendRuntimeMeasurementRequest,
    ) -> Result<ExtendRuntimeMeasurementResponse, Fault> {
        let call = || {
            let (mut client, request) = (self.agent.client.clone(), marked(message.clone()));
            async move { client.extend_runtime_measurement(request).await }
        };
        self.call(&self.agent, Repeat::IfUnsent, call).await
    }

    /// The name of the primary platform and the names of the devices' platforms.
    ///
    /// # Errors
    ///
    /// See [`Self::resource`].
    pub async fn tees(&self) -> Result<(String, Vec<String>), Fault> {
        let primary = || {
            let (mut client, request) = (self.agent.client.clone(), marked(GetTeeTypeRequest {}));
            async move { client.get_tee_type(request).await }
        };
        let devices = || {
            let (mut client, request) = (self.agent.client.clone(), marked(GetAdditionalTeesRequest {}));
            async move { client.get_additional_tees(request).await }
        };
        let (primary, devices) = tokio::try_join!(
            self.call(&self.agent, Repeat::Freely, primary),
            self.call(&self.agent, Repeat::Freely, devices),
        )?;
        Ok((primary.tee, devices.additional_tees))
    }

    /// Makes a call within the time limit, and once more if the connection turned out to be dead.
    async fn call<C, T, F>(&self, peer: &Peer<C>, repeat: Repeat, call: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let attempts = async {
            match call().await {
                Err(status) if Failure::of(&status).allows(repeat) => {
                    tracing::debug!(daemon = %peer.daemon, cause = %root_cause(&status), "connection lost, repeating the call");
                    call().await
                }
                outcome => outcome,
            }
        };
        let answered = |answer| {
            self.line.nothing_missing(peer.daemon.role());
            answer
        };
        let silent = |fault: Fault| {
            self.line.missing(peer.daemon.role(), format_args!("{fault}; {}", fault.hint));
            Err(fault)
        };
        match tokio::time::timeout(self.call_time, attempts).await {
            Ok(Ok(response)) => answered(Ok(response.into_inner())),
            Ok(Err(status)) => match Failure::of(&status) {
                Failure::Answered => answered(Err(Fault::from_status(&status))),
                Failure::Late => silent(peer.late(self.call_time)),
                Failure::Unsent | Failure::Lost => silent(peer.unreachable(&status)),
            },
            Err(_) => silent(peer.late(self.call_time)),
        }
    }
}

impl<C> Peer<C> {
    fn unreachable(&self, status: &Status) -> Fault {
        let (daemon, address) = (self.daemon, &self.address);
        Fault::new(
            Blame::Unavailable,
            format!("{}_UNREACHABLE", daemon.short()),
            format!("the {daemon} cannot be reached: {}", root_cause(status)),
            format!(
                "check that the {daemon} is running and listens at {address}; --{}_addr names another address",
                daemon.short().to_ascii_lowercase()
            ),
        )
    }

    fn late(&self, limit: Duration) -> Fault {
        let (daemon, address) = (self.daemon, &self.address);
        Fault::new(
            Blame::Unavailable,
            format!("{}_TIMEOUT", daemon.short()),
            format!("the {daemon} at {address} did not answer within {} seconds", limit.as_secs()),
            format!("look into the log of the {daemon}; guestctl doctor shows what it waits for"),
        )
    }
}

impl Daemon {
    /// What the status line calls what comes from it.
    fn role(self) -> &'static str {
        match self {
            Self::Agent => "evidence",
            Self::Hub => "secrets",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Agent => "AA",
            Self::Hub => "CDH",
        }
    }
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "attestation agent",
            Self::Hub => "confidential data hub",
        })
    }
}

/// What a failed call says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// The daemon answered with an error.
    Answered,
    /// The channel gave up waiting.
    Late,
    /// The call was not sent.
    Unsent,
    /// The connection broke; nobody knows how far the call came.
    Lost,
}

impl Failure {
    /// A status that came over the wire has no source; one that the transport made up has.
    fn of(status: &Status) -> Self {
        let mut cause = status.source();
        let mut failure = Self::Answered;
        while let Some(error) = cause {
            if error.is::<tonic::TimeoutExpired>() {
                return Self::Late;
            }
            let unsent = error.is::<tonic::ConnectError>()
                || error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled);
            if unsent {
                return Self::Unsent;
            }
            failure = Self::Lost;
            cause = error.source();
        }
        failure
    }

    fn allows(self, repeat: Repeat) -> bool {
        match self {
            Self::Answered | Self::Late => false,
            Self::Unsent => true,
            Self::Lost => repeat == Repeat::Freely,
        }
    }
}

/// The innermost cause of a transport failure.
fn root_cause(status: &Status) -> String {
    let Some(mut cause) = status.source() else { return status.message().to_owned() };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A request that says on whose behalf it comes.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(peer::FORWARDED_BY, MetadataValue::from_static(peer::FORWARDED_BY_REST));
    request
}
