//! Everything that a broker may answer in place of a success: each error type, each kind of status.

use cc_protos::api::get_resource_service_client::GetResourceServiceClient;
use cc_protos::api::{GetResourceRequest, GetResourceResponse};
use cc_tests::hostile_kbs::{ERROR_TYPE, Reply, Step};

use super::{Ground, always, expect, row};
use crate::rpc::{channel, ttrpc, ttrpc_client};

/// Every error type of the protocol.
const KINDS: [&str; 19] = [
    "AttestationError",
    "TokenNotFound",
    "TokenVerifierError",
    "PolicyDeny",
    "PolicyEngineError",
    "ParsePolicyError",
    "PluginInternalError",
    "PluginNotFound",
    "InvalidRequestPath",
    "JweError",
    "AdminAuthAccess",
    "AdminAuthInitialization",
    "RvpsError",
    "SerdeError",
    "PrometheusError",
    "HTTPFailed",
    "HTTPSFailed",
    "PluginManagerInitialization",
    "StorageBackendInitialization",
];

/// What a 401 of this type means for a resource, and how many requests it costs.
fn meaning(kind: &str) -> (u16, &'static str, usize) {
    match kind {
        "PolicyDeny" => (403, "KBS_DENIED_POLICY", 1),
        "PolicyEngineError" | "ParsePolicyError" | "RvpsError" => (403, "KBS_DENIED", 1),
        "PluginInternalError" | "PluginNotFound" | "InvalidRequestPath" => (404, "KBS_NOT_FOUND", 1),
        _ => (403, "KBS_DENIED", 2),
    }
}

#[test]
fn every_error_type_with_401_is_final_in_every_step() {
    let mut ground = Ground::new();
    for kind in KINDS {
        for step in [Step::Auth, Step::Attest] {
            let name = format!("{kind} at {step:?}");
            ground.kbs.behave();
            ground.kbs.on(step, always(Reply::problem(401, kind, "because of the moon")));
            let code = if step == Step::Auth { "KBS_DENIED_AUTH" } else { "KBS_DENIED_ATTESTATION" };
            let answer = ground.ask();
            expect(&answer, &name, (403, code, "because of the moon"));
            assert!(answer.text().contains(kind), "{name}: {}", answer.text());
            assert_eq!(ground.kbs.asked(step), 1, "{name}: a denial is not asked again");
        }
    }
    ground.serves("refused handshakes");
    for kind in KINDS {
        let (status, code, requests) = meaning(kind);
        ground.kbs.behave();
        ground.kbs.on(Step::Resource, always(Reply::problem(401, kind, "because of the moon")));
        expect(&ground.ask(), kind, (status, code, "because of the moon"));
        assert_eq!(ground.kbs.asked(Step::Resource), requests, "{kind}");
        assert_eq!(ground.kbs.asked(Step::Attest), requests - 1, "{kind}: one handshake more, if any");
        ground.serves(kind);
    }
    ground.repeat("refused auth", Step::Auth, always(Reply::problem(401, "AttestationError", "no")));
    ground.repeat("refused evidence", Step::Attest, always(Reply::problem(401, "AttestationError", "no")));
    ground.repeat("refused token", Step::Resource, always(Reply::problem(401, "TokenVerifierError", "no")));
    ground.repeat(
        "missing resource",
        Step::Resource,
        always(Reply::problem(401, "PluginInternalError", "no")),
    );
}

/// A body for a status: none, HTML, JSON of another shape, JSON of the protocol.
fn bodies() -> [(&'static str, String); 6] {
    [
        ("no body", String::new()),
        ("HTML", "<html><body>nginx</body></html>".to_owned()),
        ("other JSON", r#"{"message":"no"}"#.to_owned()),
        ("a list", format!(r#"["{ERROR_TYPE}PolicyDeny","because of the moon"]"#)),
        ("ambiguous JSON", format!(r#"{{"type":"{ERROR_TYPE}PolicyDeny","type":"x","detail":"y"}}"#)),
        ("KBS JSON", format!(r#"{{"type":"{ERROR_TYPE}SomethingNew","detail":"because of the moon"}}"#)),
    ]
}

#[test]
fn statuses_are_taken_at_their_word_with_and_without_json() {
    let mut ground = Ground::new();
    for (title, body) in bodies() {
        for (step, status, expected) in [
            (Step::Auth, 401, (403, "KBS_DENIED_AUTH")),
            (Step::Auth, 403, (403, "KBS_DENIED_AUTH")),
            (Step::Auth, 404, (502, "KBS_BAD_RESPONSE")),
            (Step::Auth, 418, (502, "KBS_BAD_RESPONSE")),
            (Step::Auth, 204, (502, "KBS_BAD_RESPONSE")),
            (Step::Attest, 401, (403, "KBS_DENIED_ATTESTATION")),
            (Step::Attest, 403, (403, "KBS_DENIED_ATTESTATION")),
            (Step::Attest, 404, (502, "KBS_BAD_RESPONSE")),
            (Step::Attest, 418, (502, "KBS_BAD_RESPONSE")),
            (Step::Attest, 201, (502, "KBS_BAD_RESPONSE")),
            (Step::Resource, 401, (403, "KBS_DENIED")),
            (Step::Resource, 403, (403, "KBS_DENIED")),
            (Step::Resource, 404, (404, "KBS_NOT_FOUND")),
            (Step::Resource, 418, (502, "KBS_BAD_RESPONSE")),
            (Step::Resource, 206, (502, "KBS_BAD_RESPONSE")),
        ] {
            let name = format!("{status} with {title} at {step:?}");
            ground.kbs.behave();
            // A 204 with a body would be one more fault.
            let body = if status == 204 { "" } else { &body };
            ground.kbs.on(step, always(Reply::http(status, body)));
            // No session, or the handshake would not run.
            if step != Step::Resource {
                ground.kbs.lose_sessions();
            }
            expect(&ground.ask(), &name, (expected.0, expected.1, &format!("status {status}")));
        }
        ground.serves(title);
        ground.forget();
    }
}

#[test]
fn a_server_error_is_asked_again_and_forgotten() {
    let mut ground = Ground::new();
    for (title, body) in bodies().into_iter().filter(|(title, _)| matches!(*title, "no body" | "KBS JSON")) {
        for status in [500, 502, 503, 504, 429] {
            for step in Step::ALL {
                let name = format!("{status} with {title} at {step:?}");
                ground.kbs.behave();
                ground.kbs.lose_sessions();
                let body = body.clone();
                ground.kbs.on(step, move |e| match e.number {
                    1 => Reply::http(status, &body),
                    _ => Reply::Honest,
                });
                let answer = ground.ask();
                assert_eq!((answer.status, answer.body.as_slice()), (200, crate::SECRET), "{name}");
                assert!(ground.kbs.asked(step) >= 2, "{name}: it was asked again");
            }
        }
    }
    ground.forget();
    ground.serves("server errors");
}

#[test]
fn an_error_type_speaks_before_the_status() {
    let mut ground = Ground::new();
    let problem = |status, kind| always(Reply::problem(status, kind, "because of the moon"));
    ground.play(vec![
        row("500 PolicyDeny", Step::Resource, problem(500, "PolicyDeny"), (403, "KBS_DENIED_POLICY", "moon")),
        row("404 PolicyDeny", Step::Resource, problem(404, "PolicyDeny"), (403, "KBS_DENIED_POLICY", "moon")),
        row(
            "500 missing",
            Step::Resource,
            problem(500, "PluginInternalError"),
            (404, "KBS_NOT_FOUND", "moon"),
        ),
        row("500 at auth", Step::Auth, problem(500, "AttestationError"), (403, "KBS_DENIED_AUTH", "moon")),
        row(
            "500 at attest",
            Step::Attest,
            problem(500, "AttestationError"),
            (403, "KBS_DENIED_ATTESTATION", "moon"),
        ),
    ]);
}

#[test]
fn the_text_of_a_broker_is_cut_and_cleaned() {
    let mut ground = Ground::new();
    let hostile = format!("one\ntwo\u{1b}[31m\u{202e}{}", "x".repeat(60_000));
    ground.kbs.on(Step::Auth, always(Reply::problem(401, "AttestationError", &hostile)));
    let answer = ground.ask();
    expect(&answer, "long and colourful", (403, "KBS_DENIED_AUTH", "one two [31m xxx"));
    assert!(answer.body.len() < 3000, "{} bytes", answer.body.len());
    let log = std::fs::read_to_string(ground.stack.folder().join("confidential-data-hub.log")).unwrap();
    assert!(!log.contains("\u{1b}[31m") && !log.contains('\u{202e}'), "{log}");
    ground.serves("a colourful broker");
}

#[test]
fn rpc_callers_get_internal_with_the_code_on_both_transports() {
    let mut ground = Ground::new();
    let hub = ground.stack.hub_socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = || GetResourceRequest { resource_path: format!("kbs:///{}", crate::RESOURCE) };
    for (step, reply, code, blame) in [
        (Step::Auth, Reply::problem(401, "AttestationError", "no"), "KBS_DENIED_AUTH", "denied"),
        (Step::Auth, Reply::http(302, ""), "KBS_REDIRECT", "misbehaved"),
        (Step::Attest, Reply::problem(401, "AttestationError", "no"), "KBS_DENIED_ATTESTATION", "denied"),
        (Step::Resource, Reply::problem(401, "PolicyDeny", "no"), "KBS_DENIED_POLICY", "denied"),
        (Step::Resource, Reply::problem(401, "PluginInternalError", "no"), "KBS_NOT_FOUND", "absent"),
        (Step::Resource, Reply::http(200, crate::SECRET), "KBS_JWE_INVALID", "misbehaved"),
    ] {
        ground.kbs.behave();
        ground.kbs.on(step, always(reply));
        runtime.block_on(async {
            let mut grpc = GetResourceServiceClient::new(channel(&hub).await);
            let status = grpc.get_resource(request()).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Internal, "{code}: {status}");
            let message = status.message();
            assert!(
                message.starts_with("[CDH] [ERROR]: ") && message.ends_with(&format!(" [{code}]")),
                "{message}"
            );
            let details = String::from_utf8_lossy(status.details()).into_owned();
            assert!(details.contains(code) && details.contains(blame), "{code}: {details}");

            let client = ttrpc_client(&hub).await;
            let (status, message) =
                ttrpc::<_, GetResourceResponse>(&client, "api.GetResourceService", "GetResource", request())
                    .await
                    .unwrap_err();
            assert_eq!(status, tonic::Code::Internal as i32, "{code}: {message}");
            assert!(
                message.starts_with("[CDH] [ERROR]: ") && message.ends_with(&format!(" [{code}]")),
                "{message}"
            );
        });
        ground.serves(code);
        ground.kbs.lose_sessions();
    }
}
