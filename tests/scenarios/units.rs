//! The units as they are shipped, under the real service managers of two releases.

use std::path::Path;

use cc_tests::container::{Container, Setup, Tree};
use cc_tests::process::binary_folder;
use cc_tests::stack::Stack;

use crate::doors::{emulated_hardware, prepared};
use crate::{REST_PATH, SECRET};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd");
const DAEMONS: [&str; 3] = ["attestation-agent", "confidential-data-hub", "api-server-rest"];
/// Exposure that `systemd-analyze security` may see at most, in tenths; each line that the units relax says why.
const EXPOSURE: [(&str, u32); 3] = [
    ("attestation-agent.service", 40),
    ("confidential-data-hub.service", 30),
    ("api-server-rest.service", 15),
];

/// Says what the service manager's linter and its rating think: nothing, and little.
#[test]
fn the_units_are_in_order_and_locked_down() {
    for tree in [Tree::Bookworm, Tree::Trixie] {
        if !tree.boots_here() {
            return;
        }
        let mut setup = Setup::new(tree).unwrap().bind_read_only(Path::new(SHIPPED), "/units");
        for daemon in DAEMONS {
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

/// A machine on which an administrator has installed the units and switched them on as the presets say.
struct Installed {
    // Dropped first: the machine uses what the stack shows it.
    machine: Container,
    _stack: Stack,
    port: u16,
}

impl Installed {
    fn boot(tree: Tree) -> Option<Self> {
        let (stack, mut setup) = prepared(tree, "")?;
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
        for binary in DAEMONS {
            let path = binary_folder().unwrap().join(binary);
            setup = setup.bind_read_only(&path, &format!("/usr/local/bin/{binary}"));
        }
        let staged = stack.folder().join("staged");
        install_units(&staged);
        for file in files_below(&staged) {
            let content = std::fs::read(staged.join(&file)).unwrap();
            setup = setup.file(&file, content, 0o644).unwrap();
        }
        let machine = setup.boot().unwrap_or_else(|e| panic!("{e:#}"));
        machine.must(&["systemd-sysusers"]).unwrap();
        machine.must(&["systemd-tmpfiles", "--create"]).unwrap();
        let preset =
            std::fs::read_to_string(format!("{SHIPPED}/system-preset/30-confidential-containers.preset"));
        let preset = preset.unwrap();
        let units: Vec<&str> = preset.lines().filter_map(|line| line.strip_prefix("enable ")).collect();
        machine.must(&[&["systemctl", "preset"], &units[..]].concat()).unwrap();
        machine.must(&["systemctl", "start", "sockets.target", "multi-user.target"]).unwrap();
        Some(Self { machine, _stack: stack, port })
    }

    /// Asks the REST server as an application without any right.
    fn ask(&self, path: &str) -> String {
        let request = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3",
            port = self.port
        );
        let application = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"];
        self.machine.must(&[&application[..], &[&request]].concat()).unwrap()
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
        let stat = ["stat", "--format=%F %a %U %G", "/run/confidential-containers/cdh.sock"];
        assert_eq!(machine.must(&stat).unwrap(), "socket 660 root confidential-data-hub\n");
        for daemon in DAEMONS {
            let unit = format!("{daemon}.service");
            let log = machine.journal(&unit).unwrap();
            assert!(!log.contains(secret), "{unit} logs a secret");
            assert!(!log.contains("Permission denied") && !log.contains("SIGSYS"), "{unit}: {log}");
        }
        assert_eq!(machine.must(&["systemctl", "list-units", "--failed", "--no-legend"]).unwrap(), "");
    }
}
