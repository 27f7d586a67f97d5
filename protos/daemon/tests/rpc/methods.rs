//! What calls give: the same over both protocols, on one socket.

use std::time::Duration;

use cc_daemon::fault::Fault;
use cc_protos::api::sealed_secret_service_client::SealedSecretServiceClient;
use cc_protos::api::{GetResourceResponse, UnsealSecretInput};
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_protos::attestation_agent::{BindInitDataRequest, GetTeeTypeRequest, GetTeeTypeResponse};
use prost::Message as _;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::server::{PLENTY, Server, refusal, resource, ttrpc_request, ttrpc_resource};

const AGENT: &str = "attestation_agent.AttestationAgentService";

#[tokio::test(flavor = "multi_thread")]
async fn both_protocols_are_served_on_one_socket_by_one_handler() {
    let server = Server::start().await;
    let (mut grpc, ttrpc) = (server.grpc(), server.ttrpc().await);
    for text in ["", "a", "kbs:///default/key/1"] {
        let path = format!("echo:{text}");
        let by_grpc = grpc.get_resource(resource(&path)).await.unwrap().into_inner();
        let by_ttrpc = ttrpc.request(ttrpc_resource(&path)).await.unwrap();
        let by_ttrpc = GetResourceResponse::decode(by_ttrpc.payload.as_slice()).unwrap();
        assert_eq!(by_grpc.resource, text.as_bytes());
        assert_eq!(by_ttrpc, by_grpc);
    }
    let tee = ttrpc.request(ttrpc_request(AGENT, "GetTeeType", GetTeeTypeRequest {}.encode_to_vec())).await;
    assert_eq!(GetTeeTypeResponse::decode(tee.unwrap().payload.as_slice()).unwrap().tee, "sample");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_internal_with_code_and_details() {
    let server = Server::start().await;
    let status = server.grpc().get_resource(resource("deny")).await.unwrap_err();
    let text = "[CDH] [ERROR]: the policy refused [KBS_DENIED_POLICY]";
    assert_eq!((status.code(), status.message()), (Code::Internal, text));
    let fault = Fault::from_status(&status);
    assert_eq!((fault.code.as_str(), fault.message.as_str()), ("KBS_DENIED_POLICY", "the policy refused"));
    assert_eq!((fault.hint.as_str(), fault.http_status()), ("ask", 403));

    let refused = refusal(server.ttrpc().await.request(ttrpc_resource("deny")).await);
    assert_eq!(refused, (ttrpc::proto::Code::INTERNAL, text.to_owned(), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_that_are_not_served_are_named() {
    let server = Server::start().await;
    let mut sealed = SealedSecretServiceClient::new(server.channel());
    let status = sealed.unseal_secret(UnsealSecretInput::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(Fault::from_status(&status).code, "PEER_LACKS_METHOD");

    let ttrpc = server.ttrpc().await;
    let cases = [
        ("api.SealedSecretService", "UnsealSecret"),
        ("api.GetResourceService", "getresource"),
        (AGENT, "GetEvidence"),
        ("no.Service", "Method"),
    ];
    for (service, method) in cases {
        let text = format!("/{service}/{method} is not supported");
        let refused = refusal(ttrpc.request(ttrpc_request(service, method, Vec::new())).await);
        assert_eq!(refused, (ttrpc::proto::Code::NOT_FOUND, text, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hidden_method_is_there_for_grpc_alone() {
    let server = Server::start().await;
    let digest = BindInitDataRequest { digest: vec![0; 32] };
    let mut agent = AttestationAgentServiceClient::new(server.channel());
    agent.bind_init_data(digest.clone()).await.unwrap();
    let request = ttrpc_request(AGENT, "BindInitData", digest.encode_to_vec());
    let (code, text, _) = refusal(server.ttrpc().await.request(request).await);
    assert_eq!(code, ttrpc::proto::Code::NOT_FOUND);
    assert_eq!(text, format!("/{AGENT}/BindInitData is not supported"));
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_know_their_caller() {
    let server = Server::start().await;
    let (uid, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
    let mut request = tonic::Request::new(resource("caller"));
    let seen = server.grpc().get_resource(resource("caller")).await.unwrap().into_inner().resource;
    assert_eq!(String::from_utf8(seen).unwrap(), format!("uid {uid} pid {pid} over grpc rest=false"));
    request.metadata_mut().insert("x-forwarded-by", "api-server-rest".parse().unwrap());
    let seen = server.grpc().get_resource(request).await.unwrap().into_inner().resource;
    assert_eq!(String::from_utf8(seen).unwrap(), format!("uid {uid} pid {pid} over grpc rest=true"));
    let seen = server.ttrpc().await.request(ttrpc_resource("caller")).await.unwrap();
    let seen = GetResourceResponse::decode(seen.payload.as_slice()).unwrap().resource;
    assert_eq!(String::from_utf8(seen).unwrap(), format!("uid {uid} pid {pid} over ttrpc rest=false"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ttrpc_metadata_reaches_handlers() {
    let server = Server::start().await;
    let mut request = ttrpc_resource("metadata:x-key");
    let mut entry = ttrpc::proto::KeyValue::new();
    entry.key = "x-key".to_owned();
    entry.value = "value".to_owned();
    request.metadata.push(entry);
    let seen = server.ttrpc().await.request(request).await.unwrap();
    assert_eq!(GetResourceResponse::decode(seen.payload.as_slice()).unwrap().resource, b"value");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_at_the_servers_deadline() {
    let server = Server::start_with(|server| server.deadline(Duration::from_millis(50))).await;
    let status = server.grpc().get_resource(resource("wait")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let fault = Fault::from_status(&status);
    assert_eq!((fault.code.as_str(), fault.http_status()), ("RPC_TIMEOUT", 504));
    let (code, text, _) = refusal(server.ttrpc().await.request(ttrpc_resource("wait")).await);
    assert_eq!(code, ttrpc::proto::Code::DEADLINE_EXCEEDED);
    assert!(text.ends_with("[RPC_TIMEOUT]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_ends_at_the_callers_deadline() {
    let server = Server::start().await;
    // A bare request, because the crate's client stops waiting by itself.
    let mut raw = server.connect().await;
    raw.ask_within(1, "wait", Duration::from_millis(50)).await;
    let (stream, code, _) = raw.answer().await;
    assert_eq!((stream, code), (1, i32::from(Code::DeadlineExceeded)));

    let mut request = tonic::Request::new(resource("wait"));
    request.set_timeout(Duration::from_millis(50));
    let fault = Fault::from_status(&server.grpc().get_resource(request).await.unwrap_err());
    // Client and server both watch the time; either may be first.
    assert!(["RPC_TIMEOUT", "PEER_TIMEOUT"].contains(&fault.code.as_str()), "{fault}");
    assert_eq!(fault.http_status(), 504);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defect_in_a_handler_ends_one_request() {
    let server = Server::start().await;
    let mut grpc = server.grpc();
    grpc.get_resource(resource("defect")).await.unwrap_err();
    grpc.get_resource(resource("echo:x")).await.unwrap();
    let ttrpc = server.ttrpc().await;
    let (code, ..) = refusal(ttrpc.request(ttrpc_resource("defect")).await);
    assert_eq!(code, ttrpc::proto::Code::INTERNAL);
    ttrpc.request(ttrpc_resource("echo:x")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel());
    for service in ["", "api.GetResourceService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "{service:?}");
    }
    let mut reflection = ServerReflectionClient::new(server.channel());
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut answers =
        reflection.server_reflection_info(tonic::codegen::tokio_stream::once(request)).await.unwrap();
    let answer = answers.get_mut().message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(names, ["api.GetResourceService", "grpc.health.v1.Health"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_not_there_is_unreachable_by_name() {
    let server = Server::start().await;
    let mut grpc = server.grpc();
    grpc.get_resource(resource("echo:x")).await.unwrap();
    server.shutdown.trigger();
    tokio::time::timeout(PLENTY, server.ended).await.unwrap().unwrap().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = cc_daemon::address::Address::Unix(folder.path().join("none.sock"));
    let channel = cc_daemon::connect::channel(&address, PLENTY);
    let mut nobody = cc_protos::api::get_resource_service_client::GetResourceServiceClient::new(channel);
    let fault = Fault::from_status(&nobody.get_resource(resource("x")).await.unwrap_err());
    assert_eq!((fault.code.as_str(), fault.http_status()), ("PEER_UNREACHABLE", 503));
    assert!(fault.message.contains(&address.to_string()), "{fault}");
    let fault = Fault::from_status(&grpc.get_resource(resource("x")).await.unwrap_err());
    assert_eq!(fault.code, "PEER_UNREACHABLE", "{fault}");
}
