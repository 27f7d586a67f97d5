//! Asks a running daemon whether it serves: what `--health` of a daemon does, for the health checks of container engines.
//!
//! gRPC health checking protocol (`grpc.health.v1`), over the daemon's own socket. It is NOT the server's side, which is
//! in [`crate::introspection`], and says nothing of key brokers or hardware: `guestctl doctor` does.

use std::process::ExitCode;
use std::time::Duration;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::address::Address;
use crate::connect::channel;
use crate::fault::Fault;
use crate::start::{self, EXIT_FAILED, EXIT_UNAVAILABLE, StartFault};

/// How long the daemon may take for its answer.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Asks the daemon `name` at `address`, and tells on standard error if it does not serve. Success is silent.
#[must_use]
pub fn report(name: &str, address: &Address) -> ExitCode {
    match check(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => start::report(name, &fault),
    }
}

/// Whether the daemon at `address` says that it serves.
///
/// # Errors
/// `PEER_UNREACHABLE`, or what else the connection meets; `NOT_SERVING` if the daemon says so.
pub fn check(address: &Address) -> Result<(), StartFault> {
    let doing = format!("asking the daemon at {address} for its health");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        StartFault::new(EXIT_FAILED, "RUNTIME", format!("{doing}: {error}"), "check the limits of the unit")
    })?;
    let answer = runtime.block_on(async {
        // Inside of the runtime, which the channel needs.
        let request = HealthCheckRequest { service: String::new() };
        HealthClient::new(channel(address, TIME_LIMIT)).check(request).await
    });
    let status = answer.map_err(|status| {
        let fault = Fault::from_status(&status);
        StartFault::new(EXIT_UNAVAILABLE, fault.code, format!("{doing}: {}", fault.message), fault.hint)
    })?;
    match status.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(StartFault::new(
            EXIT_UNAVAILABLE,
            "NOT_SERVING",
            format!("{doing}: it is {}", other.as_str_name()),
            "look into the daemon's log",
        )),
    }
}
