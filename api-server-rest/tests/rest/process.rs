//! The binary: exit statuses, the ready message, a clean stop.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::client::get;

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_api-server-rest"));
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    command
}

#[test]
fn bad_options_exit_1_and_say_why() {
    for (arguments, word) in [
        (&["--features", "none"][..], "none"),
        (&["--bind", "nowhere"], "nowhere"),
        (&["--allow-host", "a:1"], "CONFIG_ALLOW_HOST"),
        (&["--strict", "--bind", "0.0.0.0:0"], "CONFIG_STRICT_BIND"),
    ] {
        let output = binary().args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        assert!(text.contains(word), "{arguments:?}: {text}");
    }
    let output = binary().env("RUST_LOG", "a=b=c").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn help_version_and_a_checked_configuration_exit_0() {
    for arguments in [&["--help"][..], &["--version"], &["--check-config", "--features", "all"]] {
        let output = binary().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn an_occupied_port_exits_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = binary().args(["--bind", &taken.local_addr().unwrap().to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("listening on 127.0.0.1:"));
}

#[tokio::test]
async fn it_says_that_it_is_ready_serves_and_stops_on_each_signal() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let dir = tempfile::tempdir().unwrap();
        let notify = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut child = binary()
            .args(["--bind", "127.0.0.1:0", "--features", "resource"])
            .env("NOTIFY_SOCKET", dir.path().join("notify"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("listening")).unwrap();
        let addr = line.split("address=").nth(1).unwrap().trim().parse().unwrap();
        let expect = |wanted: &str| {
            let mut message = [0; 1024];
            let mut told = || {
                let length = notify.recv(&mut message).unwrap();
                String::from_utf8_lossy(&message[..length]).into_owned()
            };
            while !told().contains(wanted) {}
        };
        expect("STATUS=serving resource on 127.0.0.1:0");
        expect("READY=1");
        assert_eq!(get(addr, "/info").await.status, 200);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let rest = tokio::task::spawn_blocking(move || lines.collect::<Vec<_>>());
        let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{:?}", rest.await.unwrap());
        expect("STOPPING=1");
    }
}

#[tokio::test]
async fn it_takes_the_socket_that_the_service_manager_passes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // The shell puts its standard input where the protocol wants it, and its number where the program looks.
    let script =
        format!("LISTEN_PID=$$ LISTEN_FDS=1 exec {} 3<&0 0</dev/null", env!("CARGO_BIN_EXE_api-server-rest"));
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .env_remove("RUST_LOG")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains("listening")).unwrap();
    assert!(line.contains(&addr.to_string()), "{line}");
    assert_eq!(get(addr, "/info").await.status, 200);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn it_leaves_no_core_and_cannot_be_read() {
    let mut child = binary().args(["--bind", "127.0.0.1:0"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("listening")).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let numbers: Vec<_> = core.split_whitespace().filter(|word| *word == "0").collect();
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    assert_eq!(numbers.len(), 2, "{core}");
}
