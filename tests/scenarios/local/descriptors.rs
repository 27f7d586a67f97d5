//! Daemons that run out of descriptors, and recover.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use cc_tests::process::{Process, command};

use super::rest::Door;
use super::{sample_agent, tee_type};

/// The same command with at most 64 open files.
fn limited(inner: Command) -> Command {
    let mut outer = command("prlimit");
    outer.arg("--nofile=64:64").arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

#[test]
fn the_rest_server_recovers() {
    let door = Door::open_with(limited);
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", door.port)).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(500));
    let open = super::descriptors(&door.rest);
    assert!((32..64).contains(&open), "{open}: full, with descriptors left for the server's own work");
    // The silent ones make room, without them having to leave.
    let begun = Instant::now();
    door.assert_serves();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let cpu = door.rest.cpu_time().unwrap();
    assert!(cpu < Duration::from_secs(5), "waiting for descriptors burns no processor: {cpu:?}");
    drop(idle);
    door.assert_sound();
}

#[test]
fn the_agent_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("aa.sock");
    let mut agent = Process::start("agent", limited(sample_agent(&folder, &socket)), folder.path()).unwrap();
    agent.wait_for_path(&socket).unwrap();
    assert_eq!(tee_type(&socket).as_deref(), Ok("sample"));
    let before = super::descriptors(&agent);
    let idle: Vec<_> = (0..200).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    std::thread::sleep(Duration::from_secs(1));
    let open = super::descriptors(&agent);
    assert!((32..64).contains(&open), "{open}: full, with descriptors left for the agent's own work");
    // Silent connections make room for one that speaks, also where descriptors are the limit.
    let begun = Instant::now();
    let served = tee_type(&socket);
    super::note(&format!(
        "with 200 idle connections and 64 descriptors: {served:?} after {:?}",
        begun.elapsed()
    ));
    assert_eq!(served.as_deref(), Ok("sample"), "{}", agent.log());
    drop(idle);
    assert_eq!(tee_type(&socket).as_deref(), Ok("sample"));
    agent.wait_for_log("closed a silent connection to make room").unwrap();
    assert!(agent.cpu_time().unwrap() < Duration::from_secs(5));
    super::assert_settles(&agent, before);
    assert_eq!(agent.stop().unwrap(), 0);
}
