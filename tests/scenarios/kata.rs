//! kata-agent's side of the contract: the extension image with its manifest, start lines, sockets, launch levels, and every call
//! that it makes, over its own protocol.

mod guest;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::InitData;
use cc_protos::{api, attestation_agent as aa};
use cc_tests::machine::Machine;
use cc_tests::process::command;
use cc_tests::registry::Registry;
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::init_data::launched_with;
use crate::peer_pod::listed;
use crate::rpc::{ttrpc, ttrpc_client};
use crate::sealed::{SIGNER, independent, unseal};
use crate::{RESOURCE, SECRET};
use guest::{AGENT, Guest, HUB, Network};

/// What kata-agent waits for a socket, by default.
const PATIENCE: Duration = Duration::from_secs(6);
const DAEMONS: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];

/// Emulator and key broker.
fn surroundings(options: Options) -> Option<Stack> {
    if !emulator_runs_here() {
        return None;
    }
    let mut stack = Stack::prepare(options).unwrap();
    stack.start_part(Part::Emulator).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    stack.set_reference_values(&Machine::default().reference_values()).unwrap();
    stack.put_resource(RESOURCE, SECRET).unwrap();
    Some(stack)
}

/// Without init-data, without configuration, and without any network but the machine's own loopback.
#[test]
fn each_launch_level_starts_with_nothing_at_all() {
    let Some(stack) = surroundings(Options::default()) else { return };
    let launches = [(0, "default"), (1, "default"), (2, "default"), (3, "default"), (1, "nvidia")];
    for (level, variant) in launches {
        let mut guest = Guest::boot(&stack, Network::Loopback);
        guest.choose_variant(variant);
        let took = guest.launch(level);
        assert_eq!(guest.running(), DAEMONS[..level], "level {level}");
        assert!(took.iter().all(|time| *time < PATIENCE), "level {level}: {took:?}");
        if level >= 1 {
            guest.block_on(async |guest| {
                let agent = ttrpc_client(&guest.inside(AGENT)).await;
                let service = "attestation_agent.AttestationAgentService";
                let tee: aa::GetTeeTypeResponse =
                    ttrpc(&agent, service, "GetTeeType", aa::GetTeeTypeRequest {}).await.unwrap();
                assert_eq!(tee.tee, "snp");
            });
        }
        if level >= 2 {
            let (_, message) = guest.resource("kbs:///default/key/none").unwrap_err();
            assert!(message.starts_with("[CDH] [ERROR]: "), "{message}");
        }
        if level == 3 {
            let answer = guest.ask_rest("/cdh/resource/default/key/none");
            assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        }
        // There is no unit: whatever confines them they set themselves.
        for daemon in &DAEMONS[..level] {
            let log = guest.log(daemon);
            assert!(log.contains("confinement: core dumps: forbidden, system calls: filtered ("), "{log}");
            assert!(log.contains("own filter: set, privileges: never gained"), "{log}");
            let status = guest.status(daemon);
            assert_confined(daemon, &status);
            // CAP_CHOWN and CAP_DAC_OVERRIDE; CAP_NET_BIND_SERVICE. The hub has those of its privileged half.
            let most = [
                ("attestation-agent", 0x3),
                ("api-server-rest", 1 << 10),
                ("confidential-data-hub", u64::MAX),
            ];
            let most = most.into_iter().find(|(name, _)| name == daemon).unwrap().1;
            let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).unwrap();
            assert_eq!(u64::from_str_radix(set, 16).unwrap() & !most, 0, "{daemon}: {set}");
        }
    }
}

/// The kernel's word (proc_pid_status(5)).
fn assert_confined(name: &str, status: &str) {
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.lines().any(|there| there == line), "{name}: {status}");
    }
}

/// The half of the hub that unpacks images starts in a guest that has a C library and nothing more.
#[test]
fn the_extension_brings_what_its_programs_are_linked_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut make = command("make");
    make.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).args(["--silent", "install-extension"]);
    make.arg(format!("ROOT={}", folder.path().display()));
    make.arg(format!("PREBUILT={}", cc_tests::process::binary_folder().unwrap().display()));
    let out = make.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    // The libraries are those of this machine, by their names.
    let is_library =
        |line: &str| line.strip_prefix("f 0644 usr/local/lib/lib").is_some_and(|name| name.contains(".so."));
    let tree = listed(folder.path());
    let told: String = tree.split_inclusive('\n').filter(|line| !is_library(line)).collect();
    assert_eq!(told, include_str!("kata/tree.list"), "{tree}");
    let library = folder.path().join("usr/local/lib");
    let manifest: toml::Table = fs::read_to_string(folder.path().join("etc/kata-extensions/components.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let hub = &manifest["process"].as_array().unwrap()[1];
    assert_eq!(hub["env"]["LD_LIBRARY_PATH"].as_str().unwrap(), "${extension_root}/usr/local/lib");
    assert_eq!(
        hub["env"]["PATH"].as_str().unwrap(),
        "${extension_root}/usr/sbin:/bin:/sbin:/usr/bin:/usr/sbin"
    );
    let linked = |program: &str| {
        let program = folder.path().join(program);
        let out = command("ldd").arg(program).env("LD_LIBRARY_PATH", &library).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let said = [linked("usr/local/bin/cdh-storage"), linked("usr/sbin/mkfs.ext4")].concat();
    assert!(said.contains("libcryptsetup.so") && said.contains("libext2fs.so"), "{said}");
    for line in said.lines().filter(|line| line.contains(" => ")) {
        let (name, path) = line.trim().split_once(" => ").unwrap();
        let of_the_c_library = ["libc.so", "libm.so", "libdl.so", "librt.so", "libpthread.so"];
        if !of_the_c_library.iter().any(|own| name.starts_with(own)) {
            assert!(path.starts_with(library.to_str().unwrap()), "{line}");
        }
    }
    // As cdh-storage starts it: with nothing of this machine but the C library.
    let mut mkfs = command(folder.path().join("usr/sbin/mkfs.ext4"));
    let disk = folder.path().join("disk");
    fs::File::create(&disk).unwrap().set_len(4 << 20).unwrap();
    let out = mkfs
        .env_clear()
        .env("LD_LIBRARY_PATH", &library)
        .args(["-q", "-F", "--"])
        .arg(&disk)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// As on a machine that was launched with init-data: kata-agent has unpacked it, and the daemons find what it unpacked.
struct Launched {
    stack: Stack,
    guest: Guest,
    registry: Registry,
}

impl Launched {
    fn new(options: Options) -> Option<Self> {
        let stack = surroundings(options)?;
        stack.put_resource(SIGNER, independent(&["jwk"]).as_bytes()).unwrap();
        let registry = Registry::start(stack.folder()).unwrap();
        let certificate = fs::read_to_string(stack.kbs_certificate()).unwrap();
        let agent = format!(
            "[token_configs.kbs]\nurl = {url:?}\ncert = '''{certificate}'''\n",
            url = stack.kbs_url()
        );
        let hub = format!(
            "socket = \"unix://{HUB}\"\n[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\nkbs_cert = '''{certificate}'''\n[image]\n\
             registry_config = {{ registry = [{{ prefix = {prefix:?}, insecure = true }}] }}\n",
            url = stack.kbs_url(),
            prefix = registry.address()
        );
        let entries = BTreeMap::from([("aa.toml".to_owned(), agent), ("cdh.toml".to_owned(), hub)]);
        let document = InitData::compose(HashAlgorithm::Sha256, entries.clone()).unwrap();
        stack.set_machine(&launched_with(Machine::default(), &document)).unwrap();
        let mut guest = Guest::boot(&stack, Network::Shared);
        guest.unpack_init_data(document.body(), &entries);
        Some(Self { stack, guest, registry })
    }
}

#[test]
fn every_call_of_kata_agent_is_answered_on_a_machine_with_init_data() {
    let Some(Launched { stack, mut guest, registry }) = Launched::new(Options::default()) else { return };
    // What a killed daemon of an earlier start left behind.
    guest.leave_stale_sockets();
    let took = guest.launch(2);
    assert!(took.iter().all(|time| *time < PATIENCE), "{took:?}");
    assert!(
        guest.log("attestation-agent").contains("init-data is bound"),
        "{}",
        guest.log("attestation-agent")
    );
    let unmeasured = "the configuration is unmeasured";
    assert!(!guest.log("attestation-agent").contains(unmeasured), "{}", guest.log("attestation-agent"));

    assert_eq!(guest.resource("kbs:///default/key/1").unwrap(), SECRET);
    let sealed = independent(&["vault", &format!("kbs:///{SIGNER}"), &format!("kbs:///{RESOURCE}")]);
    guest.block_on(async |guest| assert_eq!(unseal(&guest.inside(HUB), &sealed).await.unwrap(), SECRET));
    assert!(
        !guest.log("confidential-data-hub").contains(unmeasured),
        "{}",
        guest.log("confidential-data-hub")
    );

    let image = push(&stack, &registry);
    let request = api::ImagePullRequest {
        image_url: image,
        bundle_path: "/run/kata-containers/image/bundle".to_owned(),
    };
    let answer: api::ImagePullResponse =
        guest.call("api.ImagePullService", "PullImage", request).unwrap_or_else(|e| panic!("{e:?}"));
    assert!(answer.manifest_digest.starts_with("sha256:"), "{answer:?}");
    assert_eq!(guest.read("/run/kata-containers/image/bundle/rootfs/etc/app"), "from-an-image\n");
    // The other half, which the hub has started by now: it may mount, and its unpacker may not.
    let halves = guest.started_by("confidential-data-hub");
    assert_eq!(halves.len(), 2, "{halves:?}");
    halves.iter().for_each(|status| assert_confined("cdh-storage", status));
    let log = guest.log("confidential-data-hub");
    assert_eq!(log.matches("own filter: set").count(), 3, "{log}");

    let request =
        api::SecureMountRequest { volume_type: "floppy".to_owned(), ..api::SecureMountRequest::default() };
    let refused = guest.call::<_, api::SecureMountResponse>("api.SecureMountService", "SecureMount", request);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(guest.resource("kbs:///default/key/1").unwrap(), SECRET);
    assert_eq!(stack.quotes().unwrap(), 2, "one to look at the init-data, one attestation for all of it");
}

/// An image of one layer in the registry; its name.
fn push(stack: &Stack, registry: &Registry) -> String {
    let name = format!("{}/team/app:1.0", registry.address());
    let script = format!(
        "umoci init --layout app; umoci new --image app:1.0; mkdir -p tree/etc; echo from-an-image >tree/etc/app\n\
         umoci insert --image app:1.0 tree/etc /etc\n\
         skopeo --insecure-policy copy --quiet --dest-tls-verify=false oci:app:1.0 docker://{name}"
    );
    let out = command("sh").args(["-ec", &script]).current_dir(stack.folder()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    name
}

/// Every answer takes a new attestation, and the agent is killed every second while they are asked for.
#[test]
fn a_storm_of_restarts_loses_no_answer() {
    let kbs_arguments = vec!["--token-lifetime".to_owned(), "1".to_owned()];
    let Some(Launched { stack, mut guest, .. }) =
        Launched::new(Options { kbs_arguments, ..Options::default() })
    else {
        return;
    };
    guest.launch(2);
    let over = AtomicBool::new(false);
    let (hub, asked) = (guest.inside(HUB), std::sync::atomic::AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = guest::resource(&hub, "kbs:///default/key/1");
                    assert_eq!(answer.unwrap(), SECRET);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // On a busy machine an answer takes longer.
        for round in 0..60 {
            if round >= 4 && asked.load(Ordering::Relaxed) >= 10 && stack.quotes().unwrap() >= 3 {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            guest.kill("attestation-agent");
            guest.start("attestation-agent");
        }
        over.store(true, Ordering::Relaxed);
    });
    let (asked, quotes) = (asked.into_inner(), stack.quotes().unwrap());
    assert!(asked >= 10 && quotes >= 3, "{asked} answers over {quotes} attestations");
    // The hub's own end is as kata-agent would see it; another one serves the same.
    guest.kill("confidential-data-hub");
    let start = Instant::now();
    guest.start("confidential-data-hub");
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(guest.resource("kbs:///default/key/1").unwrap(), SECRET);
}
