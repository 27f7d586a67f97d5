//! The units as they are shipped, under the real service managers of two releases.

use std::path::Path;

use cc_tests::container::{Container, Setup, Tree};
use cc_tests::process::binary_folder;
use cc_tests::stack::Stack;

use crate::doors::{emulated_hardware, prepared};
use crate::{REST_PATH, SECRET};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd");
const DAEMONS: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
/// What the units and their administrator need besides.
const PROGRAMS: [&str; 2] = ["cdh-storage", "guestctl"];
/// Exposure that `systemd-analyze security` may see at most, in tenths; each line that the units relax says why.
pub(crate) const EXPOSURE: [(&str, u32); 6] = [
    ("attestation-agent.service", 40),
    ("confidential-data-hub.service", 30),
    ("api-server-rest.service", 15),
    ("cdh-storage-disk.service", 50),
    ("cdh-storage-mount.service", 45),
    ("cdh-storage-unpack.service", 25),
];

/// Says what the service manager's linter and its rating think: nothing, and little.
#[test]
fn the_units_are_in_order_and_locked_down() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        if !tree.boots_here() {
            return;
        }
        let mut setup = Setup::new(tree).unwrap().bind_read_only(Path::new(SHIPPED), "/units");
        for daemon in DAEMONS.iter().chain(&PROGRAMS) {
            setup = setup.file(&format!("usr/local/bin/{daemon}"), "#!/bin/sh\n", 0o755).unwrap();
        }
        let rate = EXPOSURE.map(|(unit, limit)| {
            format!("systemd-analyze security --offline=yes --threshold={limit} /units/{unit} >/tmp/{unit} || tail -1 /tmp/{unit}\n")
        });
        let script =
            format!("cd /units\nsystemd-analyze verify --man=no *.service *.socket\n{}", rate.concat());
        let out = setup.run(&["sh", "-ec", &script]).unwrap();
        let said = [out.stdout, out.stderr].concat();
        assert!(out.status.success() && said.is_empty(), "{tree:?}: {}", String::from_utf8_lossy(&said));
    }
}

/// Whoever takes the agent over reads no disk with it: it opens none.
#[test]
fn the_agents_unit_has_no_disks() {
    let unit = std::fs::read_to_string(Path::new(SHIPPED).join("attestation-agent.service")).unwrap();
    assert!(unit.contains("\nDevicePolicy=closed\n") && !unit.contains("block-"), "{unit}");
}

/// A machine on which an administrator has installed the units and switched them on as the presets say.
pub(crate) struct Installed {
    // Dropped first: the machine uses what the stack shows it.
    pub(crate) machine: Container,
    pub(crate) stack: Stack,
    port: u16,
}

impl Installed {
    pub(crate) fn boot(tree: Tree) -> Option<Self> {
        let (stack, mut setup) = prepared(tree, "[image]\nlayouts = [\"/srv\"]\n")?;
        let port = cc_tests::port::claim().unwrap();
        // The machine's network is that of this one, where other tests may have the usual port.
        let rest = format!(
            "[Service]\nExecStart=\nExecStart=/usr/local/bin/api-server-rest --features resource --bind 127.0.0.1:{port}\n"
        );
        for (path, content) in [
            ("etc/systemd/system/api-server-rest.service.d/port.conf", rest),
            ("etc/systemd/system/attestation-agent.service.d/emulated.conf", emulated_hardware(&stack)),
        ] {
            setup = setup.file(path, content, 0o644).unwrap();
        }
        for binary in DAEMONS.iter().chain(&PROGRAMS) {
            let path = binary_folder().unwrap().join(binary);
            setup = setup.bind_read_only(&path, &format!("/usr/local/bin/{binary}"));
        }
        setup = setup.with_containers();
        let staged = stack.folder().join("staged");
        install_units(&staged);
        for file in files_below(&staged) {
            let content = std::fs::read(staged.join(&file)).unwrap();
            setup = setup.file(&file, content, 0o644).unwrap();
        }
        let machine = setup.boot().unwrap_or_else(|e| panic!("{e:#}"));
        for line in commands().lines() {
            machine.must(&["sh", "-ec", line]).unwrap_or_else(|e| panic!("{line}: {e:#}"));
        }
        Some(Self { machine, stack, port })
    }

    /// Asks the REST server as an application without any right.
    pub(crate) fn ask(&self, path: &str) -> String {
        let request = self.question(path);
        let application = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"];
        self.machine.must(&[&application[..], &[&request]].concat()).unwrap()
    }

    /// What asks the REST server, for bash.
    pub(crate) fn question(&self, path: &str) -> String {
        format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
            port = self.port
        )
    }

    /// Ends the main process of a unit as a crash would, and waits until the service manager has started another.
    fn crash(&self, unit: &str) {
        let main = || self.machine.must(&["systemctl", "show", "--property=MainPID", "--value", unit]);
        let before = main().unwrap();
        self.machine.must(&["systemctl", "kill", "--signal=SIGKILL", unit]).unwrap();
        let started = || {
            let active = self.machine.run(&["systemctl", "is-active", "--quiet", unit])?.status.success();
            Ok(active && main()? != before)
        };
        self.machine.wait_for(&format!("another {unit}"), started).unwrap();
    }
}

/// An image of one layer, below `/srv`.
pub(crate) const IMAGE: &str = "cd /srv; umoci init --layout app; umoci new --image app:1.0; mkdir -p tree/etc; echo from-an-image >tree/etc/app; \
                     umoci insert --image app:1.0 tree/etc /etc";

/// An image becomes a bundle through the hub and the units of its privileged half; what was mounted is there for the machine.
fn image(machine: &Container) {
    machine.must(&["sh", "-ec", IMAGE]).unwrap();
    let log = || machine.must(&["journalctl", "--no-pager", "--output=cat"]).unwrap();
    machine
        .must(&["guestctl", "pull", "oci:/srv/app:1.0", "--bundle", "/run/bundle"])
        .unwrap_or_else(|e| panic!("{e:#}\n{}", log()));
    assert_eq!(machine.must(&["cat", "/run/bundle/rootfs/etc/app"]).unwrap(), "from-an-image\n", "{}", log());
    // The kernel writes to the overlay with the rights of the unit that mounted it.
    let write = "cd /run/bundle/rootfs; chgrp 8 etc; chmod 2775 etc; mknod null c 1 3; stat --format='%a %F' etc null";
    let written = machine.must(&["sh", "-ec", write]).unwrap();
    assert_eq!(written, "2775 directory\n644 character special file\n");
    for unit in ["cdh-storage-mount.service", "cdh-storage-unpack.service"] {
        machine
            .must(&["systemctl", "is-active", unit])
            .unwrap_or_else(|e| panic!("{unit}: {e:#}\n{}", log()));
    }
}

/// A configuration that cannot be used is told once; who asks then is sent away, and the service manager has no reason to try on.
fn unusable_configuration(machine: &Container) {
    let unit = "confidential-data-hub.service";
    let spoil = "systemctl stop confidential-data-hub; cd /etc/confidential-containers; \
                 sed 's/cc_kbc/no_such/' confidential-data-hub.toml >t; cp confidential-data-hub.toml kept; cat t >confidential-data-hub.toml";
    machine.must(&["sh", "-ec", spoil]).unwrap();
    let told = || machine.journal(unit).unwrap().matches("KBC_UNKNOWN").count();
    let before = told();
    let ask = machine.run(&["timeout", "60", "guestctl", "get", "kbs:///default/key/1"]).unwrap();
    assert!(!ask.status.success() && ask.status.code() != Some(124), "{ask:?}");
    let failed = || Ok(machine.run(&["systemctl", "is-failed", "--quiet", unit])?.status.success());
    machine.wait_for("the data hub to be down", failed).unwrap();
    let times = told() - before;
    // Callers try again once or twice by themselves.
    assert!((1..=5).contains(&times), "started {times} times for one caller");
    // However many ask, the sockets stay; whoever mends the file has the service alone to start.
    let storm = "import collections, socket, threading\n\
                 ended = collections.Counter()\n\
                 def ask():\n\
                 \x20 for _ in range(25):\n\
                 \x20   s = socket.socket(socket.AF_UNIX)\n\
                 \x20   s.settimeout(60)\n\
                 \x20   try: s.connect('/run/confidential-containers/cdh.sock')\n\
                 \x20   except OSError as why: ended[f'not connected: {why}'] += 1; continue\n\
                 \x20   try: ended['answered' if s.recv(1) else 'sent away'] += 1\n\
                 \x20   except ConnectionError: ended['sent away'] += 1\n\
                 \x20   except OSError as why: ended[f'left alone: {why}'] += 1\n\
                 \x20   s.close()\n\
                 threads = [threading.Thread(target=ask) for _ in range(4)]\n\
                 [t.start() for t in threads]\n\
                 [t.join() for t in threads]\n\
                 print(dict(ended))\n";
    // Nobody is refused by a socket that is gone, and nobody waits for a hub that does not come.
    assert_eq!(machine.must(&["python3", "-c", storm]).unwrap(), "{'sent away': 100}\n");
    for socket in ["confidential-data-hub.socket", "confidential-data-hub-credentials.socket"] {
        machine.must(&["systemctl", "is-active", socket]).unwrap();
    }
    let mend = "cd /etc/confidential-containers; cat kept >confidential-data-hub.toml; systemctl restart confidential-data-hub";
    machine.must(&["sh", "-ec", mend]).unwrap();
    // Nor does a caller wait for one that is started with an option that it does not have.
    let spoil = "systemctl stop confidential-data-hub; cd /run/systemd/system; mkdir -p confidential-data-hub.service.d; cd confidential-data-hub.service.d\n\
                 printf '[Service]\\nExecStart=\\nExecStart=/usr/local/bin/confidential-data-hub --no-such-option\\n' >99-option.conf; systemctl daemon-reload";
    machine.must(&["sh", "-ec", spoil]).unwrap();
    let ask = machine.run(&["timeout", "60", "guestctl", "get", "kbs:///default/key/1"]).unwrap();
    assert!(!ask.status.success() && ask.status.code() != Some(124), "{ask:?}");
    machine.wait_for("the data hub to be down again", failed).unwrap();
    let times = machine.journal(unit).unwrap().matches("--no-such-option").count();
    assert!((1..=5).contains(&times), "started {times} times for one caller");
    let mend = "rm /run/systemd/system/confidential-data-hub.service.d/99-option.conf; systemctl daemon-reload; systemctl restart confidential-data-hub";
    machine.must(&["sh", "-ec", mend]).unwrap();
}

/// What docs/deploy-rhel.md has an administrator do after the installation: it is done here to the letter.
fn commands() -> String {
    let document = include_str!("../../docs/deploy-rhel.md");
    let (_, below) = document.split_once("# make install install-units\n").unwrap();
    let (block, _) = below.split_once("```").unwrap();
    let preset =
        std::fs::read_to_string(format!("{SHIPPED}/system-preset/30-confidential-containers.preset"))
            .unwrap();
    for unit in preset.lines().filter_map(|line| line.strip_prefix("enable ")) {
        let named = block.split_whitespace().filter(|word| *word == unit).count();
        assert_eq!(named, 2, "{unit} is enabled and started");
    }
    block.lines().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap())).collect()
}

fn install_units(root: &Path) {
    let mut make = cc_tests::process::command("make");
    make.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).arg("install-units");
    let out = make.arg(format!("ROOT={}", root.display())).output().unwrap();
    assert!(out.status.success(), "{out:?}");
}

/// All files below a folder, relative to it.
fn files_below(folder: &Path) -> Vec<String> {
    let out = cc_tests::process::command("find")
        .arg(folder)
        .args(["-type", "f", "-printf", "%P\n"])
        .output()
        .unwrap();
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn an_application_without_rights_gets_its_secret_on_a_machine_set_up_by_presets() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        let Some(installed) = Installed::boot(tree) else { return };
        let secret = std::str::from_utf8(SECRET).unwrap();
        let serves = |when: &str| {
            let answer = installed.ask(REST_PATH);
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.ends_with(secret),
                "{tree:?} {when}: {answer}"
            );
        };
        serves("after the start");
        for daemon in DAEMONS {
            installed.crash(&format!("{daemon}.service"));
            serves(&format!("after a crash of {daemon}"));
        }
        let machine = &installed.machine;
        // Who is not in the group asks in vain; the REST server is, and is no known user otherwise.
        let outside = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "guestctl",
            "get",
            "kbs:///default/key/1",
        ];
        let out = machine.run(&outside).unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && said.contains("Permission denied"), "{said}");
        let stat = ["stat", "--format=%F %a %U %G", "/run/confidential-containers/cdh.sock"];
        assert_eq!(machine.must(&stat).unwrap(), "socket 660 root confidential-data-hub\n");
        for daemon in DAEMONS {
            let unit = format!("{daemon}.service");
            let log = machine.journal(&unit).unwrap();
            assert!(!log.contains(secret), "{unit} logs a secret");
            assert!(!log.contains("Permission denied") && !log.contains("SIGSYS"), "{unit}: {log}");
        }
        if tree == Tree::Trixie {
            image(machine);
        }
        unusable_configuration(machine);
        serves("after a bad configuration was mended");
        assert_eq!(machine.must(&["systemctl", "list-units", "--failed", "--no-legend"]).unwrap(), "");
    }
}

/// The sockets of the agent and of the REST server, which the preset leaves off: whoever asks starts the services and waits for them,
/// and nobody else gets the port while they are away.
#[test]
fn services_are_started_by_their_sockets_and_the_port_stays_theirs() {
    let Some(installed) = Installed::boot(Tree::Trixie) else { return };
    let (machine, port) = (&installed.machine, installed.port);
    let services = ["attestation-agent.service", "confidential-data-hub.service", "api-server-rest.service"];
    let sockets = ["attestation-agent.socket", "api-server-rest.socket"];
    for socket in sockets {
        assert_eq!(
            String::from_utf8_lossy(&machine.run(&["systemctl", "is-enabled", socket]).unwrap().stdout),
            "disabled\n"
        );
    }
    let elsewhere = format!(
        "d=/run/systemd/system/api-server-rest.socket.d; mkdir -p $d; printf '[Socket]\\nListenStream=\\nListenStream=127.0.0.1:{port}\\n' >$d/port.conf; systemctl daemon-reload"
    );
    machine.must(&["sh", "-ec", &elsewhere]).unwrap();
    machine.must(&[&["systemctl", "stop"], &services[..]].concat()).unwrap();
    machine.must(&[&["systemctl", "enable", "--now"], &sockets[..]].concat()).unwrap();
    let active =
        |unit: &str| machine.run(&["systemctl", "is-active", "--quiet", unit]).unwrap().status.success();
    assert!(!services.iter().any(|unit| active(unit)));
    let stat = [
        "stat",
        "--format=%F %a %U %G",
        "/run/confidential-containers/attestation-agent/attestation-agent.sock",
    ];
    assert_eq!(machine.must(&stat).unwrap(), "socket 600 root root\n");

    let secret = std::str::from_utf8(SECRET).unwrap();
    let serves = |when: &str| {
        let answer = installed.ask(REST_PATH);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(secret), "{when}: {answer}");
    };
    serves("by the sockets alone");
    assert!(services.iter().all(|unit| active(unit)));
    for unit in services {
        machine.must(&["systemctl", "kill", "--signal=SIGKILL", unit]).unwrap();
        serves(&format!("while {unit} is started again"));
    }
    machine.must(&["systemctl", "stop", "api-server-rest.service"]).unwrap();
    let squat = format!("import socket; socket.socket().bind(('127.0.0.1', {port}))");
    let squatter = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", &squat];
    let out = machine.run(&squatter).unwrap();
    assert!(String::from_utf8_lossy(&out.stderr).contains("Address already in use"), "{out:?}");
    serves("after it was stopped");
}

/// What confines each service in its unit is what the operator is shown: from the services themselves, and of the helpers in the log.
#[test]
fn the_operator_is_shown_what_confines_each_service() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        let Some(installed) = Installed::boot(tree) else { return };
        let rest = format!("127.0.0.1:{}", installed.port);
        let out = installed.machine.run(&["guestctl", "doctor", "--json", "--rest", &rest]).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        // CAP_CHOWN and CAP_DAC_OVERRIDE; CAP_FOWNER and CAP_KILL besides; nothing.
        for (what, capabilities, landlock) in [
            ("agent confinement", "capabilities: 2 (mask 0x3)", "Landlock: none"),
            ("hub confinement", "capabilities: 4 (mask 0x2b)", "Landlock: none"),
            ("rest confinement", "capabilities: 0 (mask 0x0)", "Landlock: "),
        ] {
            let checks = told["checks"].as_array().unwrap();
            let check =
                checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("{what}: {told}"));
            let detail = check["detail"].as_str().unwrap();
            assert_eq!(check["status"], "ok", "{check}");
            for words in ["system calls: filtered (", "privileges: never gained", capabilities, landlock] {
                assert!(detail.contains(words), "{what}: {words} is missing in {detail}");
            }
        }
        if tree == Tree::Trixie {
            image(&installed.machine);
            for (unit, capabilities) in [("cdh-storage-mount.service", 7), ("cdh-storage-unpack.service", 7)]
            {
                let log = installed.machine.journal(unit).unwrap();
                let words = format!("privileges: never gained, capabilities: {capabilities}, Landlock: ");
                assert!(
                    log.contains("confinement: core dumps: forbidden, system calls: filtered (")
                        && log.contains(&words),
                    "{unit}: {log}"
                );
            }
        }
    }
}
