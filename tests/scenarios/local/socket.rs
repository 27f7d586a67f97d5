//! Places where a daemon's socket should go and cannot.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use cc_tests::process::{Process, own_binary};
use cc_tests::stack::address;
use tempfile::TempDir;

use super::{Agent, descriptors, run, sample_agent, tee_type};

/// Starts an agent for `socket` that must not get to serve; what it says.
fn agent_refused(folder: &TempDir, socket: &Path) -> String {
    let (code, told) = run(sample_agent(folder, socket));
    assert!(matches!(code, Some(1 | 64)), "{code:?}: {told}");
    assert!(!told.contains("panicked"), "{told}");
    told
}

/// The same for a hub; a list of what lies in the folder proves that nothing was left.
fn hub_refused(folder: &TempDir, socket: &Path) -> String {
    let config = folder.path().join("cdh.toml");
    let text = format!("socket = {:?}\n[kbc]\nname = \"offline_fs_kbc\"\n", address(socket));
    std::fs::write(&config, text).unwrap();
    let mut command = own_binary("confidential-data-hub").unwrap();
    command.arg("-c").arg(config);
    let (code, told) = run(command);
    assert!(matches!(code, Some(1 | 64)), "{code:?}: {told}");
    told
}

fn assert_refused(folder: &TempDir, socket: &Path, expected: &[&str]) {
    for told in [agent_refused(folder, socket), hub_refused(folder, socket)] {
        for text in expected {
            assert!(told.contains(text), "{text:?} is not said: {told}");
        }
    }
}

#[test]
fn path_too_long() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s".repeat(120));
    let told = hub_refused(&folder, &socket);
    assert!(told.contains("[ADDRESS_PATH_TOO_LONG]") && told.contains("107 bytes"), "{told}");
    // The agent's address is an option: refused as one.
    let (code, told) = run(sample_agent(&folder, &socket));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("107 bytes"), "{told}");
}

#[test]
fn a_file_is_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("taken");
    std::fs::write(&socket, "precious").unwrap();
    assert_refused(&folder, &socket, &["[SOCKET_PATH_OCCUPIED]", "is no socket", "hint: "]);
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious", "nobody's file is removed");
    let socket = folder.path().join("directory");
    std::fs::create_dir(&socket).unwrap();
    assert_refused(&folder, &socket, &["[SOCKET_PATH_OCCUPIED]"]);
    // A link is not followed to its target.
    let (socket, target) = (folder.path().join("link"), folder.path().join("target"));
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &socket).unwrap();
    assert_refused(&folder, &socket, &["[SOCKET_PATH_OCCUPIED]"]);
    assert_eq!(std::fs::read(&target).unwrap(), b"precious");
}

#[test]
fn a_live_daemon_is_in_the_way() {
    let first = Agent::start();
    assert_refused(&first.folder, &first.socket, &["[SOCKET_ALREADY_SERVED]", "another process answers"]);
    first.assert_sound();
    // One that hangs (it listens and never accepts) is alive too.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hung");
    let _hung = UnixListener::bind(&socket).unwrap();
    assert_refused(&folder, &socket, &["[SOCKET_ALREADY_SERVED]"]);
}

#[test]
fn the_folder_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    assert_refused(
        &folder,
        &folder.path().join("file/aa.sock"),
        &["[SOCKET_REFUSED]", "creating its folder"],
    );
    // Root may write anywhere but here.
    assert_refused(&folder, Path::new("/proc/none/aa.sock"), &["[SOCKET_REFUSED]", "/proc/none/aa.sock"]);
}

#[test]
fn the_folder_is_not_writable() {
    if !rustix::process::geteuid().is_root() {
        cc_tests::stack::skip("starting a daemon as another user needs root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let binary = folder.path().join("agent");
    std::fs::copy(cc_tests::process::binary_folder().unwrap().join("attestation-agent"), &binary).unwrap();
    let config = folder.path().join("aa.toml");
    std::fs::write(&config, "[platform]\nsample = true\n").unwrap();
    let mut command = cc_tests::process::command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(binary);
    command.arg("-c").arg(config).arg("-a").arg(address(&folder.path().join("aa.sock")));
    let (code, told) = run(command);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("[SOCKET_REFUSED]") && told.contains("Permission denied"), "{told}");
}

#[test]
fn missing_folders_are_made() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("a/b/c/aa.sock");
    let mut agent = Process::start("agent", sample_agent(&folder, &socket), folder.path()).unwrap();
    agent.wait_for_path(&socket).unwrap();
    assert_eq!(tee_type(&socket).as_deref(), Ok("sample"));
    assert!(descriptors(&agent) > 0);
    let found = std::fs::metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(folder.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(agent.stop().unwrap(), 0);
    assert!(!socket.exists());
}
