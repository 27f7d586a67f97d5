//! Servers that mean harm: nothing is held, nothing is followed, nothing leaks.

use std::time::Duration;

use tokio::time::Instant;

use crate::server::{CANARY, Kbs, Reply, Step};
use crate::{session, session_of, soon, uri};

#[tokio::test]
async fn announced_and_endless_bodies_are_refused_early() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    let huge = Reply::Raw(
        b"HTTP/1.1 200 x\r\ncontent-length: 2147483648\r\nset-cookie: kbs-session-id=a\r\n\r\n{".to_vec(),
    );
    let endless = Reply::Endless(
        b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        [b"10000\r\n".to_vec(), vec![b'a'; 0x10000], b"\r\n".to_vec()].concat(),
    );
    for step in [Step::Auth, Step::Attest, Step::Resource] {
        for reply in [huge.clone(), endless.clone()] {
            session.forget();
            kbs.script(step, [reply]);
            let began = Instant::now();
            let e = session.fetch(&uri(), soon()).await.unwrap_err();
            assert_eq!(e.code(), "KBS_RESPONSE_TOO_LARGE", "{step:?}");
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }
    session.fetch(&uri(), soon()).await.unwrap();
}

#[tokio::test]
async fn an_endless_error_body_does_not_hide_the_status() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    for head in [
        &b"HTTP/1.1 403 x\r\ntransfer-encoding: chunked\r\n\r\n"[..],
        b"HTTP/1.1 403 x\r\ncontent-length: 2147483648\r\n\r\n",
        b"HTTP/1.1 403 x\r\n\r\n",
    ] {
        let again = if head.ends_with(b"chunked\r\n\r\n") { &b"5\r\nhello\r\n"[..] } else { b"hello" };
        kbs.script(Step::Resource, [Reply::Endless(head.to_vec(), again.repeat(1000))]);
        let e = session.fetch(&uri(), soon()).await.unwrap_err();
        assert_eq!(e.code(), "KBS_DENIED");
    }
    // Cut off in the middle.
    kbs.script(Step::Resource, [Reply::Raw(b"HTTP/1.1 404 x\r\ncontent-length: 100\r\n\r\nhel".to_vec())]);
    assert_eq!(session.fetch(&uri(), soon()).await.unwrap_err().code(), "KBS_NOT_FOUND");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let kbs = Kbs::start().await;
    let trap = Kbs::start().await;
    for step in [Step::Auth, Step::Attest, Step::Resource] {
        for status in [301, 302, 303, 307, 308] {
            let (session, _) = session(&kbs);
            kbs.script(step, [Reply::Answer(status, vec![format!("location: {}/", trap.url())], Vec::new())]);
            let e = session.fetch(&uri(), soon()).await.unwrap_err();
            assert_eq!(e.code(), "KBS_REDIRECT", "{step:?} {status}");
        }
    }
    assert!(trap.seen().is_empty());
}

#[tokio::test]
async fn what_is_not_http_is_misbehaviour() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    let many_headers = format!("HTTP/1.1 200 x\r\n{}\r\n", "a: b\r\n".repeat(200));
    let long_header = format!("HTTP/1.1 200 x\r\na: {}\r\n\r\n", "b".repeat(200_000));
    for raw in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 abc\r\n\r\n", &many_headers, &long_header] {
        kbs.script(Step::Auth, [Reply::Raw(raw.as_bytes().to_vec())]);
        let e = session.fetch(&uri(), soon()).await.unwrap_err();
        assert_eq!(e.code(), "KBS_BAD_RESPONSE", "{raw:.30}: {e}");
    }
}

#[tokio::test]
async fn bare_secrets_cookies_and_tokens_do_not_enter_errors() {
    let kbs = Kbs::start().await;
    let (session, _) = session(&kbs);
    let mut errors = Vec::new();
    for step in [Step::Auth, Step::Attest, Step::Resource] {
        for body in [
            format!("\"{CANARY}\""),
            format!("{{\"{CANARY}\":\"{CANARY}\"}}"),
            CANARY.to_owned(),
            "[".to_owned(),
        ] {
            session.forget();
            kbs.script(step, [Reply::status(200, body)]);
            errors.push(session.fetch(&uri(), soon()).await.unwrap_err());
        }
        session.forget();
        kbs.script(step, [Reply::status(418, CANARY)]);
        errors.push(session.fetch(&uri(), soon()).await.unwrap_err());
    }
    for e in errors {
        let shown = format!("{e} {e:?} {} {}", e.code(), e.hint());
        assert!(!shown.contains(CANARY), "{shown}");
    }
}

#[tokio::test]
async fn plain_http_needs_loopback_or_permission() {
    let machine = std::sync::Arc::new(crate::Machine::default());
    let config = cc_kbs::KbsConfig::new("http://192.0.2.1:8080");
    let e = cc_kbs::Session::new(config.clone(), machine.clone()).unwrap_err();
    assert_eq!(e.code(), "KBS_PLAIN_HTTP");
    let allowed = cc_kbs::KbsConfig { allow_plain_http: true, ..config };
    cc_kbs::Session::new(allowed, machine.clone()).unwrap();
    drop(session_of("http://127.0.0.1:1", &machine));
}
