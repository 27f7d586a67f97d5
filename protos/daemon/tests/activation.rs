//! Under a service manager: a socket that it passes, and what it is told.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use cc_daemon::listen::Listener;
use cc_daemon::notify;
use cc_daemon::server::RpcServer;
use cc_daemon::shutdown::Shutdown;
use tonic::service::Routes;

/// What the started process does: a daemon without services.
fn daemon() {
    let listeners = Listener::inherited().unwrap();
    assert_eq!(listeners.len(), 1);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let shutdown = Shutdown::on_signals().unwrap();
        notify::spawn_watchdog(&shutdown);
        notify::ready();
        notify::status("serving\nnothing");
        RpcServer::new(Routes::default()).serve(listeners, shutdown).await.unwrap();
        notify::stopping();
    });
}

#[test]
fn a_passed_socket_is_served_and_the_manager_is_told() {
    if std::env::var_os("LISTEN_FDS").is_some() {
        return daemon();
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, told) = (folder.path().join("x.sock"), folder.path().join("notify.sock"));
    let socket = UnixListener::bind(&path).unwrap();
    let manager = UnixDatagram::bind(&told).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_passed_socket_is_served_and_the_manager_is_told"])
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDS_FIRST_FD", socket.as_raw_fd().to_string())
        .env("NOTIFY_SOCKET", &told)
        .env("WATCHDOG_USEC", "100000")
        .env_remove("LISTEN_PID")
        .env_remove("WATCHDOG_PID")
        .spawn()
        .unwrap();

    // Datagrams until the wanted one; the watchdog's come in between.
    let expect = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = manager.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
            if text == wanted {
                return;
            }
            assert_eq!(text, "WATCHDOG=1");
        }
    };
    expect("READY=1");
    expect("STATUS=serving nothing");
    expect("WATCHDOG=1");

    let mut stream = UnixStream::connect(&path).unwrap();
    // A ttrpc request on stream 1 for the method C of the service a.B.
    stream.write_all(b"\0\0\0\x08\0\0\0\x01\x01\0\x0a\x03a.B\x12\x01C").unwrap();
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(header[4..], [0, 0, 0, 1, 2, 0]);

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    expect("STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(path.exists(), "the path is the manager's");
}
