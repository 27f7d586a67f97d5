//! TDX evidence from the emulated machine: verified for real, under its root and with its collateral.

use cc_evidence::HashAlgorithm;
use cc_evidence::tdx::TdxEvidence;
use cc_verify::TrustRoots;
use dev_kbs::collateral::CollateralStore;
use dev_kbs::server::Rules;
use serde_json::{Value, json};
use tee_emulator::machine::{Fault, Hex, Machine, Td, Tee};
use tee_emulator::tdx::quote;
use tee_emulator::{Collateral, IntelChain};

use crate::guest::{Broker, Guest, claims, rules, token};

const PATH: &str = "default/key/1";

fn machine() -> Machine {
    Machine { tee: Tee::Tdx, ..Machine::default() }
}

/// The machine with a change to its trust domain.
fn changed(change: impl FnOnce(&mut Td)) -> Machine {
    let mut machine = machine();
    change(&mut machine.td);
    machine
}

/// Evidence of `machine` for `report_data`, as the agent sends it.
fn evidence(chain: &IntelChain, machine: &Machine, report_data: &[u8]) -> String {
    let mut padded = [0; 64];
    padded[..report_data.len()].copy_from_slice(report_data);
    let quote = quote::build(chain, machine, &padded).unwrap();
    TdxEvidence { quote, cc_eventlog: None }.to_json().unwrap()
}

fn rules_for(chain: &IntelChain) -> Rules {
    let place = tempfile::tempdir().unwrap();
    Collateral::issue(chain).unwrap().write(place.path()).unwrap();
    let roots = TrustRoots::vendor().with_test_roots(&chain.roots_pem().unwrap()).unwrap();
    Rules { roots, collateral: CollateralStore::read(place.path()).unwrap(), allow_sample: false, ..rules() }
}

fn matching(machine: &Machine) -> Value {
    let td = &machine.td;
    json!({
        "mr_td": [hex::encode(td.mrtd.0)], "xfam": [hex::encode(td.xfam.0)],
        "rtmr_1": [hex::encode(td.rtmr1.0)], "rtmr_2": [hex::encode(td.rtmr2.0)],
    })
}

/// A guest on `machine` that attested; its evidence verified, whatever the verdict.
async fn attested(broker: &Broker, chain: &IntelChain, machine: &Machine) -> (Guest, Value) {
    let guest = Guest::arrive(broker, "tdx").await;
    let body = guest.request(&evidence(chain, machine, &guest.report_data()), "");
    let answer = guest.attest(broker, &body).await.good();
    let claims = claims(&token(&answer));
    (guest, claims)
}

/// Why `attest` refuses `machine`.
async fn refusal(broker: &Broker, chain: &IntelChain, machine: &Machine) -> String {
    let guest = Guest::arrive(broker, "tdx").await;
    let body = guest.request(&evidence(chain, machine, &guest.report_data()), "");
    guest.attest(broker, &body).await.refusal(401, "AttestationError")
}

#[tokio::test]
async fn the_verdict_follows_the_reference_values_and_says_why() {
    let (chain, machine) = (IntelChain::generate().unwrap(), machine());
    let broker = Broker::start(rules_for(&chain));
    broker.store(PATH, b"the secret").await;

    let (guest, claims) = attested(&broker, &chain, &machine).await;
    assert_eq!(claims["submods"]["cpu0"]["ear.status"], "contraindicated");
    let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
    assert!(detail.contains("mr_td") && detail.contains("rtmr_1"), "{detail}");

    broker.set_reference_values(&matching(&machine)).await;
    let (guest, claims) = attested(&broker, &chain, &machine).await;
    let cpu = &claims["submods"]["cpu0"];
    assert_eq!(cpu["ear.status"], "affirming", "{cpu}");
    let shown = &cpu["ear.veraison.annotated-evidence"];
    assert_eq!(shown["tdx"]["quote"]["body"]["mr_td"], hex::encode(machine.td.mrtd.0).as_str());
    assert_eq!(shown["tdx"]["tcb_status"], "UpToDate");
    assert_eq!(shown["tdx"]["collateral_expiration_status"], "0");
    assert_eq!(shown["runtime_data_claims"]["tee-pubkey"], guest.key.public_jwk());
    assert!(shown["report_data"].as_str().unwrap().starts_with(&hex::encode(guest.report_data())));
    assert_eq!(guest.fetch(&broker, PATH).await, b"the secret");

    // Genuine evidence of other guests and of machines that are not up to date.
    let out_of_date = Machine { fault: Fault::OutOfDateTcb, ..machine.clone() };
    let old_module = changed(|td| td.tee_tcb_svn.0[0] = 4);
    for (machine, why) in [
        (changed(|td| td.mrtd.0[0] ^= 1), "mr_td"),
        (changed(|td| td.rtmr2.0[0] ^= 1), "rtmr_2"),
        (changed(|td| td.xfam.0[0] ^= 1), "xfam"),
        (changed(|td| td.attributes.0[0] |= 1), "debug"),
        (out_of_date, "OutOfDate"),
        (old_module, "OutOfDate"),
    ] {
        let (guest, claims) = attested(&broker, &chain, &machine).await;
        assert_ne!(claims["submods"]["cpu0"]["ear.status"], "affirming", "{why}");
        let detail = guest.ask(&broker, PATH).await.refusal(403, "PolicyDeny");
        assert!(detail.contains(why), "{why}: {detail}");
    }
}

#[tokio::test]
async fn evidence_that_does_not_verify_is_refused_by_the_name_of_the_check() {
    let (chain, machine) = (IntelChain::generate().unwrap(), machine());
    let broker = Broker::start(rules_for(&chain));
    for (fault, check) in [
        (Fault::FlipBit, "tdx.signature"),
        (Fault::WrongReportData, "tdx.report_data"),
        (Fault::ExpiredPck, "tdx.pck_validity"),
        (Fault::RevokedTcb, "tdx.tcb_revoked"),
        (Fault::RevokedPck, "tdx.pck_revoked"),
    ] {
        let detail = refusal(&broker, &chain, &Machine { fault, ..machine.clone() }).await;
        assert!(detail.starts_with(&format!("evidence: {check}: ")), "{detail}");
    }

    // Good evidence of one session in another.
    let earlier = Guest::arrive(&broker, "tdx").await;
    let replayed = evidence(&chain, &machine, &earlier.report_data());
    let guest = Guest::arrive(&broker, "tdx").await;
    let detail = guest.attest(&broker, &guest.request(&replayed, "")).await.refusal(401, "AttestationError");
    assert!(detail.contains("tdx.report_data"), "{detail}");

    for bad in ["{}", "[]", "{\"quote\":\"AAAA\",\"cc_eventlog\":null}", "{\"quote\":1}"] {
        let guest = Guest::arrive(&broker, "tdx").await;
        let detail = guest.attest(&broker, &guest.request(bad, "")).await.refusal(401, "AttestationError");
        assert!(detail.starts_with("evidence: tdx"), "{detail}");
    }
}

#[tokio::test]
async fn roots_and_collateral_count_only_where_they_were_given() {
    let (chain, machine) = (IntelChain::generate().unwrap(), machine());
    let untrusting = Broker::start(Rules { roots: TrustRoots::vendor(), ..rules_for(&chain) });
    let detail = refusal(&untrusting, &chain, &machine).await;
    assert!(detail.starts_with("evidence: tdx.pck_chain: "), "{detail}");

    let without = Broker::start(Rules { collateral: CollateralStore::default(), ..rules_for(&chain) });
    without.set_reference_values(&matching(&machine)).await;
    without.store(PATH, b"the secret").await;
    let (guest, claims) = attested(&without, &chain, &machine).await;
    let tdx = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["tdx"];
    assert_eq!(tdx["tcb_status"], "Unverified");
    let detail = guest.ask(&without, PATH).await.refusal(403, "PolicyDeny");
    assert!(detail.contains("tcb_status"), "{detail}");

    // Collateral that another test root signed rates nothing.
    let other = rules_for(&IntelChain::generate().unwrap());
    let mixed = Broker::start(Rules { collateral: other.collateral, ..rules_for(&chain) });
    let detail = refusal(&mixed, &chain, &machine).await;
    assert!(detail.starts_with("evidence: tdx.collateral: "), "{detail}");
}

#[tokio::test]
async fn init_data_must_be_what_the_machine_was_launched_with() {
    let chain = IntelChain::generate().unwrap();
    let broker = Broker::start(rules_for(&chain));
    for algorithm in ["sha256", "sha384"] {
        let document =
            format!("version = \"0.1.0\"\nalgorithm = \"{algorithm}\"\n[data]\n\"a.txt\" = \"x\"\n");
        let digest = algorithm.parse::<HashAlgorithm>().unwrap().digest(document.as_bytes());
        let mut config_id = [0; 48];
        config_id[..digest.len()].copy_from_slice(&digest);
        for (machine, accepted) in [(changed(|td| td.mrconfigid = Hex(config_id)), true), (machine(), false)]
        {
            let guest = Guest::arrive(&broker, "tdx").await;
            let mut body = guest.request(&evidence(&chain, &machine, &guest.report_data()), "");
            body["init-data"] = json!({ "format": "toml", "body": document });
            let answer = guest.attest(&broker, &body).await;
            if accepted {
                let claims = claims(&token(&answer.good()));
                let shown = &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"];
                assert_eq!(shown["init_data"], hex::encode(config_id).as_str());
                assert_eq!(shown["init_data_claims"], json!({ "a.txt": "x" }));
            } else {
                let detail = answer.refusal(401, "AttestationError");
                assert!(detail.starts_with("evidence: tdx.init_data: "), "{detail}");
            }
        }
    }
}
