//! Start-up: socket, ready, serve until a signal.

use std::sync::Arc;

use cc_daemon::listen::{Listener, SocketOptions};
use cc_daemon::notify;
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use cc_daemon::start::StartFault;
use cc_protos::keyprovider::key_provider_service_server::KeyProviderServiceServer;
use tonic::service::Routes;

use crate::config::Config;
use crate::service::WrapService;
use crate::wrap::Wrapper;

/// Binds the address (or takes the socket that systemd passed), says ready and serves until a signal.
///
/// # Errors
/// An address that cannot be bound, or a failure while serving.
pub async fn serve(config: Config, inherited: Vec<Listener>, shutdown: Shutdown) -> Result<(), StartFault> {
    let mut listeners = if inherited.is_empty() {
        vec![Listener::bind(&config.address, &SocketOptions::default())?]
    } else {
        inherited
    };
    if config.allow_sample {
        tracing::warn!("sample=true is accepted: images encrypted that way are readable by everybody");
    }
    tracing::info!(
        address = %config.address,
        registers = config.administrator.is_some(),
        key_dir = ?config.key_dir,
        "serving"
    );
    let service = WrapService { wrapper: Arc::new(Wrapper::new(config)) };
    for listener in &mut listeners {
        listener.publish()?;
    }
    notify::ready();
    let routes = Routes::new(KeyProviderServiceServer::new(service));
    Ok(RpcServer::new(routes).serve(listeners, shutdown).await?)
}
