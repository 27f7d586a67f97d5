//! The main job: a secret over localhost, released after verified attestation.

use cc_tests::curl;
use cc_tests::stack::{Options, Part};

use crate::{REST_PATH, SECRET, stack};

#[test]
fn an_application_gets_its_secret_over_localhost() {
    let Some(stack) = stack(Options::default()) else { return };
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET));
    assert_eq!(stack.quotes().unwrap(), 1);
}

#[test]
fn one_attestation_serves_many_secrets() {
    let Some(stack) = stack(Options::default()) else { return };
    for i in 0..20 {
        let path = format!("default/many/{i}");
        stack.put_resource(&path, format!("secret {i}").as_bytes()).unwrap();
    }
    for i in 0..20 {
        let answer = stack.rest_get(&format!("/cdh/resource/default/many/{i}")).unwrap();
        assert_eq!((answer.status, answer.text()), (200, format!("secret {i}")));
    }
    assert_eq!(stack.quotes().unwrap(), 1);
}

#[test]
fn a_missing_resource_is_not_found_and_costs_no_second_handshake() {
    for strict_status in [false, true] {
        let arguments = if strict_status { vec!["--strict-upstream-status".to_owned()] } else { Vec::new() };
        let Some(stack) = stack(Options { kbs_arguments: arguments, ..Options::default() }) else { return };
        assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
        let missing = stack.rest_get("/cdh/resource/default/key/missing").unwrap();
        assert_eq!(missing.status, 404, "upstream statuses {strict_status}: {}", missing.text());
        assert_eq!(stack.quotes().unwrap(), 1, "upstream statuses {strict_status}");
    }
}

#[test]
fn every_key_algorithm_opens_the_secret() {
    for algorithm in ["ECDH-ES+A256KW-P256", "ECDH-ES+A256KW-P521", "RSA-OAEP-256"] {
        let hub_kbc_config = format!("tee_key_algorithm = \"{algorithm}\"");
        let options = Options { hub_kbc_config, ..Options::default() };
        let Some(stack) = stack(options) else { return };
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{algorithm}");
    }
}

#[test]
fn a_restarted_agent_and_a_restarted_key_broker_are_survived() {
    let Some(mut stack) = stack(Options::default()) else { return };
    assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
    stack.stop_part(Part::Agent).unwrap();
    assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200, "a warm session needs no agent");
    stack.start_part(Part::Agent).unwrap();
    stack.stop_part(Part::Kbs).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
    stack.stop_part(Part::Hub).unwrap();
    stack.start_part(Part::Hub).unwrap();
    assert_eq!(stack.rest_get(REST_PATH).unwrap().body, SECRET, "the REST server finds the new hub");
}

#[test]
fn an_outage_is_told_apart_from_a_denial() {
    let Some(mut stack) = stack(Options::default()) else { return };
    stack.stop_part(Part::Agent).unwrap();
    let json =
        |path: &str| curl::curl(&["-H", "Accept: application/json"], &format!("{}{path}", stack.rest_url()));
    let answer = json(REST_PATH).unwrap();
    assert!((502..=504).contains(&answer.status), "{} {}", answer.status, answer.text());
    let text = answer.text();
    assert!(text.contains("attestation agent"), "the sentence names who is missing: {text}");
}
