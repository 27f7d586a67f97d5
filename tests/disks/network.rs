//! The script of initramfs-tools, where the network never comes up. It runs in a shell of this machine: the places that it works in are
//! replaced by those of a folder, and what it calls by what is there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use cc_tests::process::command;

/// Waits on and on, as the function of that name does for minutes where nobody answers; here until the test is over.
const FUNCTIONS: &str = "configure_networking() { touch \"$STATE/asked\"; while [ -e \"$STATE/asked\" ]; do sleep 0.2; done; }\n\
    log_begin_msg() { :; }\nlog_end_msg() { :; }\n";

/// Has an address at once, and leaves what it was told of name servers as older versions do: in a file of its own alone.
const LEASE: &str = "configure_networking() { printf \"IPV4DNS0='10.0.2.3'\\nIPV4DNS1='0.0.0.0'\\n\" >\"$STATE/net-eth0.conf\"; \
    touch \"$STATE/asked\"; }\nlog_begin_msg() { :; }\nlog_end_msg() { :; }\n";

/// Runs the script with an `initrd-unlock` that ends with `status` once the network was asked for; its own status, what it said, and
/// the name servers there are then.
fn run(functions: &str, status: u8) -> (i32, String, Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("functions", functions);
    write("unlock.toml", "");
    write("net/lo/operstate", "unknown\n");
    write("net/eth0/operstate", "down\n");
    write(
        "bin/initrd-unlock",
        &format!("#!/bin/sh\nwhile [ ! -e {state}/asked ]; do sleep 0.1; done\nexit {status}\n"),
    );
    for name in ["modprobe", "mount"] {
        write(&format!("bin/{name}"), "#!/bin/sh\n");
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../systemd/initramfs-tools/scripts/local-top/confidential-unlock");
    let mut text = std::fs::read_to_string(script).unwrap();
    let off = format!("{state}/off");
    for (place, there) in [
        ("/scripts/functions", format!("{state}/functions")),
        ("/etc/confidential-containers/unlock.toml", format!("{state}/unlock.toml")),
        ("/conf/param.conf", format!("{state}/param.conf")),
        ("/run/systemd", format!("{state}/systemd")),
        ("/run/net-", format!("{state}/net-")),
        ("/etc/resolv.conf", format!("{state}/resolv.conf")),
        ("/sys/class/net", format!("{state}/net")),
        ("/proc/sysrq-trigger", off.clone()),
        ("while true; do sleep 60; done", "exit 9".to_owned()),
    ] {
        assert!(text.contains(place), "{place}");
        text = text.replace(place, &there);
    }
    // Nothing of it touches the machine that tests it.
    assert!(!["/proc/", "/run/", "/etc/"].iter().any(|place| text.contains(place)), "{text}");
    let path = format!("{state}/bin:/usr/bin:/bin");
    write("script", &text);
    let said = std::fs::File::create(folder.path().join("said")).unwrap();
    let ended = command("/bin/sh")
        .arg(folder.path().join("script"))
        .env("PATH", path)
        .env("STATE", state)
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .status()
        .unwrap();
    assert_eq!(Path::new(&off).exists(), status != 0, "switched off if nothing was opened");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
    (ended.code().unwrap(), read("said").unwrap(), read("resolv.conf"))
}

#[test]
fn a_network_that_never_comes_up_holds_the_initramfs_no_longer_than_its_time_limit() {
    let begun = Instant::now();
    let (status, said, _) = run(FUNCTIONS, 5);
    assert_eq!(status, 9, "{said}");
    assert!(said.contains("the network was not set up (ip=dhcp)") && said.contains("eth0: down"), "{said}");
    assert!(said.contains("is switched off"), "{said}");
    let (status, said, _) = run(FUNCTIONS, 0);
    assert_eq!((status, said.as_str()), (0, ""), "nobody waits for a network that nobody needed");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

/// A name in the configuration is looked up with the servers that the network has.
#[test]
fn the_name_servers_of_the_network_are_told_where_names_are_looked_up() {
    let (status, said, servers) = run(LEASE, 0);
    assert_eq!((status, said.as_str(), servers.as_deref()), (0, "", Some("nameserver 10.0.2.3\n")));
}
