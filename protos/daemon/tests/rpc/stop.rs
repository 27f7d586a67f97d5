//! Stopping: no new work, the work under way is finished or given up in time.

use std::time::Duration;

use tokio::net::UnixStream;

use crate::server::{PLENTY, Server, resource};

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_finished() {
    let server = Server::start().await;
    let mut silent = server.connect().await;
    let mut ttrpc = server.connect().await;
    ttrpc.ask(1, "wait").await;
    server.arrived().await;
    let mut client = server.grpc();
    let grpc = tokio::spawn(async move { client.get_resource(resource("wait")).await });
    server.arrived().await;

    server.shutdown.trigger();
    assert_eq!(silent.closed().await, 0);
    let path = server.path();
    tokio::time::timeout(PLENTY, async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the path stays after the order to stop");
    UnixStream::connect(&path).await.unwrap_err();

    server.gate.open.add_permits(2);
    assert_eq!(ttrpc.answer().await, (1, 0, b"\x0a\x06waited".as_slice().into()));
    assert_eq!(ttrpc.closed().await, 0);
    assert_eq!(grpc.await.unwrap().unwrap().into_inner().resource, b"waited");
    tokio::time::timeout(PLENTY, server.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_do_not_end_are_given_up() {
    let server = Server::start_with(|server| server.drain(Duration::from_millis(50))).await;
    let mut ttrpc = server.connect().await;
    ttrpc.ask(1, "wait").await;
    server.arrived().await;
    let mut client = server.grpc();
    let grpc = tokio::spawn(async move { client.get_resource(resource("wait")).await });
    server.arrived().await;
    server.shutdown.trigger();
    tokio::time::timeout(PLENTY, server.ended).await.unwrap().unwrap().unwrap();
    assert_eq!(ttrpc.closed().await, 0);
    grpc.await.unwrap().unwrap_err();
}
