//! The Quadlet files as they are shipped: real Podman and its generator under a real service manager.

use std::path::Path;

use cc_tests::container::{Setup, Tree};
use cc_tests::process::binary_folder;
use tempfile::TempDir;

use crate::doors::prepared;
use crate::{REST_PATH, SECRET};

pub(crate) const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../quadlet");
const DAEMONS: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
/// What stands in the shipped files where the administrator names the image.
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
                  systemd-analyze verify --man=no /tmp/made/*.service";
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

/// There are no controllers of control groups here that could hold the limit which is usual.
pub(crate) const NO_LIMIT: &str = "[Container]\nPidsLimit=0\n";

fn shipped(name: &str) -> String {
    std::fs::read_to_string(format!("{SHIPPED}/{name}")).unwrap()
}

#[test]
fn containers_serve_applications_and_units_of_the_machine() {
    let storage = TempDir::with_prefix("podman-").unwrap();
    let Some((stack, mut setup)) = prepared(Tree::Trixie, TABLES) else { return };
    let port = cc_tests::port::claim().unwrap();
    let root = stack.folder().join("root");
    setup = setup
        .with_containers()
        .bind(storage.path(), "/var/lib/containers")
        .bind_read_only(Path::new(SHIPPED), "/quadlet")
        .file("root/image.sh", IMAGE, 0o755)
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
    let unit = "[Unit]\nRequires=confidential-data-hub.service\nAfter=confidential-data-hub.service\n[Service]\nType=oneshot\n\
                LoadCredential=db-password:/run/confidential-containers/credentials.sock\n\
                ExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/db-password >/run/app.got'";
    write("/etc/systemd/system/app.service", unit);
    machine.must(&["systemctl", "daemon-reload"]).unwrap();
    let journals = || DAEMONS.map(|daemon| machine.journal(&format!("{daemon}.service")).unwrap()).join("\n");
    machine
        .must(&["systemctl", "start", "api-server-rest"])
        .unwrap_or_else(|e| panic!("{e:#}\n{}", journals()));

    let secret = std::str::from_utf8(SECRET).unwrap();
    let ask =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "curl", "--silent", "--show-error"];
    let url = format!("http://127.0.0.1:{port}{REST_PATH}");
    assert_eq!(machine.must(&[&ask[..], &[&url]].concat()).unwrap(), secret, "{}", journals());
    machine.must(&["systemctl", "start", "app.service"]).unwrap_or_else(|e| panic!("{e:#}\n{}", journals()));
    assert_eq!(machine.must(&["cat", "/run/app.got"]).unwrap(), secret);
    for daemon in DAEMONS {
        machine
            .must(&["podman", "healthcheck", "run", daemon])
            .unwrap_or_else(|e| panic!("{daemon}: {e:#}\n{}", journals()));
    }
    let log = machine.journal("confidential-data-hub.service").unwrap();
    for (door, who) in [("rest", "api-server-rest.service"), ("unit-credential", "app.service")] {
        let line = log
            .lines()
            .find(|line| line.contains(&format!("door={door}")))
            .unwrap_or_else(|| panic!("{door}: {log}"));
        assert!(line.contains(&format!("unit={who:?}")) && line.contains("decision=given"), "{line}");
    }
    assert!(!journals().contains(secret), "a secret in a log");
}
