//! The Quadlet files as they are shipped: real Podman and its generator under a real service manager.

use std::path::Path;

use cc_tests::container::{Setup, Tree};
use cc_tests::process::binary_folder;
use tempfile::TempDir;

use crate::doors::prepared_by_name;
use crate::{REST_PATH, SECRET};

pub(crate) const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quadlet");
const DAEMONS: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
/// What stands in the shipped files where the administrator names the image.
const APP_PLACEHOLDER: &str =
    "registry.example.com/app@sha256:0000000000000000000000000000000000000000000000000000000000000000";
const PLACEHOLDER: &str = "registry.example.com/guest-services@sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// Who gets what by which name.
const TABLES: &str = r#"
[[unit_credentials]]
unit = "app.service"
credential = "db-password"
secret = "kbs:///default/key/1"

[[access.rules]]
unit = ["app.service"]
resources = ["kbs:///default/key/*"]

[[access.rules]]
local = true
resources = ["kbs:///default/key/*"]
"#;

/// The generator takes every shipped file, and what it makes of them is in order.
#[test]
fn the_generator_takes_every_file() {
    if !Tree::Trixie.boots_here() {
        return;
    }
    let script = "for units in /quadlet /quadlet/examples; do\n\
                  mkdir -p /tmp/made\n\
                  QUADLET_UNIT_DIRS=$units /usr/libexec/podman/quadlet -no-kmsg-log /tmp/made\n\
                  done\n\
                  ls /tmp/made\n\
                  systemd-analyze verify --man=no /tmp/made/*.service\n\
                  cp /quadlet/resolver-changed.* /tmp/made\n\
                  systemd-analyze verify --man=no /tmp/made/resolver-changed.*";
    let setup = Setup::new(Tree::Trixie).unwrap().bind_read_only(Path::new(SHIPPED), "/quadlet");
    let out = setup.run(&["sh", "-ec", script]).unwrap();
    let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && complained.is_empty(), "{complained}");
    let made: Vec<&str> = said.split_whitespace().filter(|name| name.ends_with(".service")).collect();
    assert_eq!(
        made,
        [
            "api-server-rest.service",
            "app.service",
            "attestation-agent.service",
            "confidential-data-hub.service"
        ]
    );
}

/// What Podman 4.9 knows in `[Container]`, its own list; one key more and its generator leaves the whole file out.
const KEYS_OF_4_9: &[&str] = &[
    "AddCapability",
    "AddDevice",
    "Annotation",
    "AutoUpdate",
    "ContainerName",
    "ContainersConfModule",
    "DNS",
    "DNSOption",
    "DNSSearch",
    "DropCapability",
    "Environment",
    "EnvironmentFile",
    "EnvironmentHost",
    "Exec",
    "ExposeHostPort",
    "GIDMap",
    "GlobalArgs",
    "Group",
    "HealthCmd",
    "HealthInterval",
    "HealthOnFailure",
    "HealthRetries",
    "HealthStartPeriod",
    "HealthStartupCmd",
    "HealthStartupInterval",
    "HealthStartupRetries",
    "HealthStartupSuccess",
    "HealthStartupTimeout",
    "HealthTimeout",
    "HostName",
    "IP",
    "IP6",
    "Image",
    "Label",
    "LogDriver",
    "Mask",
    "Mount",
    "Network",
    "NoNewPrivileges",
    "Notify",
    "PidsLimit",
    "PodmanArgs",
    "PublishPort",
    "Pull",
    "ReadOnly",
    "ReadOnlyTmpfs",
    "Rootfs",
    "RunInit",
    "SeccompProfile",
    "Secret",
    "SecurityLabelDisable",
    "SecurityLabelFileType",
    "SecurityLabelLevel",
    "SecurityLabelNested",
    "SecurityLabelType",
    "ShmSize",
    "SubGIDMap",
    "SubUIDMap",
    "Sysctl",
    "Timezone",
    "Tmpfs",
    "UIDMap",
    "Ulimit",
    "Unmask",
    "User",
    "UserNS",
    "VolatileTmp",
    "Volume",
    "WorkingDir",
];

/// The key of a line that Podman 4.9 would not take.
fn too_new(text: &str) -> Option<&str> {
    let mut section = "";
    text.lines().find(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let Some((key, value)) =
            line.split_once('=').filter(|_| section == "[Container]" && !line.starts_with('#'))
        else {
            return false;
        };
        // "healthy" came with 5.0.
        !KEYS_OF_4_9.contains(&key) || key == "Notify" && !matches!(value, "true" | "false")
    })
}

#[test]
fn every_key_is_one_of_podman_4_9() {
    let mut files = 0;
    for folder in [SHIPPED.to_owned(), format!("{SHIPPED}/examples")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            assert!(
                !["pod", "build", "artifact"].contains(&kind),
                "{path:?} is of a kind that 4.9 does not know"
            );
            if kind == "container" {
                files += 1;
                assert_eq!(too_new(&std::fs::read_to_string(&path).unwrap()), None, "{path:?}");
            }
        }
    }
    assert_eq!(files, 4);
    assert_eq!(too_new("[Container]\nImage=a\nMemory=1g\n"), Some("Memory=1g"));
    assert_eq!(too_new("[Container]\nNotify=healthy\n[Service]\nMemory=1g\n"), Some("Notify=healthy"));
}

/// Makes the base image out of the libraries that the daemons need, then the image as the Containerfile says; prints its digest.
pub(crate) const IMAGE: &str = r#"set -eu
base=$(mktemp -d) dist=$(mktemp -d)
for program in attestation-agent confidential-data-hub api-server-rest guestctl; do
    cp "/binaries/$program" "$dist"
    ldd "/binaries/$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$base$(dirname "$library")"
        cp "$library" "$base$library"
    done
done
tar -C "$base" -c . | podman import --quiet - localhost/base >/dev/null
podman build --quiet --isolation chroot --build-arg BASE=localhost/base --file /quadlet/Containerfile --tag localhost/guest-services "$dist" >/dev/null
podman image inspect --format '{{.Digest}}' localhost/guest-services
"#;

/// An application's image: a shell and curl; prints its digest.
const APP_IMAGE: &str = r#"set -eu
root=$(mktemp -d)
for program in /bin/sh /bin/cat /usr/bin/curl; do
    mkdir -p "$root$(dirname "$program")"
    cp -L "$program" "$root$program"
    ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
done
tar -C "$root" -c . | podman import --quiet - localhost/app >/dev/null
podman image inspect --format '{{.Digest}}' localhost/app
"#;

/// There are no controllers of control groups here that could hold the limit which is usual.
pub(crate) const NO_LIMIT: &str = "[Container]\nPidsLimit=0\n";

/// The key broker, as the machine's configuration has it.
const BROKER: &str = "broker.test";

/// Who knows that name, at the address that is given: a name server that has one.
const NAME_SERVER: &str = r#"
import socket, struct, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    query, client = server.recvfrom(512)
    end, labels = 12, []
    while query[end]:
        labels.append(query[end + 1:end + 1 + query[end]])
        end += query[end] + 1
    known = b".".join(labels) == b"broker.test"
    kind, = struct.unpack(">H", query[end + 1:end + 3])
    # An address, if one of IPv4 was asked for; the name is that of the question.
    answer = struct.pack(">HHHIHBBBB", 0xc00c, 1, 1, 5, 4, 127, 0, 0, 1) if known and kind == 1 else b""
    head = struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, bool(answer), 0, 0)
    server.sendto(query[:2] + head + query[12:end + 5] + answer, client)
"#;

fn shipped(name: &str) -> String {
    std::fs::read_to_string(format!("{SHIPPED}/{name}")).unwrap()
}

#[test]
fn containers_serve_applications_and_units_of_the_machine() {
    let storage = TempDir::with_prefix("podman-").unwrap();
    let Some((stack, mut setup)) = prepared_by_name(Tree::Trixie, BROKER, TABLES) else { return };
    let port = cc_tests::port::claim().unwrap();
    let root = stack.folder().join("root");
    setup = setup
        .with_containers()
        .bind(storage.path(), "/var/lib/containers")
        .bind_read_only(Path::new(SHIPPED), "/quadlet")
        .file("root/image.sh", IMAGE, 0o755)
        .unwrap()
        .file("root/app.sh", APP_IMAGE, 0o755)
        .unwrap()
        .file("root/name-server.py", NAME_SERVER, 0o755)
        .unwrap()
        .file("etc/resolv.conf", "", 0o644)
        .unwrap();
    for binary in DAEMONS.iter().chain(&["guestctl"]) {
        let path = binary_folder().unwrap().join(binary);
        setup = setup.bind_read_only(&path, &format!("/binaries/{binary}"));
    }
    let machine = setup.boot().unwrap_or_else(|e| panic!("{e:#}"));
    let digest = machine.must(&["sh", "/root/image.sh"]).unwrap();
    let image = format!("localhost/guest-services@{}", digest.trim());

    // What an administrator does: the image's name, and drop-ins for what is peculiar to this machine.
    let write = |path: &str, content: &str| {
        let script = format!("mkdir -p $(dirname {path}); cat >{path} <<'END'\n{content}\nEND");
        machine.must(&["sh", "-ec", &script]).unwrap();
    };
    let folder = "/etc/containers/systemd";
    for daemon in DAEMONS {
        let text = shipped(&format!("{daemon}.container"));
        assert!(text.contains(PLACEHOLDER), "{daemon}");
        write(&format!("{folder}/{daemon}.container"), &text.replace(PLACEHOLDER, &image));
        write(&format!("{folder}/{daemon}.container.d/limit.conf"), NO_LIMIT);
    }
    write(
        &format!("{folder}/attestation-agent.container.d/emulated.conf"),
        &format!("[Container]\nVolume={root}:{root}:rw", root = root.display()),
    );
    write(
        &format!("{folder}/api-server-rest.container.d/port.conf"),
        &format!(
            "[Container]\nExec=/usr/local/bin/api-server-rest --features resource --bind 127.0.0.1:{port}\nHealthCmd=[\"/usr/local/bin/api-server-rest\", \"--bind\", \"127.0.0.1:{port}\", \"--health\"]"
        ),
    );
    let digest = machine.must(&["sh", "/root/app.sh"]).unwrap();
    let text = shipped("examples/app.container");
    assert!(text.contains(APP_PLACEHOLDER));
    let image = format!("localhost/app@{}", digest.trim());
    write(&format!("{folder}/app.container"), &text.replace(APP_PLACEHOLDER, &image));
    write(&format!("{folder}/app.container.d/limit.conf"), NO_LIMIT);
    write(
        &format!("{folder}/app.container.d/work.conf"),
        &format!(
            "[Container]\nVolume=/run/app:/out\nExec=/bin/sh -ec 'cat /run/secrets/db-password >/out/credential; \
             curl --silent --show-error --fail --output /out/http http://127.0.0.1:{port}{REST_PATH}'\n\
             [Service]\nRuntimeDirectory=app\nRuntimeDirectoryPreserve=yes\nType=oneshot\nRemainAfterExit=yes"
        ),
    );
    machine.must(&["sh", "-ec", "cp /quadlet/resolver-changed.* /etc/systemd/system/"]).unwrap();
    machine.must(&["systemctl", "daemon-reload"]).unwrap();
    machine.must(&["systemctl", "enable", "--now", "resolver-changed.path"]).unwrap();
    let journals = || DAEMONS.map(|daemon| machine.journal(&format!("{daemon}.service")).unwrap()).join("\n");
    machine
        .must(&["systemctl", "start", "api-server-rest"])
        .unwrap_or_else(|e| panic!("{e:#}\n{}", journals()));

    let status = |unit| machine.must(&["systemctl", "show", "--value", "--property=StatusText", unit]);
    let secret = std::str::from_utf8(SECRET).unwrap();
    let ask =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "--silent", "--show-error"];
    let url = format!("http://127.0.0.1:{port}{REST_PATH}");
    // There is no name server yet, so nobody finds the key broker. The hub would try for longer than this.
    let out = machine.run(&[&ask[..], &["--max-time", "3", &url]].concat()).unwrap();
    assert!(!out.status.success() && out.stdout.is_empty(), "{out:?}\n{}", journals());
    machine
        .wait_for(
            "the hub's word for it",
            || Ok(status("confidential-data-hub")?.contains("KBS_UNREACHABLE")),
        )
        .unwrap();
    // Then there is one: at an address of its own, as other tests share the network.
    let [a, b] = port.to_be_bytes();
    let name_server = format!("127.53.{a}.{b}");
    let invocation = |unit: &str| {
        machine.must(&["systemctl", "show", "--value", "--property=InvocationID", unit]).unwrap()
    };
    let before = invocation("confidential-data-hub");
    machine.must(&["systemd-run", "--quiet", "python3", "/root/name-server.py", &name_server]).unwrap();
    let resolver = format!(
        "echo 'nameserver {name_server}' >/etc/resolv.conf.new; mv /etc/resolv.conf.new /etc/resolv.conf"
    );
    machine.must(&["sh", "-ec", &resolver]).unwrap();
    let gets_it = || Ok(machine.run(&[&ask[..], &[&url]].concat())?.stdout == SECRET);
    machine.wait_for("the secret", gets_it).unwrap_or_else(|e| panic!("{e:#}\n{}", journals()));
    assert_ne!(invocation("confidential-data-hub"), before);
    machine
        .must(&["systemctl", "start", "app.service"])
        .unwrap_or_else(|e| panic!("{e:#}\n{}\n{}", machine.journal("app.service").unwrap(), journals()));
    for door in ["credential", "http"] {
        assert_eq!(machine.must(&["cat", &format!("/run/app/{door}")]).unwrap(), secret, "{door}");
    }
    // The REST server's container does not get at the agent, whose socket gives root more; the hub's does.
    let evidence = |container| machine.run(&["podman", "exec", container, "guestctl", "evidence"]).unwrap();
    let hub = evidence("confidential-data-hub");
    assert!(hub.status.success(), "{}", String::from_utf8_lossy(&hub.stderr));
    let rest = evidence("api-server-rest");
    let why = String::from_utf8_lossy(&rest.stderr).into_owned();
    assert!(!rest.status.success() && why.contains("attestation-agent.sock"), "{why}");
    // Somebody is just editing the hub's configuration, and is not done yet.
    machine
        .must(&["sh", "-c", "echo '[kbc' >>/etc/confidential-containers/confidential-data-hub.toml"])
        .unwrap();
    for daemon in DAEMONS {
        machine
            .must(&["podman", "healthcheck", "run", daemon])
            .unwrap_or_else(|e| panic!("{daemon}: {e:#}\n{}", journals()));
    }
    let log = machine.journal("confidential-data-hub.service").unwrap();
    // Other name servers: the containers get them, and with a whole configuration the hub serves again. Applications stay.
    let before = ["confidential-data-hub", "app"].map(invocation);
    let script = format!("sed -i '$d' /etc/confidential-containers/confidential-data-hub.toml\n{resolver}");
    machine.must(&["sh", "-ec", &script]).unwrap();
    machine.wait_for("another hub", || Ok(invocation("confidential-data-hub") != before[0])).unwrap();
    machine.wait_for("the secret again", gets_it).unwrap();
    assert_eq!(invocation("app"), before[1]);
    for (door, who) in [("rest", "api-server-rest.service"), ("unit-credential", "app.service")] {
        let line = log
            .lines()
            // Before there was a name server, some were told something else.
            .find(|line| line.contains(&format!("door={door}")) && line.contains("decision=given"))
            .unwrap_or_else(|| panic!("{door}: {log}"));
        assert!(line.contains(&format!("unit={who:?}")), "{line}");
    }
    assert!(!journals().contains(secret), "a secret in a log");
}
