//! One handshake for many, renewal, forgetting.

use std::sync::atomic::Ordering;
use std::time::Duration;

use cc_kbs::{Blame, KeyAlgorithm, Session, SourceFault};
use serde_json::json;
use tokio::time::Instant;

use crate::evidence::jump_ahead;
use crate::server::{CANARY, Kbs, Reply, Step, secret, until};
use crate::{session, soon, uri};

const PATH: &str = "/kbs/v0/resource/default/key/1";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_first_requests_cost_one_handshake() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let session = session.clone();
        tasks.spawn(async move { session.fetch(&uri(), soon()).await.unwrap() });
    }
    for found in tasks.join_all().await {
        assert_eq!(found.expose(), secret(PATH));
    }
    assert_eq!((kbs.count(Step::Auth), kbs.count(Step::Attest), machine.quotes()), (1, 1, 1));
    assert_eq!(kbs.count(Step::Resource), 1000);
    let status = session.status();
    assert_eq!((status.attested, status.handshakes, status.url), (true, 1, kbs.url()));
    assert!((60..=100).contains(&status.seconds_left), "{}", status.seconds_left);
}

#[tokio::test]
async fn a_thousand_waiters_share_one_denial() {
    let kbs = Kbs::start().await;
    kbs.always(Step::Attest, Reply::problem(401, "AttestationError", "measurement unknown"));
    let (session, machine) = session(&kbs);
    *machine.delay.lock().unwrap() = Duration::from_millis(1000);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let session = session.clone();
        tasks.spawn(async move { session.fetch(&uri(), soon()).await.unwrap_err() });
    }
    for e in tasks.join_all().await {
        assert_eq!((e.code(), e.blame()), ("KBS_DENIED_ATTESTATION", Blame::Denied));
        assert!(e.to_string().contains("measurement unknown"), "{e}");
    }
    assert_eq!((kbs.count(Step::Auth), kbs.count(Step::Attest), machine.quotes()), (1, 1, 1));
    let denial = session.status().last_denial.unwrap();
    assert_eq!(denial.code, "KBS_DENIED_ATTESTATION");
    assert!(denial.message.contains("measurement unknown"));
}

#[tokio::test]
async fn a_cancelled_leader_strands_nobody() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    *machine.delay.lock().unwrap() = Duration::from_millis(300);
    let leader = tokio::spawn({
        let session = session.clone();
        async move { session.fetch(&uri(), soon()).await.map(drop) }
    });
    until("evidence", || machine.quotes() == 1).await;
    let follower = tokio::spawn({
        let session = session.clone();
        async move { session.fetch(&uri(), soon()).await }
    });
    tokio::task::yield_now().await;
    leader.abort();
    assert_eq!(follower.await.unwrap().unwrap().expose(), secret(PATH));
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (1, 1));
}

#[tokio::test]
async fn an_impatient_waiter_leaves_alone() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    *machine.delay.lock().unwrap() = Duration::from_millis(500);
    let impatient = Instant::now() + Duration::from_millis(100);
    let uri = uri();
    let (early, late) = tokio::join!(session.fetch(&uri, impatient), session.fetch(&uri, soon()));
    assert_eq!(early.unwrap_err().code(), "KBS_TIMEOUT");
    assert_eq!(late.unwrap().expose(), secret(PATH));
    assert_eq!(kbs.count(Step::Auth), 1);
}

fn bearer_of_last_get(kbs: &Kbs) -> String {
    kbs.seen().iter().rev().find(|r| r.method == "GET").unwrap().header("authorization").unwrap().to_owned()
}

#[tokio::test]
async fn renewal_in_the_background_from_80_percent() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    let first = bearer_of_last_get(&kbs);
    jump_ahead(Duration::from_secs(78)).await;
    session.fetch(&uri(), soon()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(kbs.count(Step::Auth), 1, "not before 80 %");

    jump_ahead(Duration::from_secs(3)).await;
    *machine.delay.lock().unwrap() = Duration::from_millis(1000);
    for _ in 0..3 {
        session.fetch(&uri(), soon()).await.unwrap();
        assert_eq!(bearer_of_last_get(&kbs), first, "the old token serves meanwhile");
    }
    until("renewal", || session.status().handshakes == 2).await;
    session.fetch(&uri(), soon()).await.unwrap();
    assert_ne!(bearer_of_last_get(&kbs), first);
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (2, 2));

    jump_ahead(Duration::from_secs(101)).await;
    assert!(!session.status().attested);
    session.fetch(&uri(), soon()).await.unwrap();
    assert_eq!(kbs.count(Step::Auth), 3);
}

#[tokio::test]
async fn a_refused_renewal_is_tried_once_and_the_old_token_serves_to_its_end() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    kbs.always(Step::Attest, Reply::problem(401, "AttestationError", "revoked"));
    jump_ahead(Duration::from_secs(85)).await;
    session.fetch(&uri(), soon()).await.unwrap();
    until("denial", || session.status().last_denial.is_some()).await;
    for _ in 0..5 {
        session.fetch(&uri(), soon()).await.unwrap();
    }
    assert_eq!(kbs.count(Step::Attest), 2);
    jump_ahead(Duration::from_secs(20)).await;
    assert_eq!(session.fetch(&uri(), soon()).await.unwrap_err().code(), "KBS_DENIED_ATTESTATION");
}

#[tokio::test]
async fn forgetting_makes_new_evidence_even_while_a_handshake_runs() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    session.forget();
    assert!(!session.status().attested);
    *machine.delay.lock().unwrap() = Duration::from_millis(300);
    let before = tokio::spawn({
        let session = session.clone();
        async move { session.fetch(&uri(), soon()).await }
    });
    until("evidence", || machine.quotes() == 2).await;
    session.forget();
    let after = session.fetch(&uri(), soon()).await.unwrap();
    assert_eq!(after.expose(), secret(PATH));
    before.await.unwrap().unwrap();
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (3, 3));
    session.fetch(&uri(), soon()).await.unwrap();
    assert_eq!(kbs.count(Step::Auth), 3);
}

#[tokio::test]
async fn devices_are_told_when_the_token_vouches_for_each_of_them_and_nobody_waits_for_them() {
    let gpu = r#"{"arch":"HOPPER","uuid":"GPU-1","evidence":"EeAB/w==","certificate":"UEVN"}"#;
    for (sent, affirmed, told) in [(2, 2, 1), (2, 1, 0), (1, 2, 0), (2, 0, 0), (0, 1, 0)] {
        let kbs = Kbs::start().await;
        let (session, machine) = session(&kbs);
        kbs.affirm_gpus(affirmed);
        let list = vec![gpu; sent].join(",");
        let devices = format!(r#"{{"nvidia":{{"device_evidence_list":[{list}]}}}}"#);
        *machine.devices.lock().unwrap() = if sent == 0 { String::new() } else { devices };
        let began = Instant::now();
        session.fetch(&uri(), soon()).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        tokio::task::yield_now().await;
        assert_eq!(machine.accepted.load(Ordering::SeqCst), told, "{sent} sent, {affirmed} affirmed");
    }
}

#[tokio::test]
async fn the_wire_is_as_the_protocol_says() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    *machine.devices.lock().unwrap() = r#"{"sampledevice": {"svn":"1"}}"#.to_owned();
    let document = "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"x\" = \"y\"\n";
    *machine.init_data.lock().unwrap() = Some(document.to_owned());
    session.fetch(&uri(), soon()).await.unwrap();
    let attest = kbs.last_attest();
    assert_eq!(attest["init-data"], json!({"format": "toml", "body": document}));
    assert_eq!(attest["tee-evidence"]["additional_evidence"], r#"{"sampledevice": {"svn":"1"}}"#);
    let seen = kbs.seen();
    assert_eq!(seen.len(), 3);
    for req in &seen {
        let agent = concat!("attestation-agent-kbs-client/", env!("CARGO_PKG_VERSION"));
        assert_eq!(req.header("user-agent"), Some(agent));
        assert_eq!(req.header("accept-encoding"), None);
    }
    assert_eq!(seen[0].header("cookie"), None);
    assert!(seen[1].header("cookie").unwrap().starts_with("kbs-session-id="));
    assert!(!seen[1].header("cookie").unwrap().contains("tracker"));
    assert_eq!((seen[2].header("cookie"), seen[2].method.as_str()), (None, "GET"));
}

#[tokio::test]
async fn every_handshake_has_a_key_of_its_own() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    let mut keys = Vec::new();
    for _ in 0..3 {
        session.forget();
        session.fetch(&uri(), soon()).await.unwrap();
        keys.push(kbs.last_attest()["runtime-data"]["tee-pubkey"]["x"].clone());
    }
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
}

#[tokio::test]
async fn token_and_key_for_callers_that_open_resources_themselves() {
    let kbs = Kbs::start().await;
    for algorithm in KeyAlgorithm::ALL {
        let config = cc_kbs::KbsConfig { key_algorithm: algorithm, ..cc_kbs::KbsConfig::new(kbs.url()) };
        let session = Session::new(config, std::sync::Arc::new(crate::Machine::default())).unwrap();
        let attested = session.token(soon()).await.unwrap();
        let pem = attested.private_pem().unwrap();
        let key =
            cc_crypto::TeeKeyPair::from_private_pem(std::str::from_utf8(pem.expose()).unwrap()).unwrap();
        assert_eq!(key.public_jwk(), kbs.last_attest()["runtime-data"]["tee-pubkey"]);
        let again = session.token(soon()).await.unwrap();
        assert!(again.token().matches(attested.token().expose()), "a living token is given again");
        let shown = format!("{attested:?} {session:?} {:?}", session.status());
        let token = std::str::from_utf8(attested.token().expose()).unwrap();
        assert!(!shown.contains(token) && !shown.contains(CANARY), "{shown}");
        assert_eq!(session.fetch(&uri(), soon()).await.unwrap().expose(), secret(PATH));
        assert_eq!(session.status().handshakes, 1);
    }
}

#[tokio::test]
async fn faults_of_the_machine_pass_unchanged_and_outages_of_it_are_retried() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    let fault = |blame| SourceFault {
        blame,
        code: "QUOTE_FAILED".to_owned(),
        message: "the quote failed".to_owned(),
        hint: "look at the quote".to_owned(),
    };
    machine.faults.lock().unwrap().push_back(fault(Blame::Platform).into());
    let e = session.fetch(&uri(), soon()).await.unwrap_err();
    assert_eq!(
        (e.code(), e.blame(), e.hint().as_str()),
        ("QUOTE_FAILED", Blame::Platform, "look at the quote")
    );
    assert_eq!(e.to_string(), "the quote failed");
    assert_eq!(machine.quotes(), 1);
    machine.faults.lock().unwrap().push_back(fault(Blame::Unavailable).into());
    session.fetch(&uri(), soon()).await.unwrap();
    assert_eq!(machine.quotes(), 3);
}

#[tokio::test]
async fn a_dropped_session_ends_its_handshake() {
    let kbs = Kbs::start().await;
    let (session, machine) = session(&kbs);
    *machine.delay.lock().unwrap() = Duration::from_millis(300);
    let waiter = tokio::spawn({
        let session = session.clone();
        async move { session.fetch(&uri(), soon()).await.map(drop) }
    });
    until("evidence", || machine.quotes() == 1).await;
    waiter.abort();
    assert!(waiter.await.unwrap_err().is_cancelled());
    drop(session);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(kbs.count(Step::Attest), 0);
    assert_eq!(std::sync::Arc::strong_count(&machine), 1, "nothing is left behind");
}
