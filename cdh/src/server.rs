//! Start-up in the order that lets nothing be served half: configuration, backend, socket, ready, and only
//! then the files that need the key broker.

use std::sync::Arc;

use cc_daemon::listen::Listener;
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::{introspection, notify};
use cc_protos::api::get_resource_service_server::GetResourceServiceServer;
use cc_protos::guest_services::hub_info_service_server::HubInfoServiceServer;
use tonic::service::Routes;

use crate::config::Config;
use crate::credential::Credentials;
use crate::error::HubError;
use crate::hub::Hub;
use crate::info::HubInfo;
use crate::service::ResourceService;

/// A hub with its backend; nothing is bound yet.
#[derive(Debug)]
pub struct Built {
    config: Config,
    hub: Arc<Hub>,
    credentials: Arc<Credentials>,
}

/// Prepares the backend and checks the credential paths. Nothing is contacted.
///
/// # Errors
/// A backend or path that cannot be used.
pub fn build(mut config: Config) -> Result<Built, HubError> {
    let hub = Arc::new(Hub::new(&config)?);
    let credentials = Arc::new(Credentials::new(std::mem::take(&mut config.credentials))?);
    Ok(Built { config, hub, credentials })
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
        let info = HubInfo {
            hub: Arc::clone(&self.hub),
            credentials: Arc::clone(&self.credentials),
            kbc: self.config.kbc_name,
            source: self.config.source,
        };
        let routes =
            Routes::new(GetResourceServiceServer::new(ResourceService { hub: Arc::clone(&self.hub) }))
                .add_service(HubInfoServiceServer::new(info));
        let rpc = RpcServer::new(
            introspection::add(routes, &["api.GetResourceService", "guest_services.v1.HubInfoService"])
                .await?,
        );
        for listener in &mut listeners {
            listener.publish()?;
        }
        notify::ready();
        notify::spawn_watchdog(&shutdown);
        tracing::info!(address = %self.config.address, "serving");
        let filling = tokio::spawn(self.credentials.fill(self.hub, shutdown.clone()));
        let served = rpc.serve(listeners, shutdown).await;
        filling.abort();
        Ok(served?)
    }
}
