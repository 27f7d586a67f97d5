//! The client against servers that do as they please.

use std::sync::Arc;

use bytes::BufMut as _;
use prost::Message as _;
use tokio::net::UnixListener;

use super::*;

/// A client and the raw stream of its server.
async fn pair() -> (Arc<Client>, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&path).await.unwrap();
    (Arc::new(client), listener.accept().await.unwrap().0)
}

fn request(method: &str) -> Request {
    Request { service: "a.B".to_owned(), method: method.to_owned(), ..Request::default() }
}

async fn read_request(server: &mut UnixStream) -> (u32, Request) {
    let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
    loop {
        if let Some(Event::Frame(frame)) = decoder.next(&mut buffer).unwrap() {
            assert_eq!((frame.kind, frame.flags), (Kind::Request, REMOTE_CLOSED));
            assert!(buffer.is_empty(), "the next request waits until it is asked for");
            return (frame.stream, Request::decode(frame.payload).unwrap());
        }
        assert!(read_some(server, &mut buffer).await.unwrap() > 0);
    }
}

fn answer(stream: u32, text: &'static str) -> BytesMut {
    let payload = Response::success(Bytes::from_static(text.as_bytes())).encode_to_vec();
    let mut out = BytesMut::new();
    frame::encode(&Frame { stream, kind: Kind::Response, flags: 0, payload: payload.into() }, &mut out)
        .unwrap();
    out
}

fn start(client: &Arc<Client>, method: &'static str) -> tokio::task::JoinHandle<Result<Response, CallError>> {
    let client = Arc::clone(client);
    tokio::spawn(async move { client.call(&request(method)).await })
}

#[tokio::test]
async fn answers_find_their_calls_in_any_order() {
    let (client, mut server) = pair().await;
    let first = start(&client, "First");
    let (one, asked) = read_request(&mut server).await;
    assert_eq!((one, asked.method.as_str()), (1, "First"));
    let second = start(&client, "Second");
    let (three, _) = read_request(&mut server).await;
    assert_eq!(three, 3);
    server.write_all(&answer(three, "second")).await.unwrap();
    assert_eq!(second.await.unwrap().unwrap().payload, "second");
    // Nobody asked on stream 99: passed over.
    server.write_all(&answer(99, "stray")).await.unwrap();
    server.write_all(&answer(one, "first")).await.unwrap();
    assert_eq!(first.await.unwrap().unwrap().payload, "first");
    assert!(client.is_open());
}

#[tokio::test]
async fn a_call_that_was_given_up_leaves_nothing_behind() {
    let (client, mut server) = pair().await;
    for _ in 0..3 * MAX_CALLS {
        let call = start(&client, "Slow");
        read_request(&mut server).await;
        call.abort();
        let _ = call.await;
    }
    assert_eq!(client.room.available_permits(), MAX_CALLS);
    let call = start(&client, "Quick");
    let (stream, _) = read_request(&mut server).await;
    server.write_all(&answer(stream, "ok")).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().payload, "ok");
}

#[tokio::test]
async fn a_server_that_ends_or_misbehaves_ends_the_calls() {
    let mut wrong_kind = answer(1, "x");
    wrong_kind[8] = 1;
    let mut unknown_kind = answer(1, "x");
    unknown_kind[8] = 9;
    let mut absurd = BytesMut::new();
    absurd.put_u32(u32::MAX);
    absurd.put_slice(&[0, 0, 0, 1, 2, 0]);
    let mut no_message = BytesMut::new();
    no_message.put_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0xff]);
    for bytes in [BytesMut::new(), wrong_kind, unknown_kind, absurd, no_message] {
        let (client, mut server) = pair().await;
        let call = start(&client, "M");
        read_request(&mut server).await;
        server.write_all(&bytes).await.unwrap();
        if bytes.is_empty() {
            drop(server);
        }
        assert_eq!(call.await.unwrap(), Err(CallError::Broken));
        while client.is_open() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.call(&request("M")).await, Err(CallError::Unsent));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_fails_its_call_only() {
    let (client, mut server) = pair().await;
    let call = start(&client, "Large");
    let (stream, _) = read_request(&mut server).await;
    let length = frame::MAX_PAYLOAD + 1;
    let mut large = BytesMut::new();
    large.put_u32(u32::try_from(length).unwrap());
    large.put_u32(stream);
    large.put_slice(&[2, 0]);
    server.write_all(&large).await.unwrap();
    server.write_all(&vec![0; length]).await.unwrap();
    let status = call.await.unwrap().unwrap().status.unwrap();
    assert_eq!(status.code, i32::from(Code::ResourceExhausted));
    let call = start(&client, "Next");
    let (stream, _) = read_request(&mut server).await;
    server.write_all(&answer(stream, "ok")).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().payload, "ok");

    let mut request = request("M");
    request.payload = vec![0; frame::MAX_PAYLOAD].into();
    assert!(matches!(client.call(&request).await, Err(CallError::TooLarge(_))));
    assert!(client.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stops_halfway_is_given_up() {
    let (client, mut server) = pair().await;
    let call = start(&client, "M");
    read_request(&mut server).await;
    let began = Instant::now();
    let bytes = answer(1, "never whole");
    server.write_all(&bytes[..12]).await.unwrap();
    assert_eq!(call.await.unwrap(), Err(CallError::Broken));
    assert!(began.elapsed() >= PATIENCE);
    drop(server);

    // One that does not read.
    let (client, server) = pair().await;
    let mut large = request("M");
    large.payload = vec![0; 3 << 20].into();
    assert_eq!(client.call(&large).await, Err(CallError::Broken));
    drop(server);
}

#[tokio::test]
async fn the_connection_ends_with_the_client() {
    let (client, mut server) = pair().await;
    drop(client);
    assert_eq!(read_some(&mut server, &mut BytesMut::new()).await.unwrap(), 0);
}
