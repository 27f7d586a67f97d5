//! Mixed machines: people move to this stack one daemon at a time, so each of ours works beside the existing
//! stack's others, which speak ttrpc and nothing else.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_crypto::{Jwe, TeeKeyPair};
use cc_protos::attestation_agent as aa;
use cc_tests::curl::{self, Answer};
use cc_tests::process::{Process, own_binary};
use cc_tests::stack::{Options, Part, Stack, address};
use cc_tests::ttrpc_peer::{Methods, TtrpcPeer};
use prost::Message;

use crate::{RESOURCE, REST_PATH, SECRET, code, stack};

const AA: &str = "attestation_agent.AttestationAgentService";

/// The agent of the existing stack.
const AGENT: Methods = Methods {
    service: AA,
    served: &[
        "GetEvidence",
        "GetAdditionalEvidence",
        "GetToken",
        "ExtendRuntimeMeasurement",
        "GetTeeType",
        "GetAdditionalTees",
    ],
    lacking: &["BindInitData"],
};
/// An agent from before there were devices to attest.
const AGENT_WITHOUT_DEVICES: Methods = Methods {
    service: AA,
    served: &["GetEvidence", "GetToken", "GetTeeType"],
    lacking: &["GetAdditionalEvidence", "GetAdditionalTees"],
};
/// An agent that hands out tokens only.
const AGENT_WITHOUT_EVIDENCE: Methods =
    Methods { service: AA, served: &["GetToken"], lacking: &["GetEvidence"] };
/// The data hub of the existing stack, as far as the REST server needs it.
const HUB: Methods = Methods { service: "api.GetResourceService", served: &["GetResource"], lacking: &[] };

/// Our hub beside an agent of another kind.
struct HubBeside {
    hub: Process,
    socket: PathBuf,
}

impl HubBeside {
    fn start(stack: &Stack, agent: &Path) -> Self {
        let config = stack.folder().join("mixed-cdh.toml");
        let socket = stack.folder().join("mixed-cdh.sock");
        let certificate = std::fs::read_to_string(stack.kbs_certificate()).unwrap();
        let text = format!(
            "socket = {:?}\n[kbc]\nname = \"cc_kbc\"\nurl = {:?}\nkbs_cert = '''{certificate}'''\n[aa]\naa_socket = {:?}\n",
            address(&socket),
            stack.kbs_url(),
            address(agent)
        );
        std::fs::write(&config, text).unwrap();
        let mut command = own_binary("confidential-data-hub").unwrap();
        command.arg("-c").arg(config).env("RUST_LOG", "trace");
        let mut hub = Process::start("mixed-cdh", command, stack.folder()).unwrap();
        hub.wait_for_path(&socket).unwrap();
        Self { hub, socket }
    }

    fn get(&self, uri: &str) -> std::process::Output {
        let mut command = own_binary("guestctl").unwrap();
        command.args(["get", uri, "--cdh", &address(&self.socket)]).output().unwrap()
    }

    fn get_secret(&self) {
        let out = self.get(&format!("kbs:///{RESOURCE}"));
        let (error, log) = (String::from_utf8_lossy(&out.stderr), self.hub.log());
        assert_eq!(out.stdout, SECRET, "{error}\n{log}");
    }
}

/// The REST server beside daemons at other sockets.
struct RestBeside {
    _rest: Process,
    port: u16,
}

impl RestBeside {
    fn start(stack: &Stack, agent: &Path, hub: &Path) -> Self {
        let port = cc_tests::port::claim().unwrap();
        let mut command = own_binary("api-server-rest").unwrap();
        command.arg("-b").arg(format!("127.0.0.1:{port}")).args(["-f", "all"]);
        command.arg("-c").arg(address(hub)).arg("-a").arg(address(agent));
        let mut rest = Process::start("mixed-rest", command, stack.folder()).unwrap();
        rest.wait_for_port(port).unwrap();
        Self { _rest: rest, port }
    }

    fn get(&self, path: &str) -> Answer {
        curl::get(&format!("http://127.0.0.1:{}{path}", self.port)).unwrap()
    }
}

#[test]
fn our_hub_gets_evidence_from_an_agent_that_speaks_only_ttrpc() {
    let Some(stack) = stack(Options::default()) else { return };
    let socket = stack.folder().join("ttrpc-aa.sock");
    let agent = TtrpcPeer::start(&socket, &stack.agent_socket(), &[AGENT]).unwrap();
    let hub = HubBeside::start(&stack, &socket);
    let begun = Instant::now();
    hub.get_secret();
    assert!(begun.elapsed() < Duration::from_secs(10), "telling ttrpc from gRPC takes no time-out of a call");
    assert_eq!(
        agent.calls(),
        ["GetTeeType", "GetAdditionalEvidence", "GetEvidence"],
        "the key stays in the hub"
    );
    hub.get_secret();
    assert_eq!(stack.quotes().unwrap(), 1, "one attestation serves many secrets here too");
}

#[test]
fn our_hub_does_without_device_evidence_where_the_agent_knows_none() {
    let Some(stack) = stack(Options::default()) else { return };
    let socket = stack.folder().join("ttrpc-aa.sock");
    let agent = TtrpcPeer::start(&socket, &stack.agent_socket(), &[AGENT_WITHOUT_DEVICES]).unwrap();
    HubBeside::start(&stack, &socket).get_secret();
    assert_eq!(agent.calls(), ["GetTeeType", "GetAdditionalEvidence", "GetEvidence"]);
}

#[test]
fn the_last_resort_of_our_hub_is_the_agents_own_token() {
    let Some(stack) = stack(Options::default()) else { return };
    let socket = stack.folder().join("ttrpc-aa.sock");
    let agent = TtrpcPeer::start(&socket, &stack.agent_socket(), &[AGENT_WITHOUT_EVIDENCE]).unwrap();
    let hub = HubBeside::start(&stack, &socket);
    hub.get_secret();
    hub.get_secret();
    assert_eq!(agent.calls(), ["GetToken"], "one token serves many secrets");
    let log = hub.hub.log();
    assert!(log.contains("using a token and a key that the source made"), "said loudly:\n{log}");
    assert!(
        !log.contains("PRIVATE KEY") && !log.contains("eyJ"),
        "no key and no token at trace level:\n{log}"
    );
}

#[test]
fn an_agent_without_token_and_evidence_is_named() {
    let Some(stack) = stack(Options::default()) else { return };
    let socket = stack.folder().join("ttrpc-aa.sock");
    let nothing = Methods { service: AA, served: &[], lacking: &["GetToken", "GetTeeType"] };
    let agent = TtrpcPeer::start(&socket, &stack.agent_socket(), &[nothing]).unwrap();
    let hub = HubBeside::start(&stack, &socket);
    let out = hub.get(&format!("kbs:///{RESOURCE}"));
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success());
    assert!(error.contains("PEER_LACKS_METHOD") && error.contains("ttrpc-aa.sock"), "{error}");
    assert_eq!(agent.calls(), ["GetTeeType", "GetToken"]);
}

#[test]
fn rest_serves_from_daemons_that_speak_only_ttrpc() {
    let Some(stack) = stack(Options::default()) else { return };
    let (agent, hub) = (stack.folder().join("ttrpc-aa.sock"), stack.folder().join("ttrpc-cdh.sock"));
    let _agent = TtrpcPeer::start(&agent, &stack.agent_socket(), &[AGENT]).unwrap();
    let _hub = TtrpcPeer::start(&hub, &stack.hub_socket(), &[HUB]).unwrap();
    let rest = RestBeside::start(&stack, &agent, &hub);
    let secret = rest.get(REST_PATH);
    assert_eq!((secret.status, secret.body.as_slice()), (200, SECRET), "{}", secret.text());
    let info: serde_json::Value = serde_json::from_slice(&rest.get("/info").body).unwrap();
    assert_eq!(info["tee"], "snp");
    let evidence = rest.get("/aa/evidence?runtime_data=abc");
    let evidence: serde_json::Value = serde_json::from_slice(&evidence.body).unwrap();
    assert_eq!(evidence["attestation_report"]["report_data"][0], b'a');
    let none = rest.get("/aa/additional-evidence?runtime_data=abc");
    assert_eq!((none.status, none.body.len()), (200, 0));
    let token = rest.get("/aa/token?token_type=kbs");
    assert_eq!(token.status, 200, "{}", token.text());
    assert!(token.text().starts_with("{\"token\":\"ey") && !token.text().contains("PRIVATE KEY"));
    // Errors keep their blame across ttrpc.
    let url = format!("http://127.0.0.1:{}/cdh/resource/default/key/none", rest.port);
    let absent = curl::curl(&["-H", "Accept: application/json"], &url).unwrap();
    assert_eq!((absent.status, code(&absent.body).as_str()), (404, "KBS_NOT_FOUND"), "{}", absent.text());
    let event = r#"{"domain":"d","operation":"o","content":"c"}"#;
    let extended =
        curl::curl(&["--data", event], &format!("http://127.0.0.1:{}/aa/aael", rest.port)).unwrap();
    assert_eq!(extended.status, 200, "{}", extended.text());
}

#[test]
fn many_clients_share_one_ttrpc_connection() {
    let Some(stack) = stack(Options::default()) else { return };
    let hub = stack.folder().join("ttrpc-cdh.sock");
    let peer = TtrpcPeer::start(&hub, &stack.hub_socket(), &[HUB]).unwrap();
    let rest = RestBeside::start(&stack, &stack.agent_socket(), &hub);
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| {
                let secret = rest.get(REST_PATH);
                assert_eq!((secret.status, secret.body.as_slice()), (200, SECRET), "{}", secret.text());
            });
        }
    });
    assert_eq!(peer.calls().len(), 24);
    let open = std::fs::read_dir(format!("/proc/{}/fd", rest._rest.pid())).unwrap().count();
    assert!(open < 24, "{open} descriptors after the clients have gone");
}

#[test]
fn a_daemon_may_be_replaced_by_the_other_kind_behind_our_backs() {
    let Some(mut stack) = stack(Options::default()) else { return };
    let socket = stack.folder().join("either-aa.sock");
    let rest = RestBeside::start(&stack, &socket, &stack.hub_socket());
    let start = |stack: &Stack| {
        let config = stack.folder().join("either-aa.toml");
        std::fs::write(&config, "[platform]\nsample = true\n").unwrap();
        let mut command = own_binary("attestation-agent").unwrap();
        command.arg("-a").arg(address(&socket)).arg("-c").arg(config);
        Process::start("either-aa", command, stack.folder()).unwrap()
    };
    let tee = |expected: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let info = rest.get("/info");
            if info.status == 200 && info.text().contains(expected) {
                return;
            }
            assert!(Instant::now() < deadline, "{}", info.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    for _ in 0..2 {
        let existing = TtrpcPeer::start(&socket, &stack.agent_socket(), &[AGENT]).unwrap();
        tee("\"snp\"");
        assert!(existing.calls().contains(&"GetTeeType".to_owned()));
        drop(existing);
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(rest.get("/info").status, 500, "down is told");
        let mut ours = start(&stack);
        tee("\"sample\"");
        assert_eq!(ours.stop().unwrap(), 0);
    }
    assert!(stack.part(Part::Rest).is_ok());
}

/// What the data hub of the existing stack does: a token and its key from the agent, the resource from the key
/// broker with that token, the answer opened with that key.
#[test]
fn a_hub_of_the_existing_stack_works_with_our_agent() {
    let Some(stack) = stack(Options::default()) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let agent = ttrpc::asynchronous::Client::connect(&address(&stack.agent_socket())).await.unwrap();
        let mut request = ttrpc::proto::Request::new();
        request.service = AA.to_owned();
        request.method = "GetToken".to_owned();
        request.timeout_nano = 50_000_000_000;
        request.payload = aa::GetTokenRequest { token_type: "kbs".to_owned() }.encode_to_vec();
        agent.request(request).await.unwrap()
    });
    let answer = aa::GetTokenResponse::decode(answer.payload.as_slice()).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&answer.token).unwrap();
    assert_eq!(token.as_object().unwrap().len(), 2);
    let headers = stack.folder().join("existing-headers");
    std::fs::write(&headers, format!("Authorization: Bearer {}\n", token["token"].as_str().unwrap()))
        .unwrap();
    let (headers, certificate) = (format!("@{}", headers.display()), stack.kbs_certificate());
    let url = format!("{}/kbs/v0/resource/{RESOURCE}", stack.kbs_url());
    let arguments = ["--cacert", certificate.to_str().unwrap(), "--header", &headers];
    let resource = curl::curl(&arguments, &url).unwrap();
    assert_eq!(resource.status, 200, "{}", resource.text());
    let key = TeeKeyPair::from_private_pem(token["tee_keypair"].as_str().unwrap()).unwrap();
    let secret = key.open(&Jwe::parse(&resource.body).unwrap()).unwrap();
    assert_eq!(secret.expose(), SECRET);
}
