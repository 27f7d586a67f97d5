//! Servers that are slow, gone, or come back.

use std::sync::Arc;
use std::time::Duration;

use cc_kbs::Blame;
use tokio::time::Instant;

use crate::evidence::Machine;
use crate::server::{Kbs, Reply, Reserved, Step, secret};
use crate::{session, session_of, soon, uri};

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_deadline() {
    let kbs = Kbs::start().await;
    for step in [Step::Auth, Step::Attest, Step::Resource] {
        kbs.behave();
        kbs.always(step, Reply::Hang);
        let (session, _) = session(&kbs);
        let began = Instant::now();
        let e = session.fetch(&uri(), began + Duration::from_millis(700)).await.unwrap_err();
        assert_eq!((e.code(), e.blame()), ("KBS_TIMEOUT", Blame::Unavailable), "{step:?}");
        let took = began.elapsed();
        assert!((Duration::from_millis(600)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }
}

#[tokio::test]
async fn a_slow_body_costs_no_more_than_the_deadline() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    session.fetch(&uri(), soon()).await.unwrap();
    // The body never comes, but the connection stays.
    let half = b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n".to_vec();
    kbs.script(Step::Resource, [Reply::Endless(half, Vec::new())]);
    let e = session.fetch(&uri(), Instant::now() + Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(e.code(), "KBS_TIMEOUT");
}

#[tokio::test]
async fn outages_are_retried_and_survived() {
    let kbs = Kbs::start().await;
    let cut = || Reply::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{".to_vec());
    let gone = || Reply::Raw(Vec::new());
    for (step, requests) in [(Step::Auth, 4), (Step::Attest, 4), (Step::Resource, 4)] {
        let (session, _) = session(&kbs);
        let before = kbs.count(step);
        kbs.script(step, [Reply::status(503, "busy"), cut(), gone()]);
        let found = session.fetch(&uri(), soon()).await.unwrap();
        assert_eq!(found.expose(), secret("/kbs/v0/resource/default/key/1"));
        assert_eq!(kbs.count(step) - before, requests, "{step:?}");
        assert_eq!(session.status().handshakes, 1);
    }
}

#[tokio::test]
async fn a_server_that_always_cuts_its_answers_is_an_outage() {
    let kbs = Kbs::start().await;
    kbs.always(Step::Resource, Reply::Raw(b"HTTP/1.1 200 x\r\ncontent-length: 100\r\n\r\n{".to_vec()));
    let (session, _) = session(&kbs);
    let deadline = Instant::now() + Duration::from_secs(1);
    let e = session.fetch(&uri(), deadline).await.unwrap_err();
    assert_eq!((e.code(), e.blame()), ("KBS_UNREACHABLE", Blame::Unavailable));
    // A try that began before the deadline is cut off there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let tries = kbs.count(Step::Resource);
    assert!((2..=10).contains(&tries), "{tries}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(kbs.count(Step::Resource), tries, "nothing happens after the answer");
}

#[tokio::test]
async fn a_dead_kbs_is_named() {
    let reserved = Reserved::new();
    let url = reserved.url();
    let session = session_of(&url, &Arc::default());
    let e = session.fetch(&uri(), Instant::now() + Duration::from_millis(500)).await.unwrap_err();
    assert_eq!(e.code(), "KBS_UNREACHABLE");
    assert!(e.to_string().contains(&url) && e.to_string().contains("refused"), "{e}");
}

#[tokio::test]
async fn a_kbs_that_comes_back_in_time_serves_everybody() {
    let reserved = Reserved::new();
    let machine = Arc::<Machine>::default();
    let session = session_of(&reserved.url(), &machine);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let session = Arc::clone(&session);
        tasks.spawn(async move { session.fetch(&uri(), soon()).await.map(drop) });
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    let kbs = Kbs::on(reserved.listen(), None);
    for result in tasks.join_all().await {
        result.unwrap();
    }
    assert_eq!((kbs.count(Step::Auth), machine.quotes()), (1, 1));
}

#[tokio::test]
async fn connections_are_kept() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    for _ in 0..50 {
        session.fetch(&uri(), soon()).await.unwrap();
    }
    assert_eq!((kbs.connections(), kbs.count(Step::Auth)), (1, 1));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let session = Arc::clone(&session);
        tasks.spawn(async move { session.fetch(&uri(), soon()).await.map(drop) });
    }
    assert!(tasks.join_all().await.iter().all(Result::is_ok));
    assert!(kbs.connections() <= 40, "{}", kbs.connections());
}
