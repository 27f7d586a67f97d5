//! Tokens straight from an attestation service.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cc_kbs::KbsConfig;
use cc_kbs::as_token::AttestationService;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::evidence::Machine;
use crate::server::{Kbs, Reply, Step};
use crate::soon;

#[tokio::test]
async fn the_token_is_the_answer_as_it_is() {
    let server = Kbs::start().await;
    let service = AttestationService::new(&KbsConfig::new(server.url())).unwrap();
    server.always(Step::Attest, Reply::status(200, "a.b.c"));
    let token = service.token(&Machine::default(), soon()).await.unwrap();
    assert_eq!(token.expose(), b"a.b.c");
    let seen = server.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("POST", "/attestation"));
    let body: Value = serde_json::from_slice(&seen[0].body).unwrap();
    let evidence = URL_SAFE_NO_PAD.encode(r#"{"svn":"1","report_data":""}"#);
    assert_eq!(
        body,
        json!({"verification_requests": [{"tee": "sample", "evidence": evidence}], "policy_ids": []})
    );
}

#[tokio::test]
async fn failures() {
    let server = Kbs::start().await;
    let service = AttestationService::new(&KbsConfig::new(server.url())).unwrap();
    for (status, code) in [
        (401, "KBS_DENIED_ATTESTATION"),
        (403, "KBS_DENIED_ATTESTATION"),
        (400, "KBS_BAD_RESPONSE"),
        (302, "KBS_REDIRECT"),
    ] {
        server.script(Step::Attest, [Reply::status(status, "no")]);
        let e = service.token(&Machine::default(), soon()).await.unwrap_err();
        assert_eq!(e.code(), code);
    }
    let before = server.count(Step::Attest);
    server.script(Step::Attest, [Reply::status(500, ""), Reply::status(200, "t")]);
    assert_eq!(service.token(&Machine::default(), soon()).await.unwrap().expose(), b"t");
    assert_eq!(server.count(Step::Attest), before + 2);
    server.always(Step::Attest, Reply::status(500, ""));
    let deadline = Instant::now() + Duration::from_millis(400);
    assert_eq!(service.token(&Machine::default(), deadline).await.unwrap_err().code(), "KBS_SERVER_ERROR");
}
