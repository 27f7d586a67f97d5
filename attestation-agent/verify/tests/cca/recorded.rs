//! The recorded token of a simulated platform: facts, signatures, mutations.

use std::fs;

use cc_evidence::cca::{CcaEvidence, Token};
use cc_verify::cca::{Expectation, PlatformKeys, verify, verify_platform, verify_realm};

/// The realm's challenge.
const CHALLENGE: &str = "57e979ae2618de0c1ab73144c440d741cf9236dc9d52ed190053382a4d190252\
                         f9f0370403c35dcb155fb4362d73c66d5b0494bf939315d3dc52b8cdc8b85a96";

#[test]
fn the_recorded_token_says_what_its_description_says() {
    let Some(folder) = cc_vectors::folder("cca-token") else { return };
    let token = Token::parse(&fs::read(folder.join("token.cbor")).unwrap()).unwrap();
    let platform = &token.platform.claims;
    assert_eq!(platform.profile, "http://arm.com/CCA-SSD/1.0.0");
    assert_eq!((platform.lifecycle, platform.is_secured()), (12291, true));
    assert_eq!(
        hex::encode(&platform.challenge),
        "b5973cb68baa9fc55558786b7ec67f69e40df5ba5aa921cd0c27f40587a011ea"
    );
    assert_eq!(
        hex::encode(platform.instance_id),
        "0107060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"
    );
    assert_eq!(platform.verification_service.as_deref().unwrap().get(..24), Some("https://veraison.example"));
    let realm = &token.realm.claims;
    assert_eq!(hex::encode(realm.challenge), CHALLENGE);
    assert_eq!(realm.personalization, [0; 64]);
    assert_eq!(
        (realm.public_key_bytes.len(), &realm.public_key_bytes[..4]),
        (97, &[4, 0x76, 0xF9, 0x88][..])
    );
    assert_eq!((realm.hash.as_str(), realm.public_key_hash.as_str()), ("sha-512", "sha-256"));
    assert_eq!(hex::encode(&realm.initial_measurement[..8]), "ae87fbf7f105e71a");
    assert_eq!(realm.extensible_measurements, [const { [0; 64] }; 4].map(Vec::from));

    // The reference values that go with it know every component, by measurement, signer and name.
    let store: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("rvstore.json")).unwrap()).unwrap();
    let known = store["platform"][0]["sw-components"].as_array().unwrap();
    assert!(platform.software_components.len() >= 7);
    for component in &platform.software_components {
        let name = component.kind.as_deref().unwrap();
        let same = |entry: &&serde_json::Value| {
            entry["component-type"] == name
                && entry["measurement-value"] == hex::encode(&component.measurement)
                && entry["signer-id"] == hex::encode(&component.signer_id)
        };
        assert!(known.iter().any(|entry| same(&entry)), "{name}");
    }
    assert_eq!(store["platform"][0]["implementation-id"], hex::encode(platform.implementation_id));
}

#[test]
fn its_signatures_verify_under_the_keys_that_go_with_it() {
    let Some(folder) = cc_vectors::folder("cca-token") else { return };
    let evidence = CcaEvidence { token: fs::read(folder.join("token.cbor")).unwrap() };
    let challenge = hex::decode(CHALLENGE).unwrap();
    for file in ["cpak-pub.json", "tastore.json"] {
        let keys = PlatformKeys::parse(&fs::read_to_string(folder.join(file)).unwrap()).unwrap();
        let x = Expectation { report_data: &challenge, init_data_digest: None };
        let claims = serde_json::to_value(verify(&evidence, &keys, &x).unwrap()).unwrap();
        assert_eq!(claims["report_data"], CHALLENGE);
        // The example of claims is of another token: it has the same names.
        let example: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join("claims-example.json")).unwrap()).unwrap();
        for part in ["platform", "realm"] {
            let names = |value: &serde_json::Value| -> Vec<String> {
                value[part].as_object().unwrap().keys().cloned().collect()
            };
            assert_eq!(names(&claims), names(&example), "{part}");
        }
        let other = Expectation { report_data: &[1; 64], init_data_digest: None };
        assert_eq!(verify(&evidence, &keys, &other).unwrap_err().check(), "cca.report_data");
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let Some(folder) = cc_vectors::folder("cca-token") else { return };
    let token = fs::read(folder.join("token.cbor")).unwrap();
    let keys = PlatformKeys::parse(&fs::read_to_string(folder.join("cpak-pub.json")).unwrap()).unwrap();
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] ^= 0x01;
        let refused = match Token::parse(&changed) {
            Err(_) => true,
            Ok(changed) => verify_platform(&changed, &keys).is_err() || verify_realm(&changed).is_err(),
        };
        assert!(refused, "byte {at}");
        assert!(Token::parse(&token[..at]).is_err(), "cut at {at}");
    }
}
