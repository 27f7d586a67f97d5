//! The Ansible role as it is shipped, played on machines with a real service manager.

use std::collections::BTreeSet;
use std::path::Path;

use cc_tests::ansible::{Controller, Played};
use cc_tests::container::{Container, Setup, Tree};
use cc_tests::process::{binary_folder, command};
use cc_tests::stack::Stack;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::doors::{emulated_hardware, unconfigured};
use crate::quadlets::{IMAGE, NO_LIMIT, SHIPPED};
use crate::{REST_PATH, SECRET};

const DAEMONS: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
/// What the method `units` copies, and systemd runs for disks.
const PROGRAMS: [&str; 5] =
    ["attestation-agent", "confidential-data-hub", "api-server-rest", "cdh-storage", "guestctl"];
/// What sockets start.
const HELPERS: [&str; 3] =
    ["cdh-storage-disk.service", "cdh-storage-mount.service", "cdh-storage-unpack.service"];
/// Who gets what: the application over HTTP, and one user by the hub's socket.
const RULES: &str = r#"
[access]
strict = true

[[access.rules]]
local = true
resources = ["kbs:///default/key/*"]

[[access.rules]]
uid = [65534]
resources = ["kbs:///default/key/*"]
"#;
const UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
/// An image that nobody has.
const NO_IMAGE: &str =
    "localhost/none@sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// Everything that the role could leave behind; Python's cache of modules, Ansible's folder and the database of an rpm that was
/// asked are not the role's.
const FILES: &str = "find /etc /root /usr /var/lib -xdev ( -path /var/lib/containers -o -path /root/.ansible -o -path /root/.rpmdb -o -name __pycache__ ) -prune -o \
                     ( -type d -printf %p\\n ) -o -printf %p\\040%y\\040%m\\040%u\\040%s\\040%T@\\n";

/// A machine, what it asks, and who sets it up.
struct Guest {
    // Dropped first: the machine uses what the stack shows it.
    machine: Container,
    stack: Stack,
    controller: Controller,
    port: u16,
}

impl Guest {
    /// Boots a machine without any of our files; `more` adds to it. The port is that which the REST server shall have.
    fn boot(tree: Tree, more: impl FnOnce(Setup, &Stack, u16) -> Setup) -> Option<Self> {
        if !cc_tests::ansible::runs_here() {
            return None;
        }
        let (stack, setup) = unconfigured(tree)?;
        let port = cc_tests::port::claim().unwrap();
        let setup = more(setup, &stack, port);
        let machine = setup.boot().unwrap_or_else(|e| panic!("{e:#}"));
        let controller = Controller::new().unwrap();
        std::fs::copy(stack.kbs_certificate(), controller.folder().join("kbs.pem")).unwrap();
        Some(Self { machine, stack, controller, port })
    }

    /// Variables that every method needs.
    fn variables(&self) -> Value {
        json!({
            "trustee_client_kbs_url": self.stack.kbs_url(),
            "trustee_client_kbs_cert_src": self.controller.folder().join("kbs.pem"),
            "trustee_client_agent_tables": format!("[platform]\nsys_root = {:?}\n", self.stack.folder().join("root")),
            "trustee_client_hub_tables": RULES,
            "trustee_client_allow_unmeasured_config": true,
            "trustee_client_socket_users": ["nobody"],
        })
    }

    fn play(&self, variables: &Value, arguments: &[&str]) -> Played {
        self.controller.play(&self.machine, &[("guest", variables.clone())], arguments).unwrap()
    }

    /// Checks, applies, and applies again: nothing is changed by the first and the last.
    fn apply(&self, variables: &Value) {
        let before = self.files();
        let checked = self.play(variables, &["--check"]);
        assert!(checked.succeeded && checked.count("guest", "changed") > Some(0), "{}", checked.text);
        assert_same(&before, &self.files());

        let applied = self.play(variables, &[]);
        assert!(applied.succeeded, "{}\n{}", applied.text, self.journals());
        let pinned = std::fs::read_to_string(self.stack.kbs_certificate()).unwrap();
        let line = pinned.lines().nth(1).unwrap();
        let again = self.play(variables, &["--diff"]);
        assert!(again.succeeded && again.count("guest", "changed") == Some(0), "{}", again.text);
        assert!(!again.text.contains(line) && !applied.text.contains(line), "configuration in the output");
    }

    /// An application without rights gets its secret over HTTP, and one that is a member of the group by the socket.
    fn serves(&self) {
        let secret = std::str::from_utf8(SECRET).unwrap();
        let request = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {REST_PATH} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
            port = self.port
        );
        let without = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c", &request];
        let answer = self.machine.must(&without).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with(secret),
            "{answer}\n{}",
            self.journals()
        );
        let member = ["setpriv", "--reuid=65534", "--regid=65534", "--init-groups", "guestctl", "get"];
        let got = self.machine.must(&[&member[..], &["kbs:///default/key/1"]].concat());
        assert_eq!(got.unwrap_or_else(|e| panic!("{e:#}\n{}", self.journals())), secret);
    }

    /// All files, each with what tells whether it was changed.
    fn files(&self) -> BTreeSet<String> {
        let find: Vec<&str> = FILES.split_whitespace().collect();
        self.machine.must(&find).unwrap().lines().map(str::to_owned).collect()
    }

    /// As the data hub does by asking.
    fn start_helpers(&self) {
        for helper in HELPERS {
            self.machine.must(&["systemctl", "start", helper]).unwrap();
        }
        assert!(self.processes().iter().any(|name| name == "cdh-storage"));
    }

    /// Starts the helpers, and plays what changed something of theirs: none runs afterwards until it is asked, and their sockets do.
    fn helpers_give_way(&self, variables: &Value) {
        self.start_helpers();
        let played = self.play(variables, &[]);
        assert!(played.succeeded && played.count("guest", "changed") > Some(0), "{}", played.text);
        self.runs_none_of(&["cdh-storage"]);
        for helper in HELPERS {
            let socket = helper.replace(".service", ".socket");
            self.machine.must(&["systemctl", "is-active", &socket]).unwrap();
        }
    }

    /// Names of processes, which have 15 characters at most.
    fn processes(&self) -> Vec<String> {
        let names = self.machine.must(&["sh", "-c", "cat /proc/[0-9]*/comm 2>/dev/null; true"]).unwrap();
        names.lines().map(str::to_owned).collect()
    }

    fn runs_none_of(&self, programs: &[&str]) {
        let running = self.processes();
        for program in programs {
            let name: String = program.chars().take(15).collect();
            assert!(!running.contains(&name), "{program} still runs");
        }
    }

    fn journals(&self) -> String {
        DAEMONS.map(|daemon| self.machine.journal(&format!("{daemon}.service")).unwrap()).join("\n")
    }
}

#[track_caller]
fn assert_same(before: &BTreeSet<String>, after: &BTreeSet<String>) {
    let changed: Vec<&String> = before.symmetric_difference(after).collect();
    assert!(changed.is_empty(), "changed: {changed:#?}");
}

/// Drop-ins for what is peculiar to this machine: other tests may have the usual port. The programs are in `folder`.
fn port_of_units(setup: Setup, folder: &str, stack: &Stack, port: u16) -> Setup {
    let rest = format!(
        "[Service]\nExecStart=\nExecStart={folder}/api-server-rest --features resource --bind 127.0.0.1:{port}\n"
    );
    setup
        .file("etc/systemd/system/api-server-rest.service.d/port.conf", rest, 0o644)
        .unwrap()
        .file("etc/systemd/system/attestation-agent.service.d/emulated.conf", emulated_hardware(stack), 0o644)
        .unwrap()
}

fn port_of_containers(mut setup: Setup, stack: &Stack, port: u16) -> Setup {
    let folder = "etc/containers/systemd";
    let root = stack.folder().join("root");
    for daemon in DAEMONS {
        setup = setup.file(&format!("{folder}/{daemon}.container.d/limit.conf"), NO_LIMIT, 0o644).unwrap();
    }
    let emulated = format!("[Container]\nVolume={root}:{root}:rw\n", root = root.display());
    let rest = format!(
        "[Container]\nExec=/usr/local/bin/api-server-rest --features resource --bind 127.0.0.1:{port}\nHealthCmd=[\"/usr/local/bin/api-server-rest\", \"--bind\", \"127.0.0.1:{port}\", \"--health\"]\n"
    );
    setup
        .file(&format!("{folder}/attestation-agent.container.d/emulated.conf"), emulated, 0o644)
        .unwrap()
        .file(&format!("{folder}/api-server-rest.container.d/port.conf"), rest, 0o644)
        .unwrap()
}

/// The binaries as they would be delivered: without what debuggers want, which is most of them.
fn stripped(folder: &Path) {
    for program in PROGRAMS {
        let out = command("strip")
            .arg("-o")
            .arg(folder.join(program))
            .arg(binary_folder().unwrap().join(program))
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
    }
}

#[test]
fn containers_are_set_up_once_and_serve() {
    let storage = TempDir::with_prefix("podman-").unwrap();
    let guest = Guest::boot(Tree::Trixie, |setup, stack, port| {
        let mut setup = port_of_containers(setup, stack, port)
            .with_containers()
            .bind(storage.path(), "/var/lib/containers")
            .bind_read_only(Path::new(SHIPPED), "/quadlet")
            .file("root/image.sh", IMAGE, 0o755)
            .unwrap();
        for binary in DAEMONS.iter().chain(&["guestctl"]) {
            let path = binary_folder().unwrap().join(binary);
            setup = setup.bind_read_only(&path, &format!("/binaries/{binary}"));
        }
        let guestctl = binary_folder().unwrap().join("guestctl");
        setup.bind_read_only(&guestctl, "/usr/local/bin/guestctl")
    });
    let Some(guest) = guest else { return };
    let digest = guest.machine.must(&["sh", "/root/image.sh"]).unwrap();
    let mut variables = guest.variables();
    variables["trustee_client_image"] = json!(format!("localhost/guest-services@{}", digest.trim()));
    // A volume whose key is named by the machine's id: whoever checks the configuration has to see it as the hub does.
    let tables = |rules: &str| {
        json!(format!(
            "{rules}\n[[volumes]]\nname = \"data\"\nuuid = \"{UUID}\"\nkey = \"kbs:///disk-encryption/%m/luks-key-0\"\n"
        ))
    };
    variables["trustee_client_hub_tables"] = tables(RULES);
    guest.apply(&variables);
    guest.serves();
    for ask in ["is-active", "is-enabled"] {
        guest.machine.must(&["systemctl", ask, "resolver-changed.path"]).unwrap();
    }
    // The REST server is nobody, and of one group: that of the hub's socket.
    let script = "for p in /proc/[0-9]*; do read -r name <$p/comm; [ $name != api-server-rest ] || grep -E '^(Uid|Gid|Groups):' $p/status; done; getent group confidential-data-hub";
    let told = guest.machine.must(&["sh", "-c", script]).unwrap();
    let gid = told.trim().rsplit(':').nth(1).unwrap();
    let four = |id: &str| [id; 4].join("\t");
    let identity = format!("Uid:\t{}\nGid:\t{}\nGroups:\t{gid} \n", four("65530"), four(gid));
    assert!(told.starts_with(&identity), "{told}");

    // What cannot be used does not take the place of what is.
    let files = guest.files();
    let mut wrong = variables.clone();
    wrong["trustee_client_hub_tables"] = json!("[access]\nstrickt = true\n");
    wrong["trustee_client_secure_logging"] = json!(false);
    let played = guest.play(&wrong, &[]);
    let failure = played.failure("guest").unwrap_or(&played.text);
    assert!(!played.succeeded && failure.contains("strickt"), "{failure}");
    assert_same(&files, &guest.files());
    // What can be is taken over, by those that it is for.
    variables["trustee_client_hub_tables"] = tables(&RULES.replace("default/key/*", "default/other/*"));
    let played = guest.play(&variables, &[]);
    assert!(played.succeeded && played.count("guest", "changed") == Some(2), "{}", played.text);
    let out = guest.machine.run(&["guestctl", "get", "kbs:///default/key/1"]).unwrap();
    assert_eq!(out.status.code(), Some(3), "{out:?}");
}

#[test]
fn units_are_set_up_once_serve_and_go() {
    let guest =
        Guest::boot(Tree::Bookworm, |setup, stack, port| port_of_units(setup, "/usr/local/bin", stack, port));
    let Some(guest) = guest else { return };
    let binaries = guest.controller.folder().join("dist");
    std::fs::create_dir(&binaries).unwrap();
    stripped(&binaries);
    let mut variables = guest.variables();
    for (name, value) in [
        ("trustee_client_method", json!("units")),
        ("trustee_client_binaries", json!(binaries)),
        ("trustee_client_encrypt_disk", json!(true)),
        // Without a device mapper nothing can be opened here.
        ("trustee_client_open_volumes", json!(false)),
        (
            "trustee_client_volumes",
            json!([{"name": "db-1", "uuid": UUID, "key": "kbs:///disk-encryption/db-1/luks-key-0",
                    "device": "/dev/disk/by-id/virtio-data"}]),
        ),
    ] {
        variables[name] = value;
    }
    let before = guest.files();
    guest.apply(&variables);
    guest.serves();

    let read = |path: &str| guest.machine.must(&["cat", path]).unwrap();
    assert_eq!(
        read("/etc/crypttab").lines().last().unwrap(),
        format!(
            "db-1 UUID={UUID} /run/confidential-containers/cryptsetup.sock \
             luks,headless=true,_netdev,header=/run/confidential-containers/luks-headers/db-1.header"
        )
    );
    assert_eq!(
        read("/etc/fstab").lines().last().unwrap(),
        r"/dev/mapper/db-1 /mnt/encrypted-disk ext4 _netdev,x-systemd.required-by=remote-fs.target,x-systemd.wanted-by=dev-mapper-db\x2d1.device 0 0"
    );
    let told = guest.machine.must(&["guestctl", "disk", "status"]).unwrap();
    assert!(told.contains("db-1") && told.contains(UUID), "{told}");
    // The service manager sees it: format, then prepare and open. (Of /etc/fstab it takes no disks in a container.)
    let show = |unit: &str, property: &str| {
        guest.machine.must(&["systemctl", "show", "--value", "--property", property, unit]).unwrap()
    };
    let opening = r"systemd-cryptsetup@db\x2d1.service";
    assert!(show(opening, "ExecStartPre").contains("disk prepare db-1"), "{}", show(opening, "ExecStartPre"));
    assert!(show(opening, "After").contains("format-volume-db-1.service"), "{}", show(opening, "After"));
    assert_eq!(show("format-volume-db-1.service", "UnitFileState"), "enabled\n");
    // It holds the volume's key.
    for property in ["MemorySwapMax", "LimitCORE"] {
        assert_eq!(show("format-volume-db-1.service", property), "0\n", "{property}");
    }

    // Another helper, and then another unit of it: what runs of the old one is ended, and everything serves on.
    let helper = binaries.join("cdh-storage");
    let mut program = std::fs::read(&helper).unwrap();
    program.push(b'\n');
    std::fs::write(&helper, program).unwrap();
    guest.helpers_give_way(&variables);
    guest
        .machine
        .must(&["sh", "-ec", "echo '# by somebody' >>/etc/systemd/system/cdh-storage-unpack.service"])
        .unwrap();
    guest.helpers_give_way(&variables);
    guest.serves();

    // While a volume depends on them they stay; then they go.
    variables["trustee_client_state"] = json!("absent");
    let kept = guest.play(&variables, &[]);
    let failure = kept.failure("guest").unwrap_or(&kept.text);
    assert!(!kept.succeeded && failure.contains("would stay closed: db-1"), "{failure}");
    guest.serves();
    guest.machine.must(&["sh", "-ec", "sed -i /^db-1/d /etc/crypttab; sed -i /db-1/d /etc/fstab"]).unwrap();
    guest.start_helpers();
    let gone = guest.play(&variables, &[]);
    assert!(gone.succeeded, "{}", gone.text);
    guest.runs_none_of(&PROGRAMS);
    let names = |files: &BTreeSet<String>| -> BTreeSet<String> {
        files.iter().filter_map(|line| Some(line.split_once(' ')?.0.to_owned())).collect()
    };
    let (before, after) = (names(&before), names(&guest.files()));
    // What `guestctl disk enable` wrote, which opens nothing without a line of crypttab.
    let left: Vec<&str> = after.difference(&before).map(String::as_str).collect();
    let expected = [
        "/etc/crypttab",
        "/etc/systemd/system/multi-user.target.wants/remote-cryptsetup.target",
        r"/etc/systemd/system/systemd-cryptsetup@db\x2d1.service.d/50-confidential.conf",
    ];
    assert_eq!(left, expected);
    let out = guest.machine.run(&["systemctl", "is-active", "--quiet", "attestation-agent.service"]).unwrap();
    assert!(!out.status.success());
    let again = guest.play(&variables, &[]);
    assert_eq!(again.count("guest", "changed"), Some(0), "{}", again.text);
}

/// The method `package`, with a source of packages as an administrator has one.
#[test]
fn packages_are_set_up_once_serve_and_go() {
    if !(crate::packages::tools_are_here(&["dh", "dpkg-scanpackages"]) && cc_tests::ansible::runs_here()) {
        return;
    }
    let source = TempDir::with_prefix("packages-").unwrap();
    crate::packages::make(source.path(), "made", "deb");
    let made = source.path().join("made");
    let index = command("dpkg-scanpackages").arg(".").current_dir(&made).output().unwrap();
    assert!(index.status.success(), "{}", String::from_utf8_lossy(&index.stderr));
    std::fs::write(made.join("Packages"), index.stdout).unwrap();
    let guest = Guest::boot(Tree::Bookworm, |setup, stack, port| {
        port_of_units(setup, "/usr/bin", stack, port)
            .bind_read_only(&made, "/srv/packages")
            .file("etc/apt/sources.list", "deb [trusted=yes] file:/srv/packages ./\n", 0o644)
            .unwrap()
    });
    let Some(guest) = guest else { return };
    guest.machine.must(&["apt-get", "update"]).unwrap();
    let mut variables = guest.variables();
    variables["trustee_client_method"] = json!("package");
    guest.apply(&variables);
    guest.serves();

    // Containers beside them would be one too many.
    let mut other = variables.clone();
    other["trustee_client_method"] = json!("quadlet");
    other["trustee_client_image"] = json!(NO_IMAGE);
    let played = guest.play(&other, &[]);
    let failure = played.failure("guest").unwrap_or(&played.text);
    assert!(failure.contains("/usr/bin/attestation-agent is there, by package"), "{failure}");

    guest.start_helpers();
    variables["trustee_client_state"] = json!("absent");
    let gone = guest.play(&variables, &[]);
    assert!(gone.succeeded, "{}", gone.text);
    guest.runs_none_of(&PROGRAMS);
    let left: Vec<String> = guest
        .files()
        .into_iter()
        .filter(|file| {
            // What dpkg and its helper keep of packages that are removed and not purged.
            PROGRAMS.iter().any(|program| file.contains(program))
                && !file.starts_with("/var/lib/dpkg/")
                && !file.starts_with("/var/lib/systemd/deb-systemd-helper-")
                // An empty folder.
                && file != "/etc/systemd/system/confidential-data-hub.service.d"
        })
        .collect();
    // What was there before, which the test has written.
    let expected =
        ["/etc/systemd/system/api-server-rest.service.d", "/etc/systemd/system/attestation-agent.service.d"];
    let outside: Vec<_> =
        left.iter().filter(|file| !expected.iter().any(|folder| file.starts_with(folder))).collect();
    assert!(outside.is_empty(), "left behind: {outside:#?}");
}

/// Variables that cannot work, and what the refusal says.
fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let volume = |more: Value| {
        let mut volume = json!({"name": "data", "uuid": UUID, "key": "kbs:///disk/db-1/key"});
        for (key, value) in more.as_object().unwrap() {
            volume[key] = value.clone();
        }
        json!({"trustee_client_encrypt_disk": true, "trustee_client_volumes": [volume]})
    };
    vec![
        (
            "method",
            json!({"trustee_client_method": "docker"}),
            "value of trustee_client_method must be one of: quadlet, units, package",
        ),
        ("no-url", json!({"trustee_client_kbs_url": ""}), "has to be the address of the key broker"),
        (
            "plain-http",
            json!({"trustee_client_kbs_url": "http://kbs.example.com"}),
            "plain http only to this machine itself",
        ),
        (
            "loopback-name",
            json!({"trustee_client_kbs_url": "http://localhost.example.com"}),
            "plain http only to this machine itself",
        ),
        ("password", json!({"trustee_client_kbs_url": "https://me:word@kbs.example.com"}), "without user"),
        (
            "path",
            json!({"trustee_client_kbs_url": "https://kbs.example.com/kbs/v0"}),
            "has to be without /kbs/v0",
        ),
        (
            "certificates",
            json!({"trustee_client_kbs_cert_content": "-----BEGIN CERTIFICATE-----", "trustee_client_kbs_cert_src": "kbs.pem"}),
            "not both",
        ),
        (
            "private-key",
            json!({"trustee_client_kbs_cert_content": "-----BEGIN PRIVATE KEY-----"}),
            "a private key does not belong on this machine",
        ),
        ("no-certificate", json!({"trustee_client_kbs_cert_src": "/nowhere/kbs.pem"}), "/nowhere/kbs.pem"),
        (
            "tag",
            json!({"trustee_client_image": "registry.example.com/guest-services:latest"}),
            "by its digest",
        ),
        ("no-image", json!({"trustee_client_image": ""}), "by its digest"),
        ("registration", json!({"trustee_client_secret_registration_enabled": true}), "has to be false"),
        ("no-disk", json!({"trustee_client_encrypt_disk": true}), "never takes the first blank disk"),
        ("device", volume(json!({"device": "/dev/vdb"})), "another one after the next boot"),
        ("uuid", volume(json!({"uuid": UUID.to_uppercase()})), "a UUID in lower case"),
        ("mount-point", volume(json!({"mount_point": "/srv/a b"})), "an absolute path of letters"),
        ("member", volume(json!({"nmae": "data"})), "nmae"),
        (
            "packages",
            json!({"trustee_client_method": "package", "trustee_client_packages": []}),
            "needs trustee_client_packages",
        ),
        (
            "binaries",
            json!({"trustee_client_method": "units"}),
            "/usr/local/bin/attestation-agent is not there",
        ),
    ]
}

#[test]
fn variables_that_cannot_work_are_refused() {
    let Some(guest) = Guest::boot(Tree::Bookworm, |setup, _, _| setup) else { return };
    let rows = refused();
    let good = json!({"trustee_client_kbs_url": "https://kbs.example.com", "trustee_client_image": NO_IMAGE});
    let hosts: Vec<(&str, Value)> = rows
        .iter()
        .map(|(name, wrong, _)| {
            let mut variables = good.clone();
            for (key, value) in wrong.as_object().unwrap() {
                variables[key] = value.clone();
            }
            (*name, variables)
        })
        .collect();
    let before = guest.files();
    let played = guest.controller.play(&guest.machine, &hosts, &["--forks=4"]).unwrap();
    for (name, _, says) in &rows {
        let failure = played.failure(name).unwrap_or_else(|| panic!("{name} is taken: {}", played.text));
        assert!(failure.contains(says), "{name}: {failure}");
        assert_eq!(played.count(name, "changed"), Some(0), "{name}");
    }
    assert_same(&before, &guest.files());
}

#[test]
fn the_role_is_in_order() {
    if !cc_tests::ansible::runs_here() {
        return;
    }
    let linted = Controller::new().unwrap().lint().unwrap();
    assert!(linted.succeeded, "{}", linted.text);
    // What the role switches on is what the presets do.
    let preset = include_str!("../../systemd/system-preset/30-confidential-containers.preset");
    let mut enabled: Vec<&str> = preset.lines().filter_map(|line| line.strip_prefix("enable ")).collect();
    enabled.sort_unstable();
    let variables = include_str!("../../quadlet/ansible/roles/trustee_client/vars/main.yml");
    let (_, below) = variables.split_once("__trustee_client_units:\n").unwrap();
    let mut listed: Vec<&str> = below.lines().map_while(|line| line.strip_prefix("  - ")).collect();
    listed.sort_unstable();
    assert_eq!(listed, enabled);
}
