//! Answers of a server that writes what it likes.

use std::net::TcpListener;
use std::thread;

use proptest::prelude::*;

use super::*;

/// Serves one connection with `answer` and gives what was asked and what came of it.
fn exchange(answer: &[u8], body: Option<&str>) -> (String, Result<Vec<u8>, Failure>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = answer.to_vec();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut part = [0; 1024];
        while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
            let length = stream.read(&mut part).unwrap();
            asked.extend_from_slice(&part[..length]);
        }
        // The client may have seen enough before the end.
        let _ = stream.write_all(&answer);
        String::from_utf8(asked).unwrap()
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    let outcome = ask(&Request { address, path: "/a/b", body, deadline });
    (server.join().unwrap(), outcome)
}

fn shown(outcome: Result<Vec<u8>, Failure>) -> String {
    match outcome {
        Ok(body) => String::from_utf8(body).unwrap(),
        Err(Failure::Status(status)) => format!("status {status}"),
        Err(Failure::Malformed(why)) => format!("malformed: {why}"),
        Err(other) => format!("{other:?}"),
    }
}

#[test]
fn requests_are_what_the_metadata_service_wants() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokand more";
    let (asked, outcome) = exchange(answer, None);
    assert_eq!(shown(outcome), "ok");
    assert!(asked.starts_with("GET /a/b HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
    assert!(asked.contains("\r\nMetadata: true\r\n"), "{asked}");
    let (asked, _) = exchange(answer, Some("{}"));
    assert!(asked.starts_with("POST /a/b HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"), "{asked}");
}

#[test]
fn bodies_end_where_the_head_says() {
    let large = "x".repeat(MAX_BODY_LEN + 1);
    let table = [
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", "until the end"),
        ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n", "abc"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 99999999\r\n\r\n", "status 404"),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", "status 302"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "malformed: it ends within its body"),
        ("HTTP/1.1 200 OK\r\nContent-Len", "malformed: it ends within its head"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na", "malformed: its length is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\na", "malformed: its body is longer than"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "malformed: the length of its body",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "malformed: the length of its body",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "malformed: the length of its body"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed: the size of a chunk"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "malformed: a chunk is longer"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
            "malformed: its body is longer than",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            "malformed: it ends within its body",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "malformed: it is not HTTP"),
        ("", "malformed: it ends within its head"),
    ];
    for (answer, expected) in table {
        let outcome = shown(exchange(answer.as_bytes(), None).1);
        assert!(outcome.starts_with(expected), "{answer:?}: {outcome}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{large}");
    assert!(shown(exchange(endless.as_bytes(), None).1).contains("longer than"));
    let head = format!("HTTP/1.1 200 OK\r\nX: {large}\r\n\r\n");
    assert!(shown(exchange(head.as_bytes(), None).1).contains("head is longer"));
}

#[test]
fn a_silent_server_costs_the_deadline_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let start = Instant::now();
    let deadline = start + Duration::from_millis(200);
    let outcome = ask(&Request { address, path: "/", body: None, deadline });
    assert!(matches!(outcome, Err(Failure::Timeout)), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(listener);
    let deadline = Instant::now() + Duration::from_secs(5);
    let outcome = ask(&Request { address, path: "/", body: None, deadline });
    assert!(matches!(outcome, Err(Failure::Connection(_))), "{outcome:?}");
}

proptest! {
    #[test]
    fn any_head_and_any_chunks_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_head(&bytes);
        let _ = read_head(&[b"HTTP/1.1 200 OK\r\n", bytes.as_slice()].concat());
        let _ = unchunk(&bytes);
    }

    #[test]
    fn chunks_are_put_together(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..5)) {
        let mut framed = Vec::new();
        for part in &parts {
            framed.extend(format!("{:X}\r\n", part.len()).into_bytes());
            framed.extend(part);
            framed.extend(b"\r\n");
        }
        prop_assert_eq!(unchunk(&framed).unwrap(), None);
        framed.extend(b"0\r\n\r\n");
        prop_assert_eq!(unchunk(&framed).unwrap(), Some(parts.concat()));
    }
}
