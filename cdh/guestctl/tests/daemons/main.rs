//! The sub-commands that ask daemons, against stand-ins that answer on real Unix sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod stand_in;

use std::{fs, os::unix::fs::PermissionsExt};

use cc_daemon::{Blame, fault::Fault};
use cc_protos::guest_services::{AgentStatus, ConfigSource, Denial, HubStatus, ProbeKbsResponse};
use guestctl::{Console, Exit};
use serde_json::Value;
use stand_in::{Answers, StandIn, token};

/// What one run of the tool left.
struct Outcome {
    exit: Exit,
    out: Vec<u8>,
    err: String,
}

impl Outcome {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap()
    }
}

async fn run(arguments: &[&str]) -> Outcome {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments: Vec<&str> = std::iter::once("guestctl").chain(arguments.iter().copied()).collect();
    let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err)).await;
    Outcome { exit, out, err: String::from_utf8(err).unwrap() }
}

async fn run_on_terminal(arguments: &[&str]) -> Outcome {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments: Vec<&str> = std::iter::once("guestctl").chain(arguments.iter().copied()).collect();
    let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err).with_terminal(false)).await;
    Outcome { exit, out, err: String::from_utf8(err).unwrap() }
}

#[tokio::test]
async fn get_writes_the_resource_and_nothing_else() {
    let daemon =
        StandIn::start(Answers { resource: Ok(b"\x00\xffkey\n".to_vec()), ..Answers::default() }).await;
    let got = run(&["get", "default/key/1", "--cdh", &daemon.address()]).await;
    assert_eq!((got.exit, got.out.as_slice(), got.err.as_str()), (Exit::Success, &b"\x00\xffkey\n"[..], ""));
    assert_eq!(daemon.asked(), ["kbs:///default/key/1"]);

    let got = run(&["get", "kbs:///default/key/1", "--json", "--cdh", &daemon.address()]).await;
    let json = got.json();
    assert_eq!(json["uri"], "kbs:///default/key/1");
    assert_eq!((&json["length"], &json["base64"]), (&6.into(), &"AP9rZXkK".into()));
}

#[tokio::test]
async fn get_keeps_binary_data_off_a_terminal() {
    let daemon = StandIn::start(Answers { resource: Ok(vec![0xff; 32]), ..Answers::default() }).await;
    let refused = run_on_terminal(&["get", "a/b/c", "--cdh", &daemon.address()]).await;
    assert_eq!((refused.exit, refused.out.len()), (Exit::Usage, 0));
    assert!(refused.err.contains("[OUTPUT_IS_TERMINAL]\nhint: "), "{}", refused.err);
    let forced = run_on_terminal(&["get", "a/b/c", "--force", "--cdh", &daemon.address()]).await;
    assert_eq!((forced.exit, forced.out), (Exit::Success, vec![0xff; 32]));
}

#[tokio::test]
async fn get_writes_a_private_file_once() {
    let daemon = StandIn::start(Answers { resource: Ok(b"key".to_vec()), ..Answers::default() }).await;
    let path = daemon.folder().join("key.bin");
    let file = path.to_str().unwrap();
    let got = run(&["get", "a/b/c", "--output", file, "--cdh", &daemon.address()]).await;
    assert_eq!((got.exit, got.out.len()), (Exit::Success, 0), "{}", got.err);
    assert_eq!(fs::read(&path).unwrap(), b"key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = run(&["get", "a/b/c", "--output", file, "--cdh", &daemon.address()]).await;
    assert_eq!(again.exit, Exit::Failed);
    assert!(again.err.contains("[OUTPUT_FILE]"), "{}", again.err);
}

#[tokio::test]
async fn every_blame_ends_with_its_status_code_and_hint() {
    for (blame, code, exit) in [
        (Blame::Denied, "KBS_DENIED_POLICY", Exit::Denied),
        (Blame::Absent, "KBS_RESOURCE_ABSENT", Exit::Absent),
        (Blame::Unavailable, "KBS_UNREACHABLE", Exit::Unavailable),
        (Blame::Misbehaved, "KBS_ANSWER_GARBLED", Exit::Misbehaved),
        (Blame::Misused, "URI_INVALID", Exit::Usage),
        (Blame::Platform, "TSM_FAILED", Exit::Platform),
    ] {
        let fault = Fault::new(blame, code, "the broker said no to default/key/1", "look at the policy");
        let daemon = StandIn::start(Answers { resource: Err(fault), ..Answers::default() }).await;
        let got = run(&["get", "default/key/1", "--cdh", &daemon.address()]).await;
        assert_eq!((got.exit, got.out.len()), (exit, 0));
        assert_eq!(
            got.err,
            format!(
                "guestctl: fetching kbs:///default/key/1 (confidential data hub): the broker said no to default/key/1 \
                 [{code}]\nhint: look at the policy\n"
            )
        );
    }
}

#[tokio::test]
async fn a_daemon_that_is_down_is_unavailable_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix://{}/none.sock", folder.path().display());
    for arguments in [
        ["get", "a/b/c", "--cdh", &address],
        ["token", "--raw", "--aa", &address],
        ["evidence", "--raw", "--aa", &address],
    ] {
        let got = run(&arguments).await;
        assert_eq!((got.exit, got.out.len()), (Exit::Unavailable, 0), "{}", got.err);
        assert!(got.err.contains("[PEER_UNREACHABLE]") && got.err.contains("none.sock"), "{}", got.err);
        assert!(got.err.contains("hint: see systemctl status "), "{}", got.err);
    }
}

#[tokio::test]
async fn token_shows_claims_and_keeps_the_token_and_the_key() {
    let jwt = token();
    let answer =
        serde_json::json!({"token": jwt, "tee_keypair": "-----BEGIN PRIVATE KEY-----\nCANARY\n"}).to_string();
    let daemon =
        StandIn::start(Answers { token: Ok(answer.clone().into_bytes()), ..Answers::default() }).await;
    let address = daemon.address();

    let signature = jwt.rsplit('.').next().unwrap();
    for arguments in [&["token", "--aa", &address][..], &["token", "--json", "--aa", &address]] {
        let shown = run(arguments).await;
        assert_eq!(shown.exit, Exit::Success, "{}", shown.err);
        assert!(shown.text().contains("affirming"), "{}", shown.text());
        assert!(!shown.text().contains("CANARY") && !shown.text().contains(signature), "{}", shown.text());
    }
    let raw = run(&["token", "--raw", "--aa", &address]).await;
    assert_eq!(raw.text(), format!("{jwt}\n"));

    let path = daemon.folder().join("answer.json");
    let file = path.to_str().unwrap();
    let kept = run(&["token", "--with-key", "--output", file, "--aa", &address]).await;
    assert_eq!((kept.exit, kept.out.len()), (Exit::Success, 0), "{}", kept.err);
    assert_eq!(fs::read_to_string(&path).unwrap(), answer);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let path = daemon.folder().join("token.jwt");
    run(&["token", "--output", path.to_str().unwrap(), "--aa", &address]).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), jwt);
    assert_eq!(daemon.asked(), ["kbs"; 5]);
}

#[tokio::test]
async fn the_key_leaves_only_into_a_file() {
    for arguments in [&["token", "--with-key"][..], &["token", "--with-key", "--raw"]] {
        let refused = run(arguments).await;
        assert_eq!(refused.exit, Exit::Usage);
        assert!(refused.err.contains("[USAGE]"), "{}", refused.err);
    }
    let refused = run(&["token", "--type", "coco_as", "--with-key", "--output", "/nonexistent/x"]).await;
    assert_eq!(refused.exit, Exit::Usage);
    assert!(refused.err.contains("[ARGUMENT_REFUSED]"), "{}", refused.err);
}

#[tokio::test]
async fn a_garbled_token_is_not_shown() {
    for answer in ["CANARY", "{\"token\":\"CANARY\\u001b\"}", "{\"token\":\"CANARY\"}"] {
        let daemon = StandIn::start(Answers { token: Ok(answer.into()), ..Answers::default() }).await;
        let got = run(&["token", "--aa", &daemon.address()]).await;
        assert_eq!(got.exit, Exit::Misbehaved, "{answer}");
        assert!(!got.err.contains("CANARY") && got.out.is_empty(), "{}", got.err);
    }
}

#[tokio::test]
async fn evidence_passes_report_data_on_and_shows_a_summary() {
    let evidence = r#"{"svn":"1","report_data":"qrs="}"#;
    let daemon =
        StandIn::start(Answers { tee: "sample", evidence: evidence.into(), ..Answers::default() }).await;
    let address = daemon.address();
    let raw = run(&["evidence", "--raw", "--report-data", "aabb", "--aa", &address]).await;
    assert_eq!((raw.exit, raw.text()), (Exit::Success, evidence));
    let table = run(&["evidence", "--base64", "qrs=", "--aa", &address]).await;
    assert!(table.text().starts_with("sample evidence\n"), "{}", table.text());
    assert!(table.text().contains("report data") && table.text().contains("aabb"), "{}", table.text());
    let json = run(&["evidence", "--json", "--aa", &address]).await.json();
    assert_eq!(json["pieces"][0]["tee"], "sample");
    assert_eq!(json["pieces"][0]["evidence"]["report_data"], "qrs=");
    assert_eq!(json["pieces"][0]["summary"]["svn"], "1");
    assert_eq!(daemon.asked(), ["aabb", "aabb", ""]);
}

#[tokio::test]
async fn additional_evidence_may_be_none() {
    let daemon = StandIn::start(Answers::default()).await;
    let got = run(&["evidence", "--additional", "--aa", &daemon.address()]).await;
    assert_eq!((got.exit, got.text()), (Exit::Success, "no further attesting devices\n"));
    let json = run(&["evidence", "--additional", "--json", "--aa", &daemon.address()]).await.json();
    assert_eq!(json["pieces"], serde_json::json!([]));
}

#[tokio::test]
async fn report_data_is_checked_before_it_is_sent() {
    let long = "00".repeat(65);
    for arguments in
        [["--report-data", "abc"], ["--report-data", "zz"], ["--base64", "*"], ["--report-data", &long]]
    {
        let got = run(&["evidence", arguments[0], arguments[1], "--aa", "unix:///nonexistent/x"]).await;
        assert_eq!(got.exit, Exit::Usage, "{}", got.err);
        assert!(got.err.contains("[ARGUMENT_REFUSED]\nhint: report data is 0 to 64 bytes"), "{}", got.err);
    }
}

/// A machine on which all is well.
fn healthy() -> Answers {
    let measured =
        ConfigSource { path: "/etc/x.toml".into(), provenance: "measured".into(), unknown_keys: vec![] };
    Answers {
        agent: Some(AgentStatus {
            version: "0.1.0".into(),
            tee: "snp".into(),
            strict: true,
            config: Some(measured.clone()),
            ..AgentStatus::default()
        }),
        hub: Some(HubStatus {
            version: "0.1.0".into(),
            kbc: "cc_kbc".into(),
            kbs_url: "https://kbs.example".into(),
            attested: true,
            token_seconds_left: 200,
            handshakes: 1,
            callers_by_unit: true,
            config: Some(measured),
            ..HubStatus::default()
        }),
        probe: ProbeKbsResponse {
            reachable: true,
            protocol_version: "0.4.0".into(),
            ..ProbeKbsResponse::default()
        },
        ..Answers::default()
    }
}

async fn doctor(daemon: &StandIn) -> Outcome {
    run(&["doctor", "--json", "--rest", "off", "--aa", &daemon.address(), "--cdh", &daemon.address()]).await
}

/// `(status, what)` of the lines that are not ok.
fn complaints(outcome: &Outcome) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let json = outcome.json();
    let checks = json["checks"].as_array().unwrap().iter();
    checks
        .filter(|check| check["status"] != "ok")
        .inspect(|check| assert_ne!(text(&check["next"]), "", "a complaint without a next step: {check}"))
        .map(|check| (text(&check["status"]), text(&check["what"])))
        .collect()
}

#[tokio::test]
async fn doctor_passes_on_a_healthy_machine() {
    let daemon = StandIn::start(healthy()).await;
    let got = doctor(&daemon).await;
    assert_eq!((got.exit, complaints(&got)), (Exit::Success, vec![]), "{}", got.err);
    assert_eq!(got.json()["ok"], true);
    let table =
        run(&["doctor", "--rest", "off", "--aa", &daemon.address(), "--cdh", &daemon.address()]).await;
    for part in [
        "ok    platform ",
        "snp\n",
        "/etc/x.toml (measured)",
        "protocol version 0.4.0",
        "all checks passed\n",
    ] {
        assert!(table.text().contains(part), "{part} in\n{}", table.text());
    }
}

#[tokio::test]
async fn doctor_always_fails_on_the_sample_tee() {
    let mut answers = healthy();
    answers.agent.as_mut().unwrap().tee = "sample".into();
    let got = doctor(&StandIn::start(answers).await).await;
    assert_eq!(got.exit, Exit::Failed);
    assert_eq!(complaints(&got), [("FAIL".to_owned(), "platform".to_owned())]);
    assert!(got.text().contains("the sample TEE proves nothing"), "{}", got.text());
    assert!(got.err.contains("1 of 12 checks failed [CHECKS_FAILED]"), "{}", got.err);
}

#[tokio::test]
async fn doctor_names_what_is_wrong_and_what_to_do() {
    let mut answers = healthy();
    let hub = answers.hub.as_mut().unwrap();
    hub.attested = false;
    hub.last_denial = Some(Denial {
        code: "KBS_DENIED_POLICY".into(),
        message: "measurement unknown".into(),
        unix_seconds: 60,
    });
    hub.config.as_mut().unwrap().provenance = "unmeasured".into();
    answers.agent.as_mut().unwrap().config.as_mut().unwrap().unknown_keys = vec!["tokn".into()];
    answers.probe = ProbeKbsResponse {
        code: "KBS_PROTOCOL_VERSION".into(),
        message: "the broker speaks 9.9.9".into(),
        hint: "update".into(),
        ..ProbeKbsResponse::default()
    };
    let daemon = StandIn::start(answers).await;
    fs::set_permissions(daemon.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let got = doctor(&daemon).await;
    assert_eq!(got.exit, Exit::Failed);
    let expected = [
        ("warn", "agent socket"),
        ("warn", "agent configuration"),
        ("warn", "hub socket"),
        ("warn", "hub configuration"),
        ("FAIL", "key broker"),
        ("FAIL", "session"),
    ];
    assert_eq!(complaints(&got), expected.map(|(status, what)| (status.to_owned(), what.to_owned())));
    for part in [
        "tokn",
        "mode 0666",
        "[KBS_PROTOCOL_VERSION]",
        "measurement unknown [KBS_DENIED_POLICY] at 1970-01-01T00:01:00Z",
    ] {
        assert!(got.text().contains(part), "{part} in\n{}", got.text());
    }
}

#[tokio::test]
async fn doctor_without_daemons_fails_and_says_how_to_start_them() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix://{}/none.sock", folder.path().display());
    let got = run(&["doctor", "--json", "--rest", "off", "--aa", &address, "--cdh", &address]).await;
    assert_eq!(got.exit, Exit::Failed);
    let expected = [("FAIL", "attestation agent"), ("FAIL", "confidential data hub")];
    assert_eq!(complaints(&got), expected.map(|(status, what)| (status.to_owned(), what.to_owned())));
    assert!(
        got.text().contains("[PEER_UNREACHABLE]")
            && got.text().contains("systemctl status attestation-agent")
    );
}

#[tokio::test]
async fn doctor_copes_with_daemons_of_another_make() {
    let answers = Answers { tee: "tdx", agent: None, hub: None, ..Answers::default() };
    let got = doctor(&StandIn::start(answers).await).await;
    assert_eq!(got.exit, Exit::Success, "{}", got.err);
    let expected = [("warn", "attestation agent"), ("warn", "confidential data hub")];
    assert_eq!(complaints(&got), expected.map(|(status, what)| (status.to_owned(), what.to_owned())));
    assert!(got.text().contains("\"tdx\""), "{}", got.text());
}
