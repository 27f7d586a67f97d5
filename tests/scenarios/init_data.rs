//! Init-data: bound by the hardware, sent with the evidence, checked by the key broker; and the configuration that came
//! out of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::{Field, InitData, carrier};
use cc_protos::attestation_agent::BindInitDataRequest;
use cc_protos::attestation_agent::attestation_agent_service_client::AttestationAgentServiceClient;
use cc_tests::machine::{Kind, Machine};
use cc_tests::process::Process;
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::operator::guestctl;
use crate::{RESOURCE, REST_PATH, SECRET, stack};

const DOCUMENT: &str =
    "version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n\"aa.toml\" = '''\n[log]\nlevel = \"info\"\n'''\n";

fn options(folder: &Path, host_data: &[u8]) -> Options {
    let path = folder.join("initdata.toml");
    std::fs::write(&path, DOCUMENT).unwrap();
    Options {
        machine: Machine { host_data: hex::encode(host_data), ..Machine::default() },
        agent_arguments: vec!["--initdata-toml".to_owned(), path.display().to_string()],
        ..Options::default()
    }
}

fn fetches_the_secret(stack: &Stack) {
    stack.put_resource(RESOURCE, SECRET).unwrap();
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}

/// What the key broker certified about init-data: the digest and the entries, null for none.
fn certified(stack: &Stack) -> (serde_json::Value, serde_json::Value) {
    let (status, out, error) = guestctl(stack, &["token", "--json"]);
    assert_eq!(status, Some(0), "{error}");
    let token: serde_json::Value = serde_json::from_str(&out).unwrap();
    let evidence = token
        .pointer("/claims/submods/cpu0/ear.veraison.annotated-evidence")
        .unwrap_or_else(|| panic!("{out}"));
    (evidence["init_data"].clone(), evidence["init_data_claims"].clone())
}

#[test]
fn init_data_that_the_hardware_holds_is_accepted_everywhere() {
    if !emulator_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let digest = InitData::parse(DOCUMENT).unwrap().digest();
    let mut stack = Stack::start(options(folder.path(), &digest)).unwrap_or_else(|e| panic!("{e:#}"));
    fetches_the_secret(&stack);
    assert!(stack.part(Part::Agent).unwrap().log().contains("init-data is bound"));
    let (digest_claim, entries) = certified(&stack);
    assert_eq!(digest_claim, hex::encode(digest));
    let socket = cc_tests::stack::address(&stack.agent_socket());
    for (name, document, status, word) in [
        ("same", DOCUMENT.to_owned(), Some(0), "holds this document's digest"),
        ("other", format!("{DOCUMENT}\n"), Some(1), "its SNP host data holds"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, document).unwrap();
        let arguments = ["initdata", "inspect", path.to_str().unwrap(), "--check", "--aa", &socket];
        let (exit, out, error) = guestctl(&stack, &arguments);
        assert_eq!(exit, status, "{name}: {out}{error}");
        assert!(out.contains(word), "{name}: {out}");
    }
    assert_eq!(entries["aa.toml"]["log"]["level"], "info", "policies can judge the entries: {entries}");
    let refused = bind(stack.agent_socket(), hex::decode(digest_claim.as_str().unwrap()).unwrap());
    assert!(refused.message().contains("bound already"), "what was given at start stays: {refused}");
}

/// Asks the agent to bind a digest that it must refuse.
fn bind(socket: PathBuf, digest: Vec<u8>) -> tonic::Status {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut agent = AttestationAgentServiceClient::new(crate::rpc::channel(&socket).await);
        agent.bind_init_data(BindInitDataRequest { digest }).await.unwrap_err()
    })
}

#[test]
fn init_data_that_the_hardware_does_not_hold_stops_the_agent() {
    if !emulator_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut stack = Stack::prepare(options(folder.path(), &[7; 32])).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let mut agent: Process = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
    assert!(agent.log().contains("init-data"), "{}", agent.log());
    assert!(!stack.agent_socket().exists());
}

#[test]
fn a_digest_that_is_cut_is_bound_and_said_to_be_cut() {
    if !emulator_runs_here() {
        return;
    }
    let document = DOCUMENT.replace("sha256", "sha512");
    let digest = InitData::parse(&document).unwrap().digest();
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &digest[..32]);
    std::fs::write(folder.path().join("initdata.toml"), &document).unwrap();
    let mut stack = Stack::start(options).unwrap_or_else(|e| panic!("{e:#}"));
    fetches_the_secret(&stack);
    let log = stack.part(Part::Agent).unwrap().log();
    assert!(log.contains("first 32 of the 64 bytes") && log.contains("sha256 is bound whole"), "{log}");
}

#[test]
fn unusable_documents_stop_the_agent_before_it_looks_at_the_hardware() {
    if !emulator_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path(), &[0; 32]);
    let mut stack = Stack::prepare(options).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("over the limit", vec![b'#'; (1 << 20) + 1], "too large"),
        ("no algorithm", b"version = \"0.1.0\"\n[data]\n".to_vec(), "algorithm is missing"),
        ("no version", b"algorithm = \"sha256\"\n[data]\n".to_vec(), "version is missing"),
        ("no data", b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n".to_vec(), "data is missing"),
        ("unknown algorithm", DOCUMENT.replace("sha256", "md5").into_bytes(), "algorithm is none of"),
        ("a number", DOCUMENT.replace("[data]", "[data]\nn = 1").into_bytes(), "\"n\" is integer"),
        ("twice", DOCUMENT.replace("[data]", "[data]\n\"aa.toml\" = ''").into_bytes(), "not TOML at line 5"),
        ("not UTF-8", b"version = \"\xff\"\n".to_vec(), "UTF-8"),
        ("gzip", carrier::compress(DOCUMENT).unwrap(), "UTF-8"),
    ];
    for (title, content, why) in cases {
        std::fs::write(folder.path().join("initdata.toml"), content).unwrap();
        let mut agent = stack.spawn_agent().unwrap();
        assert_eq!(agent.wait().unwrap(), Some(64), "{title}: {}", agent.log());
        let log = agent.log();
        assert!(log.contains("INIT_DATA_UNREADABLE") && log.contains(why), "{title}: {log}");
        assert!(!stack.agent_socket().exists(), "{title}");
    }
    assert_eq!(stack.quotes().unwrap(), 0);
    // Nobody but kata-agent judges the version, which comes before us.
    std::fs::write(folder.path().join("initdata.toml"), DOCUMENT.replace("0.1.0", "7")).unwrap();
    let mut agent = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(69), "{}", agent.log());
}

#[test]
fn only_root_may_bind_a_digest_later() {
    let agent_config = "[socket]\nmode = \"0666\"\n".to_owned();
    let Some(stack) = stack(Options { agent_config, ..Options::default() }) else { return };
    crate::strict::open_to_all(stack.folder());
    let socket = stack.agent_socket();
    // The kernel tells the agent the user of the thread that connects.
    let refused = std::thread::spawn(move || {
        rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        bind(socket, vec![0; 32])
    });
    let refused = refused.join().unwrap();
    assert!(refused.message().contains("only root may"), "{refused}");
}

/// A machine that was launched with its daemons' configuration in its init-data, up to and without the agent. What is
/// put into the document can differ from what the daemons read.
struct Launch {
    stack: Stack,
    _folder: tempfile::TempDir,
}

impl Launch {
    /// Without the newest kernel a trust domain learns what it was launched with from a quote alone.
    fn new(kind: Kind, old_kernel: bool, change: impl Fn(&str, String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("initdata.toml");
        let machine = match kind {
            Kind::Snp => Machine::default(),
            Kind::Tdx => Machine::tdx(),
            Kind::Cca => Machine::cca(),
        };
        let mut stack = Stack::prepare(Options {
            machine: machine.clone(),
            agent_config: "[access]\nstrict = true\n".to_owned(),
            agent_arguments: vec!["--initdata-toml".to_owned(), path.display().to_string()],
            measured_config: true,
            old_kernel,
            hub_arguments: vec!["--unmeasured-config".to_owned(), "refuse".to_owned()],
            ..Options::default()
        })
        .unwrap();
        stack.start_part(Part::Emulator).unwrap();
        stack.start_part(Part::Kbs).unwrap();
        stack.set_reference_values(&machine.reference_values()).unwrap();
        stack.put_resource(RESOURCE, SECRET).unwrap();
        let entries = BTreeMap::from([
            ("aa.toml".to_owned(), change("aa.toml", stack.agent_config())),
            ("cdh.toml".to_owned(), change("cdh.toml", stack.hub_config())),
        ]);
        let document = InitData::compose(HashAlgorithm::Sha256, entries).unwrap();
        std::fs::write(path, document.body()).unwrap();
        stack.set_machine(&launched_with(machine, &document)).unwrap();
        Self { stack, _folder: folder }
    }
}

/// The machine, launched with this document.
pub(crate) fn launched_with(mut machine: Machine, document: &InitData) -> Machine {
    let digest = document.digest();
    machine.host_data = hex::encode(Field::SnpHostData.expected(&digest).unwrap());
    machine.td.mrconfigid = hex::encode(Field::TdxMrConfigId.expected(&digest).unwrap());
    machine
}

#[test]
fn strict_daemons_serve_with_configuration_that_is_measured() {
    for kind in [Kind::Snp, Kind::Tdx] {
        if !emulator_runs_here() {
            return;
        }
        let Launch { mut stack, _folder } = Launch::new(kind, false, |_, text| text);
        for part in [Part::Agent, Part::Hub, Part::Rest] {
            stack.start_part(part).unwrap();
        }
        let answer = stack.rest_get(REST_PATH).unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{kind:?}: {}", answer.text());
        let (_, out, error) = guestctl(&stack, &["doctor"]);
        for file in ["aa.toml (measured)", "cdh.toml (measured)"] {
            assert!(out.contains(file), "{kind:?}: {file} is missing in {out}{error}");
        }
        assert!(out.contains("the hardware holds its digest"), "{out}");
        let (_, entries) = certified(&stack);
        assert!(
            entries["cdh.toml"]["kbc"]["url"].is_string(),
            "the key broker can see where secrets go: {entries}"
        );
    }
}

#[test]
fn strict_daemons_refuse_configuration_that_is_not_the_measured_one() {
    if !emulator_runs_here() {
        return;
    }
    let edited = |name: &'static str| {
        move |entry: &str, text: String| {
            if entry == name { format!("{text}# as the owner wrote it\n") } else { text }
        }
    };
    let launch = Launch::new(Kind::Snp, false, edited("aa.toml"));
    let mut agent = launch.stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(64), "{}", agent.log());
    let log = agent.log();
    assert!(
        log.contains("CONFIG_UNMEASURED") && log.contains("aa.toml") && log.contains("other bytes"),
        "{log}"
    );
    assert!(!launch.stack.agent_socket().exists(), "nothing was served meanwhile");

    let mut launch = Launch::new(Kind::Snp, false, edited("cdh.toml"));
    launch.stack.start_part(Part::Agent).unwrap();
    let mut hub = launch.stack.spawn_hub().unwrap();
    assert_eq!(hub.wait().unwrap(), Some(64), "{}", hub.log());
    let log = hub.log();
    assert!(
        log.contains("CONFIG_UNMEASURED") && log.contains("cdh.toml") && log.contains("other bytes"),
        "{log}"
    );
    assert!(!launch.stack.hub_socket().exists());
}

#[test]
fn a_strict_agent_without_init_data_says_what_to_do() {
    let options = Options {
        agent_config: "[access]\nstrict = true\n".to_owned(),
        measured_config: true,
        ..Options::default()
    };
    if !emulator_runs_here() {
        return;
    }
    let mut stack = Stack::prepare(options).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    let mut agent = stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(64), "{}", agent.log());
    let log = agent.log();
    for part in ["CONFIG_UNMEASURED", "aa.toml", "init-data document", "--unmeasured-config allow"] {
        assert!(log.contains(part), "{part} is missing in {log}");
    }
}

#[test]
fn what_the_host_says_about_a_trust_domain_measures_nothing() {
    if !emulator_runs_here() {
        return;
    }
    let launch = Launch::new(Kind::Tdx, true, |_, text| text);
    let mut agent = launch.stack.spawn_agent().unwrap();
    assert_eq!(agent.wait().unwrap(), Some(64), "{}", agent.log());
    let log = agent.log();
    assert!(log.contains("the host says") && log.contains("CONFIG_UNMEASURED"), "{log}");
}

/// A peer pod: the image left the document where the agent is told nothing about it.
fn peer_pod(document: &str, host_data: &[u8]) -> Stack {
    let machine = Machine { host_data: hex::encode(host_data), ..Machine::default() };
    let mut stack = Stack::prepare(Options { machine, ..Options::default() }).unwrap();
    let folder = stack.folder().join("root/run/peerpod");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("initdata"), document).unwrap();
    if let Ok(body) = carrier::from_annotation(document) {
        let digest = InitData::parse(&body).unwrap().digest();
        std::fs::write(folder.join("initdata.digest"), hex::encode(digest)).unwrap();
    }
    for part in [Part::Emulator, Part::Kbs] {
        stack.start_part(part).unwrap();
    }
    stack.set_reference_values(&Machine::default().reference_values()).unwrap();
    for part in [Part::Agent, Part::Hub, Part::Rest] {
        stack.start_part(part).unwrap();
    }
    stack
}

#[test]
fn a_peer_pods_init_data_is_sent_only_if_the_hardware_holds_it() {
    if !emulator_runs_here() {
        return;
    }
    let encoded = carrier::to_annotation(DOCUMENT).unwrap();
    let digest = InitData::parse(DOCUMENT).unwrap().digest();
    let mut held = peer_pod(&encoded, &digest);
    fetches_the_secret(&held);
    assert_eq!(certified(&held).0, hex::encode(&digest));
    assert!(held.part(Part::Agent).unwrap().log().contains("peer pod is bound"));
    drop(held);

    for (title, document) in [("not held", encoded.as_str()), ("damaged", &encoded[..encoded.len() - 8])] {
        let mut stack = peer_pod(document, &[7; 32]);
        fetches_the_secret(&stack);
        assert!(certified(&stack).1.is_null(), "{title}: nothing was sent");
        let log = stack.part(Part::Agent).unwrap().log();
        assert!(log.contains("is not sent"), "{title}: {log}");
    }
}
