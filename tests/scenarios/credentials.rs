//! Files filled after start, and the offline store.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cc_tests::process::{Process, own_binary};
use cc_tests::stack::{Options, Part, address};

use crate::{RESOURCE, REST_PATH, SECRET, stack};

/// Removes the file it names when a test ends.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_socket_never_waits_for_the_key_broker() {
    let file = Cleanup(PathBuf::from(format!(
        "/run/confidential-containers/cdh/kbs/scenario-{}.json",
        std::process::id()
    )));
    let hub_config =
        format!("credentials = [{{ path = {:?}, resource_uri = \"kbs:///{RESOURCE}\" }}]", file.0);
    let Some(mut stack) = stack(Options { hub_config, ..Options::default() }) else { return };
    // The key broker is gone: the hub starts all the same, and says what it is waiting for.
    stack.stop_part(Part::Hub).unwrap();
    // Not before: a running hub fills the file at any moment.
    std::fs::remove_file(&file.0).ok();
    stack.stop_part(Part::Kbs).unwrap();
    let start = Instant::now();
    stack.start_part(Part::Hub).unwrap();
    assert!(start.elapsed() < Duration::from_secs(6), "kata-agent waits six seconds for the socket");
    assert!(!file.0.exists());
    stack.start_part(Part::Kbs).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !file.0.exists() {
        assert!(Instant::now() < deadline, "the file never came:\n{}", stack.part(Part::Hub).unwrap().log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(std::fs::read(&file.0).unwrap(), SECRET);
    assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 200);
}

#[test]
fn the_offline_store_needs_no_key_broker_and_no_agent() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.json");
    // The standard base64 of SECRET.
    use base64::Engine;
    let value = base64::engine::general_purpose::STANDARD.encode(SECRET);
    std::fs::write(&store, serde_json::json!({ RESOURCE: value }).to_string()).unwrap();
    let config = folder.path().join("cdh.toml");
    let socket = folder.path().join("cdh.sock");
    let text = format!("socket = {:?}\n[kbc]\nname = \"offline_fs_kbc\"\n", address(&socket));
    std::fs::write(&config, text).unwrap();
    let mut command = own_binary("confidential-data-hub").unwrap();
    command.arg("-c").arg(&config).env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", &store);
    let mut hub = Process::start("confidential-data-hub", command, folder.path()).unwrap();
    hub.wait_for_path(&socket).unwrap();
    let get = |uri: &str| {
        own_binary("guestctl").unwrap().args(["get", uri, "--cdh", &address(&socket)]).output().unwrap()
    };
    let out = get(&format!("kbs:///{RESOURCE}"));
    assert_eq!(out.stdout, SECRET, "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(get("kbs:///default/key/other").status.code(), Some(4), "absent");
    assert_eq!(hub.stop().unwrap(), 0);
}
