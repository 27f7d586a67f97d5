//! Oddities of the challenge: those that exist in the field work, the rest is refused before evidence is made.

use cc_evidence::HashAlgorithm;
use cc_tests::hostile_kbs::{Reply, Step};

use super::{Ground, always, expect, row};

#[test]
fn the_forms_of_a_challenge_that_exist_are_understood() {
    let mut ground = Ground::new();
    for (extra, hash) in [
        (r#","extra-params":"""#, HashAlgorithm::Sha384),
        (r#","extra-params":{}"#, HashAlgorithm::Sha384),
        (r#","extra-params":null"#, HashAlgorithm::Sha384),
        ("", HashAlgorithm::Sha384),
        (r#","extra-params":{"other":[1,{}]},"more":7"#, HashAlgorithm::Sha384),
        (r#","extra-params":{"selected-hash-algorithm":"sha256"}"#, HashAlgorithm::Sha256),
        (r#","extra-params":{"selected-hash-algorithm":"sha384"}"#, HashAlgorithm::Sha384),
        (r#","extra-params":{"selected-hash-algorithm":"SHA512"}"#, HashAlgorithm::Sha512),
        (r#","extra-params":{"selected-hash-algorithm":"sm3"}"#, HashAlgorithm::Sm3),
    ] {
        ground.forget();
        ground.kbs.behave();
        ground.kbs.on(Step::Auth, always(Reply::Challenge(format!(r#"{{"nonce":"NONCE"{extra}}}"#))));
        let answer = ground.ask();
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, crate::SECRET),
            "{extra}: {}",
            answer.text()
        );
        assert_eq!(ground.kbs.bound_by(), Some(hash), "{extra}");
    }
}

#[test]
fn a_malformed_challenge_is_refused_and_costs_no_evidence() {
    let mut ground = Ground::new();
    let bad = "KBS_BAD_RESPONSE";
    let extra = |value: &str| format!(r#"{{"nonce":"NONCE","extra-params":{value}}}"#);
    let cases: Vec<(&'static str, String, &'static str)> = vec![
        ("extra-params is text", extra(r#""sha384""#), "extra-params"),
        ("extra-params is a list", extra("[]"), "extra-params"),
        ("extra-params is a number", extra("3"), "extra-params"),
        ("unknown hash", extra(r#"{"selected-hash-algorithm":"md5"}"#), "md5"),
        ("empty hash", extra(r#"{"selected-hash-algorithm":""}"#), "was not offered"),
        ("hash of another type", extra(r#"{"selected-hash-algorithm":5}"#), "selected-hash-algorithm"),
        ("hash is null", extra(r#"{"selected-hash-algorithm":null}"#), "selected-hash-algorithm"),
        (
            "two hashes",
            extra(r#"{"selected-hash-algorithm":"sha256","selected-hash-algorithm":"sha512"}"#),
            "twice",
        ),
        ("no nonce", r#"{"extra-params":""}"#.to_owned(), "missing"),
        ("nonce is a number", r#"{"nonce":1,"extra-params":""}"#.to_owned(), "wrong type"),
        ("nonce is null", r#"{"nonce":null,"extra-params":""}"#.to_owned(), "wrong type"),
        ("empty nonce", r#"{"nonce":"","extra-params":""}"#.to_owned(), "a nonce of 0 bytes"),
        ("two nonces", r#"{"nonce":"a","nonce":"NONCE","extra-params":""}"#.to_owned(), "twice"),
        ("two extra-params", r#"{"nonce":"NONCE","extra-params":"","extra-params":{}}"#.to_owned(), "twice"),
        ("half a nonce", r#"{"nonce":"\ud800","extra-params":""}"#.to_owned(), "not JSON"),
        ("a nonce too long", format!(r#"{{"nonce":"{}"}}"#, "n".repeat(65_537)), "a nonce of 65537 bytes"),
        ("1 MB nonce", format!(r#"{{"nonce":"{}"}}"#, "n".repeat(1_000_000)), "a nonce of 1000000 bytes"),
        ("not JSON", "<html>welcome</html>".to_owned(), "not JSON"),
        ("no body", String::new(), "ends too early"),
        ("half a body", r#"{"nonce":"NON"#.to_owned(), "ends too early"),
        ("more than one value", r#"{"nonce":"NONCE"}{}"#.to_owned(), "not JSON"),
        ("a list", r#"["NONCE",""]"#.to_owned(), "a list where an object is expected"),
        ("deeply nested", format!(r#"{{"nonce":"NONCE","extra-params":{}"#, "[".repeat(100_000)), "ends too early"),
        ("nested and closed", extra(&format!("{}{}", "[".repeat(1000), "]".repeat(1000))), "extra-params"),
        (
            "an error with 200",
            r#"{"type":"https://github.com/confidential-containers/kbs/errors/AttestationError","detail":"no"}"#
                .to_owned(),
            "missing",
        ),
    ];
    for (name, body, says) in cases {
        ground.kbs.behave();
        ground.kbs.on(Step::Auth, always(Reply::Challenge(body)));
        expect(&ground.ask(), name, (502, bad, says));
        assert_eq!(ground.kbs.asked(Step::Auth), 1, "{name}: it is not asked again");
        assert_eq!(ground.kbs.asked(Step::Attest), 0, "{name}: no evidence was sent");
    }
    ground.serves("malformed challenges");
    let body = format!(r#"{{"nonce":"{}"}}"#, "n".repeat(1_000_000));
    ground.repeat("1 MB nonce", Step::Auth, always(Reply::Challenge(body)));
    ground.repeat("not JSON", Step::Auth, always(Reply::Challenge("welcome".to_owned())));

    let over = format!(r#"{{"nonce":"{}"}}"#, "n".repeat(2 << 20));
    ground.play(vec![row(
        "2 MiB nonce",
        Step::Auth,
        always(Reply::Challenge(over)),
        (502, "KBS_RESPONSE_TOO_LARGE", "the answer to auth"),
    )]);
}

#[test]
fn a_challenge_needs_exactly_one_session_cookie() {
    let mut ground = Ground::new();
    let good = || Reply::http(200, r#"{"nonce":"abc","extra-params":""}"#);
    let cookie = |value: &str| always(good().with("Set-Cookie", value));
    let bad = |says| (502, "KBS_BAD_RESPONSE", says);
    let long = format!("kbs-session-id={}", "a".repeat(600));
    let two = good().with("Set-Cookie", "kbs-session-id=a").with("Set-Cookie", "kbs-session-id=b");
    ground.play(vec![
        row("no cookie", Step::Auth, always(good()), bad("no session cookie")),
        row("another cookie", Step::Auth, cookie("id=1; Path=/"), bad("no session cookie")),
        row("empty cookie", Step::Auth, cookie("kbs-session-id=; Path=/"), bad("malformed session cookie")),
        row("600 characters", Step::Auth, cookie(&long), bad("malformed session cookie")),
        row("a quoted cookie", Step::Auth, cookie("kbs-session-id=\"a b\""), bad("malformed session cookie")),
        row("two cookies", Step::Auth, always(two), bad("two different session cookies")),
    ]);
}

#[test]
fn another_protocol_version_is_named_beside_ours() {
    let mut ground = Ground::new();
    for detail in [
        "protocol version mismatch: expect 0.3.0, requested 0.4.0",
        "Request version is 0.4.0, but the server's is 0.3.0",
    ] {
        ground.kbs.behave();
        ground.kbs.on(Step::Auth, always(Reply::problem(401, "AttestationError", detail)));
        let answer = ground.ask();
        expect(&answer, detail, (502, "KBS_PROTOCOL_VERSION", "protocol version 0.4.0 but 0.3.0"));
        assert_eq!(ground.kbs.asked(Step::Auth), 1, "{detail}: it is not asked again");
    }
    ground.serves("another version");
}
