//! A workload that tries its own handshake, with a key of its own.

use std::os::unix::process::CommandExt;

use cc_tests::machine::Machine;
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, address};

use crate::{REST_PATH, SECRET, stack};

/// The user that Debian and others call `nobody`.
pub(crate) const NOBODY: u32 = 65534;

#[test]
fn a_workload_gets_no_evidence_of_its_own_in_strict_mode() {
    let agent_config = "[access]\nstrict = true\n[socket]\nmode = \"0666\"\n".to_owned();
    let Some(stack) = stack(Options { agent_config, ..Options::default() }) else { return };
    // Over REST, as curl in a container would.
    for path in [
        "/aa/evidence?runtime_data=aGVsbG8",
        "/aa/additional-evidence?runtime_data=aGVsbG8",
        "/aa/token?token_type=kbs",
        "/aa/token?token_type=coco_as",
    ] {
        let answer = stack.rest_get(path).unwrap();
        assert_eq!(answer.status, 403, "{path}: {}", answer.text());
        assert!(!answer.text().contains("attestation_report"), "{path}");
    }
    // On the agent's socket, which is open to everybody here, as an unprivileged process. The folder has to be
    // passable for it to get that far.
    open_to_all(stack.folder());
    for arguments in [vec!["evidence", "--report-data", "00"], vec!["token", "--raw"]] {
        let out = own_binary_readable("guestctl", stack.folder())
            .args(&arguments)
            .args(["--aa", &address(&stack.agent_socket())])
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(3), "denied: {error}");
        assert!(error.contains("AA_CALLER_REFUSED"), "{error}");
        assert!(out.stdout.is_empty());
    }
    assert_eq!(stack.quotes().unwrap(), 0, "no quote was made for any of them");
    // The application's secret is still served: the data hub is a named user.
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET), "{}", answer.text());
}

#[test]
fn sockets_are_for_root_alone_by_default() {
    let Some(stack) = stack(Options { machine: Machine::default(), ..Options::default() }) else { return };
    open_to_all(stack.folder());
    for arguments in
        [vec!["evidence", "--report-data", "00", "--aa"], vec!["get", "kbs:///default/key/1", "--cdh"]]
    {
        let socket = if arguments[0] == "get" { stack.hub_socket() } else { stack.agent_socket() };
        let out = own_binary_readable("guestctl", stack.folder())
            .args(&arguments)
            .arg(address(&socket))
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(5), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(!String::from_utf8_lossy(&out.stdout).contains(std::str::from_utf8(SECRET).unwrap()));
    }
}

pub(crate) fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// One of our programs from a place that an unprivileged user can reach, wherever the build folder lies.
fn own_binary_readable(name: &str, folder: &std::path::Path) -> std::process::Command {
    let built = own_binary(name).unwrap();
    let copy = folder.join(name);
    if !copy.exists() {
        std::fs::copy(built.get_program(), &copy).unwrap();
    }
    cc_tests::process::command(copy)
}
