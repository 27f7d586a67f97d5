//! Start-up in the order that lets nothing be served half: configuration, TEE, init-data, socket, ready.
//!
//! kata-agent waits six seconds for the socket. A TEE that is slow to answer must not use them up, so after a
//! while the socket appears and whoever needs the init-data waits instead; a mismatch ends the agent all the same.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cc_daemon::config::UnmeasuredConfig;
use cc_daemon::listen::Listener;
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::start::{EXIT_CONFIG, EXIT_FAILED, EXIT_UNAVAILABLE, StartFault};
use cc_daemon::{introspection, notify};
use cc_evidence::blame::Blame;
use cc_platform::SysRoot;
use cc_protos::attestation_agent::attestation_agent_service_server::AttestationAgentServiceServer;
use cc_protos::guest_services::agent_info_service_server::AgentInfoServiceServer;
use tokio::task::JoinHandle;
use tonic::service::Routes;

use crate::agent::Agent;
use crate::config::Config;
use crate::error::AgentError;
use crate::info::AgentInfo;
use crate::init_data::{self, Found};
use crate::service::{AgentService, BIND_INIT_DATA};
use crate::token::Tokens;

/// How long the socket waits for the init-data check.
const INIT_DATA_PATIENCE: Duration = Duration::from_secs(3);

fn fault(exit: u8) -> impl Fn(AgentError) -> StartFault {
    move |e| StartFault::new(exit, e.code(), &e, e.hint())
}

/// Finds out whether the configuration could be used, without touching the TEE or the network.
///
/// # Errors
/// The first value that cannot be used.
pub fn check(config: &Config) -> Result<(), StartFault> {
    Tokens::check(config).map_err(fault(EXIT_CONFIG))?;
    config.event_log.check().map_err(fault(EXIT_CONFIG))?;
    load_init_data(config).map(drop)
}

fn load_init_data(config: &Config) -> Result<Option<Found>, StartFault> {
    let root = SysRoot::new(config.sys_root.clone());
    init_data::load(&config.init_data, &root).map_err(|e| match e.blame() {
        // The service manager tries again.
        Blame::Platform => fault(EXIT_UNAVAILABLE)(e),
        _ => fault(EXIT_CONFIG)(e),
    })
}

/// Finds the TEE, binds the socket (or takes the one systemd passed), says ready and serves until a signal.
///
/// # Errors
/// No TEE, init-data the hardware does not hold, an address that cannot be bound, or a failure while serving.
pub async fn serve(config: Config, inherited: Vec<Listener>, shutdown: Shutdown) -> Result<(), StartFault> {
    Tokens::check(&config).map_err(fault(EXIT_CONFIG))?;
    config.event_log.check().map_err(fault(EXIT_CONFIG))?;
    let found = load_init_data(&config)?;
    notify::status("looking for the TEE");
    let mut agent = Agent::new(detect(&config).await?);
    tracing::info!(tee = agent.tee(), devices = ?agent.additional_tees(), "found the TEE");
    agent.open_event_log(config.event_log.clone()).await.map_err(fault(EXIT_UNAVAILABLE))?;
    let agent = Arc::new(agent);
    let tokens = Arc::new(Tokens::new(&agent, &config).map_err(fault(EXIT_CONFIG))?);
    let mut binding = spawn_binding(&agent, found, &config).await;
    let patience = match config.unmeasured {
        UnmeasuredConfig::Allow => INIT_DATA_PATIENCE,
        // Nothing is served by rules that may have to be refused.
        UnmeasuredConfig::Refuse => config.quote_time_limit + INIT_DATA_PATIENCE,
    };
    match tokio::time::timeout(patience, &mut binding).await {
        Ok(done) => bound(done)?,
        Err(_) if config.unmeasured == UnmeasuredConfig::Refuse => return Err(init_data_timeout()),
        Err(_) => {}
    }

    let mut listeners =
        if inherited.is_empty() { vec![Listener::bind(&config.address, &config.socket)?] } else { inherited };
    let service = AgentService { agent: Arc::clone(&agent), tokens, access: config.access.clone() };
    let info = AgentInfo { agent, source: config.settings.source, access: config.access };
    let routes = Routes::new(AttestationAgentServiceServer::new(service))
        .add_service(AgentInfoServiceServer::new(info));
    let services = ["attestation_agent.AttestationAgentService", "guest_services.v1.AgentInfoService"];
    let routes = introspection::add(routes, &services)
        .await
        .map_err(|e| StartFault::new(EXIT_FAILED, "BUILD_DEFECT", e, "report this build"))?;
    let rpc = RpcServer::new(routes).hide_on_ttrpc(BIND_INIT_DATA);
    for listener in &mut listeners {
        listener.publish()?;
    }
    notify::ready();
    tracing::info!(address = %config.address, "serving");
    let mut serving = std::pin::pin!(rpc.serve(listeners, shutdown.clone()));
    if !binding.is_finished() {
        tokio::select! {
            served = &mut serving => return Ok(served?),
            done = &mut binding => if let Err(refused) = bound(done) {
                shutdown.trigger();
                serving.await?;
                return Err(refused);
            }
        }
    }
    Ok(serving.await?)
}

async fn detect(config: &Config) -> Result<cc_platform::Detected, StartFault> {
    if config.sys_root != Path::new("/") {
        tracing::warn!(root = %config.sys_root.display(), "TEE interfaces are looked up below another root: for tests only");
    }
    let options = config.platform();
    tokio::task::spawn_blocking(move || cc_platform::detect(&options))
        .await
        .map_err(|_| AgentError::EvidenceThread)
        .and_then(|detected| Ok(detected?))
        .map_err(fault(EXIT_UNAVAILABLE))
}

/// Compares the init-data with the hardware, and the configuration with the init-data, in a task of its own. When this
/// returns, the agent's slot for the init-data is taken: whoever asks for it from now on waits for the outcome.
async fn spawn_binding(
    agent: &Arc<Agent>,
    found: Option<Found>,
    config: &Config,
) -> JoinHandle<Result<(), StartFault>> {
    let taken = agent.reserve_init_data().await;
    let (agent, source, unmeasured) = (Arc::clone(agent), config.settings.source.clone(), config.unmeasured);
    tokio::spawn(async move {
        match found {
            Some(found) => init_data::bind(&agent, found, taken).await.map_err(fault(EXIT_UNAVAILABLE))?,
            None => drop(taken),
        }
        let init_data = agent.init_data().await;
        let words = match &init_data {
            Some(init_data) if init_data.hardware_checked => "init-data bound",
            Some(_) => "init-data that nothing vouches for",
            None => "no init-data",
        };
        let vouched = init_data.and_then(|init_data| init_data.vouched_document());
        let trust = source.tell(vouched.as_ref());
        let measured = agent.measurement().map_or(String::new(), |account| match account.why.as_str() {
            "" => format!(", runtime measurement {}", account.state),
            why => format!(", runtime measurement {} ({why})", account.state),
        });
        agent.line().serving(format!("serving: TEE {}, {words}, {trust}{measured}", agent.tee()));
        match unmeasured {
            UnmeasuredConfig::Allow => Ok(()),
            UnmeasuredConfig::Refuse => source.refuse_unmeasured(vouched.as_ref()),
        }
    })
}

fn bound(done: Result<Result<(), StartFault>, tokio::task::JoinError>) -> Result<(), StartFault> {
    done.unwrap_or_else(|_| Err(fault(EXIT_UNAVAILABLE)(AgentError::EvidenceThread)))
}

fn init_data_timeout() -> StartFault {
    StartFault::new(
        EXIT_UNAVAILABLE,
        "INIT_DATA_TIMEOUT",
        "the hardware did not say in time which init-data this machine was launched with, so the configuration cannot \
         be checked against it",
        "try again; a longer limit is platform.quote_time_limit_seconds",
    )
}
