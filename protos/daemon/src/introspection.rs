//! gRPC health and reflection, the same for every daemon.
//!
//! Health (`grpc.health.v1`) says `SERVING` for the daemon as a whole and for each named service. Reflection
//! (`grpc.reflection.v1`) describes the named services, so that `grpcurl` needs no files.

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// Adds health and reflection to the routes of a daemon. `services` are full names, for instance
/// `api.GetResourceService`: the ones that `routes` serves.
///
/// # Errors
///
/// The descriptors that are compiled into the program cannot be read: a defect of the build.
pub async fn add(routes: Routes, services: &[&str]) -> Result<Routes, tonic_reflection::server::Error> {
    let reporter = HealthReporter::new();
    let mut reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cc_protos::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name("grpc.health.v1.Health");
    for service in services {
        reporter.set_service_status(*service, ServingStatus::Serving).await;
        reflection = reflection.with_service_name(*service);
    }
    let health = HealthServer::new(HealthService::from_health_reporter(reporter));
    Ok(routes.add_service(health).add_service(reflection.build_v1()?))
}
