//! The production platform code over an emulated realm, and the verifier over its tokens.

use std::time::Duration;

use cc_evidence::cca::{CcaEvidence, Token};
use cc_platform::{InitDataBinding, Platform, Tee};
use cc_verify::cca::{Expectation, PlatformKeys, verify};
use tee_emulator::Machine;
use tee_emulator::machine::{self, Fault, Hex, Realm};

use crate::platform::{LONG, data, detected, eventually};
use crate::room::Room;

fn machine() -> Machine {
    Machine { tee: machine::Tee::Cca, ..Machine::default() }
}

fn evidence(platform: &dyn Platform, tag: u8) -> CcaEvidence {
    CcaEvidence::from_json(&platform.evidence(&data(tag)).unwrap()).unwrap()
}

#[test]
fn evidence_answers_the_question_and_verifies_under_the_platforms_key() {
    let realm = Realm { personalization: Hex([7; 64]), rem0: Hex([4; 64]), ..Realm::default() };
    let Some(room) = Room::new(Machine { realm: realm.clone(), ..machine() }) else { return };
    let found = detected(&room, LONG);
    assert_eq!(found.primary.tee(), Tee::Cca);
    assert!(
        found.tried.iter().any(|probe| probe.to_string().contains("cca: TSM interface")),
        "{:?}",
        found.tried
    );
    assert!(found.primary.registers().is_none());
    assert_eq!(room.emulator.quotes(), 0, "detection makes no token");

    let evidence = evidence(&*found.primary, 5);
    let token = Token::parse(&evidence.token).unwrap();
    assert_eq!(token.realm.claims.initial_measurement, realm.initial_measurement.0);
    assert_eq!(token.realm.claims.extensible_measurements[0], realm.rem0.0);
    let keys = PlatformKeys::parse(&room.maker.roots_pem().unwrap()).unwrap();
    let expected = data(5).padded();
    let x = Expectation { report_data: &expected, init_data_digest: Some(&[7; 64]) };
    assert_eq!(verify(&evidence, &keys, &x).unwrap().report_data, hex::encode(expected));
    let x = Expectation { report_data: &[1; 64], init_data_digest: None };
    assert_eq!(verify(&evidence, &keys, &x).unwrap_err().check(), "cca.report_data");

    // The personalization value is the relying party's to compare.
    assert_eq!(found.primary.bind_init_data(&[7; 64]).unwrap(), InitDataBinding::Unsupported);
    assert_eq!(found.primary.bind_init_data(&[]).unwrap_err().code(), "INIT_DATA_DIGEST_EMPTY");
    assert!(room.directories().is_empty());
}

#[test]
fn every_fault_has_its_error_or_its_check() {
    let Some(room) = Room::new(machine()) else { return };
    let found = detected(&room, Duration::from_secs(2));
    let keys = PlatformKeys::parse(&room.maker.roots_pem().unwrap()).unwrap();
    for (fault, expected) in [
        (Fault::WrongReportData, "EVIDENCE_MISMATCH"),
        (Fault::Stale, "EVIDENCE_MISMATCH"),
        (Fault::Short, "EVIDENCE_MALFORMED"),
        (Fault::Empty, "TSM_MALFORMED"),
        (Fault::Huge, "TSM_MALFORMED"),
        (Fault::Busy, "TSM_TIMEOUT"),
        // Only a relying party can see these.
        (Fault::FlipBit, "cca.realm_signature"),
        (Fault::ForeignRealm, "cca.realm_key"),
        (Fault::UnknownPlatform, "cca.platform_key"),
        (Fault::None, "none"),
    ] {
        room.change(|machine| machine.fault = fault);
        let outcome = found.primary.evidence(&data(3)).map_err(|error| error.code()).and_then(|evidence| {
            let expected = data(3).padded();
            let x = Expectation { report_data: &expected, init_data_digest: None };
            verify(&CcaEvidence::from_json(&evidence).unwrap(), &keys, &x)
                .map_err(|rejection| rejection.check())
        });
        assert_eq!(outcome.err().unwrap_or("none"), expected, "{fault:?}");
        eventually(&format!("{fault:?} leaves nothing"), || room.directories().is_empty());
    }
}
