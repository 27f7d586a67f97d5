//! A machine with GPUs at the broker: every device has a verdict of its own, and none can be altered, swapped or left out
//! on the way.

use cc_evidence::binding;
use cc_evidence::nvidia::{Architecture, Device, NvidiaEvidence};
use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence};
use cc_verify::TrustRoots;
use dev_kbs::server::Rules;
use serde_json::{Value, json};
use tee_emulator::machine::{Gpu, Machine, Product};
use tee_emulator::nvidia::{GpuChain, GpuKey, build};
use tee_emulator::{TestChain, report};

use crate::guest::{Broker, Guest, claims, rules, token};

const PATH: &str = "default/key/1";

/// The manufacturers and two GPUs.
struct Hardware {
    cpu: TestChain,
    gpu: GpuChain,
    keys: [GpuKey; 2],
}

impl Hardware {
    fn new() -> Self {
        Self {
            cpu: TestChain::generate(Product::Milan).unwrap(),
            gpu: GpuChain::generate().unwrap(),
            keys: [GpuKey::generate().unwrap(), GpuKey::generate().unwrap()],
        }
    }

    fn rules(&self) -> Rules {
        let pem = [self.cpu.roots_pem().unwrap(), self.gpu.roots_pem().unwrap()].concat();
        Rules { roots: TrustRoots::vendor().with_test_roots(&pem).unwrap(), allow_sample: false, ..rules() }
    }

    /// Additional evidence of both GPUs over what `guest` binds.
    fn devices(&self, guest: &Guest) -> String {
        let data = binding::device_report_data(&guest.nonce, &guest.key.public_jwk(), guest.hash).unwrap();
        let device = |(number, key): (usize, &GpuKey)| {
            let gpu = Gpu { uuid: format!("GPU-{number}"), ..Gpu::default() };
            Device {
                architecture: Architecture::Hopper,
                uuid: gpu.uuid.clone(),
                report: build(&gpu, key, data.first_chunk().unwrap()).unwrap(),
                certificate_chain: self.gpu.pem(&gpu, key).unwrap().into_bytes(),
            }
        };
        let evidence = NvidiaEvidence { devices: self.keys.iter().enumerate().map(device).collect() };
        format!("{{\"nvidia\":{}}}", evidence.to_json().unwrap())
    }

    /// Primary evidence that binds `additional`.
    fn primary(&self, guest: &Guest, additional: &str) -> String {
        let machine = Machine::default();
        let data =
            binding::primary_report_data(&guest.nonce, &guest.key.public_jwk(), additional, guest.hash)
                .unwrap();
        let mut padded = [0; 64];
        padded[..data.len()].copy_from_slice(&data);
        let raw = report::build(&self.cpu, &machine, &padded, 0, &[7; 32]).unwrap();
        let vcek = CertEntry { kind: CertKind::Vcek, data: self.cpu.vcek_der(&machine).unwrap() };
        SnpEvidence { report: Report::parse(&raw).unwrap(), certs: vec![vcek] }.to_json().unwrap()
    }
}

fn references() -> Value {
    let (machine, gpu) = (Machine::default(), Gpu::default());
    json!({
        "snp_launch_measurement": [hex::encode(machine.measurement.0)],
        "snp_bootloader": [machine.tcb.bootloader], "snp_microcode": [machine.tcb.microcode],
        "snp_snp_svn": [machine.tcb.snp], "snp_tee_svn": [machine.tcb.tee],
        "allowed_driver_versions": [gpu.driver_version], "allowed_vbios_versions": [gpu.vbios_version],
    })
}

#[tokio::test]
async fn every_gpu_has_a_verdict_of_its_own() {
    let hardware = Hardware::new();
    let broker = Broker::start(hardware.rules());
    broker.store(PATH, b"the secret").await;
    broker.set_reference_values(&references()).await;
    let guest = Guest::arrive(&broker, "snp").await;
    let additional = hardware.devices(&guest);
    let body = guest.request(&hardware.primary(&guest, &additional), &additional);
    let claims = claims(&token(&guest.attest(&broker, &body).await.good()));
    let names: Vec<_> = claims["submods"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["cpu0", "gpu0", "gpu1"]);
    for (name, uuid) in [("gpu0", "GPU-0"), ("gpu1", "GPU-1")] {
        let module = &claims["submods"][name];
        assert_eq!(module["ear.status"], "affirming", "{module}");
        let shown = &module["ear.veraison.annotated-evidence"];
        assert_eq!((&shown["nvidia"]["uuid"], &shown["nvidia"]["arch"]), (&json!(uuid), &json!("Hopper")));
        assert_eq!(shown["nvidia"]["config"]["vbios_version"], Gpu::default().vbios_version);
        assert!(shown.get("runtime_data_claims").is_none(), "a GPU carries no key");
    }
    assert_eq!(guest.fetch(&broker, PATH).await, b"the secret");

    // Driver versions that nobody approved: the token says why, and nothing is released.
    broker.set_reference_values(&json!({ "allowed_driver_versions": ["1.0"] })).await;
    let guest = Guest::arrive(&broker, "snp").await;
    let additional = hardware.devices(&guest);
    let body = guest.request(&hardware.primary(&guest, &additional), &additional);
    guest.attest(&broker, &body).await.good();
    let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
    assert!(detail.contains("gpu0 (nvidia) is warning") && detail.contains("driver_version"), "{detail}");
}

#[tokio::test]
async fn what_was_changed_on_the_way_is_refused_as_a_whole() {
    let hardware = Hardware::new();
    let broker = Broker::start(hardware.rules());
    let refused = async |guest: &Guest, primary: &str, additional: &str, check: &str| {
        let body = guest.request(primary, additional);
        let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
        assert!(detail.starts_with(&format!("evidence: {check}: ")), "{check}: {detail}");
    };
    // The GPUs are dropped, or one of them is.
    let guest = Guest::arrive(&broker, "snp").await;
    let additional = hardware.devices(&guest);
    let primary = hardware.primary(&guest, &additional);
    refused(&guest, &primary, "", "snp.report_data").await;
    let guest = Guest::arrive(&broker, "snp").await;
    let additional = hardware.devices(&guest);
    let primary = hardware.primary(&guest, &additional);
    let mut fewer: Value = serde_json::from_str(&additional).unwrap();
    fewer["nvidia"]["device_evidence_list"].as_array_mut().unwrap().pop();
    refused(&guest, &primary, &fewer.to_string(), "snp.report_data").await;

    // One byte of a GPU's report, by somebody who can bind it anew: by the guest's own machine alone.
    let guest = Guest::arrive(&broker, "snp").await;
    let additional = hardware.devices(&guest);
    let mut parsed: Value = serde_json::from_str(&additional).unwrap();
    let mut evidence = NvidiaEvidence::from_json(&parsed["nvidia"].to_string()).unwrap();
    evidence.devices[1].report[60] ^= 1;
    parsed["nvidia"] = serde_json::from_str(&evidence.to_json().unwrap()).unwrap();
    let altered = parsed.to_string();
    let primary = hardware.primary(&guest, &altered);
    refused(&guest, &primary, &altered, "nvidia.signature").await;

    // Reports of another session.
    let earlier = Guest::arrive(&broker, "snp").await;
    let replayed = hardware.devices(&earlier);
    let guest = Guest::arrive(&broker, "snp").await;
    let primary = hardware.primary(&guest, &replayed);
    refused(&guest, &primary, &replayed, "nvidia.report_data").await;
}

#[tokio::test]
async fn a_gpu_alone_is_no_machine() {
    let broker = Broker::start(Hardware::new().rules());
    let auth = crate::guest::auth("0.4.0", "nvidia");
    let detail = broker.post("auth", "", &auth).await.refusal(401, "AttestationError");
    assert!(detail.contains("cannot vouch"), "{detail}");
}
