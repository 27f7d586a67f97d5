//! Start-up in the order that lets nothing be served half: configuration, TEE, init-data, socket, ready.

use std::sync::Arc;

use anyhow::Context;
use cc_daemon::listen::Listener;
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::{introspection, notify};
use cc_platform::{Options, SysRoot};
use cc_protos::attestation_agent::attestation_agent_service_server::AttestationAgentServiceServer;
use cc_protos::guest_services::agent_info_service_server::AgentInfoServiceServer;
use tonic::service::Routes;

use crate::agent::Agent;
use crate::config::Config;
use crate::info::AgentInfo;
use crate::init_data;
use crate::service::{AgentService, BIND_INIT_DATA};
use crate::token::Tokens;

/// An agent that has found its TEE; nothing is bound yet.
#[derive(Debug)]
pub struct Built {
    config: Config,
    agent: Arc<Agent>,
    tokens: Arc<Tokens>,
}

/// Finds the TEE, checks the init-data and prepares the token sessions.
///
/// # Errors
/// No TEE, init-data the hardware does not hold, or a key broker configuration that cannot be used.
pub async fn build(config: Config) -> anyhow::Result<Built> {
    if config.sys_root != std::path::Path::new("/") {
        tracing::warn!(root = %config.sys_root.display(), "TEE interfaces are looked up below another root: for tests only");
    }
    let options = Options {
        sys_root: SysRoot::new(config.sys_root.clone()),
        sample: config.sample,
        quote_time_limit: config.quote_time_limit,
    };
    let detected = tokio::task::spawn_blocking(move || cc_platform::detect(&options))
        .await
        .context("looking for a TEE")?
        .map_err(|e| anyhow::anyhow!("{e}\nnext step: {}", e.hint()))?;
    let agent = Arc::new(Agent::new(detected));
    tracing::info!(tee = agent.tee(), devices = ?agent.additional_tees(), "found the TEE");
    init_data::load_and_bind(&agent, &config.init_data).await?;
    let tokens = Arc::new(Tokens::new(&agent, &config)?);
    Ok(Built { config, agent, tokens })
}

impl Built {
    /// Binds the socket (or takes the one systemd passed), says ready and serves until a signal.
    ///
    /// # Errors
    /// The address cannot be bound, or serving failed.
    pub async fn serve(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let inherited = Listener::inherited()?;
        let mut listeners = if inherited.is_empty() {
            vec![Listener::bind(&self.config.address, &self.config.socket)?]
        } else {
            inherited
        };
        let service = AgentService {
            agent: Arc::clone(&self.agent),
            tokens: self.tokens,
            access: self.config.access.clone(),
            enable_eventlog: self.config.enable_eventlog,
        };
        let info =
            AgentInfo { agent: self.agent, source: self.config.source, strict: self.config.access.strict };
        let routes = Routes::new(AttestationAgentServiceServer::new(service))
            .add_service(AgentInfoServiceServer::new(info));
        let rpc = RpcServer::new(
            introspection::add(
                routes,
                &["attestation_agent.AttestationAgentService", "guest_services.v1.AgentInfoService"],
            )
            .await?,
        )
        .hide_on_ttrpc(BIND_INIT_DATA);
        for listener in &mut listeners {
            listener.publish()?;
        }
        notify::ready();
        notify::spawn_watchdog(&shutdown);
        tracing::info!(address = %self.config.address, "serving");
        rpc.serve(listeners, shutdown).await?;
        Ok(())
    }
}
