//! Requests as hostile or broken clients send them, byte by byte.

use std::time::{Duration, Instant};

use api_server_rest::server::Limits;

use crate::client::{Client, exchange, get};
use crate::stand_in::{Daemons, SECRET, SetUp};

#[tokio::test]
async fn host_headers() {
    let (rest, daemons) = SetUp::default().start().await;
    for (headers, status, code) in [
        ("", 400, "HOST_MALFORMED"),
        ("Host: localhost\r\nHost: localhost\r\n", 400, "HOST_MALFORMED"),
        ("Host:\r\n", 400, "HOST_MALFORMED"),
        ("Host: ::1\r\n", 400, "HOST_MALFORMED"),
        ("Host: localhost, evil.example\r\n", 400, "HOST_MALFORMED"),
        ("Host: evil.example\r\n", 403, "HOST_FOREIGN"),
        ("Host: localhost.evil.example\r\n", 403, "HOST_FOREIGN"),
        ("Host: 10.0.0.1:8006\r\n", 403, "HOST_FOREIGN"),
        ("Host: localhost\r\nOrigin: https://evil.example\r\n", 403, "ORIGIN_FOREIGN"),
        ("Host: localhost\r\nOrigin: null\r\n", 403, "ORIGIN_FOREIGN"),
    ] {
        let reply = exchange(rest.addr, &format!("GET /cdh/resource/a/b/c HTTP/1.1\r\n{headers}\r\n")).await;
        assert_eq!(reply.status, status, "{headers}");
        assert!(reply.text().contains(code), "{headers}: {}", reply.text());
    }
    assert_eq!(daemons.stand_in.call_count(), 0);
    for host in ["127.0.0.1", "127.0.0.1:8006", "localhost", "LocalHost:1", "[::1]", "[::1]:8006"] {
        let request =
            format!("GET /cdh/resource/a/b/c HTTP/1.1\r\nHost: {host}\r\nOrigin: http://localhost\r\n\r\n");
        assert_eq!(exchange(rest.addr, &request).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn request_targets_in_other_forms() {
    let (rest, _daemons) = SetUp::default().start().await;
    for (line, status) in [
        ("GET http://127.0.0.1:8006/openapi.json HTTP/1.1", 200),
        ("GET http://evil.example/openapi.json HTTP/1.1", 403),
        ("GET http://user@localhost/openapi.json HTTP/1.1", 400),
        ("GET /openapi.json HTTP/1.0", 200),
        ("OPTIONS * HTTP/1.1", 400),
        ("CONNECT localhost:22 HTTP/1.1", 400),
        ("GET openapi.json HTTP/1.1", 400),
        ("GET /a b HTTP/1.1", 400),
        ("GET /\u{e9} HTTP/1.1", 400),
        ("GET //openapi.json HTTP/1.1", 400),
        ("GET /openapi.json/../info HTTP/1.1", 400),
        ("GET /openapi.json HTTP/2.0", 400),
        ("GET /openapi.json", 400),
        ("G\u{1}T / HTTP/1.1", 400),
    ] {
        let reply = exchange(rest.addr, &format!("{line}\r\nHost: localhost\r\n\r\n")).await;
        assert_eq!(reply.status, status, "{line}");
    }
}

#[tokio::test]
async fn connections_are_kept_and_requests_may_be_pipelined() {
    let (rest, _daemons) = SetUp::default().start().await;
    let mut client = Client::connect(rest.addr).await;
    let request = b"GET /cdh/resource/default/key/1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    client.send(&request.repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(client.reply(false).await.unwrap().body, SECRET);
    }
    client.send(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.reply(false).await.unwrap().status, 404);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn large_heads_are_refused() {
    let rest = SetUp::default().start_alone().await;
    let fits = "a".repeat(15 * 1024);
    let reply =
        exchange(rest.addr, &format!("GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nX: {fits}\r\n\r\n"))
            .await;
    assert_eq!(reply.status, 200);
    let large = "a".repeat(17 * 1024);
    for request in [
        format!("GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nX: {large}\r\n\r\n"),
        format!("GET /{large} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(200)),
    ] {
        let mut client = Client::connect(rest.addr).await;
        client.send(request.as_bytes()).await;
        assert_eq!(client.reply(false).await.unwrap().status, 431);
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn bodies_that_frame_themselves_twice_hide_nothing() {
    let (rest, daemons) = SetUp::default().start().await;
    let event = r#"{"domain":"d","operation":"o","content":"c"}"#;
    let chunked = format!("{:x}\r\n{event}\r\n0\r\n\r\n", event.len());
    let smuggled = "GET /cdh/resource/default/key/1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for framing in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
    ] {
        let mut client = Client::connect(rest.addr).await;
        client
            .send(
                format!("POST /aa/aael HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n{chunked}{smuggled}")
                    .as_bytes(),
            )
            .await;
        assert_eq!(client.reply(false).await.unwrap().status, 200);
        assert!(client.reply(false).await.is_none(), "the connection goes on");
    }
    assert_eq!(daemons.stand_in.call_count(), 2);
    for framing in [
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: +3\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
    ] {
        let mut client = Client::connect(rest.addr).await;
        client
            .send(
                format!("POST /aa/aael HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n{{}}{smuggled}")
                    .as_bytes(),
            )
            .await;
        assert_eq!(client.reply(false).await.unwrap().status, 400, "{framing}");
        assert!(client.is_closed().await, "{framing}");
    }
    assert_eq!(daemons.stand_in.call_count(), 2);
}

#[tokio::test]
async fn chunked_events_are_taken() {
    let (rest, daemons) = SetUp::default().start().await;
    let event = r#"{"domain":"d","operation":"o","content":"c"}"#;
    let (first, second) = event.split_at(10);
    let request = format!(
        "POST /aa/aael HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    assert_eq!(exchange(rest.addr, &request).await.status, 200);
    assert_eq!(daemons.stand_in.last_call(), "Extend d|o|c|None");
    let request = "POST /aa/aael HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n";
    let reply = exchange(rest.addr, request).await;
    assert_eq!(reply.status, 400);
    assert!(reply.text().contains("[BODY_BROKEN]"), "{}", reply.text());
}

#[tokio::test]
async fn large_events_are_refused_before_they_are_read() {
    let (rest, daemons) = SetUp::default().start().await;
    let limit = 64 * 1024;
    let event = |total: usize| {
        let frame = r#"{"domain":"d","operation":"o","content":""}"#.len();
        format!(r#"{{"domain":"d","operation":"o","content":"{}"}}"#, "c".repeat(total - frame))
    };
    let reply = crate::client::post(rest.addr, "/aa/aael", &event(limit)).await;
    assert_eq!(reply.status, 200);
    let mut client = Client::connect(rest.addr).await;
    // Announced, not sent: the answer comes all the same, and no "100 Continue" before it.
    let head = format!(
        "POST /aa/aael HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        limit + 1
    );
    client.send(head.as_bytes()).await;
    let reply = client.reply(false).await.unwrap();
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
    assert!(reply.text().contains("[BODY_TOO_LARGE]"));
    assert!(client.is_closed().await);
    // Not announced.
    let mut client = Client::connect(rest.addr).await;
    client.send(b"POST /aa/aael HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", limit + 1, event(limit + 1)).as_bytes()).await;
    assert_eq!(client.reply(false).await.unwrap().status, 413);
    assert_eq!(daemons.stand_in.call_count(), 1);
}

#[tokio::test]
async fn a_body_with_get_is_not_waited_for() {
    let (rest, _daemons) = SetUp::default().start().await;
    let mut client = Client::connect(rest.addr).await;
    client.send(b"GET /cdh/resource/default/key/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nabc").await;
    assert_eq!(client.reply(false).await.unwrap().body, SECRET);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn slow_heads_and_idle_connections_are_closed() {
    let limits = Limits { head_time: Duration::from_secs(1), ..Limits::default() };
    let (rest, _daemons) = SetUp { limits, ..SetUp::default() }.start().await;
    let mut idle = Client::connect(rest.addr).await;
    let mut slow = Client::connect(rest.addr).await;
    slow.send(b"GET /info HTTP/1.1\r\nHost: loc").await;
    let mut kept = Client::connect(rest.addr).await;
    kept.send(b"GET /cdh/resource/slow/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let began = Instant::now();
    assert!(idle.is_closed().await && slow.is_closed().await);
    // A request that takes longer than a head may take is not affected.
    assert_eq!(kept.reply(false).await.unwrap().body, SECRET);
    assert!(kept.is_closed().await);
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn clients_that_do_not_read_lose_the_connection() {
    let limits = Limits { stall_time: Duration::from_millis(300), connections: 1, ..Limits::default() };
    let (rest, _daemons) = SetUp { limits, ..SetUp::default() }.start().await;
    let mut deaf = Client::connect(rest.addr).await;
    // More answers than the kernel's buffers of both ends hold.
    deaf.send(&b"GET /cdh/resource/large/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(8)).await;
    // There is one place, and it is given to the next client.
    assert_eq!(get(rest.addr, "/cdh/resource/default/key/1").await.body, SECRET);
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let (rest, _daemons) = SetUp { limits, ..SetUp::default() }.start().await;
    let request = b"GET /cdh/resource/default/key/1 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(rest.addr).await;
        client.send(request).await;
        assert_eq!(client.reply(false).await.unwrap().status, 200);
        kept.push(client);
    }
    let mut waiting = Client::connect(rest.addr).await;
    waiting.send(request).await;
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.reply(false)).await;
    assert!(early.is_err(), "served beyond the limit");
    kept.pop();
    assert_eq!(waiting.reply(false).await.unwrap().status, 200);
}

/// The request has arrived: without it the connection would be an idle one.
async fn until_called(daemons: &Daemons) {
    while daemons.stand_in.call_count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way() {
    let (rest, daemons) = SetUp::default().start().await;
    let mut idle = Client::connect(rest.addr).await;
    let mut busy = Client::connect(rest.addr).await;
    busy.send(b"GET /cdh/resource/slow/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    until_called(&daemons).await;
    rest.shutdown.trigger();
    let reply = busy.reply(false).await.unwrap();
    assert_eq!((reply.body.as_slice(), reply.header("connection")), (SECRET, Some("close")));
    assert!(idle.is_closed().await);
    tokio::time::timeout(Duration::from_secs(5), rest.task).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(rest.addr).await.is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_ever() {
    let limits = Limits { drain_time: Duration::from_millis(200), ..Limits::default() };
    let (rest, daemons) = SetUp { limits, ..SetUp::default() }.start().await;
    let mut busy = Client::connect(rest.addr).await;
    busy.send(b"GET /cdh/resource/never/a/b HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    until_called(&daemons).await;
    rest.shutdown.trigger();
    tokio::time::timeout(Duration::from_secs(5), rest.task).await.unwrap().unwrap();
    assert!(busy.is_closed().await);
}
