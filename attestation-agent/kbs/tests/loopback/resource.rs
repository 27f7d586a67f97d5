//! What the KBS may say to a request, and what becomes of it.

use std::time::Duration;

use cc_kbs::Blame;

use crate::server::{CANARY, Kbs, Reply, Step, secret, token};
use crate::{session, session_of, soon, uri};

#[tokio::test]
async fn final_answers_cost_one_request() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    for (reply, code, blame) in [
        (Reply::problem(401, "PolicyDeny", "told"), "KBS_DENIED_POLICY", Blame::Denied),
        (Reply::problem(401, "PluginInternalError", "told"), "KBS_NOT_FOUND", Blame::Absent),
        (Reply::problem(401, "RvpsError", "told"), "KBS_DENIED", Blame::Denied),
        (Reply::problem(401, "ParsePolicyError", "told"), "KBS_DENIED", Blame::Denied),
        (Reply::problem(404, "PluginNotFound", "told"), "KBS_NOT_FOUND", Blame::Absent),
        (Reply::problem(403, "New", "told"), "KBS_DENIED", Blame::Denied),
        (Reply::status(403, "<html>told"), "KBS_DENIED", Blame::Denied),
        (Reply::status(404, "<html>"), "KBS_NOT_FOUND", Blame::Absent),
        (Reply::status(400, ""), "KBS_BAD_RESPONSE", Blame::Misbehaved),
        (Reply::status(302, ""), "KBS_REDIRECT", Blame::Misbehaved),
        (Reply::status(200, "not a JWE"), "KBS_JWE_INVALID", Blame::Misbehaved),
    ] {
        let before = kbs.count(Step::Resource);
        kbs.script(Step::Resource, [reply.clone()]);
        let e = session.fetch(&uri(), soon()).await.unwrap_err();
        assert_eq!((e.code(), e.blame()), (code, blame), "{reply:?}");
        assert_eq!(kbs.count(Step::Resource), before + 1);
        assert!(!e.hint().is_empty());
        if blame == Blame::Denied {
            assert_eq!(session.status().last_denial.unwrap().code, code);
        }
    }
    assert_eq!(kbs.count(Step::Auth), 1, "no new handshake for any of them");
}

#[tokio::test]
async fn a_denial_tells_both_sides() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    let document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"x\" = \"y\"\n";
    *machine.init_data.lock().unwrap() = Some(document.to_owned());
    kbs.always(Step::Resource, Reply::problem(401, "PolicyDeny", "measurement\nnot \u{1b}[31mallowed"));
    let e = session.fetch(&uri(), soon()).await.unwrap_err();
    let text = e.to_string();
    let digest = hex::encode(cc_evidence::initdata::InitData::parse(document).unwrap().digest());
    for part in ["kbs:///default/key/1", "PolicyDeny", "measurement not [31mallowed", "401", "svn=1", &digest]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.chars().any(char::is_control));
}

#[tokio::test]
async fn a_refused_token_costs_one_handshake_and_one_more_request() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    for (i, reply) in [
        Reply::problem(401, "TokenNotFound", ""),
        Reply::problem(401, "TokenVerifierError", ""),
        Reply::problem(401, "SomethingNew", ""),
        Reply::status(401, "<html>proxy</html>"),
    ]
    .into_iter()
    .enumerate()
    {
        session.fetch(&uri(), soon()).await.unwrap();
        assert_eq!(kbs.count(Step::Auth), i + 1);
        kbs.script(Step::Resource, [reply]);
        let found = session.fetch(&uri(), soon()).await.unwrap();
        assert_eq!(found.expose(), secret("/kbs/v0/resource/default/key/1"));
        assert_eq!(kbs.count(Step::Auth), i + 2);
    }
}

#[tokio::test]
async fn a_token_refused_twice_is_a_denial() {
    let kbs = Kbs::start().await;
    kbs.always(Step::Resource, Reply::problem(401, "TokenVerifierError", "signer unknown"));
    let (session, _) = session(&kbs);
    let e = session.fetch(&uri(), soon()).await.unwrap_err();
    assert_eq!((e.code(), e.blame()), ("KBS_DENIED", Blame::Denied));
    assert!(e.to_string().contains("signer unknown") && !e.to_string().contains(CANARY));
    assert_eq!((kbs.count(Step::Auth), kbs.count(Step::Resource)), (2, 2));
}

#[tokio::test]
async fn many_that_lose_their_token_at_once_share_the_new_one() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    kbs.revoke();
    *machine.delay.lock().unwrap() = Duration::from_millis(300);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let session = session.clone();
        tasks.spawn(async move { session.fetch(&uri(), soon()).await.map(drop) });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (2, 2));
}

#[tokio::test]
async fn denied_evidence_is_final_unless_the_session_at_the_kbs_was_old() {
    let kbs = Kbs::start().await;
    let no = || Reply::problem(401, "AttestationError", "");
    kbs.script(Step::Attest, [no()]);
    let (session, machine) = session(&kbs);
    assert_eq!(session.fetch(&uri(), soon()).await.unwrap_err().code(), "KBS_DENIED_ATTESTATION");
    assert_eq!((kbs.count(Step::Auth), kbs.count(Step::Attest)), (1, 1));
    session.forget();

    let in_an_hour = || tokio::time::Instant::now() + Duration::from_secs(3600);
    kbs.script(Step::Attest, [no()]);
    machine.jumps.lock().unwrap().push_back(Duration::from_secs(301));
    session.fetch(&uri(), in_an_hour()).await.unwrap();
    assert_eq!((kbs.count(Step::Auth), kbs.count(Step::Attest)), (3, 3));

    session.forget();
    kbs.script(Step::Attest, [no(), no(), no()]);
    machine.jumps.lock().unwrap().extend([Duration::from_secs(301), Duration::from_secs(301)]);
    assert_eq!(session.fetch(&uri(), in_an_hour()).await.unwrap_err().code(), "KBS_DENIED_ATTESTATION");
    assert_eq!((kbs.count(Step::Auth), kbs.count(Step::Attest)), (5, 5), "once more, not twice");
}

#[tokio::test]
async fn refused_auth_is_final() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    kbs.always(Step::Auth, Reply::problem(401, "AttestationError", "unknown tee"));
    assert_eq!(session.fetch(&uri(), soon()).await.unwrap_err().code(), "KBS_DENIED_AUTH");
    session.forget();
    kbs.always(
        Step::Auth,
        Reply::problem(
            401,
            "AttestationError",
            "Protocol Version Mismatch: expect 0.5.0 while the request is 0.4.0",
        ),
    );
    let e = session.fetch(&uri(), soon()).await.unwrap_err();
    assert_eq!((e.code(), e.blame()), ("KBS_PROTOCOL_VERSION", Blame::Misbehaved));
    assert!(e.to_string().contains("0.5.0") && e.to_string().contains("0.4.0"), "{e}");
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (2, 0));
}

#[tokio::test]
async fn a_denial_answers_newcomers_for_a_while_without_another_quote() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    kbs.always(Step::Attest, Reply::problem(401, "AttestationError", "no such measurement"));
    for _ in 0..20 {
        let e = session.fetch(&uri(), soon()).await.unwrap_err();
        assert_eq!(e.code(), "KBS_DENIED_ATTESTATION");
    }
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (1, 1));
    session.forget();
    assert!(session.fetch(&uri(), soon()).await.is_err());
    assert_eq!(machine.quotes(), 2, "another machine state is attested anew");
}

#[tokio::test]
async fn a_resource_that_no_token_opens_does_not_cost_a_quote_for_each_request() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    kbs.always(Step::Resource, Reply::status(401, "who are you?"));
    for _ in 0..20 {
        assert_eq!(session.fetch(&uri(), soon()).await.unwrap_err().code(), "KBS_DENIED");
    }
    assert_eq!(machine.quotes(), 2, "the first, and one try to do better");
}

#[tokio::test]
async fn probing() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    session.probe(soon()).await.unwrap();
    assert_eq!((kbs.seen()[0].path.as_str(), kbs.count(Step::Auth), machine.quotes()), ("/healthz", 1, 0));
    assert_eq!(session.status().handshakes, 0);
    kbs.always(Step::Auth, Reply::problem(401, "AttestationError", "version 9.9.9"));
    assert_eq!(session.probe(soon()).await.unwrap_err().code(), "KBS_PROTOCOL_VERSION");
    let port = kbs.port();
    drop(kbs);
    tokio::task::yield_now().await;
    let dead = session_of(&format!("http://127.0.0.1:{port}"), &machine);
    assert_eq!(dead.probe(soon()).await.unwrap_err().code(), "KBS_UNREACHABLE");
}

#[tokio::test]
async fn a_prefix_in_the_url_is_kept() {
    let kbs = Kbs::start().await;
    let machine = std::sync::Arc::new(crate::Machine::default());
    let session = session_of(&format!("{}/tenant/", kbs.url()), &machine);
    let e = session.fetch(&uri(), soon()).await.unwrap_err();
    assert_eq!(e.code(), "KBS_BAD_RESPONSE", "there is no KBS: {e}");
    assert_eq!(kbs.seen()[0].path, "/tenant/kbs/v0/auth");
}

#[tokio::test]
async fn unusable_tokens_are_refused() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    for body in
        ["{}".to_owned(), format!(r#"{{"token":"{}"}}"#, token(&serde_json::json!({"iat": 9, "exp": 3})))]
    {
        kbs.script(Step::Attest, [Reply::status(200, body)]);
        let e = session.fetch(&uri(), soon()).await.unwrap_err();
        assert_eq!(e.code(), "KBS_BAD_RESPONSE");
        assert!(!format!("{e:?}").contains(CANARY));
    }
}
