//! Tokens signed here: every check by its name.

use cc_evidence::Tee;
use cc_evidence::cca::CcaEvidence;
use cc_verify::appraisal::{ReferenceValues, Status, appraise};
use cc_verify::cca::{CcaClaims, Expectation, PlatformKeys, verify};
use serde_json::json;

use crate::maker::{Maker, jwk, key};

fn expectation(report_data: &[u8]) -> Expectation<'_> {
    Expectation { report_data, init_data_digest: None }
}

fn check(maker: &Maker, x: &Expectation<'_>) -> Result<CcaClaims, &'static str> {
    let keys = PlatformKeys::parse(&jwk(&maker.platform_key)).unwrap();
    verify(&CcaEvidence { token: maker.token() }, &keys, x).map_err(|rejection| rejection.check())
}

#[test]
fn a_token_under_a_known_key_is_accepted() {
    let mut maker = Maker::new();
    assert!(check(&maker, &expectation(&[0xA5; 64])).is_ok());
    maker.realm_key = key(true);
    assert!(check(&maker, &expectation(&[0xA5; 64])).is_ok(), "the realm's key as COSE_Key of P-256");
    maker.platform_key = key(true);
    assert!(check(&maker, &expectation(&[0xA5; 64])).is_ok(), "ES256");
    maker.challenge[48..].fill(0);
    assert!(check(&maker, &expectation(&[0xA5; 48])).is_ok(), "a digest is padded");
}

#[test]
fn every_check_has_its_name() {
    let good = [0xA5; 64];
    let refused = |change: &dyn Fn(&mut Maker), x: &Expectation<'_>| {
        let mut maker = Maker::new();
        change(&mut maker);
        check(&maker, x).unwrap_err()
    };
    assert_eq!(refused(&|m| m.challenge[0] ^= 1, &expectation(&good)), "cca.report_data");
    assert_eq!(refused(&|_| {}, &expectation(&[0xA5; 48])), "cca.report_data");
    assert_eq!(refused(&|_| {}, &expectation(&[0xA5; 65])), "cca.report_data", "nothing is cut off");
    assert_eq!(refused(&|_| {}, &expectation(&[])), "expectation.missing");
    assert_eq!(refused(&|m| m.platform_challenge = Some([0; 32]), &expectation(&good)), "cca.realm_key");
    assert_eq!(refused(&|m| m.realm_signer = Some(key(false)), &expectation(&good)), "cca.realm_signature");
    assert_eq!(refused(&|m| m.realm_signer = Some(key(true)), &expectation(&good)), "cca.realm_signature");

    let with = |digest| Expectation { init_data_digest: Some(digest), ..expectation(&good) };
    assert_eq!(refused(&|_| {}, &with(&[1; 64])), "cca.init_data");
    assert_eq!(refused(&|_| {}, &with(&[0; 32])), "cca.init_data", "a shorter digest is not padded");
    assert_eq!(refused(&|_| {}, &with(&[])), "expectation.missing");
    assert!(check(&Maker { personalization: [7; 64], ..Maker::new() }, &with(&[7; 64])).is_ok());

    let maker = Maker::new();
    let others = PlatformKeys::parse(&jwk(&key(false))).unwrap();
    let evidence = CcaEvidence { token: maker.token() };
    let rejection = verify(&evidence, &others, &expectation(&good)).unwrap_err();
    assert_eq!(rejection.check(), "cca.platform_key");
    assert!(!rejection.hint().is_empty() && rejection.to_string().contains(&"01".repeat(33)), "{rejection}");
    let none = verify(&evidence, &PlatformKeys::default(), &expectation(&good)).unwrap_err();
    assert_eq!(none.check(), "cca.platform_key");
}

#[test]
fn a_token_changed_anywhere_is_refused() {
    let maker = Maker::new();
    let keys = PlatformKeys::parse(&jwk(&maker.platform_key)).unwrap();
    let token = maker.token();
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] ^= 1;
        let outcome = verify(&CcaEvidence { token: changed }, &keys, &expectation(&[0xA5; 64]));
        assert!(outcome.is_err(), "byte {at} of {}", token.len());
    }
}

#[test]
fn appraisal_compares_realm_firmware_and_state() {
    let claims =
        |maker: &Maker| serde_json::to_value(check(maker, &expectation(&[0xA5; 64])).unwrap()).unwrap();
    let honest = claims(&Maker::new());
    let component = &honest["platform"]["cca-platform-sw-components"][0]["measurement-value"];
    let values = json!({
        "cca_realm_initial_measurement": [honest["realm"]["cca-realm-initial-measurement"]],
        "cca_platform_implementation_id": [honest["platform"]["cca-platform-implementation-id"]],
        "cca_platform_sw_components": ["AAAA", component],
        "cca_platform_config": [honest["platform"]["cca-platform-config"]],
    });
    let verdict = |claims: &serde_json::Value, leave_out: Option<&str>| {
        let mut values = values.clone();
        leave_out.and_then(|name| values.as_object_mut().unwrap().remove(name));
        let mut references = ReferenceValues::default();
        assert!(references.extend(&values));
        appraise(Tee::Cca, claims, &references)
    };
    let all = verdict(&honest, None);
    assert_eq!((all.status(), all.reasons.len()), (Status::Affirming, 0), "{:?}", all.reasons);
    for (missing, status) in [
        ("cca_realm_initial_measurement", Status::Warning),
        ("cca_platform_implementation_id", Status::Contraindicated),
        ("cca_platform_sw_components", Status::Contraindicated),
        ("cca_platform_config", Status::Affirming),
    ] {
        let appraisal = verdict(&honest, Some(missing));
        assert_eq!(appraisal.status(), status, "{missing}");
        assert!(appraisal.reasons.iter().any(|reason| reason.contains(missing)), "{:?}", appraisal.reasons);
    }
    let debugged = claims(&Maker { lifecycle: 0x4001, ..Maker::new() });
    let appraisal = verdict(&debugged, None);
    assert_eq!(appraisal.status(), Status::Warning);
    assert!(appraisal.reasons[0].contains("cca-platform-lifecycle is 16385"), "{:?}", appraisal.reasons);
}
