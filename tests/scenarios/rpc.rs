//! Both transports of the real daemons: the `ttrpc` crate's client and a tonic client call every method served.

use cc_protos::api::get_resource_service_client::GetResourceServiceClient;
use cc_protos::attestation_agent as aa;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_protos::guest_services::agent_info_service_client::AgentInfoServiceClient;
use cc_protos::guest_services::hub_info_service_client::HubInfoServiceClient;
use cc_protos::{api, guest_services};
use cc_tests::stack::{Options, Part, Stack, address};
use prost::Message;
use tonic::transport::Channel;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::{RESOURCE, SECRET, stack};

const AA: &str = "attestation_agent.AttestationAgentService";
/// ttrpc and gRPC agree on these numbers.
const INTERNAL: i32 = 13;
const NOT_FOUND: i32 = 5;

/// Calls one method as kata-agent would; the answer, or the status code and message.
pub(crate) async fn ttrpc<Q: Message, A: Message + Default>(
    client: &ttrpc::asynchronous::Client,
    service: &str,
    method: &str,
    request: Q,
) -> Result<A, (i32, String)> {
    let mut message = ttrpc::proto::Request::new();
    message.service = service.to_owned();
    message.method = method.to_owned();
    message.timeout_nano = 20_000_000_000;
    message.payload = request.encode_to_vec();
    match client.request(message).await {
        Ok(answer) => Ok(A::decode(answer.payload.as_slice()).unwrap()),
        Err(ttrpc::Error::RpcStatus(status)) => Err((status.code.value(), status.message.clone())),
        Err(e) => panic!("{service}/{method}: {e}"),
    }
}

pub(crate) async fn ttrpc_client(path: &std::path::Path) -> ttrpc::asynchronous::Client {
    ttrpc::asynchronous::Client::connect(&address(path)).await.unwrap()
}

pub(crate) async fn channel(path: &std::path::Path) -> Channel {
    let path = path.to_owned();
    tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move {
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                    tokio::net::UnixStream::connect(path).await?,
                ))
            }
        }))
        .await
        .unwrap()
}

fn with_runtime(story: impl AsyncFnOnce(&mut Stack)) {
    let Some(mut stack) = stack(Options::default()) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(story(&mut stack));
}

#[test]
fn kata_agents_ttrpc_client_reaches_every_served_method() {
    with_runtime(async |stack| {
        let agent = ttrpc_client(&stack.agent_socket()).await;
        let tee: aa::GetTeeTypeResponse =
            ttrpc(&agent, AA, "GetTeeType", aa::GetTeeTypeRequest {}).await.unwrap();
        assert_eq!(tee.tee, "snp");
        let tees: aa::GetAdditionalTeesResponse =
            ttrpc(&agent, AA, "GetAdditionalTees", aa::GetAdditionalTeesRequest {}).await.unwrap();
        assert!(tees.additional_tees.is_empty());
        let request = aa::GetEvidenceRequest { runtime_data: vec![7; 48] };
        let evidence: aa::GetEvidenceResponse = ttrpc(&agent, AA, "GetEvidence", request).await.unwrap();
        let evidence: serde_json::Value = serde_json::from_slice(&evidence.evidence).unwrap();
        assert_eq!(evidence["attestation_report"]["report_data"][0], 7);
        let request = aa::GetAdditionalEvidenceRequest { runtime_data: vec![7; 48] };
        let none: aa::GetEvidenceResponse =
            ttrpc(&agent, AA, "GetAdditionalEvidence", request).await.unwrap();
        assert!(none.evidence.is_empty(), "no device, zero bytes");
        let request = aa::GetTokenRequest { token_type: "kbs".to_owned() };
        let token: aa::GetTokenResponse = ttrpc(&agent, AA, "GetToken", request).await.unwrap();
        let token: serde_json::Value = serde_json::from_slice(&token.token).unwrap();
        assert!(token["tee_keypair"].as_str().unwrap().starts_with("-----BEGIN PRIVATE KEY-----"));
        let request = aa::ExtendRuntimeMeasurementRequest {
            domain: "d".to_owned(),
            operation: "o".to_owned(),
            content: "c".to_owned(),
            register_index: None,
        };
        let extended: aa::ExtendRuntimeMeasurementResponse =
            ttrpc(&agent, AA, "ExtendRuntimeMeasurement", request).await.unwrap();
        assert_eq!(extended.result, aa::RuntimeMeasurementResult::NotEnabled as i32);
        let info: guest_services::AgentStatus = ttrpc(
            &agent,
            "guest_services.v1.AgentInfoService",
            "GetStatus",
            guest_services::AgentStatusRequest {},
        )
        .await
        .unwrap();
        assert_eq!(info.tee, "snp");
        let init_data: guest_services::GetInitDataResponse = ttrpc(
            &agent,
            "guest_services.v1.AgentInfoService",
            "GetInitData",
            guest_services::GetInitDataRequest {},
        )
        .await
        .unwrap();
        assert!(!init_data.present);

        // Errors keep the code and the prefix that callers know, and end with ours.
        let request = aa::GetTokenRequest { token_type: "KBS".to_owned() };
        let (status, message) =
            ttrpc::<_, aa::GetTokenResponse>(&agent, AA, "GetToken", request).await.unwrap_err();
        assert_eq!(status, INTERNAL);
        assert!(message.starts_with("[ERROR:attestation-agent] "), "{message}");
        assert!(message.ends_with("[TOKEN_TYPE_UNKNOWN]"), "{message}");
        let request = aa::BindInitDataRequest { digest: vec![0; 32] };
        let (status, message) =
            ttrpc::<_, aa::BindInitDataResponse>(&agent, AA, "BindInitData", request).await.unwrap_err();
        assert_eq!(status, NOT_FOUND, "a container could use up the one chance: {message}");

        let hub = ttrpc_client(&stack.hub_socket()).await;
        // kata-agent's form: `kbs://` and a path that starts with a slash.
        let request = api::GetResourceRequest { resource_path: format!("kbs:///{RESOURCE}") };
        let resource: api::GetResourceResponse =
            ttrpc(&hub, "api.GetResourceService", "GetResource", request).await.unwrap();
        assert_eq!(resource.resource, SECRET);
        let hub_info = "guest_services.v1.HubInfoService";
        let request = guest_services::HubStatusRequest {};
        let status: guest_services::HubStatus = ttrpc(&hub, hub_info, "GetStatus", request).await.unwrap();
        assert_eq!((status.attested, status.handshakes), (true, 1));
        let request = guest_services::ProbeKbsRequest {};
        let probe: guest_services::ProbeKbsResponse =
            ttrpc(&hub, hub_info, "ProbeKbs", request).await.unwrap();
        assert!(probe.reachable, "{probe:?}");
        let request = api::GetResourceRequest { resource_path: "kbs:///default/key/none".to_owned() };
        let (status, message) =
            ttrpc::<_, api::GetResourceResponse>(&hub, "api.GetResourceService", "GetResource", request)
                .await
                .unwrap_err();
        assert_eq!(status, INTERNAL);
        assert!(message.starts_with("[CDH] [ERROR]: ") && message.ends_with("[KBS_NOT_FOUND]"), "{message}");
        let mount = async |volume_type: &str, option: (&str, &str)| {
            let options = [
                ("devicePath", "/dev/null"),
                ("sourceType", "empty"),
                ("targetType", "fileSystem"),
                ("encryptionType", "luks2"),
                option,
            ];
            let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let (volume_type, mount_point) = (volume_type.to_owned(), "/run/nowhere".to_owned());
            let request = api::SecureMountRequest { volume_type, options, flags: Vec::new(), mount_point };
            ttrpc::<_, api::SecureMountResponse>(&hub, "api.SecureMountService", "SecureMount", request)
                .await
                .unwrap_err()
        };
        for (volume_type, option, code) in [
            ("alibaba-cloud-oss", ("dataIntegrity", "false"), "SECURE_MOUNT_UNSUPPORTED"),
            ("block-device", ("encryptionType", "zfs"), "SECURE_MOUNT_UNSUPPORTED"),
            ("block-device", ("mkfsOpts", "-d /etc"), "SECURE_MOUNT_OPTION_REFUSED"),
            ("block-device", ("key", "file:///run/absent"), "SECURE_MOUNT_KEY"),
            ("block-device", ("dataIntegrity", "true"), "DEVICE_REFUSED"),
        ] {
            let (status, message) = mount(volume_type, option).await;
            assert_eq!(status, INTERNAL);
            assert!(message.starts_with("[CDH] [ERROR]: "), "{message}");
            assert!(message.ends_with(&format!("[{code}]")), "{code}: {message}");
        }
    });
}

#[test]
fn a_grpc_client_reaches_every_served_method_on_the_same_sockets() {
    with_runtime(async |stack| {
        let channel_aa = channel(&stack.agent_socket()).await;
        let mut agent = AttestationAgentServiceClient::new(channel_aa.clone());
        assert_eq!(agent.get_tee_type(aa::GetTeeTypeRequest {}).await.unwrap().into_inner().tee, "snp");
        assert!(agent.get_additional_tees(aa::GetAdditionalTeesRequest {}).await.is_ok());
        let request = aa::GetEvidenceRequest { runtime_data: vec![1; 64] };
        assert!(!agent.get_evidence(request).await.unwrap().into_inner().evidence.is_empty());
        let request = aa::GetAdditionalEvidenceRequest { runtime_data: vec![1; 64] };
        assert!(agent.get_additional_evidence(request).await.unwrap().into_inner().evidence.is_empty());
        assert!(agent.get_token(aa::GetTokenRequest { token_type: "kbs".to_owned() }).await.is_ok());
        let request = aa::ExtendRuntimeMeasurementRequest::default();
        let extended = agent.extend_runtime_measurement(request).await.unwrap().into_inner();
        assert_eq!(extended.result(), aa::RuntimeMeasurementResult::NotEnabled);
        let too_long =
            agent.get_evidence(aa::GetEvidenceRequest { runtime_data: vec![1; 65] }).await.unwrap_err();
        assert_eq!(too_long.code(), tonic::Code::Internal);
        assert!(!too_long.details().is_empty(), "the code travels in the status details");
        // Host data of this machine is all zero: only that digest binds, and only once.
        let wrong = agent.bind_init_data(aa::BindInitDataRequest { digest: vec![9; 32] }).await.unwrap_err();
        assert_eq!(wrong.code(), tonic::Code::Internal);
        agent.bind_init_data(aa::BindInitDataRequest { digest: vec![0; 32] }).await.unwrap();
        let again = agent.bind_init_data(aa::BindInitDataRequest { digest: vec![0; 32] }).await.unwrap_err();
        assert!(again.message().ends_with("[INIT_DATA_REFUSED]"), "{}", again.message());
        let mut info = AgentInfoServiceClient::new(channel_aa);
        assert!(
            info.get_init_data(guest_services::GetInitDataRequest {})
                .await
                .unwrap()
                .into_inner()
                .hardware_checked
        );
        assert!(info.get_status(guest_services::AgentStatusRequest {}).await.is_ok());

        let channel_cdh = channel(&stack.hub_socket()).await;
        let mut hub = GetResourceServiceClient::new(channel_cdh.clone());
        let request = api::GetResourceRequest { resource_path: format!("kbs:///{RESOURCE}") };
        assert_eq!(hub.get_resource(request).await.unwrap().into_inner().resource, SECRET);
        let request = api::GetResourceRequest { resource_path: "http:///a/b/c".to_owned() };
        assert!(hub.get_resource(request).await.unwrap_err().message().ends_with("[RESOURCE_URI_INVALID]"));
        let mut info = HubInfoServiceClient::new(channel_cdh);
        let status = info.get_status(guest_services::HubStatusRequest {}).await.unwrap().into_inner();
        assert!(status.attested && status.handshakes == 1, "{status:?}");
        let probe = info.probe_kbs(guest_services::ProbeKbsRequest {}).await.unwrap().into_inner();
        assert!(probe.reachable, "{probe:?}");
        assert_eq!(probe.protocol_version, "0.4.0");
    });
}

#[test]
fn the_data_hub_has_no_method_that_gives_a_token_or_a_key() {
    with_runtime(async |stack| {
        // What it serves, by its own word.
        let channel = channel(&stack.hub_socket()).await;
        let mut reflection = ServerReflectionClient::new(channel);
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        let answer = answers.into_inner().message().await.unwrap().unwrap();
        let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
            panic!("no list of services: {answer:?}")
        };
        let mut services: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
        services.sort();
        let reflection = services.iter().filter(|s| s.starts_with("grpc.")).count();
        let own: Vec<_> = services.iter().filter(|s| !s.starts_with("grpc.")).collect();
        let expected = [
            "api.GetResourceService",
            "api.ImagePullService",
            "api.SealedSecretService",
            "api.SecureMountService",
            "guest_services.v1.HubInfoService",
            "guest_services.v1.SecureUnmountService",
            "guest_services.v1.VolumeService",
            "keyprovider.KeyProviderService",
        ];
        assert_eq!(own, expected, "{reflection} more");
        // And whatever it says, the agent's methods are not behind its socket.
        let hub = ttrpc_client(&stack.hub_socket()).await;
        for method in ["GetToken", "GetEvidence", "GetAdditionalEvidence"] {
            let request = aa::GetTokenRequest { token_type: "kbs".to_owned() };
            let refused = ttrpc::<_, aa::GetTokenResponse>(&hub, AA, method, request).await.unwrap_err();
            assert_eq!(refused.0, NOT_FOUND, "{method}: {}", refused.1);
        }
    });
}

#[test]
fn idle_connections_of_kata_agent_are_kept() {
    with_runtime(async |stack| {
        // Connected at boot, used much later; meanwhile others come and go.
        let early = ttrpc_client(&stack.hub_socket()).await;
        tokio::time::sleep(std::time::Duration::from_secs(12)).await;
        let request = api::GetResourceRequest { resource_path: format!("kbs:///{RESOURCE}") };
        let resource: api::GetResourceResponse =
            ttrpc(&early, "api.GetResourceService", "GetResource", request).await.unwrap();
        assert_eq!(resource.resource, SECRET);
        assert!(stack.part(Part::Hub).is_ok());
    });
}
