//! A PKCS#11 module inside of the hub's sandboxed unit.

use std::path::Path;

use cc_tests::container::Tree;
use cc_tests::kms_peers::{PIN, SoftHsm, TOKEN_LABEL, run_here};
use cc_tests::process::own_binary;

use super::Doors;

const KEY_ID: &str = "kbs:///default/sealed-signing/team";
const VALUE: &str = "value of the data object";
/// Where Debian's SoftHSM has its tokens, and the drop-in of docs/deploy-rhel.md for it.
const TOKENS: &str = "/var/lib/softhsm/tokens";
const DROP_IN: &str = "ReadWritePaths=/var/lib/softhsm/tokens";

fn guestctl(folder: &Path, arguments: &[&str]) {
    let out = own_binary("guestctl").unwrap().current_dir(folder).args(arguments).output().unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[test]
fn a_module_works_in_the_sandbox_of_the_hub() {
    if !run_here() {
        return;
    }
    assert!(include_str!("../../../docs/deploy-rhel.md").contains(DROP_IN));
    let folder = tempfile::Builder::new().prefix("token-").tempdir().unwrap();
    let hsm = SoftHsm::make(folder.path(), &[7; 32], VALUE.as_bytes()).unwrap();
    guestctl(folder.path(), &["seal", "keygen", "--kid", KEY_ID]);
    let reference =
        ["seal", "vault", "--provider", "pkcs11", "--uri", "app/db", "--key", "team-private.json"];
    guestctl(folder.path(), &[&reference[..], &["--output", "sealed.txt"]].concat());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let tables = format!(
        "[kms.pkcs11]\nmodule = {:?}\ntoken_label = {TOKEN_LABEL:?}\npin = \"kbs:///default/kms/pin\"\n",
        SoftHsm::module()
    );
    let tokens = hsm.config().with_file_name("tokens");
    let doors = Doors::boot(Tree::Bookworm, &tables, |setup| {
        setup.bind(&tokens, TOKENS).file("root/sealed.txt", read("sealed.txt"), 0o600)
    });
    let Some(doors) = doors else { return };
    doors.stack.put_resource("default/sealed-signing/team", read("team-public.json").as_bytes()).unwrap();
    doors.stack.put_resource("default/kms/pin", PIN.as_bytes()).unwrap();

    let given = |when: &str| {
        let out = doors.machine.run(&["guestctl", "unseal", "/root/sealed.txt"]).unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), VALUE, "{when}: {out:?}\n{}", doors.hub_log());
        doors.hub_log().matches("Read-only file system").count()
    };
    // The module says what it could not write; the counter of wrong PINs is among it.
    let complaints = given("as shipped");
    assert!(complaints > 0, "{}", doors.hub_log());
    let drop_in = format!(
        "d=/etc/systemd/system/confidential-data-hub.service.d; mkdir -p $d; printf '[Service]\\n{DROP_IN}\\n' >$d/token.conf"
    );
    doors.machine.must(&["sh", "-ec", &drop_in]).unwrap();
    doors.machine.must(&["systemctl", "daemon-reload"]).unwrap();
    doors.machine.must(&["systemctl", "restart", "confidential-data-hub.service"]).unwrap();
    assert_eq!(given("with the drop-in"), complaints, "{}", doors.hub_log());
}
