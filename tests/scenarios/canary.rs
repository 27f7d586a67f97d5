//! Nothing secret in any log, at the most talkative level there is.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cc_tests::machine::Machine;
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Part, address};

use crate::{REST_PATH, SECRET, stack};

#[test]
fn logs_at_trace_hold_no_secret_token_or_key() {
    let Some(mut stack) = stack(Options { log: Some("trace".to_owned()), ..Options::default() }) else {
        return;
    };
    assert_eq!(stack.rest_get(REST_PATH).unwrap().body, SECRET);
    // Errors pass through as well, and a token with its private key.
    assert_eq!(stack.rest_get("/cdh/resource/default/key/missing").unwrap().status, 404);
    let rest_token = stack.rest_get("/aa/token?token_type=kbs").unwrap();
    assert_eq!(rest_token.status, 200, "{}", rest_token.text());
    assert!(!rest_token.text().contains("PRIVATE KEY"), "the key stays behind over REST");
    let out = stack.folder().join("token-with-key.json");
    let token = own_binary("guestctl")
        .unwrap()
        .args(["token", "--with-key", "--aa", &address(&stack.agent_socket()), "--output"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    let with_key: serde_json::Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let pem = with_key["tee_keypair"].as_str().unwrap().to_owned();
    assert!(pem.contains("PRIVATE KEY"));
    stack.stop_part(Part::Hub).unwrap();
    stack.set_machine(&Machine { measurement: "66".repeat(48), ..Machine::default() }).unwrap();
    stack.start_part(Part::Hub).unwrap();
    let denied = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(denied.status, 403);

    let mut canaries = vec![
        ("the secret", SECRET.to_vec()),
        ("the secret in base64", STANDARD.encode(SECRET).into_bytes()),
        ("the secret in base64url", URL_SAFE_NO_PAD.encode(SECRET).into_bytes()),
        ("the secret in hex", hex::encode(SECRET).into_bytes()),
        ("the secret as a byte list", format!("{SECRET:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
        ("a private key", b"PRIVATE KEY".to_vec()),
        // Every JWS and JWE of this protocol begins with the encoding of `{"`, and its second part with it too.
        ("a token", b".eyJ".to_vec()),
        ("the start of a token", b"eyJhbGciOi".to_vec()),
        ("the start of a token", b"eyJ0eXAiOi".to_vec()),
        ("the session cookie", b"kbs-session-id=".to_vec()),
    ];
    let body: String = pem.lines().filter(|l| !l.starts_with('-')).collect();
    canaries.push(("the private key's text", body.as_bytes()[40..72].to_vec()));
    let token = with_key["token"].as_str().unwrap();
    canaries.push(("the token's signature", token.rsplit('.').next().unwrap().as_bytes().to_vec()));

    for part in [Part::Rest, Part::Hub, Part::Agent, Part::Kbs, Part::Emulator] {
        let log = stack.part(part).unwrap().log();
        if matches!(part, Part::Rest | Part::Hub | Part::Agent) {
            assert!(log.contains("TRACE") || log.contains("DEBUG"), "{part:?} logs at trace:\n{log}");
        }
        for (what, canary) in &canaries {
            let found = log.as_bytes().windows(canary.len()).any(|w| w == canary);
            assert!(!found, "{part:?} logged {what}");
        }
    }
    for (what, canary) in &canaries {
        assert!(!denied.body.windows(canary.len()).any(|w| w == canary), "an error body holds {what}");
    }
}
