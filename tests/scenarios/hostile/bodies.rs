//! Answers that are too long, that lead elsewhere, or that are no HTTP.

use std::time::Duration;

use cc_tests::hostile_kbs::{HostileKbs, Reply, Step};
use cc_tests::stack::Part;

use super::{Ground, always, expect, row};
use crate::SECRET;

const TWO_GB: u64 = 2_000_000_000;
/// Most bytes that a guest may let itself be sent: the limit of the answer and what sockets buffer.
const TAKEN: u64 = (8 << 20) + (16 << 20);

/// The most memory that the hub ever had, in bytes (`VmHWM` of proc(5)).
fn peak(ground: &mut Ground) -> u64 {
    let pid = ground.stack.part(Part::Hub).unwrap().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn two_gigabytes_are_neither_awaited_nor_held() {
    let mut ground = Ground::new();
    let large = (502, "KBS_RESPONSE_TOO_LARGE", "is longer than");
    for (step, limit) in [(Step::Auth, 1 << 20), (Step::Attest, 1 << 20), (Step::Resource, 8u64 << 20)] {
        for (title, reply) in
            [("announced", Reply::Announced { status: 200, length: TWO_GB }), ("sent", Reply::Endless(200))]
        {
            let name = format!("2 GB {title} at {step:?}");
            ground.forget();
            ground.kbs.behave();
            ground.kbs.on(step, always(reply));
            let (before, sent) = (peak(&mut ground), ground.kbs.sent());
            expect(&ground.ask(), &name, large);
            assert_eq!(ground.kbs.asked(step), 1, "{name}: it is not asked again");
            let taken = ground.kbs.sent() - sent;
            assert!(taken < TAKEN, "{name}: {taken} bytes were taken");
            // The buffer doubles as it grows, and the wiping allocator copies.
            let grown = peak(&mut ground) - before;
            assert!(grown < 4 * limit + (24 << 20), "{name}: the hub grew by {grown} bytes");
            ground.serves(&name);
        }
    }
}

#[test]
fn a_long_error_body_does_not_hide_the_status() {
    let mut ground = Ground::new();
    let announced = Reply::Announced { status: 403, length: TWO_GB };
    ground.play(vec![
        row("2 GB of 403", Step::Resource, always(announced), (403, "KBS_DENIED", "status 403")),
        row("endless 404", Step::Resource, always(Reply::Endless(404)), (404, "KBS_NOT_FOUND", "status 404")),
        row("endless 401", Step::Auth, always(Reply::Endless(401)), (403, "KBS_DENIED_AUTH", "status 401")),
        row(
            "broken 403",
            Step::Attest,
            always(Reply::Cut(403)),
            (403, "KBS_DENIED_ATTESTATION", "status 403"),
        ),
    ]);
}

#[test]
fn redirects_are_never_followed() {
    let mut ground = Ground::new();
    let elsewhere = HostileKbs::start(b"bait").unwrap();
    let mut name = String::new();
    for step in Step::ALL {
        for status in [300, 301, 302, 303, 304, 305, 307, 308] {
            name = format!("{status} at {step:?}");
            ground.kbs.behave();
            ground.kbs.lose_sessions();
            let location = format!("{}/kbs/v0/auth", elsewhere.url());
            // A 304 has no body by its nature.
            ground.kbs.on(step, always(Reply::http(status, "").with("Location", &location)));
            expect(&ground.ask(), &name, (502, "KBS_REDIRECT", &format!("status {status}")));
            assert_eq!(ground.kbs.asked(step), 1, "{name}");
        }
        ground.forget();
        ground.serves(&name);
        ground.forget();
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(elsewhere.connections(), 0, "nobody went there");
    let location = elsewhere.url();
    let reply = move |_: &_| Reply::http(307, "").with("Location", &location);
    ground.repeat("redirected", Step::Attest, reply);
    assert_eq!(elsewhere.connections(), 0, "nobody went there");
}

#[test]
fn what_is_not_http_is_misbehaviour() {
    let mut ground = Ground::new();
    let raw = |text: String| always(Reply::Raw(text.into_bytes()));
    let bad = (502, "KBS_BAD_RESPONSE", "the HTTP answer");
    let many = "X-A: b\r\n".repeat(100);
    let long = "b".repeat(200 * 1024);
    ground.play(vec![
        row("SSH", Step::Auth, raw("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned()), bad),
        row("noise", Step::Auth, always(Reply::Raw((0..=255).collect())), bad),
        row("HTTP/2", Step::Auth, raw("\0\0\u{12}\u{4}\0\0\0\0\0\r\n\r\n".to_owned()), bad),
        row("status 99999", Step::Auth, raw("HTTP/1.1 99999 x\r\n\r\n".to_owned()), bad),
        row("no colon", Step::Resource, raw("HTTP/1.1 200 x\r\nheader\r\n\r\n".to_owned()), bad),
        row("100 header lines", Step::Resource, raw(format!("HTTP/1.1 200 x\r\n{many}\r\n")), bad),
        row("200 KiB header", Step::Resource, raw(format!("HTTP/1.1 200 x\r\nX-A: {long}\r\n\r\n")), bad),
        row(
            "two lengths",
            Step::Resource,
            raw("HTTP/1.1 200 x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned()),
            bad,
        ),
        row(
            "negative length",
            Step::Resource,
            raw("HTTP/1.1 200 x\r\nContent-Length: -1\r\n\r\nab".to_owned()),
            bad,
        ),
    ]);
    let reply = Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec());
    ground.repeat("SSH", Step::Auth, always(reply));
}

#[test]
fn a_body_that_breaks_off_is_asked_for_again() {
    let ground = Ground::new();
    for step in Step::ALL {
        ground.kbs.behave();
        ground.kbs.lose_sessions();
        ground.kbs.on(step, |e| if e.number == 1 { Reply::Cut(200) } else { Reply::Honest });
        let answer = ground.ask();
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{step:?}: {}", answer.text());
        assert!(ground.kbs.asked(step) >= 2, "{step:?}");
    }
}
