//! The daemons on a root disk, and a data volume that systemd opens with a key from them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cc_tests::process::{binary_folder, command};
use cc_tests::stack::Stack;

/// The volume, whose key is named by the machine ID.
pub(crate) const DATA: (&str, &str) = ("data", "aaaaaaaa-93f4-4a55-8f70-1d3b2c5e9a10");
/// The machine ID of the system.
pub(crate) const MACHINE_ID: &str = "00112233445566778899aabbccddeeff";

/// A tree with all of that, in `folder`, for a machine whose key broker is that of `stack`.
pub(crate) fn tree(folder: &Path, stack: &Stack) -> PathBuf {
    let tree = folder.join("daemons");
    let write = |path: &str, content: &str, mode: u32| {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let certificate = fs::read_to_string(stack.kbs_certificate()).unwrap();
    let url = stack.kbs_url().replace("127.0.0.1", "10.0.2.2");
    let (name, uuid) = DATA;
    let hub = format!(
        "[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\nkbs_cert = '''{certificate}'''\n\
         [[volumes]]\nname = {name:?}\nuuid = {uuid:?}\nkey = \"kbs:///disk-encryption/%m/luks-key-0\"\n"
    );
    let agent = format!("[token_configs.kbs]\nurl = {url:?}\ncert = '''{certificate}'''\n");
    write("etc/confidential-containers/confidential-data-hub.toml", &hub, 0o600);
    write("etc/confidential-containers/attestation-agent.toml", &agent, 0o600);
    write("etc/machine-id", &format!("{MACHINE_ID}\n"), 0o444);
    let programs = tree.join("usr/local/bin");
    fs::create_dir_all(&programs).unwrap();
    for program in ["attestation-agent", "confidential-data-hub", "guestctl"] {
        let built = binary_folder().unwrap().join(program);
        let strip = command("strip").arg("-o").arg(programs.join(program)).arg(built).status().unwrap();
        assert!(strip.success(), "{program}");
    }
    let wants = tree.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    for unit in ["attestation-agent.service", "confidential-data-hub.service"] {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(unit);
        write(&format!("etc/systemd/system/{unit}"), &fs::read_to_string(shipped).unwrap(), 0o644);
        symlink(format!("../{unit}"), wants.join(unit)).unwrap();
    }
    // The machine is slow where others work beside it.
    let enabled = command(binary_folder().unwrap().join("guestctl"))
        .args(["disk", "enable", name, "--uuid", uuid, "--options", "x-systemd.device-timeout=300", "--root"])
        .arg(&tree)
        .output()
        .unwrap();
    assert!(enabled.status.success(), "{}", String::from_utf8_lossy(&enabled.stderr));
    tree
}
