//! Start, stop, and what is left behind: nothing.

use cc_tests::process::{Process, own_binary};
use cc_tests::stack::{Options, Part, address};
use rustix::process::Signal;

use crate::stack;

#[test]
fn daemons_stop_cleanly_on_every_signal_and_leave_no_socket() {
    let Some(mut stack) = stack(Options::default()) else { return };
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        for part in [Part::Rest, Part::Hub, Part::Agent] {
            let process = stack.part(part).unwrap();
            process.signal(signal).unwrap();
            assert_eq!(process.wait().unwrap(), Some(0), "{part:?} on {signal:?}:\n{}", process.log());
        }
        assert!(!stack.agent_socket().exists() && !stack.hub_socket().exists());
        for part in [Part::Agent, Part::Hub, Part::Rest] {
            stack.start_part(part).unwrap();
        }
    }
    // Nothing of any request stays in the TEE's directory.
    assert_eq!(std::fs::read_dir(stack.tsm_report()).unwrap().count(), 0);
}

#[test]
fn a_killed_daemon_comes_back_over_its_stale_socket() {
    let Some(mut stack) = stack(Options::default()) else { return };
    for part in [Part::Hub, Part::Agent] {
        let process = stack.part(part).unwrap();
        process.signal(Signal::KILL).unwrap();
        process.wait().unwrap();
    }
    assert!(stack.agent_socket().exists() && stack.hub_socket().exists(), "they are stale now");
    // Waiting for the path proves nothing while the stale one is there: ask until the new one answers.
    stack.start_part(Part::Agent).unwrap();
    stack.start_part(Part::Hub).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let answer = stack.rest_get(crate::REST_PATH).unwrap();
        if answer.status == 200 {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{}", answer.text());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_second_daemon_does_not_take_over_the_socket_of_a_live_one() {
    let Some(stack) = stack(Options::default()) else { return };
    let mut second = stack.spawn_hub().unwrap();
    assert_ne!(second.wait().unwrap(), Some(0));
    assert_eq!(stack.rest_get(crate::REST_PATH).unwrap().status, 200, "the first one still serves");
}

#[test]
fn bad_configuration_is_refused_before_anything_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.toml");
    std::fs::write(&config, "token_configs = 3\nkbc = 3\n").unwrap();
    for (name, flag) in [("attestation-agent", "-c"), ("confidential-data-hub", "-c")] {
        let out = own_binary(name).unwrap().arg(flag).arg(&config).output().unwrap();
        assert_eq!(out.status.code(), Some(64), "{name}");
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(error.contains("bad.toml"), "{name} names the file: {error}");
    }
    let out = own_binary("api-server-rest").unwrap().args(["-f", "everything"]).output().unwrap();
    assert!(!out.status.success());
    let out = own_binary("attestation-agent").unwrap().args(["-a", "0.0.0.0:50002"]).output().unwrap();
    assert!(!out.status.success(), "only loopback addresses are served");
}

#[test]
fn grpc_over_tcp_serves_where_an_address_is_configured() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("aa.toml");
    std::fs::write(&config, "[platform]\nsample = true\n").unwrap();
    let port = cc_tests::port::claim().unwrap();
    let mut command = own_binary("attestation-agent").unwrap();
    command.arg("-c").arg(&config).args(["-a", &format!("127.0.0.1:{port}")]);
    let mut agent = Process::start("attestation-agent", command, folder.path()).unwrap();
    agent.wait_for_port(port).unwrap();
    let out = own_binary("guestctl")
        .unwrap()
        .args(["evidence", "--raw", "--report-data", "00ff", "--aa", &format!("127.0.0.1:{port}")])
        .output()
        .unwrap();
    let evidence: serde_json::Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)));
    assert_eq!(evidence["report_data"], "AP8=");
    // A private key needs an identity, and TCP gives none, whatever the caller says it is.
    let Some(stack) = stack(Options::default()) else { return };
    drop(agent);
    let mut command = own_binary("attestation-agent").unwrap();
    command.arg("-c").arg(stack.folder().join("aa.toml")).args(["-a", &format!("127.0.0.1:{port}")]);
    let mut agent = Process::start("attestation-agent", command, folder.path()).unwrap();
    agent.wait_for_port(port).unwrap();
    let out = own_binary("guestctl")
        .unwrap()
        .args(["token", "--with-key", "--aa", &format!("127.0.0.1:{port}"), "--output"])
        .arg(folder.path().join("token"))
        .output()
        .unwrap();
    let written = std::fs::read_to_string(folder.path().join("token")).unwrap_or_default();
    assert!(!written.contains("PRIVATE KEY"), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(agent.stop().unwrap(), 0);
}

#[test]
fn every_daemon_tells_whether_it_serves() {
    let Some(mut stack) = stack(Options::default()) else { return };
    let agent = stack.folder().join("aa.toml");
    let hub = stack.folder().join("cdh.toml");
    let rest = stack.rest_url();
    let rest = rest.strip_prefix("http://").unwrap();
    let asks = [
        (
            "attestation-agent",
            Part::Agent,
            vec![
                "-a".to_owned(),
                address(&stack.agent_socket()),
                "-c".to_owned(),
                agent.display().to_string(),
            ],
        ),
        ("confidential-data-hub", Part::Hub, vec!["-c".to_owned(), hub.display().to_string()]),
        ("api-server-rest", Part::Rest, vec!["-b".to_owned(), rest.to_owned()]),
    ];
    for (daemon, part, arguments) in asks {
        let ask = || own_binary(daemon).unwrap().args(&arguments).arg("--health").output().unwrap();
        let out = ask();
        assert!(out.status.success() && out.stdout.is_empty() && out.stderr.is_empty(), "{daemon}: {out:?}");
        stack.stop_part(part).unwrap();
        let out = ask();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("asking the"), "{daemon}: {said}");
    }
}
