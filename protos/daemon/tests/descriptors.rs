//! A process without free file descriptors serves again when it has some.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::File;
use std::time::Duration;

use cc_daemon::address::Address;
use cc_daemon::listen::{Listener, SocketOptions};
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::service::Routes;

#[tokio::test(flavor = "multi_thread")]
async fn accepting_goes_on_after_a_lack_of_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.sock");
    let listener = Listener::bind(&Address::Unix(path.clone()), &SocketOptions::default()).unwrap();
    let shutdown = Shutdown::new();
    let server = tokio::spawn(RpcServer::new(Routes::default()).serve(vec![listener], shutdown.clone()));
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(100), maximum }).unwrap();
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.pop();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    assert!(File::open("/dev/null").is_err(), "a descriptor is left for the server");
    // The server tries and fails several times meanwhile.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(taken);

    // A ttrpc request on stream 1 for the method C of the service a.B.
    stream.write_all(b"\0\0\0\x08\0\0\0\x01\x01\0\x0a\x03a.B\x12\x01C").await.unwrap();
    let mut header = [0; 10];
    let answer = stream.read_exact(&mut header);
    tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap().unwrap();
    assert_eq!(header[4..], [0, 0, 0, 1, 2, 0]);
    shutdown.trigger();
    server.await.unwrap().unwrap();
}
