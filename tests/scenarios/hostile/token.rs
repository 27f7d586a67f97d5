//! Tokens: what is no token is refused, and a life is `exp − iat`, whatever the wall clock says.

use cc_tests::hostile_kbs::{Reply, Step, jwt, unix_now};
use serde_json::json;

use super::{Ground, always, expect};

#[test]
fn what_is_no_token_is_refused() {
    let mut ground = Ground::new();
    let now = unix_now();
    let token = |text: &str| json!({ "token": text }).to_string();
    let unreadable = "an unreadable token";
    let cases = [
        ("no token", "{}".to_owned(), "missing"),
        ("null", r#"{"token":null}"#.to_owned(), "wrong type"),
        ("two tokens", r#"{"token":"a.b.c","token":"d.e.f"}"#.to_owned(), "twice"),
        ("a list", json!([jwt(&json!({"iat": now, "exp": now + 300}))]).to_string(), "a list"),
        ("not JSON", "a.b.c".to_owned(), "not JSON"),
        ("no body", String::new(), "ends too early"),
        ("garbage", token("garbage"), unreadable),
        ("empty", token(""), unreadable),
        ("two parts", token("a.b"), unreadable),
        ("four parts", token("a.b.c.d"), unreadable),
        ("payload is no base64", token("a.!!.c"), unreadable),
        ("payload is no JSON", token("e30.bm90IGpzb24.c"), unreadable),
        ("exp is text", token(&jwt(&json!({"iat": now, "exp": "soon"}))), unreadable),
        ("exp is negative", token(&jwt(&json!({"iat": now, "exp": -1}))), unreadable),
        ("ends as it begins", token(&jwt(&json!({"iat": now, "exp": now}))), "expires before it was issued"),
        (
            "ends before it begins",
            token(&jwt(&json!({"iat": now, "exp": now - 60}))),
            "expires before it was issued",
        ),
        (
            "300 KiB",
            token(&jwt(&json!({"iat": now, "exp": now + 300, "x": "x".repeat(300 << 10)}))),
            unreadable,
        ),
        (
            "line feed",
            token(&format!("{}\r\nX-Other: 1", jwt(&json!({"iat": now, "exp": now + 300})))),
            "header",
        ),
    ];
    for (name, body, says) in cases {
        ground.kbs.behave();
        ground.kbs.on(Step::Attest, always(Reply::http(200, &body)));
        expect(&ground.ask(), name, (502, "KBS_BAD_RESPONSE", says));
        assert_eq!(ground.kbs.asked(Step::Attest), 1, "{name}: it is not asked again");
        assert_eq!(ground.kbs.asked(Step::Resource), 0, "{name}");
    }
    ground.serves("tokens that are none");
    ground.repeat("garbage", Step::Attest, always(Reply::http(200, token("garbage"))));
}

#[test]
fn the_life_of_a_token_is_its_length_not_its_date() {
    let mut ground = Ground::new();
    let now = unix_now();
    for (name, claims) in [
        ("expired an hour ago", json!({"iat": now - 3900, "exp": now - 3600})),
        ("issued in an hour", json!({"iat": now + 3600, "exp": now + 3900})),
        ("issued in 1970", json!({"iat": 0, "exp": 300})),
        ("issued in the far future", json!({"iat": u64::MAX - 300, "exp": u64::MAX})),
        ("lives forever", json!({"iat": now, "exp": u64::MAX})),
        ("without times", json!({"jti": 1})),
    ] {
        ground.forget();
        ground.kbs.behave();
        ground.kbs.on(Step::Attest, move |_| Reply::Token(claims.clone()));
        for _ in 0..3 {
            let answer = ground.ask();
            assert_eq!(
                (answer.status, answer.body.as_slice()),
                (200, crate::SECRET),
                "{name}: {}",
                answer.text()
            );
        }
        assert_eq!(ground.kbs.asked(Step::Attest), 1, "{name}: one attestation, three secrets");
    }
}

#[test]
fn a_token_that_the_broker_calls_expired_costs_one_handshake_and_then_an_error() {
    let mut ground = Ground::new();
    ground.serves("the start");
    let expired = || Reply::problem(401, "TokenVerifierError", "ExpiredSignature");
    ground.kbs.behave();
    ground.kbs.on(Step::Resource, move |e| if e.number == 1 { expired() } else { Reply::Honest });
    assert_eq!(ground.ask().status, 200, "a new token heals it");
    assert_eq!((ground.kbs.asked(Step::Attest), ground.kbs.asked(Step::Resource)), (1, 2));
    ground.kbs.behave();
    ground.kbs.on(Step::Resource, move |_| expired());
    expect(&ground.ask(), "expired for ever", (403, "KBS_DENIED", "ExpiredSignature"));
    assert_eq!((ground.kbs.asked(Step::Attest), ground.kbs.asked(Step::Resource)), (1, 2));
    ground.serves("a broker that forgets");
    ground.kbs.lose_sessions();
    ground.serves("lost sessions");
    ground.forget();
    ground.serves("a new hub");
}
