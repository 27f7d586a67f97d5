//! The program itself: start, TLS, log, stop.
#![allow(clippy::disallowed_methods, reason = "this file starts the program under test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cc_crypto::{KeyAlgorithm, TeeKeyPair};
use cc_evidence::{HashAlgorithm, binding, sample};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_dev-kbs");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

/// The running server; killed when the test fails.
struct Server {
    child: Child,
    /// As printed on standard output.
    line: Value,
}

impl Server {
    fn start(state: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["serve", "--listen", "127.0.0.1:0", "--state"])
            .arg(state)
            .args(more)
            .env("RUST_LOG", "trace")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { line: serde_json::from_str(&line).unwrap(), child }
    }

    fn address(&self) -> &str {
        self.line["listening"].as_str().unwrap().rsplit_once("//").unwrap().1
    }

    /// Sends SIGTERM; gives the exit status and the log.
    fn stop(mut self) -> (bool, String) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().success(), log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails when it has ended already, which is the usual case.
        let _ = self.child.kill();
    }
}

/// One request on a connection of its own: status and body.
fn request(stream: &mut (impl Read + Write), head: &str, body: &[u8]) -> (String, Vec<u8>) {
    write!(
        stream,
        "{head}\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let split = answer.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole answer");
    (String::from_utf8(answer[..split].to_vec()).unwrap(), answer[split + 4..].to_vec())
}

fn plain(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

fn tls(address: &str, roots: RootCertStore) -> StreamOwned<ClientConnection, TcpStream> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), plain(address))
}

#[test]
fn tls_with_the_written_certificate_as_the_only_root() {
    let place = tempfile::tempdir().unwrap();
    let server = Server::start(place.path(), &[]);
    assert!(server.line["listening"].as_str().unwrap().starts_with("https://127.0.0.1:"));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.line["certificate"].as_str().unwrap()).unwrap()).unwrap();
    let (head, body) = request(&mut tls(server.address(), roots), "GET /healthz HTTP/1.1", b"");
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}");
    // A stranger's root does not do, and neither does plain HTTP.
    let mut stranger = tls(server.address(), RootCertStore::empty());
    assert!(stranger.write_all(b"x").is_err());
    let mut refused = plain(server.address());
    refused.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = refused.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    let (clean, log) = server.stop();
    assert!(clean, "{log}");
    assert!(log.contains("for tests and demos only"), "{log}");
}

#[test]
fn a_whole_handshake_leaves_decisions_in_the_log_and_no_secrets() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().to_str().unwrap().to_owned();
    let server = Server::start(place.path(), &["--insecure-http", "--allow-sample"]);
    assert_eq!(server.line["certificate"], Value::Null);
    let admin = run(&["admin-token", "--state", &state, "--lifetime", "60"]);
    let admin = String::from_utf8(admin.stdout).unwrap().trim().to_owned();
    let send = |head: String, body: &[u8]| request(&mut plain(server.address()), &head, body);
    let administer = |path: &str, body: &[u8]| {
        send(format!("POST /kbs/v0/{path} HTTP/1.1\r\nAuthorization: Bearer {admin}"), body).0
    };
    assert!(administer("resource/default/key/1", b"canary-of-the-vault").starts_with("HTTP/1.1 200"));

    let auth = json!({ "version": "0.4.0", "tee": "sample", "extra-params": "" }).to_string();
    let (head, challenge) = send("POST /kbs/v0/auth HTTP/1.1".into(), auth.as_bytes());
    let nonce = serde_json::from_slice::<Value>(&challenge).unwrap()["nonce"].as_str().unwrap().to_owned();
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    assert!(!head.contains("Secure"), "no TLS: {head}");
    let key = TeeKeyPair::generate(KeyAlgorithm::EcdhP256).unwrap();
    let digest = binding::primary_report_data(&nonce, &key.public_jwk(), "", HashAlgorithm::Sha384).unwrap();
    let body = json!({
        "init-data": null,
        "runtime-data": { "nonce": nonce, "tee-pubkey": key.public_jwk() },
        "tee-evidence": { "additional_evidence": "",
            "primary_evidence": serde_json::from_str::<Value>(&sample::evidence_json(&digest)).unwrap() },
    });
    let attest = format!("POST /kbs/v0/attest HTTP/1.1\r\nCookie: {cookie}");
    let (_, answer) = send(attest.clone(), body.to_string().as_bytes());
    let token = serde_json::from_slice::<Value>(&answer).unwrap()["token"].as_str().unwrap().to_owned();
    let get = format!("GET /kbs/v0/resource/default/key/1 HTTP/1.1\r\nAuthorization: Bearer {token}");
    let (denied, _) = send(get.clone(), b"");
    assert!(denied.starts_with("HTTP/1.1 403"), "{denied}");
    // A malformed request, with the nonce where the parser quotes it:
    let misplaced = json!({ "runtime-data": nonce }).to_string();
    assert!(send(attest, misplaced.as_bytes()).0.starts_with("HTTP/1.1 400"));

    let (clean, log) = server.stop();
    assert!(clean, "{log}");
    for (what, canary) in [
        ("secret", "canary-of-the-vault"),
        ("nonce", nonce.as_str()),
        ("token", token.as_str()),
        ("token's signature", token.rsplit('.').next().unwrap()),
        ("admin token", admin.as_str()),
        ("session", cookie.split('=').nth(1).unwrap()),
    ] {
        assert!(!log.contains(canary), "the {what} is in the log:\n{log}");
    }
    for line in
        ["auth: challenged", "attest: sample with measurement abcde", "resource default/key/1: refused"]
    {
        assert!(log.contains(line), "{line} is not in the log:\n{log}");
    }
}

#[test]
fn test_roots_are_refused_on_an_address_that_others_reach() {
    let place = tempfile::tempdir().unwrap();
    let state = place.path().join("s");
    let done = run(&[
        "serve",
        "--state",
        state.to_str().unwrap(),
        "--listen",
        "0.0.0.0:0",
        "--test-roots",
        "/nowhere",
    ]);
    let log = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && log.contains("loopback") && log.contains("DEV_KBS_OPTIONS"), "{log}");
    assert!(!state.exists(), "nothing is left behind");
}

#[test]
fn help_has_an_example() {
    for command in ["serve", "admin-token"] {
        let help = String::from_utf8(run(&[command, "--help"]).stdout).unwrap();
        assert!(help.contains("Example:") && help.contains("--state"), "{help}");
    }
}
