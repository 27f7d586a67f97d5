//! `[[files]]`: secrets as files that follow the key broker.

use cc_tests::container::{Container, Tree};
use cc_tests::stack::Part;
use rustix::process::Signal;

use super::{Doors, example};
use crate::SECRET;

/// What the test needs beside the example of docs/secrets.md.
const TABLES: &str = r#"
[[files]]
path = "/run/small/key"
secret = "kbs:///default/key/small"
refresh_seconds = 1
on_change = { command = ["/usr/bin/touch", "/run/small.changed"] }

[[files]]
path = "/run/secrets/signal"
secret = "kbs:///default/key/1"
refresh_seconds = 1
on_change = { unit = "trap.service", signal = "SIGUSR1" }

[[files]]
path = "/run/secrets/hooked"
secret = "kbs:///default/key/hooked"
refresh_seconds = 1
on_change = { command = ["/usr/local/lib/hook"] }

[[files]]
path = "/var/lib/secrets/key"
secret = "kbs:///default/key/1"
"#;

/// A service that can be reloaded, and tells so.
const APP: &str = "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\nExecReload=/bin/sh -c 'echo reloaded >>/run/app.reloads'\n";
/// A service that takes a signal.
const TRAP: &str = "[Service]\nType=exec\nExecStart=/bin/sh -c 'trap \"touch /run/trap.signalled\" USR1; \
                    while :; do sleep 0.1; done'\n[Install]\nWantedBy=multi-user.target\n";
/// A folder in memory with room for four pages.
const SMALL: &str = "[Mount]\nWhat=tmpfs\nWhere=/run/small\nType=tmpfs\nOptions=size=16k,mode=0755\n";
/// Kills the hub when it is about to give the new content its name, after the mark that a hook is due has got its. Sockets get
/// theirs by another system call. What kills it needs more than the hub's own unit allows.
const KILLED: &str = "[Service]\nRestart=no\nNotifyAccess=all\nExecStart=\n\
    SystemCallFilter=\n\
    CapabilityBoundingSet=CAP_SYS_PTRACE\n\
    ExecStart=/usr/bin/strace --follow-forks --output=/run/strace.log --trace=renameat,renameat2 \
    --inject=renameat,renameat2:signal=SIGKILL:when=2 \
    /usr/local/bin/confidential-data-hub -c /etc/confidential-containers/confidential-data-hub.toml\n";

/// A hook that counts its runs, and waits or fails when it is told to.
const HOOK: &str =
    "#!/bin/sh\necho run >>/run/hook.runs\n[ ! -e /run/hook.wait ] || sleep 600\n[ ! -e /run/hook.fail ]\n";
const HOOKED: &str = "/run/secrets/hooked";
const MARK: &str = "/run/secrets/.hooked.hook-due";

const FILE: &str = "/run/secrets/app/key";

#[test]
fn files_follow_the_key_broker() {
    let tables = example("Files", "toml").replace("refresh_seconds = 300", "refresh_seconds = 1") + TABLES;
    let booted = Doors::boot(Tree::Trixie, &tables, |setup| {
        setup
            .file("etc/systemd/system/app.service", APP, 0o644)?
            .file("etc/systemd/system/trap.service", TRAP, 0o644)?
            .file("etc/systemd/system/run-small.mount", SMALL, 0o644)?
            .file("usr/local/lib/killed.conf", KILLED, 0o644)?
            .file("usr/local/lib/hook", HOOK, 0o755)?
            .link("etc/systemd/system/multi-user.target.wants/app.service", "../app.service")?
            .link("etc/systemd/system/multi-user.target.wants/trap.service", "../trap.service")?
            .link("etc/systemd/system/local-fs.target.wants/run-small.mount", "../run-small.mount")
    });
    let Some(mut doors) = booted else { return };
    written(&doors);
    changed(&doors);
    no_room(&doors);
    hooks(&doors);
    killed(&mut doors);
    revoked(&doors);
    stopped(&doors);
    let log = doors.hub_log();
    for secret in [std::str::from_utf8(SECRET).unwrap(), "second-content-5d1e", "third-content-b0a7"] {
        assert!(!log.contains(secret), "a secret in the log");
    }
}

fn content(machine: &Container, path: &str) -> Vec<u8> {
    machine.run(&["cat", path]).unwrap().stdout
}

fn wait_for_content(doors: &Doors, path: &str, wanted: &[u8]) {
    doors.machine.wait_for(path, || Ok(content(&doors.machine, path) == wanted)).unwrap();
}

fn written(doors: &Doors) {
    let Doors { machine, .. } = doors;
    wait_for_content(doors, FILE, SECRET);
    let found = machine.must(&["stat", "--format=%a %U %G", FILE]).unwrap();
    assert_eq!(found, "400 nobody root\n");
    wait_for_content(doors, "/run/secrets/signal", SECRET);
    let refused = || Ok(doors.audit(&["door=file", "code=FILE_FOLDER_REFUSED"]).len() == 1);
    machine.wait_for("the refusal of a folder on a disk", refused).unwrap();
    assert!(!machine.run(&["ls", "/var/lib/secrets/key"]).unwrap().status.success());
}

/// New content at the key broker arrives, and the service is told.
fn changed(doors: &Doors) {
    let Doors { machine, stack } = doors;
    let reloads = || content(machine, "/run/app.reloads").len();
    let before = reloads();
    machine.must(&["rm", "-f", "/run/trap.signalled"]).unwrap();
    stack.put_resource("default/key/1", b"second-content-5d1e").unwrap();
    wait_for_content(doors, FILE, b"second-content-5d1e");
    machine.wait_for("the reload", || Ok(reloads() > before)).unwrap();
    let signalled = || Ok(machine.run(&["ls", "/run/trap.signalled"])?.status.success());
    machine.wait_for("the signal", signalled).unwrap();
    // Fetched each second, written twice.
    let given = || doors.audit(&["door=file", "kbs:///default/key/1", "decision=given"]).len();
    machine.wait_for("the lines of the audit", || Ok(given() >= 4)).unwrap();
    assert_eq!(given(), 4);
    assert_eq!(stack.quotes().unwrap(), 1, "all of it over one session");
}

/// A full tmpfs: the old content stays, nothing lies beside it, and the new content comes when there is room.
fn no_room(doors: &Doors) {
    let Doors { machine, stack } = doors;
    stack.put_resource("default/key/small", b"fits").unwrap();
    wait_for_content(doors, "/run/small/key", b"fits");
    machine.must(&["dd", "if=/dev/zero", "of=/run/small/ballast", "bs=4k", "count=2"]).unwrap();
    stack.put_resource("default/key/small", &[b'x'; 12_000]).unwrap();
    let failed = || Ok(!doors.audit(&["door=file", "code=FILE_WRITE_FAILED"]).is_empty());
    machine.wait_for("the failure", failed).unwrap();
    assert_eq!(content(machine, "/run/small/key"), b"fits");
    let beside = machine.must(&["ls", "-A", "/run/small"]).unwrap();
    assert_eq!(beside, "ballast\nkey\n");
    machine.must(&["rm", "/run/small/ballast"]).unwrap();
    wait_for_content(doors, "/run/small/key", &[b'x'; 12_000]);
    let changed = || Ok(machine.run(&["ls", "/run/small.changed"])?.status.success());
    machine.wait_for("the program that the hook names", changed).unwrap();
}

/// A hook that fails runs again until it succeeds; one whose hub was killed runs again in the next.
fn hooks(doors: &Doors) {
    let Doors { machine, stack } = doors;
    let there = |path: &str| machine.run(&["ls", path]).unwrap().status.success();
    let runs = || content(machine, "/run/hook.runs").len() / "run\n".len();
    stack.put_resource("default/key/hooked", b"first").unwrap();
    wait_for_content(doors, HOOKED, b"first");
    machine.wait_for("the hook", || Ok(runs() == 1 && !there(MARK))).unwrap();

    machine.must(&["touch", "/run/hook.fail"]).unwrap();
    stack.put_resource("default/key/hooked", b"second").unwrap();
    wait_for_content(doors, HOOKED, b"second");
    machine.wait_for("two failures", || Ok(runs() >= 3)).unwrap();
    assert!(there(MARK));
    let state = || {
        let told = machine.run(&["guestctl", "--json", "doctor"])?.stdout;
        Ok(String::from_utf8_lossy(&told).contains("FILE_HOOK_FAILED"))
    };
    machine.wait_for("the state of the file", state).unwrap();
    assert!(doors.hub_log().contains("FILE_HOOK_FAILED"));
    machine.must(&["rm", "/run/hook.fail"]).unwrap();
    machine.wait_for("the hook to succeed", || Ok(!there(MARK))).unwrap();

    let before = runs();
    machine.must(&["touch", "/run/hook.wait"]).unwrap();
    stack.put_resource("default/key/hooked", b"third").unwrap();
    machine.wait_for("the hook to wait", || Ok(runs() > before)).unwrap();
    let hub = "confidential-data-hub.service";
    machine.must(&["systemctl", "kill", "--signal=SIGKILL", hub]).unwrap();
    machine.must(&["rm", "/run/hook.wait"]).unwrap();
    machine.must(&["systemctl", "restart", hub]).unwrap();
    machine.wait_for("the hook of the next hub", || Ok(runs() > before + 1 && !there(MARK))).unwrap();
    assert_eq!(content(machine, HOOKED), b"third");
}

/// A killed hub's files, whose secrets the next hub does not get: they stay until it stops, and go then.
fn revoked(doors: &Doors) {
    let Doors { machine, stack } = doors;
    let hub = "confidential-data-hub.service";
    machine.must(&["systemctl", "kill", "--signal=SIGKILL", hub]).unwrap();
    stack.set_policy("[[allow]]\nresource = \"default/key/nothing\"\n").unwrap();
    machine.must(&["systemctl", "restart", hub]).unwrap();
    let refused = || Ok(!doors.audit(&["door=file", "key/hooked", "decision=refused"]).is_empty());
    machine.wait_for("the refusal", refused).unwrap();
    assert_eq!(content(machine, HOOKED), b"third");
}

/// The hub is killed between writing and renaming: readers see the old content, and the next start tidies up first.
fn killed(doors: &mut Doors) {
    let old = content(&doors.machine, FILE);
    let drop_in = "/run/systemd/system/confidential-data-hub.service.d/killed.conf";
    let hub = "confidential-data-hub.service";
    let machine = &doors.machine;
    // A hub that is killed leaves its files, so that the next one, which is watched, finds them as they should be.
    machine.must(&["install", "-D", "/usr/local/lib/killed.conf", drop_in]).unwrap();
    machine.must(&["systemctl", "daemon-reload"]).unwrap();
    machine.must(&["systemctl", "kill", "--signal=SIGKILL", hub]).unwrap();
    let is = |state: &str| {
        let found = machine.must(&["systemctl", "show", "--property=ActiveState", hub])?;
        Ok(found.trim() == format!("ActiveState={state}"))
    };
    machine.wait_for("the end of the hub", || is("failed")).unwrap();
    machine.must(&["systemctl", "start", hub]).unwrap();
    assert_eq!(content(machine, FILE), old);

    doors.stack.put_resource("default/key/1", b"third-content-b0a7").unwrap();
    machine.wait_for("the end of the hub at its rename", || is("failed")).unwrap();
    for path in [FILE, "/run/secrets/signal"] {
        assert_eq!(content(machine, path), old, "{path}");
    }
    let left = || machine.must(&["find", "/run/secrets", "-name", ".*.new"]);
    assert_eq!(left().unwrap().lines().count(), 1, "{}", left().unwrap());

    // Also where the key broker does not answer.
    let kbs = doors.stack.part(Part::Kbs).unwrap();
    kbs.signal(Signal::STOP).unwrap();
    machine.must(&["rm", drop_in]).unwrap();
    machine.must(&["systemctl", "daemon-reload"]).unwrap();
    machine.must(&["systemctl", "start", hub]).unwrap();
    machine.wait_for("the leftover to go", || Ok(left()?.is_empty())).unwrap();
    assert_eq!(content(machine, FILE), old);
    kbs.signal(Signal::CONT).unwrap();
    wait_for_content(doors, FILE, b"third-content-b0a7");
}

/// The files go with the hub.
fn stopped(doors: &Doors) {
    let Doors { machine, .. } = doors;
    machine.must(&["systemctl", "stop", "confidential-data-hub.service"]).unwrap();
    for path in [FILE, HOOKED, MARK, "/run/secrets/signal", "/run/small/key"] {
        assert!(!machine.run(&["ls", path]).unwrap().status.success(), "{path} is left");
    }
}
