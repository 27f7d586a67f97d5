//! Full file systems under a socket and under a credential. Root only: they are mounted here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_tests::process::{Process, command};
use cc_tests::stack::{Options, Part, address};

use super::{run, sample_agent, tee_type};
use crate::{REST_PATH, SECRET, stack};

/// A small file system, unmounted when the test ends.
pub(crate) struct Small(PathBuf);

impl Small {
    pub(crate) fn mount(at: &Path, options: &str) -> Option<Self> {
        std::fs::create_dir_all(at).ok()?;
        let mut mount = command("mount");
        let status = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status();
        if !status.is_ok_and(|status| status.success()) {
            cc_tests::stack::skip("a file system cannot be mounted here");
            return None;
        }
        Some(Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = command("umount").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn no_room_for_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    // One inode, and the folder itself has it.
    let Some(full) = Small::mount(&folder.path().join("full"), "size=4k,nr_inodes=1") else { return };
    let socket = full.0.join("aa.sock");
    let (code, told) = run(sample_agent(&folder, &socket));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("[SOCKET_REFUSED]") && told.contains("No space left on device"), "{told}");
    assert_eq!(std::fs::read_dir(&full.0).unwrap().count(), 0, "nothing is left");
    // With room again, the next start works.
    let remounted = command("mount").args(["-o", "remount,nr_inodes=16"]).arg(&full.0).status().unwrap();
    assert!(remounted.success());
    let mut agent = Process::start("agent", sample_agent(&folder, &socket), folder.path()).unwrap();
    agent.wait_for_path(&socket).unwrap();
    assert_eq!(tee_type(&socket).as_deref(), Ok("sample"));
    assert_eq!(agent.stop().unwrap(), 0);
}

#[test]
fn no_room_for_a_credential() {
    let place = PathBuf::from(format!("/run/confidential-containers/cdh/kbs/full-{}", std::process::id()));
    if !cc_tests::stack::emulator_runs_here() {
        return;
    }
    let Some(full) = Small::mount(&place, "size=4k") else { return };
    let (large, small) = (full.0.join("large"), full.0.join("small"));
    let hub_config = format!(
        "credentials = [{{ path = {large:?}, resource_uri = \"kbs:///default/key/large\" }}, \
         {{ path = {small:?}, resource_uri = \"kbs:///default/key/1\" }}]"
    );
    let Some(mut stack) = stack(Options { hub_config, ..Options::default() }) else { return };
    stack.stop_part(Part::Hub).unwrap();
    stack.put_resource("default/key/large", &vec![b'x'; 64 << 10]).unwrap();
    stack.start_part(Part::Hub).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !small.exists() {
        assert!(Instant::now() < deadline, "{}", stack.part(Part::Hub).unwrap().log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The small one may be from the hub before; the large one is this hub's affair.
    let hub = stack.part(Part::Hub).unwrap();
    hub.wait_for_log("CREDENTIAL_WRITE_FAILED").unwrap();
    assert!(hub.log().contains("No space left on device"), "{}", hub.log());
    // One that does not fit keeps nothing and nobody; the next one is written.
    assert_eq!(std::fs::read(&small).unwrap(), SECRET);
    assert_eq!(std::fs::read_dir(&full.0).unwrap().count(), 1, "no part of the large one is left");
    assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
    let out = cc_tests::process::own_binary("guestctl")
        .unwrap()
        .args([
            "doctor",
            "--json",
            "--cdh",
            &address(&stack.hub_socket()),
            "--aa",
            &address(&stack.agent_socket()),
        ])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stdout);
    assert!(told.contains("CREDENTIAL_WRITE_FAILED"), "doctor tells it: {told}");
}
