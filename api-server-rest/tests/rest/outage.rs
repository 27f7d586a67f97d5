//! Daemons that are down, restart, or do not answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::{Client, get, post};
use crate::stand_in::{Daemons, SECRET, SetUp, StandIn};

#[tokio::test]
async fn daemons_that_are_down_are_named() {
    let rest = SetUp::default().start_alone().await;
    for (path, daemon, code) in [
        ("/cdh/resource/a/b/c", "the confidential data hub cannot be reached", "[CDH_UNREACHABLE]\n"),
        ("/aa/token?token_type=kbs", "the attestation agent cannot be reached", "[AA_UNREACHABLE]\n"),
        ("/aa/evidence?runtime_data=x", "the attestation agent cannot be reached", "[AA_UNREACHABLE]\n"),
        (
            "/aa/additional-evidence?runtime_data=x",
            "the attestation agent cannot be reached",
            "[AA_UNREACHABLE]\n",
        ),
    ] {
        let reply = get(rest.addr, path).await;
        assert_eq!(reply.status, 503, "{path}");
        assert!(reply.text().starts_with(daemon) && reply.text().contains(code), "{}", reply.text());
        assert!(reply.text().contains("daemons.sock"), "{}", reply.text());
    }
    let reply = post(rest.addr, "/aa/aael", r#"{"domain":"d","operation":"o","content":"c"}"#).await;
    assert_eq!(reply.status, 503);
}

#[tokio::test]
async fn info_answers_500_and_keeps_the_connection() {
    let rest = SetUp::default().start_alone().await;
    let mut client = Client::connect(rest.addr).await;
    for _ in 0..2 {
        client.send(b"GET /info HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let reply = client.reply(false).await.unwrap();
        assert_eq!(reply.status, 500);
        assert!(reply.text().contains("[AA_UNREACHABLE]"), "{}", reply.text());
    }
}

#[tokio::test]
async fn daemons_may_come_late_and_restart() {
    let rest = SetUp::default().start_alone().await;
    assert_eq!(get(rest.addr, "/cdh/resource/default/key/1").await.status, 503);
    for _ in 0..3 {
        let daemons = Daemons::start(&rest.socket, Arc::new(StandIn::default()));
        for _ in 0..3 {
            let reply = get(rest.addr, "/cdh/resource/default/key/1").await;
            assert_eq!((reply.status, reply.body.as_slice()), (200, SECRET), "{:?}", reply);
        }
        let reply = post(rest.addr, "/aa/aael", r#"{"domain":"d","operation":"o","content":"c"}"#).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(daemons.stand_in.call_count(), 4);
        daemons.stop().await;
    }
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_is_a_timeout() {
    let set_up = SetUp { call_time: Duration::from_millis(300), ..SetUp::default() };
    let (rest, daemons) = set_up.start().await;
    let began = Instant::now();
    let reply = get(rest.addr, "/cdh/resource/never/a/b").await;
    assert_eq!(reply.status, 504);
    assert!(reply.text().contains("[CDH_TIMEOUT]"), "{}", reply.text());
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(daemons.stand_in.call_count(), 1, "a call that timed out is not repeated");
}

/// A socket that takes each connection, greets as HTTP/2 does, reads, and closes it. Counts the connections that
/// more came over than a client's greeting.
async fn breaking_socket(socket: std::path::PathBuf) -> Arc<std::sync::atomic::AtomicUsize> {
    let called = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&called);
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                // The preface and settings of HTTP/2, then enough silence for a request to be sent.
                stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let mut buf = [0; 4096];
                let mut received = 0;
                let _ = tokio::time::timeout(Duration::from_millis(400), async {
                    while let Ok(length @ 1..) = stream.read(&mut buf).await {
                        received += length;
                    }
                })
                .await;
                if received > 24 + 9 {
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    called
}

#[tokio::test]
async fn a_broken_connection_is_tried_once_more_unless_that_could_measure_twice() {
    let rest = SetUp::default().start_alone().await;
    let called = breaking_socket(rest.socket.clone()).await;
    let reply = get(rest.addr, "/cdh/resource/a/b/c").await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.text().contains("[CDH_UNREACHABLE]"), "{}", reply.text());
    assert_eq!(called.load(std::sync::atomic::Ordering::Relaxed), 2);

    let rest = SetUp::default().start_alone().await;
    let called = breaking_socket(rest.socket.clone()).await;
    let reply = post(rest.addr, "/aa/aael", r#"{"domain":"d","operation":"o","content":"c"}"#).await;
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(called.load(std::sync::atomic::Ordering::Relaxed), 1);
}
