//! Names, numbers and types on the wire are those of the Confidential Containers guest components.
#![allow(clippy::unwrap_used)]

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{FileDescriptorProto, FileDescriptorSet};

fn package(name: &str) -> FileDescriptorProto {
    let set = FileDescriptorSet::decode(cc_protos::FILE_DESCRIPTOR_SET).unwrap();
    set.file.into_iter().find(|file| file.package() == name).unwrap()
}

/// `Message.field number type` of every field of a package, in the order of the file.
fn fields(package: &FileDescriptorProto) -> Vec<String> {
    let mut lines = Vec::new();
    for message in &package.message_type {
        for field in &message.field {
            let map = message.nested_type.iter().any(|nested| {
                nested.options.as_ref().is_some_and(|options| options.map_entry())
                    && field.type_name().ends_with(&format!(".{}.{}", message.name(), nested.name()))
            });
            let kind = match field.r#type() {
                Type::Bytes => "bytes",
                Type::String => "string",
                Type::Uint64 => "uint64",
                Type::Bool => "bool",
                Type::Enum => "enum",
                Type::Message if map => "map",
                Type::Message => "message",
                other => other.as_str_name(),
            };
            let label = match field.label() {
                Label::Repeated if !map => "repeated ",
                _ if field.proto3_optional() => "optional ",
                _ => "",
            };
            lines.push(format!("{}.{} {} {label}{kind}", message.name(), field.name(), field.number()));
        }
    }
    lines
}

/// `Service/Method(Request) -> Response` of every method of a package.
fn methods(package: &FileDescriptorProto) -> Vec<String> {
    let short = |name: &str| name.rsplit('.').next().unwrap().to_owned();
    let mut lines = Vec::new();
    for service in &package.service {
        for method in &service.method {
            assert!(!method.client_streaming() && !method.server_streaming(), "no streams on this wire");
            lines.push(format!(
                "{}/{}({}) -> {}",
                service.name(),
                method.name(),
                short(method.input_type()),
                short(method.output_type())
            ));
        }
    }
    lines
}

#[test]
fn attestation_agent_is_the_contract() {
    let package = package("attestation_agent");
    assert_eq!(
        methods(&package),
        [
            "AttestationAgentService/GetEvidence(GetEvidenceRequest) -> GetEvidenceResponse",
            "AttestationAgentService/GetAdditionalEvidence(GetAdditionalEvidenceRequest) -> GetEvidenceResponse",
            "AttestationAgentService/GetToken(GetTokenRequest) -> GetTokenResponse",
            "AttestationAgentService/ExtendRuntimeMeasurement(ExtendRuntimeMeasurementRequest) -> \
             ExtendRuntimeMeasurementResponse",
            "AttestationAgentService/BindInitData(BindInitDataRequest) -> BindInitDataResponse",
            "AttestationAgentService/GetTeeType(GetTeeTypeRequest) -> GetTeeTypeResponse",
            "AttestationAgentService/GetAdditionalTees(GetAdditionalTeesRequest) -> GetAdditionalTeesResponse",
        ]
    );
    assert_eq!(
        fields(&package),
        [
            "GetEvidenceRequest.RuntimeData 1 bytes",
            "GetAdditionalEvidenceRequest.RuntimeData 1 bytes",
            "GetEvidenceResponse.Evidence 1 bytes",
            "GetTokenRequest.TokenType 1 string",
            "GetTokenResponse.Token 1 bytes",
            "ExtendRuntimeMeasurementRequest.Domain 1 string",
            "ExtendRuntimeMeasurementRequest.Operation 2 string",
            "ExtendRuntimeMeasurementRequest.Content 3 string",
            "ExtendRuntimeMeasurementRequest.RegisterIndex 4 optional uint64",
            "ExtendRuntimeMeasurementResponse.Result 1 enum",
            "BindInitDataRequest.Digest 1 bytes",
            "GetTeeTypeResponse.tee 1 string",
            "GetAdditionalTeesResponse.additional_tees 1 repeated string",
        ]
    );
    let results: Vec<_> =
        package.enum_type[0].value.iter().map(|value| (value.name().to_owned(), value.number())).collect();
    assert_eq!(
        results,
        [("OK".to_owned(), 0), ("NOT_SUPPORTED".to_owned(), 1), ("NOT_ENABLED".to_owned(), 2)]
    );
}

#[test]
fn confidential_data_hub_is_the_contract() {
    let package = package("api");
    assert_eq!(
        methods(&package),
        [
            "SealedSecretService/UnsealSecret(UnsealSecretInput) -> UnsealSecretOutput",
            "GetResourceService/GetResource(GetResourceRequest) -> GetResourceResponse",
            "SecureMountService/SecureMount(SecureMountRequest) -> SecureMountResponse",
            "ImagePullService/PullImage(ImagePullRequest) -> ImagePullResponse",
        ]
    );
    assert_eq!(
        fields(&package),
        [
            "UnsealSecretInput.secret 1 bytes",
            "UnsealSecretOutput.plaintext 1 bytes",
            "GetResourceRequest.ResourcePath 1 string",
            "GetResourceResponse.Resource 1 bytes",
            "SecureMountRequest.volume_type 1 string",
            "SecureMountRequest.options 2 map",
            "SecureMountRequest.flags 3 repeated string",
            "SecureMountRequest.mount_point 4 string",
            "ImagePullRequest.image_url 1 string",
            "ImagePullRequest.bundle_path 2 string",
            "ImagePullResponse.manifest_digest 1 string",
        ]
    );
}

#[test]
fn key_provider_is_the_contract() {
    let package = package("keyprovider");
    assert_eq!(
        methods(&package),
        [
            "KeyProviderService/WrapKey(KeyProviderKeyWrapProtocolInput) -> KeyProviderKeyWrapProtocolOutput",
            "KeyProviderService/UnWrapKey(KeyProviderKeyWrapProtocolInput) -> KeyProviderKeyWrapProtocolOutput",
        ]
    );
    assert_eq!(
        fields(&package),
        [
            "KeyProviderKeyWrapProtocolInput.KeyProviderKeyWrapProtocolInput 1 bytes",
            "KeyProviderKeyWrapProtocolOutput.KeyProviderKeyWrapProtocolOutput 1 bytes",
        ]
    );
}

#[test]
fn our_additions_stay_in_our_package() {
    let set = FileDescriptorSet::decode(cc_protos::FILE_DESCRIPTOR_SET).unwrap();
    let packages: Vec<_> = set.file.iter().map(|file| file.package().to_owned()).collect();
    assert_eq!(packages, ["attestation_agent", "api", "keyprovider", "guest_services.v1"]);
    assert_eq!(
        methods(&package("guest_services.v1")),
        [
            "AgentInfoService/GetInitData(GetInitDataRequest) -> GetInitDataResponse",
            "AgentInfoService/GetStatus(AgentStatusRequest) -> AgentStatus",
            "AgentInfoService/DevicesAccepted(DevicesAcceptedRequest) -> DevicesAcceptedResponse",
            "HubInfoService/GetStatus(HubStatusRequest) -> HubStatus",
            "HubInfoService/ProbeKbs(ProbeKbsRequest) -> ProbeKbsResponse",
            "VolumeService/ListVolumes(ListVolumesRequest) -> ListVolumesResponse",
            "VolumeService/PrepareVolume(PrepareVolumeRequest) -> PrepareVolumeResponse",
            "VolumeService/GetVolumeKey(GetVolumeKeyRequest) -> GetVolumeKeyResponse",
            "SecureUnmountService/ListSecureMounts(ListSecureMountsRequest) -> ListSecureMountsResponse",
            "SecureUnmountService/SecureUnmount(SecureUnmountRequest) -> SecureUnmountResponse",
        ]
    );
}
