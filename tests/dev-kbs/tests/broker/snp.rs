//! SEV-SNP evidence from the emulated machine: verified for real, under its roots.

use cc_evidence::HashAlgorithm;
use cc_evidence::snp::{CertEntry, CertKind, Report, SnpEvidence};
use cc_verify::TrustRoots;
use dev_kbs::server::Rules;
use serde_json::{Value, json};
use tee_emulator::machine::{Fault, Hex, Machine, Product};
use tee_emulator::{TestChain, report};

use crate::guest::{Broker, Guest, claims, rules, token};

const PATH: &str = "default/key/1";

/// Evidence of `machine` for `report_data`, as the agent sends it.
fn evidence(chain: &TestChain, machine: &Machine, report_data: &[u8]) -> String {
    let mut padded = [0; 64];
    padded[..report_data.len()].copy_from_slice(report_data);
    let raw = report::build(chain, machine, &padded, machine.vmpl, &[7; 32]).unwrap();
    let certs = [
        (CertKind::Vcek, chain.vcek_der(machine).unwrap()),
        (CertKind::Ask, chain.ask_der().to_vec()),
        (CertKind::Ark, chain.ark_der().to_vec()),
    ]
    .map(|(kind, data)| CertEntry { kind, data })
    .into();
    SnpEvidence { report: Report::parse(&raw).unwrap(), certs }.to_json().unwrap()
}

fn rules_for(chain: &TestChain) -> Rules {
    let roots = TrustRoots::vendor().with_test_roots(&chain.roots_pem().unwrap()).unwrap();
    Rules { roots, allow_sample: false, ..rules() }
}

fn matching(machine: &Machine) -> Value {
    json!({
        "snp_launch_measurement": [hex::encode(machine.measurement.0)],
        "snp_bootloader": [machine.tcb.bootloader], "snp_microcode": [machine.tcb.microcode],
        "snp_snp_svn": [machine.tcb.snp], "snp_tee_svn": [machine.tcb.tee],
        "snp_smt_enabled": true, "snp_tsme_enabled": false, "snp_guest_abi_major": 0,
        "snp_guest_abi_minor": 0, "snp_single_socket": false, "snp_smt_allowed": true,
    })
}

/// A guest on `machine` that attested; its evidence verified, whatever the verdict.
async fn attested(broker: &Broker, chain: &TestChain, machine: &Machine) -> (Guest, Value) {
    let guest = Guest::arrive(broker, "snp").await;
    let body = guest.request(&evidence(chain, machine, &guest.report_data()), "");
    let answer = guest.attest(broker, &body).await.good();
    let claims = claims(&token(&answer));
    (guest, claims)
}

#[tokio::test]
async fn the_verdict_follows_the_reference_values_and_says_why() {
    let (chain, machine) = (TestChain::generate(Product::Milan).unwrap(), Machine::default());
    let broker = Broker::start(rules_for(&chain));
    broker.store(PATH, b"the secret").await;

    let (guest, claims) = attested(&broker, &chain, &machine).await;
    assert_eq!(claims["submods"]["cpu0"]["ear.status"], "contraindicated");
    let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
    let measurement = hex::encode(machine.measurement.0);
    assert!(detail.contains(&measurement) && detail.contains("snp_launch_measurement"), "{detail}");

    broker.set_reference_values(&matching(&machine)).await;
    let (guest, claims) = attested(&broker, &chain, &machine).await;
    let cpu = &claims["submods"]["cpu0"];
    assert_eq!(cpu["ear.status"], "affirming");
    assert_eq!(cpu["ear.trustworthiness-vector"]["executables"], 3);
    let shown = &cpu["ear.veraison.annotated-evidence"];
    assert_eq!(shown["snp"]["measurement"], measurement.as_str());
    assert_eq!(shown["runtime_data_claims"]["tee-pubkey"], guest.key.public_jwk());
    let bound = shown["report_data"].as_str().unwrap();
    assert!(bound.starts_with(&hex::encode(guest.report_data())) && bound.len() == 128);
    assert_eq!(guest.fetch(&broker, PATH).await, b"the secret");

    // One bit of the image more, or the debug bit in the policy: the evidence is genuine, the guest is not the one.
    let mut other = machine.clone();
    other.measurement.0[0] ^= 1;
    let debug = Machine { policy: machine.policy | 1 << 19, ..machine.clone() };
    for (machine, why) in [(other, "measurement"), (debug, "policy_debug_allowed")] {
        let (guest, claims) = attested(&broker, &chain, &machine).await;
        assert_eq!(claims["submods"]["cpu0"]["ear.status"], "warning");
        let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
        assert!(detail.contains(why), "{detail}");
    }
}

#[tokio::test]
async fn evidence_that_does_not_verify_is_refused_by_the_name_of_the_check() {
    let (chain, machine) = (TestChain::generate(Product::Milan).unwrap(), Machine::default());
    let broker = Broker::start(rules_for(&chain));
    let with = |fault| Machine { fault, ..machine.clone() };
    for (machine, check) in [
        (with(Fault::FlipBit), "snp.signature"),
        (with(Fault::WrongReportData), "snp.report_data"),
        (with(Fault::ExpiredVcek), "snp.vcek_validity"),
        (with(Fault::WrongTcbExtension), "snp.tcb"),
        (with(Fault::WrongChipId), "snp.chip_id"),
        (Machine { vmpl: 1, ..machine.clone() }, "snp.vmpl"),
        (Machine { report_version: 2, ..machine.clone() }, "snp.version"),
    ] {
        let guest = Guest::arrive(&broker, "snp").await;
        let body = guest.request(&evidence(&chain, &machine, &guest.report_data()), "");
        let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
        assert!(detail.starts_with(&format!("evidence: {check}: ")), "{detail}");
    }

    // Good evidence of one session in another, and with a space more in the additional evidence.
    let earlier = Guest::arrive(&broker, "snp").await;
    let replayed = evidence(&chain, &machine, &earlier.report_data());
    let guest = Guest::arrive(&broker, "snp").await;
    let detail = guest.attest(&broker, &guest.request(&replayed, "")).await.refusal(401, "AttestationError");
    assert!(
        detail.contains("snp.report_data") && detail.contains(&hex::encode(guest.report_data())),
        "{detail}"
    );
    let guest = Guest::arrive(&broker, "snp").await;
    let own = evidence(&chain, &machine, &guest.report_data());
    let detail = guest.attest(&broker, &guest.request(&own, " ")).await.refusal(401, "AttestationError");
    assert!(detail.contains("snp.report_data"), "{detail}");

    for bad in ["{}", "[]", "{\"attestation_report\":1,\"cert_chain\":null}"] {
        let guest = Guest::arrive(&broker, "snp").await;
        let detail = guest.attest(&broker, &guest.request(bad, "")).await.refusal(401, "AttestationError");
        assert!(detail.starts_with("evidence: "), "{detail}");
    }
}

#[tokio::test]
async fn test_roots_count_only_where_they_were_given() {
    let (chain, machine) = (TestChain::generate(Product::Genoa).unwrap(), Machine::default());
    let machine = Machine { product: Product::Genoa, ..machine };
    let broker = Broker::start(Rules { allow_sample: false, ..rules() });
    let guest = Guest::arrive(&broker, "snp").await;
    let body = guest.request(&evidence(&chain, &machine, &guest.report_data()), "");
    let detail = guest.attest(&broker, &body).await.refusal(401, "AttestationError");
    assert!(detail.starts_with("evidence: snp.chain: "), "{detail}");
    let broker = Broker::start(rules_for(&chain));
    attested(&broker, &chain, &machine).await;
}

#[tokio::test]
async fn init_data_must_be_what_the_machine_was_launched_with() {
    let chain = TestChain::generate(Product::Milan).unwrap();
    let broker = Broker::start(rules_for(&chain));
    let document = "version = \"0.1.0\"\nalgorithm = \"sha384\"\n[data]\n\"a.txt\" = \"x\"\n";
    let digest = HashAlgorithm::Sha384.digest(document.as_bytes());
    let mut host_data = [0; 32];
    host_data.copy_from_slice(&digest[..32]);
    let machine = Machine { host_data: Hex(host_data), ..Machine::default() };
    for (machine, accepted) in [(machine, true), (Machine::default(), false)] {
        let guest = Guest::arrive(&broker, "snp").await;
        let mut body = guest.request(&evidence(&chain, &machine, &guest.report_data()), "");
        body["init-data"] = json!({ "format": "toml", "body": document });
        let answer = guest.attest(&broker, &body).await;
        if accepted {
            let shown = &claims(&token(&answer.good()))["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
            assert_eq!(shown["init_data"], hex::encode(host_data).as_str());
            assert_eq!(shown["init_data_claims"], json!({ "a.txt": "x" }));
        } else {
            let detail = answer.refusal(401, "AttestationError");
            assert!(detail.starts_with("evidence: snp.init_data: "), "{detail}");
        }
    }
}
