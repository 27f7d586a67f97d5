//! Start-up in the order that lets nothing be served half: configuration, backend, socket, ready, and only
//! then the files that need the key broker.

use std::sync::Arc;
use std::time::Duration;

use cc_daemon::address::Address;
use cc_daemon::config::UnmeasuredConfig;
use cc_daemon::listen::{Listener, SocketOptions};
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::start::{EXIT_CONFIG, EXIT_FAILED, StartFault};
use cc_daemon::{introspection, notify};
use cc_kms::{Broker, Providers, Surroundings};
use cc_protos::api::get_resource_service_server::GetResourceServiceServer;
use cc_protos::api::image_pull_service_server::ImagePullServiceServer;
use cc_protos::api::sealed_secret_service_server::SealedSecretServiceServer;
use cc_protos::api::secure_mount_service_server::SecureMountServiceServer;
use cc_protos::guest_services::hub_info_service_server::HubInfoServiceServer;
use cc_protos::guest_services::secure_unmount_service_server::SecureUnmountServiceServer;
use cc_protos::guest_services::volume_service_server::VolumeServiceServer;
use cc_protos::keyprovider::key_provider_service_server::KeyProviderServiceServer;
use tokio::task::JoinSet;
use tonic::service::Routes;

use crate::agent::AgentEvidence;
use crate::config::Config;
use crate::credential::Credentials;
use crate::error::HubError;
use crate::file::Files;
use crate::hub::Hub;
use crate::image::{ImageService, Puller};
use crate::info::HubInfo;
use crate::ocicrypt_config;
use crate::provenance::Checker;
use crate::sealed_service::SealedService;
use crate::secure_mount::SecureMounts;
use crate::service::ResourceService;
use crate::signing_key::SigningKeys;
use crate::unit_credential::UnitDoor;
use crate::unseal::Unsealer;
use crate::volume::{KeyDoor, VolumeRpc, Volumes};

/// How long a pull may take; kata-agent gives up earlier, and says when.
const PULL_TIME_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// How long it may take to make a file system on a large device.
const MOUNT_TIME_LIMIT: Duration = Duration::from_secs(3600);

fn prepare(config: &Config) -> Result<(Arc<Hub>, Arc<Credentials>, Providers), HubError> {
    let hub = Arc::new(Hub::new(config)?);
    let broker: Arc<dyn Broker> = hub.clone();
    let directories = config.kms_directories.clone();
    let surroundings = Surroundings { broker: Some(broker), directories, names: None };
    let providers = Providers::new(&config.kms, surroundings)?;
    Ok((hub, Arc::new(Credentials::new(config.credentials.clone())?), providers))
}

fn unusable(e: HubError) -> StartFault {
    StartFault::new(EXIT_CONFIG, e.code(), &e, e.hint())
}

/// Finds out whether the configuration could be used; makes no connection.
///
/// # Errors
/// The first value that cannot be used.
pub fn check(config: &Config) -> Result<(), StartFault> {
    // Clients are made, as when serving; they belong to a runtime from the start, and use it only when asked.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| {
        let what = format!("starting the runtime: {e}");
        StartFault::new(EXIT_FAILED, "SYSTEM_RESOURCE", what, "see the system's limits")
    })?;
    let _inside = runtime.enter();
    prepare(config).map(drop).map_err(unusable)
}

/// Prepares the backend, binds the socket (or takes the one systemd passed), says ready and serves until a signal.
///
/// # Errors
/// A configuration that cannot be used, an address that cannot be bound, or a failure while serving.
pub async fn serve(config: Config, inherited: Vec<Listener>, shutdown: Shutdown) -> Result<(), StartFault> {
    let (hub, credentials, providers) = prepare(&config).map_err(unusable)?;
    let checker = Checker {
        source: config.settings.source.clone(),
        agent: AgentEvidence::new(config.aa_address.clone()),
    };
    if config.unmeasured == UnmeasuredConfig::Refuse {
        // Before anything is served or fetched by rules that the host may have written.
        checker.require().await?;
    }
    let (mut unit_listeners, mut listeners) = sort(inherited, &config.address, &config.credential_address)?;
    if listeners.is_empty() {
        listeners.push(Listener::bind(&config.address, &config.socket)?);
    }
    if unit_listeners.is_empty() && !config.unit_credentials.is_empty() {
        // The service manager alone connects.
        unit_listeners.push(Listener::bind(&config.credential_address, &SocketOptions::default())?);
    }
    let mut key_listener = None;
    if !config.volumes.is_empty() {
        // systemd-cryptsetup alone connects.
        key_listener = Some(Listener::bind(&config.cryptsetup_address, &SocketOptions::default())?);
    }
    let own_configuration = Checker {
        source: config.settings.source.clone(),
        agent: AgentEvidence::new(config.aa_address.clone()),
    };
    let files = Arc::new(Files::new(config.files));
    let info = HubInfo {
        hub: Arc::clone(&hub),
        credentials: Arc::clone(&credentials),
        files: Arc::clone(&files),
        kbc: config.kbc_name,
        checker,
    };
    if config.signing_keys == SigningKeys::NotVerified {
        tracing::warn!(
            "signatures of sealed secrets are not verified: whoever writes one chooses what it opens"
        );
    }
    let unsealer = Arc::new(Unsealer::new(Arc::clone(&hub), config.signing_keys, providers));
    let names: Arc<[String]> = config.volumes.iter().map(|volume| volume.name.clone()).collect();
    let volumes = Arc::new(Volumes::new(config.volumes, Arc::clone(&unsealer)));
    let volume_rpc =
        VolumeRpc { volumes: Arc::clone(&volumes), key_socket: config.cryptsetup_address.clone() };
    let agent = AgentEvidence::new(config.aa_address.clone());
    let mounts = SecureMounts::new(Arc::clone(&unsealer), config.secure_mount, &config.image, names);
    let puller = Puller::new(Arc::clone(&hub), Arc::clone(&unsealer), agent, config.image);
    let images = ImageService { hub: Arc::clone(&hub), puller: Arc::new(puller) };
    let sealed = SealedService { unsealer: Arc::clone(&unsealer) };
    let routes = Routes::new(GetResourceServiceServer::new(ResourceService { hub: Arc::clone(&hub) }))
        .add_service(SealedSecretServiceServer::new(sealed.clone()))
        .add_service(KeyProviderServiceServer::new(sealed))
        .add_service(ImagePullServiceServer::new(images))
        .add_service(HubInfoServiceServer::new(info))
        .add_service(VolumeServiceServer::new(volume_rpc))
        .add_service(SecureMountServiceServer::new(mounts.clone()))
        .add_service(SecureUnmountServiceServer::new(mounts));
    let services = [
        "api.GetResourceService",
        "api.SealedSecretService",
        "keyprovider.KeyProviderService",
        "api.ImagePullService",
        "guest_services.v1.HubInfoService",
        "guest_services.v1.VolumeService",
        "api.SecureMountService",
        "guest_services.v1.SecureUnmountService",
    ];
    let routes = introspection::add(routes, &services)
        .await
        .map_err(|e| StartFault::new(EXIT_FAILED, "BUILD_DEFECT", e, "report this build"))?;
    if config.offers_ocicrypt_config {
        // Before the socket appears: whoever waits for it may start an image tool next.
        ocicrypt_config::offer(&config.address);
    }
    for listener in listeners.iter_mut().chain(&mut unit_listeners).chain(&mut key_listener) {
        listener.publish()?;
    }
    let mut doors = JoinSet::new();
    for listener in unit_listeners {
        tracing::info!(address = %listener, "serving credentials of units");
        let door = UnitDoor::new(config.unit_credentials.clone(), Arc::clone(&unsealer));
        doors.spawn(door.serve(listener, shutdown.clone()));
    }
    if let Some(listener) = key_listener {
        tracing::info!(address = %listener, "serving keys of volumes");
        doors.spawn(KeyDoor::new(volumes).serve(listener, shutdown.clone()));
    }
    notify::ready();
    tracing::info!(address = %config.address, "serving");
    let telling = tokio::spawn(tell(Arc::clone(&hub), own_configuration));
    let filling = tokio::spawn(credentials.fill(hub, shutdown.clone()));
    let keeping = tokio::spawn(files.keep(unsealer, shutdown.clone()));
    let server = RpcServer::new(routes)
        .deadline_of("/api.ImagePullService/PullImage", PULL_TIME_LIMIT)
        .deadline_of("/api.SecureMountService/SecureMount", MOUNT_TIME_LIMIT);
    let served = server.serve(listeners, shutdown.clone()).await;
    // If it is over for another reason, so it is for the other doors.
    shutdown.trigger();
    filling.abort();
    telling.abort();
    // They are removed when the order to stop comes.
    keeping.await.map_err(|e| StartFault::new(EXIT_FAILED, "BUILD_DEFECT", e, "report this build"))?;
    while let Some(ended) = doors.join_next().await {
        ended.map_err(|e| StartFault::new(EXIT_FAILED, "BUILD_DEFECT", e, "report this build"))??;
    }
    Ok(served?)
}

/// Says what the hub serves and how far its configuration can be trusted, which takes an answer of the agent.
async fn tell(hub: Arc<Hub>, own_configuration: Checker) {
    let brokers: Vec<_> = hub.sessions().into_iter().map(|session| session.url).collect();
    let from = if brokers.is_empty() { "files of the image".to_owned() } else { brokers.join(", ") };
    hub.line().serving(format!("serving secrets from {from}"));
    let trust = own_configuration.tell().await;
    hub.line().serving(format!("serving secrets from {from}, {trust}"));
}

/// The sockets that the service manager passed: those for credentials of units, and those for RPC, by their addresses.
///
/// A Unix socket at a third place is refused: if it is meant for credentials, a unit that asks there would be answered by
/// RPC, which is to systemd an empty credential.
fn sort(
    inherited: Vec<Listener>,
    rpc: &Address,
    credentials: &Address,
) -> Result<(Vec<Listener>, Vec<Listener>), StartFault> {
    let (mut for_units, mut for_rpc) = (Vec::new(), Vec::new());
    for listener in inherited {
        match listener.unix_path().map(Address::Unix) {
            Some(address) if address == *credentials => for_units.push(listener),
            Some(address) if address != *rpc => {
                return Err(StartFault::new(
                    EXIT_CONFIG,
                    "SOCKET_INHERITED_UNUSABLE",
                    format!(
                        "the service manager passed a socket at {address}, which is neither socket ({rpc}) nor credential_socket ({credentials})"
                    ),
                    "write the same path as ListenStream= of the socket unit and in the configuration",
                ));
            }
            _ => for_rpc.push(listener),
        }
    }
    Ok((for_units, for_rpc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_at_a_third_place_is_refused_instead_of_answering_units_by_rpc() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Address::Unix(folder.path().join(name));
        let bound = |name: &str| Listener::bind(&at(name), &SocketOptions::default()).unwrap();
        let (units, rpc) = sort(vec![bound("rpc"), bound("units")], &at("rpc"), &at("units")).unwrap();
        assert_eq!((units.len(), rpc.len()), (1, 1));
        assert_eq!(units[0].unix_path(), Some(folder.path().join("units")));
        let fault = sort(vec![bound("elsewhere")], &at("rpc"), &at("units")).unwrap_err();
        assert!(fault.to_string().contains("elsewhere"), "{fault}");
    }
}
