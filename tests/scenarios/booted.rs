//! Under a real service manager: machines that are booted from Debian trees.

use cc_tests::container::{Setup, Tree};

#[test]
fn a_tree_boots_and_is_left_as_it_was() {
    for (tree, version) in [(Tree::Bookworm, "systemd 252"), (Tree::Trixie, "systemd 257")] {
        if !tree.boots_here() {
            return;
        }
        let unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/echo hello from a unit\n";
        let setup = Setup::new(tree).unwrap().file("etc/systemd/system/hello.service", unit, 0o644).unwrap();
        let machine = setup.boot().unwrap();
        assert!(machine.must(&["systemctl", "--version"]).unwrap().starts_with(version));
        machine.must(&["systemctl", "start", "hello.service"]).unwrap();
        assert!(machine.journal("hello.service").unwrap().contains("hello from a unit"));
        let leader = machine.leader();
        drop(machine);
        assert!(!std::path::Path::new(&format!("/proc/{leader}")).exists());
        assert!(!tree.folder().join("etc/systemd/system/hello.service").exists());
        let out = Setup::new(tree).unwrap().run(&["cat", "/etc/os-release"]).unwrap();
        assert!(String::from_utf8_lossy(&out.stdout).contains("Debian"), "{out:?}");
    }
}
