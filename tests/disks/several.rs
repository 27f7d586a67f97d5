//! Volumes that are checked at once, as at a boot: each with its own key, all of them after one attestation.

use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::format;

const NAMES: [&str; 3] = ["data", "logs", "mail"];

#[test]
fn volumes_that_are_checked_at_once_cost_one_attestation() {
    if !(emulator_runs_here() && crate::has_cryptsetup()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let key = |name: &str| name.bytes().cycle().take(64).collect::<Vec<_>>();
    let mut hub_config =
        format!("cryptsetup_socket = \"unix://{}\"\n", folder.path().join("keys.sock").display());
    for (number, name) in NAMES.iter().enumerate() {
        let uuid = format!("9999999{number}-93f4-4a55-8f70-1d3b2c5e9a10");
        format(folder.path(), &folder.path().join(name), &uuid, &key(name));
        hub_config += &format!(
            "[[volumes]]\nname = {name:?}\nuuid = {uuid:?}\nkey = \"kbs:///disk-encryption/{name}/luks-key-0\"\n"
        );
    }
    let mut stack =
        Stack::start(Options { hub_config, ..Options::default() }).unwrap_or_else(|e| panic!("{e:#}"));
    for name in NAMES {
        stack.put_resource(&format!("disk-encryption/{name}/luks-key-0"), &key(name)).unwrap();
    }

    let quotes = stack.quotes().unwrap();
    let hub = format!("unix://{}", stack.hub_socket().display());
    let checks = NAMES.map(|name| {
        let mut prepare = own_binary("guestctl").unwrap();
        prepare.args(["disk", "prepare", name, "--wait", "60", "--cdh", &hub, "--device"]);
        prepare.arg(folder.path().join(name)).arg("--headers").arg(stack.folder().join("headers"));
        prepare.stdout(std::process::Stdio::piped()).spawn().unwrap()
    });
    for (name, check) in NAMES.into_iter().zip(checks) {
        let out = check.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success() && said.contains(&format!("{name} keeps every rule and fits")),
            "{said}"
        );
    }
    assert_eq!(stack.quotes().unwrap() - quotes, 1);
    let log = stack.part(Part::Kbs).unwrap().log();
    assert_eq!(log.matches("auth: challenged").count(), 1, "{log}");
    assert_eq!(log.matches("attest: ").count(), 1, "{log}");
    assert_eq!(log.matches("luks-key-0: given to").count(), 3, "{log}");
}
