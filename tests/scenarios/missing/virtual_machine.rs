//! What only a machine with a kernel of its own can lack: the year, a network device that is up, the nodes of the TPM, memory.

use std::path::Path;

use cc_tests::process::command;
use cc_tests::soft_tpm::{self, SoftTpm};
use cc_tests::stack::{Options, Part, Stack, Tee};
use cc_tests::vm::{self, Setup};

use crate::{RESOURCE, SECRET};

/// Every unit that an installation has; those that sockets start are not started.
const UNITS: [(&str, bool); 8] = [
    ("attestation-agent.service", true),
    ("confidential-data-hub.service", true),
    ("confidential-data-hub.socket", true),
    ("api-server-rest.service", true),
    ("cdh-storage-mount.socket", true),
    ("cdh-storage-mount.service", false),
    ("cdh-storage-unpack.socket", true),
    ("cdh-storage-unpack.service", false),
];
const PROGRAMS: [&str; 5] =
    ["attestation-agent", "confidential-data-hub", "api-server-rest", "cdh-storage", "guestctl"];

/// The machine's own service for its network, which here leaves the device down.
const NO_NETWORK: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n\
                          [Install]\nWantedBy=network-online.target\n";

/// What the machine goes through. Each line on the console that begins with a word in capitals is looked at afterwards.
const WORK: &str = r#"
aa=attestation-agent.service hub=confidential-data-hub.service
status() { systemctl show --property=StatusText --value "$1"; }
# Waits until the status of a unit has all of these words, and tells it.
told() {
    line=$1 unit=$2; shift 2
    tries=0
    while [ $tries -lt 400 ]; do
        now=$(status $unit) all=yes
        for word; do case $now in *"$word"*) ;; *) all= ;; esac; done
        if [ -n "$all" ]; then echo "$line $now"; return; fi
        tries=$((tries + 1)); sleep 0.2
    done
    echo "NOT $line: $now"; journalctl -b -o cat --no-pager -n 60
}
ask() { curl --silent --max-time 90 --write-out ' %{http_code}' http://127.0.0.1:8006/cdh/resource/default/key/1; }
up() { ip link set eth0 up; ip addr replace 10.0.2.15/24 dev eth0; ip route replace default via 10.0.2.2; }

# Since the boot it is 1970, and there is no network.
echo "YEAR $(date -u +%Y)"
systemctl is-active --quiet $aa $hub api-server-rest.service && echo "ACTIVE all"
(ask >/run/first 2>&1; echo >/run/first.done) &
told NO-NETWORK $hub KBS_UNREACHABLE 'serving secrets from'
# It comes after a minute.
until [ "$(cut -d. -f1 /proc/uptime)" -ge 60 ]; do sleep 1; done
up
told CLOCK $hub 'certificate not valid yet' 'check the clock of this machine' KBS_TLS_UNTRUSTED
until [ -e /run/first.done ]; do sleep 0.2; done
echo "FIRST $(cat /run/first)"
date -u --set "@$NOW" >/run/set
echo "SECOND $(ask)"
told SERVES $hub 'serving secrets from'

# The link goes down; a hub without a token is asked, and answers when it is up.
ip link set eth0 down
systemctl restart $hub
(ask >/run/third 2>&1; echo >/run/third.done) &
told LINK-DOWN $hub KBS_UNREACHABLE 'serving secrets from'
[ ! -e /run/third.done ] && echo "WAITS yes"
up
until [ -e /run/third.done ]; do sleep 0.2; done
echo "THIRD $(cat /run/third)"

# The nodes of the TPM.
cp -a /dev/tpm0 /dev/tpmrm0 /run/
rm /dev/tpm0 /dev/tpmrm0
systemctl restart --no-block $aa
told NO-NODE $aa 'not serving' TEE_NOT_FOUND '/dev/tpmrm0'
echo "TOKEN $(ask)"
mkdir -p /run/systemd/system/$aa.d
printf '[Service]\nCapabilityBoundingSet=\n' >/run/systemd/system/$aa.d/test.conf
systemctl daemon-reload
cp -a /run/tpm0 /run/tpmrm0 /dev/
chown 1:1 /dev/tpm0 /dev/tpmrm0; chmod 600 /dev/tpm0 /dev/tpmrm0
told NODE-REFUSED $aa 'not serving' '/dev/tpmrm0' 'ermission denied'
chown 0:0 /dev/tpm0 /dev/tpmrm0
told NODE-BACK $aa 'serving: TEE tpm'

# No memory for the hub in the middle of a pull: the half that unpacks is held up meanwhile.
guestctl pull oci:/srv/app:1 --bundle /run/one >/run/pulled 2>&1; echo "PULLED $?"
left() { ls /run/kata-containers/image/images /run/kata-containers/image/layers; grep -c overlay /proc/mounts; ls -d /run/two 2>/dev/null; }
left >/run/left.before
connected() { grep -c cdh-storage/unpack.sock /proc/net/unix; }
before=$(connected)
systemctl kill --signal=SIGSTOP cdh-storage-unpack.service
(guestctl pull oci:/srv/app:2 --bundle /run/two >/run/interrupted 2>&1; echo $? >/run/interrupted.status) &
until [ "$(connected)" -gt "$before" ]; do sleep 0.1; done
systemctl set-property --runtime $hub MemoryMax=1M
until journalctl -b -o cat --no-pager -u $hub | grep -q 'killed by the OOM killer'; do sleep 0.2; done
echo "KILLED oom-kill"
systemctl kill --signal=SIGCONT cdh-storage-unpack.service
until [ -e /run/interrupted.status ]; do sleep 0.2; done
echo "INTERRUPTED $(cat /run/interrupted.status) $(tr '\n' ' ' </run/interrupted)"
systemctl set-property --runtime $hub MemoryMax=infinity
told MEMORY $hub 'serving secrets from'
tries=0; until left >/run/left.after; cmp -s /run/left.before /run/left.after; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || { echo "LEFT $(diff /run/left.before /run/left.after | tr '\n' ' ')"; break; }; sleep 0.2
done
guestctl pull oci:/srv/app:2 --bundle /run/two >/run/pulled 2>&1; echo "AGAIN $? $(cat /run/two/rootfs/etc/app)"
echo "LAST $(ask)"
systemctl list-units --failed --no-legend | grep -E 'attestation|confidential|api-server|cdh' | sed 's/^/FAILED /'
"#;

/// The machine with its units, which trusts the key broker of `stack` as seen from there.
fn machine(stack: &Stack, tpm: &Path) -> Setup {
    let certificate = std::fs::read_to_string(stack.kbs_certificate()).unwrap();
    let url = stack.kbs_url().replace("127.0.0.1", "10.0.2.2");
    let hub = format!(
        "[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\nkbs_cert = '''{certificate}'''\n[image]\nlayouts = [\"/srv\"]\n"
    );
    let agent = format!("[token_configs.kbs]\nurl = {url:?}\ncert = '''{certificate}'''\n");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let mut setup = Setup::new(&format!("NOW={now}\n{WORK}"))
        .unwrap()
        .file("etc/confidential-containers/attestation-agent.toml", agent, 0o600)
        .unwrap()
        .file("etc/confidential-containers/confidential-data-hub.toml", hub, 0o600)
        .unwrap()
        .file("etc/systemd/system/network.service", NO_NETWORK, 0o644)
        .unwrap()
        .tpm(tpm)
        // What the host puts there, systemd sets the clock to: 1970-01-02.
        .parameter("systemd.clock_usec=86400000000");
    for program in PROGRAMS {
        setup = setup.program(program).unwrap();
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd");
    for (unit, started) in UNITS {
        let text = std::fs::read_to_string(shipped.join(unit)).unwrap();
        setup = setup.file(&format!("etc/systemd/system/{unit}"), text, 0o644).unwrap();
        if started {
            setup = setup.wanted("multi-user.target", unit).unwrap();
        }
    }
    for kind in ["sysusers.d", "tmpfiles.d"] {
        let file = format!("{kind}/confidential-containers.conf");
        let text = std::fs::read_to_string(shipped.join(&file)).unwrap();
        setup = setup.file(&format!("usr/lib/{file}"), text, 0o644).unwrap();
    }
    let mut images = command("sh");
    images.args([
        "-ec",
        "mkdir -p \"$1/srv\"; cd \"$1/srv\"; umoci init --layout app; mkdir -p tree/etc\n\
         for tag in 1 2; do umoci new --image app:$tag; echo image $tag >tree/etc/app; umoci insert --image app:$tag tree/etc /etc; done",
        "sh",
    ]);
    let out = images.arg(setup.root()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    setup
}

#[test]
fn a_machine_without_year_network_tpm_or_memory_says_so_and_loses_nothing() {
    if !(vm::runs_here() && soft_tpm::runs_here()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let kbs_arguments = vec!["--tls-name".to_owned(), "10.0.2.2".to_owned()];
    let mut stack = Stack::prepare(Options { tee: Tee::Tpm, kbs_arguments, ..Options::default() }).unwrap();
    stack.start_part(Part::Kbs).unwrap();
    SoftTpm::start(folder.path()).unwrap().make_key("-G rsa -s rsassa").unwrap();
    stack.set_policy("default = \"affirming\"\n[[allow]]\nresource = \"*/*/*\"\ntee = \"tpm\"\n").unwrap();
    let key = std::fs::read_to_string(folder.path().join("ak.pem")).unwrap();
    stack
        .set_reference_values(&serde_json::json!({ "trusted_aks": [key], "tpm_pcr11": ["00".repeat(32)] }))
        .unwrap();
    stack.put_resource(RESOURCE, SECRET).unwrap();

    let console = machine(&stack, &folder.path().join("state")).run().unwrap();
    let told = |name: &str| {
        let found = console.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        found.unwrap_or_else(|| panic!("{name} is missing: {console}"))
    };
    let released = format!("{} 200", std::str::from_utf8(SECRET).unwrap());
    assert_eq!((told("YEAR"), told("ACTIVE")), ("1970", "all"), "{console}");
    told("NO-NETWORK");
    told("CLOCK");
    let first = told("FIRST");
    assert!(first.contains("KBS_TLS_UNTRUSTED") && !first.ends_with("200"), "{first}");
    assert_eq!(told("SECOND"), released, "{console}");
    assert!(told("SERVES").starts_with("serving"), "{console}");
    told("LINK-DOWN");
    assert_eq!((told("WAITS"), told("THIRD")), ("yes", released.as_str()), "{console}");
    assert!(told("NO-NODE").starts_with("not serving: no usable TEE found"), "{console}");
    assert_eq!(told("TOKEN"), released, "{console}");
    told("NODE-REFUSED");
    assert!(told("NODE-BACK").starts_with("serving"), "{console}");
    assert_eq!((told("PULLED"), told("KILLED")), ("0", "oom-kill"), "{console}");
    let interrupted = told("INTERRUPTED");
    assert!(!interrupted.starts_with("0 ") && interrupted.contains("[PEER_"), "{interrupted}");
    told("MEMORY");
    assert!(!console.contains("\nLEFT "), "{console}");
    assert_eq!((told("AGAIN"), told("LAST")), ("0 image 2", released.as_str()), "{console}");
    assert!(!console.contains("\nFAILED "), "{console}");
}
