//! `LoadCredential=` at the hub's socket.

use cc_tests::container::Tree;
use cc_tests::stack::Part;
use rustix::process::Signal;

use super::{Doors, example};
use crate::{RESOURCE, SECRET};

const SOCKET: &str = "/run/confidential-containers/credentials.sock";

/// What the test needs beside the example of docs/secrets.md.
const TABLES: &str = r#"
[[unit_credentials]]
unit = "*.service"
credential = "shared"
secret = "kbs:///default/key/1"

[[unit_credentials]]
unit = "db-absent.service"
credential = "absent"
secret = "kbs:///default/key/missing"

[[access.rules]]
unit = ["db.service", "db-absent.service", "crowd.service", "asking.service"]
resources = ["kbs:///default/key/*"]

[log]
level = "info,cdh=debug"
"#;

/// The line that the example brings.
const LOAD: &str = "LoadCredential=db-password:/run/confidential-containers/credentials.sock\n";

fn unit(credential: &str) -> String {
    format!(
        "[Service]\nType=oneshot\nLoadCredential={credential}:{SOCKET}\n\
         ExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/{credential} >/run/%N.got'\n"
    )
}

#[test]
fn units_get_their_credentials_and_no_others() {
    for tree in [Tree::Trixie, Tree::Bookworm] {
        let tables = example("systemd credentials", "toml") + TABLES;
        let booted = Doors::boot(tree, &tables, |setup| {
            let credential = example("systemd credentials", "ini");
            setup
                .file("etc/systemd/system/db.service", unit("db-password").replace(LOAD, ""), 0o644)?
                .file("etc/systemd/system/db.service.d/credential.conf", credential, 0o644)?
                .file("etc/systemd/system/db-absent.service", unit("absent"), 0o644)?
                .file("etc/systemd/system/web.service", unit("db-password"), 0o644)?
                .file("etc/systemd/system/other.service", unit("shared"), 0o644)?
                .file("usr/local/lib/ask.py", include_str!("ask.py"), 0o644)
        });
        let Some(mut doors) = booted else { return };
        given(&doors);
        refused(&doors);
        forged(&doors);
        crowd(&mut doors);
        stopping(&mut doors);
        let log = doors.hub_log();
        assert!(!log.contains(std::str::from_utf8(SECRET).unwrap()), "a secret in the log");
    }
}

fn given(doors: &Doors) {
    let Doors { machine, .. } = doors;
    machine.must(&["systemctl", "start", "db.service"]).unwrap();
    assert_eq!(machine.must(&["cat", "/run/db.got"]).unwrap().as_bytes(), SECRET);
    let lines = doors.audit(&["door=unit-credential", "unit=\"db.service\""]);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let expected = format!(
        "door=unit-credential uid=0 unit=\"db.service\" container=\"-\" resource=\"kbs:///{RESOURCE}\" decision=given code=OK"
    );
    assert!(line.ends_with(&expected), "{line}");
    // The hub came by its socket alone, and has made the other one itself.
    for socket in [SOCKET, "/run/confidential-containers/cdh.sock"] {
        let found = machine.must(&["stat", "--format=%F %a %U", socket]).unwrap();
        assert_eq!(found, "socket 600 root\n", "{socket}");
    }
    // The same identity counts at the other door.
    let uri = format!("kbs:///{RESOURCE}");
    let (exit, out) = doors.in_unit("asking.service", &[], &["guestctl", "get", &uri]);
    assert_eq!((exit, out.as_bytes()), (Some(0), SECRET));
    let (exit, out) = doors.in_unit("stranger.service", &[], &["guestctl", "get", &uri]);
    assert_eq!((exit, out.as_str()), (Some(3), ""));
    for (unit, decision) in [("asking.service", "decision=given"), ("stranger.service", "decision=refused")] {
        let lines = doors.audit(&["door=get-resource", &format!("unit={unit:?}"), decision]);
        assert_eq!(lines.len(), 1, "{unit}: {lines:?}");
    }
}

/// Units whose credential is refused do not start: they never see an empty one.
fn refused(doors: &Doors) {
    for (unit, decision, code) in [
        ("web.service", "refused", "UNIT_CREDENTIAL_UNKNOWN"),
        ("other.service", "refused", "ACCESS_DENIED"),
        ("db-absent.service", "failed", "KBS_NOT_FOUND"),
    ] {
        let out = doors.machine.run(&["systemctl", "start", unit]).unwrap();
        assert!(!out.status.success(), "{unit} starts without its credential");
        let state = doors.machine.must(&["systemctl", "show", "--property=ExecMainStatus", unit]).unwrap();
        assert_eq!(state.trim(), "ExecMainStatus=243", "{unit}: 243 is CREDENTIALS");
        let name = unit.trim_end_matches(".service");
        assert!(!doors.machine.run(&["ls", &format!("/run/{name}.got")]).unwrap().status.success());
        let lines = doors.audit(&[&format!("unit={unit:?}"), &format!("decision={decision} code={code}")]);
        assert_eq!(lines.len(), 1, "{unit}: {}", doors.hub_log());
    }
}

/// The name only selects: whoever is not the service manager at the start of that unit gets nothing.
fn forged(doors: &Doors) {
    let ask = ["python3", "/usr/local/lib/ask.py", SOCKET, "db.service", "db-password"];
    let nobody = ["setpriv", "--reuid=65534", "--clear-groups"];
    let shut = doors.machine.run(&[&nobody[..], &ask].concat()).unwrap();
    assert!(!shut.status.success(), "the socket is root's alone");
    doors.machine.must(&["chmod", "666", SOCKET]).unwrap();
    let said = doors.machine.must(&[&nobody[..], &ask].concat()).unwrap();
    let refusal = format!("1 {} \n", 4 << 20);
    assert_eq!(said, refusal, "another user");
    let said = doors.machine.must(&ask).unwrap();
    assert_eq!(said, refusal, "root outside of every unit");
    let (_, said) = doors.in_unit("thief.service", &[], &ask);
    assert_eq!(said, refusal, "root in another unit");
    let ask = ["python3", "/usr/local/lib/ask.py", SOCKET, "plain.service", "shared"];
    let (_, said) = doors.in_unit("plain.service", &["--uid=65534"], &ask);
    assert_eq!(said, refusal, "the unit itself, not as root");
    doors.machine.must(&["chmod", "600", SOCKET]).unwrap();
    let lines = doors.audit(&["decision=refused code=UNIT_UNPROVEN"]);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("uid=65534")).count(), 2, "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.contains("unit=\"thief.service\"")).count(), 1, "{lines:#?}");
}

/// Many at once cost one fetch, and get an answer each.
fn crowd(doors: &mut Doors) {
    let before = doors.fetches();
    let Doors { machine, stack } = doors;
    let kbs = stack.part(Part::Kbs).unwrap();
    // While the key broker does not answer they all come together.
    kbs.signal(Signal::STOP).unwrap();
    let run = [
        "systemd-run",
        "--unit=crowd",
        "--property=LimitNOFILE=4096",
        "--property=StandardOutput=file:/run/crowd",
    ];
    let ask = ["python3", "/usr/local/lib/ask.py", SOCKET, "crowd.service", "shared", "1000"];
    machine.must(&[&run[..], &ask].concat()).unwrap();
    let log = || machine.journal("confidential-data-hub.service");
    let all_there = || Ok(log()?.matches("crowd.service may have its credential").count() == 1000);
    machine.wait_for("a thousand asks", all_there).unwrap();
    kbs.signal(Signal::CONT).unwrap();
    let answered = || Ok(!machine.must(&["cat", "/run/crowd"])?.is_empty());
    machine.wait_for("a thousand answers", answered).unwrap();
    let secret = std::str::from_utf8(SECRET).unwrap();
    assert_eq!(machine.must(&["cat", "/run/crowd"]).unwrap(), format!("1000 {} {secret}\n", SECRET.len()));
    assert_eq!(doors.fetches() - before, 1);
    assert_eq!(doors.audit(&["unit=\"crowd.service\"", "decision=given"]).len(), 1000);
    assert_eq!(doors.stack.quotes().unwrap(), 1);
}

/// Who waits while the hub is stopped is refused, not let go with nothing.
fn stopping(doors: &mut Doors) {
    doors.stack.part(Part::Kbs).unwrap().signal(Signal::STOP).unwrap();
    doors.machine.must(&["rm", "/run/db.got"]).unwrap();
    let before = doors.fetches();
    doors.machine.must(&["systemctl", "start", "--no-block", "db.service"]).unwrap();
    let fetching = || Ok(doors.fetches() > before);
    doors.machine.wait_for("the ask of db.service", fetching).unwrap();
    doors.machine.must(&["systemctl", "stop", "confidential-data-hub.service"]).unwrap();
    let ended = || {
        let state = doors.machine.must(&["systemctl", "show", "--property=ActiveState", "db.service"])?;
        Ok(state.trim() == "ActiveState=failed")
    };
    doors.machine.wait_for("the end of db.service", ended).unwrap();
    assert!(!doors.machine.run(&["ls", "/run/db.got"]).unwrap().status.success());
    assert_eq!(doors.audit(&["unit=\"db.service\"", "code=HUB_STOPPING"]).len(), 1, "{}", doors.hub_log());
    doors.stack.part(Part::Kbs).unwrap().signal(Signal::CONT).unwrap();
}
