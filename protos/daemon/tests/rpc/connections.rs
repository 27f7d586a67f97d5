//! Peers that break the rules: they lose their connection, others lose nothing.

use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use cc_daemon::ttrpc::frame::{Kind, MAX_PAYLOAD};
use tokio::io::AsyncWriteExt as _;
use tonic::Code;

use crate::server::{PLENTY, Server, resource};

/// Short enough for a test, long enough for a loaded machine to send ten bytes.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn answers_come_as_they_are_ready() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    raw.ask(1, "wait").await;
    server.arrived().await;
    raw.ask(3, "echo:x").await;
    raw.ask(5, "deny").await;
    let mut first = [raw.answer().await, raw.answer().await].map(|(stream, code, _)| (stream, code));
    first.sort_unstable();
    assert_eq!(first, [(3, 0), (5, 13)]);
    server.gate.open.add_permits(1);
    assert_eq!(raw.answer().await.0, 1);
    // The number is free again.
    raw.ask(1, "echo:x").await;
    assert_eq!(raw.answer().await.0, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_on_one_connection_are_all_answered() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    for number in 0..500_u32 {
        raw.ask(2 * number + 1, "bytes:1000").await;
    }
    let mut streams = Vec::new();
    for _ in 0..500 {
        let (stream, code, _) = raw.answer().await;
        assert_eq!(code, 0);
        streams.push(stream);
    }
    streams.sort_unstable();
    assert_eq!(streams, (0..500).map(|number| 2 * number + 1).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_its_half_gets_its_answers() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    raw.ask(1, "wait").await;
    server.arrived().await;
    raw.stream.shutdown().await.unwrap();
    server.gate.open.add_permits(1);
    assert_eq!(raw.answer().await.0, 1);
    assert_eq!(raw.closed().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_beyond_the_limit_are_refused_and_the_connection_goes_on() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    let five = 5 << 20;
    let mut header = BytesMut::new();
    header.put_u32(five);
    header.put_u32(1);
    header.put_slice(&[1, 0]);
    raw.send(&header).await;
    raw.send(&vec![0; five as usize]).await;
    let (stream, code, _) = raw.answer().await;
    assert_eq!((stream, code), (1, i32::from(Code::InvalidArgument)));
    raw.ask(3, "echo:x").await;
    assert_eq!(raw.answer().await.0, 3);
    // The same for an answer.
    raw.ask(5, &format!("bytes:{MAX_PAYLOAD}")).await;
    let (stream, code, _) = raw.answer().await;
    assert_eq!((stream, code), (5, i32::from(Code::ResourceExhausted)));
    raw.ask(7, &format!("bytes:{}", MAX_PAYLOAD - 64)).await;
    let (stream, code, payload) = raw.answer().await;
    assert_eq!((stream, code), (7, 0));
    assert!(payload.len() > MAX_PAYLOAD - 64);

    let status = server.grpc().get_resource(resource(&"x".repeat(five as usize))).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    server.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_are_answered() {
    let server = Server::start().await;
    let mut raw = server.connect().await;
    for (stream, payload) in [(1, vec![0xff; 7]), (3, Vec::new()), (5, vec![0x0a, 0x01, b' '])] {
        raw.send_frame(stream, Kind::Request, payload).await;
        let (answered, code, _) = raw.answer().await;
        assert_eq!((answered, code), (stream, i32::from(Code::InvalidArgument)));
    }
    raw.send_frame(9, Kind::Data, vec![1; 9]).await;
    raw.ask(7, "echo:x").await;
    assert_eq!(raw.answer().await.0, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn violations_of_the_framing_close_the_connection() {
    let server = Server::start().await;
    let mut good = server.connect().await;
    good.ask(1, "wait").await;
    server.arrived().await;
    let frames: [&[u8]; 5] = [
        // Even stream, type response, unknown type, absurd length, no protocol at all.
        &[0, 0, 0, 0, 0, 0, 0, 2, 1, 0],
        &[0, 0, 0, 0, 0, 0, 0, 1, 2, 0],
        &[0, 0, 0, 0, 0, 0, 0, 1, 9, 0],
        &[0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 0xff, 0, 0, 0, 0, 0, 0, 1, 1, 0],
        b"GET / HTTP/1.1\r\n\r\n",
    ];
    for frame in frames {
        let mut raw = server.connect().await;
        raw.send(frame).await;
        assert_eq!(raw.closed().await, 0, "{frame:?}");
    }
    let mut raw = server.connect().await;
    raw.ask(1, "wait").await;
    server.arrived().await;
    raw.ask(1, "echo:x").await;
    assert_eq!(raw.closed().await, 0);

    server.gate.open.add_permits(1);
    assert_eq!(good.answer().await.0, 1);
    server.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stops_halfway_is_closed_and_a_silent_one_is_not() {
    let server = Server::start_with(|server| server.patience(SHORT)).await;
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    idle.ask(1, "echo:x").await;
    assert_eq!(idle.answer().await.0, 1);
    let halves: [&[u8]; 5] = [
        b"P",
        b"PRI * HTTP/2.0\r\n\r\n",
        &[0],
        &[0, 0, 0, 9, 0, 0, 0, 1, 1],
        &[0, 0, 0, 9, 0, 0, 0, 1, 1, 0, 1],
    ];
    for half in halves {
        let mut raw = server.connect().await;
        raw.send(half).await;
        assert_eq!(raw.closed().await, 0, "{half:?}");
    }
    // By now both have been quiet for longer than the others were given.
    silent.ask(1, "echo:x").await;
    assert_eq!(silent.answer().await.0, 1);
    idle.ask(3, "echo:x").await;
    assert_eq!(idle.answer().await.0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_is_cut_off() {
    let server = Server::start_with(|server| server.patience(SHORT)).await;
    let mut raw = server.connect().await;
    // Far more than any socket buffer holds. The server stops reading at some point; so the sender may block.
    let send = async {
        for number in 0..200_u32 {
            let mut half = BytesMut::new();
            let request = cc_daemon::ttrpc::envelope::Request {
                service: "api.GetResourceService".to_owned(),
                method: "GetResource".to_owned(),
                payload: prost::Message::encode_to_vec(&resource("bytes:1000000")).into(),
                ..Default::default()
            };
            let frame = cc_daemon::ttrpc::frame::Frame {
                stream: 2 * number + 1,
                kind: Kind::Request,
                flags: 0,
                payload: request.encode().into(),
            };
            cc_daemon::ttrpc::frame::encode(&frame, &mut half).unwrap();
            if raw.stream.write_all(&half).await.is_err() {
                return;
            }
        }
        while raw.stream.write_all(&[]).await.is_ok() && raw.stream.try_write(&[0]).is_ok() {
            tokio::time::sleep(SHORT).await;
        }
    };
    tokio::time::timeout(PLENTY, send).await.expect("the server holds the connection for ever");
    let received = raw.closed().await;
    assert!(received < 20_000_000, "{received} bytes were waiting");
    server.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_cap_silent_connections_make_room() {
    let server = Server::start_with(|server| server.max_connections(2)).await;
    let mut busy = server.connect().await;
    busy.ask(1, "echo:x").await;
    assert_eq!(busy.answer().await.0, 1);
    let mut silent = server.connect().await;
    let mut third = server.connect().await;
    third.ask(1, "echo:x").await;
    assert_eq!(third.answer().await.0, 1);
    assert_eq!(silent.closed().await, 0);
    // Both that remain have spoken: a fourth waits until one of them goes.
    let mut fourth = server.connect().await;
    fourth.ask(1, "echo:x").await;
    busy.ask(3, "echo:x").await;
    assert_eq!(busy.answer().await.0, 3);
    drop(third);
    assert_eq!(fourth.answer().await.0, 1);
}
