//! Connections to the daemons: default addresses, patience, and what a failed call means.
//!
//! A daemon of the existing stack, which speaks ttrpc alone, is reached as well.

use std::{error::Error as _, io, time::Duration};

use cc_daemon::{
    address::Address,
    connect::{self, Channel},
    fault::Fault,
};
use cc_evidence::blame::Blame;
use cc_protos::{
    api::get_resource_service_client::GetResourceServiceClient,
    api::image_pull_service_client::ImagePullServiceClient,
    api::sealed_secret_service_client::SealedSecretServiceClient,
    api::secure_mount_service_client::SecureMountServiceClient,
    attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient,
    guest_services::{
        agent_info_service_client::AgentInfoServiceClient, hub_info_service_client::HubInfoServiceClient,
        secure_unmount_service_client::SecureUnmountServiceClient,
        volume_service_client::VolumeServiceClient,
    },
    keyprovider::key_provider_service_client::KeyProviderServiceClient,
};

use crate::failure::Failure;

/// Where the attestation agent listens unless told otherwise.
pub(crate) const AGENT: &str = "unix:///run/confidential-containers/attestation-agent/attestation-agent.sock";
/// Where the confidential data hub listens unless told otherwise.
pub(crate) const HUB: &str = "unix:///run/confidential-containers/cdh.sock";
/// Where the REST server listens unless told otherwise.
pub(crate) const REST: &str = "127.0.0.1:8006";

/// Patience with a call that may attest: the daemons give up after 50 seconds and say why, so a little more.
const CALL: Duration = Duration::from_secs(55);

/// The attestation agent.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    address: &'a Address,
}

impl<'a> Agent<'a> {
    /// The agent at `address`; connects on the first call.
    pub(crate) fn at(address: &'a Address) -> Self {
        Self { address }
    }

    /// Evidence and tokens.
    pub(crate) fn service(&self) -> AttestationAgentServiceClient<Channel> {
        AttestationAgentServiceClient::new(connect::channel(self.address, CALL))
    }

    /// State of the agent.
    pub(crate) fn info(&self, patience: Duration) -> AgentInfoServiceClient<Channel> {
        AgentInfoServiceClient::new(connect::channel(self.address, patience))
    }

    /// The error for a call that failed.
    pub(crate) fn failed(&self, doing: &str, status: &tonic::Status) -> Failure {
        failed("attestation agent", "attestation-agent", self.address, doing, status)
    }
}

/// The confidential data hub.
#[derive(Debug)]
pub(crate) struct Hub<'a> {
    address: &'a Address,
}

impl<'a> Hub<'a> {
    /// The hub at `address`; connects on the first call.
    pub(crate) fn at(address: &'a Address) -> Self {
        Self { address }
    }

    /// Resources.
    pub(crate) fn resources(&self) -> GetResourceServiceClient<Channel> {
        GetResourceServiceClient::new(connect::channel(self.address, CALL))
    }

    /// Sealed secrets.
    pub(crate) fn sealed_secrets(&self) -> SealedSecretServiceClient<Channel> {
        SealedSecretServiceClient::new(connect::channel(self.address, CALL))
    }

    /// Bundles of images; `patience` with each pull.
    pub(crate) fn images(&self, patience: Duration) -> ImagePullServiceClient<Channel> {
        ImagePullServiceClient::new(connect::channel(self.address, patience))
    }

    /// The keys of encrypted images.
    pub(crate) fn key_provider(&self) -> KeyProviderServiceClient<Channel> {
        KeyProviderServiceClient::new(connect::channel(self.address, CALL))
    }

    /// Encrypted volumes.
    pub(crate) fn volumes(&self) -> VolumeServiceClient<Channel> {
        VolumeServiceClient::new(connect::channel(self.address, CALL))
    }

    /// Block devices; `patience` with each.
    pub(crate) fn secure_mounts(&self, patience: Duration) -> SecureMountServiceClient<Channel> {
        SecureMountServiceClient::new(connect::channel(self.address, patience))
    }

    /// What was opened of them.
    pub(crate) fn secure_unmounts(&self) -> SecureUnmountServiceClient<Channel> {
        SecureUnmountServiceClient::new(connect::channel(self.address, CALL))
    }

    /// State of the hub.
    pub(crate) fn info(&self, patience: Duration) -> HubInfoServiceClient<Channel> {
        HubInfoServiceClient::new(connect::channel(self.address, patience))
    }

    /// The error for a call that failed.
    pub(crate) fn failed(&self, doing: &str, status: &tonic::Status) -> Failure {
        failed("confidential data hub", "confidential-data-hub", self.address, doing, status)
    }
}

/// Turns a failed call into an error that names the daemon, and the next step on this machine.
fn failed(daemon: &str, unit: &str, address: &Address, doing: &str, status: &tonic::Status) -> Failure {
    let mut fault = Fault::from_status(status);
    if fault.blame == Blame::Unavailable && fault.code.starts_with("PEER_") {
        fault.hint = match io_cause(status) {
            Some(io::ErrorKind::PermissionDenied) => {
                format!("run as root, or as a member of the group that owns {address}")
            }
            Some(_) => {
                format!("see systemctl status {unit}, or give the address at which the {daemon} listens")
            }
            None => {
                format!("see journalctl -u {unit}; the daemon is stuck, or another program has its socket")
            }
        };
    }
    Failure::Reply { doing: format!("{doing} ({daemon})"), fault }
}

/// What the system said when the connection failed, if it was the system.
fn io_cause(status: &tonic::Status) -> Option<io::ErrorKind> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}
