//! A disk that answers the second read with another header.

use std::path::Path;
use std::process::Command;

use cc_tests::lying_disk::{Lies, LyingDisk};
use cc_tests::mutant;
use cc_tests::process::{Process, own_binary};
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::{format, opens};

const UUID: &str = "44444444-93f4-4a55-8f70-1d3b2c5e9a10";
const KEY: [u8; 64] = *b"what the key broker has for this volume and the host never sees.";

/// `guestctl disk prepare data` on this disk, with the folder of a stack and the socket of its hub.
fn preparation(folder: &Path, hub: &Path, device: &Path, more: &[&str]) -> Command {
    let mut prepare = own_binary("guestctl").unwrap();
    prepare
        .args(["disk", "prepare", "data", "--cdh", &format!("unix://{}", hub.display()), "--device"])
        .arg(device)
        .arg("--headers")
        .arg(folder.join("headers"))
        .args(more);
    prepare
}

/// Runs it: whether it succeeds, and what it says.
pub(crate) fn prepare(stack: &Stack, device: &Path, more: &[&str]) -> (bool, String) {
    prepare_at(stack.folder(), &stack.hub_socket(), device, more)
}

/// The same, with the folder of a stack and the socket of its hub.
pub(crate) fn prepare_at(folder: &Path, hub: &Path, device: &Path, more: &[&str]) -> (bool, String) {
    let out = preparation(folder, hub, device, more).output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// Daemons that know the volume `data`.
fn start(folder: &Path) -> Stack {
    let hub_config = format!(
        "cryptsetup_socket = \"unix://{}\"\n[[volumes]]\nname = \"data\"\nuuid = {UUID:?}\nkey = \"kbs:///disk/data/key\"\n",
        folder.join("keys.sock").display()
    );
    let stack =
        Stack::start(Options { hub_config, ..Options::default() }).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource("disk/data/key", &KEY).unwrap();
    stack
}

#[test]
fn a_volume_waits_for_its_disk_and_for_the_hub_but_not_for_ever() {
    if !(emulator_runs_here() && crate::has_cryptsetup()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (made, disk) = (folder.path().join("made"), folder.path().join("disk"));
    format(folder.path(), &made, UUID, &KEY);
    let mut stack = start(folder.path());
    let waiting = |stack: &Stack, seconds: &str| {
        let prepare = preparation(stack.folder(), &stack.hub_socket(), &disk, &["--wait", seconds]);
        let folder = tempfile::tempdir_in(folder.path()).unwrap();
        (Process::start("prepare", prepare, folder.path()).unwrap(), folder)
    };

    // There is no disk: after its time it ends with the reason, and has told it once.
    let (mut bounded, _folder) = waiting(&stack, "3");
    assert_eq!(bounded.wait().unwrap(), Some(1), "{}", bounded.log());
    assert_eq!(bounded.log().matches("guestctl: waiting: ").count(), 1, "{}", bounded.log());
    assert_eq!(bounded.log().matches("[INPUT_UNREADABLE]").count(), 2, "{}", bounded.log());

    // The hub comes, then the disk.
    stack.stop_part(Part::Hub).unwrap();
    let (mut late, _folder) = waiting(&stack, "120");
    late.wait_for_log("guestctl: waiting: ").unwrap();
    stack.start_part(Part::Hub).unwrap();
    late.wait_for_log("[INPUT_UNREADABLE]").unwrap();
    assert!(late.is_running().unwrap(), "{}", late.log());
    std::fs::rename(&made, &disk).unwrap();
    assert_eq!(late.wait().unwrap(), Some(0), "{}", late.log());
    assert!(opens(&stack.folder().join("headers/data.header"), &KEY));

    // A header that is refused is not waited for.
    let bad = mutant::any_key_opens(&disk).unwrap();
    let mut bytes = std::fs::read(&disk).unwrap();
    bytes[..bad.len()].copy_from_slice(&bad);
    std::fs::write(&disk, bytes).unwrap();
    let (mut refused, _folder) = waiting(&stack, "120");
    assert_eq!(refused.wait().unwrap(), Some(1), "{}", refused.log());
    assert!(!refused.log().contains("waiting") && refused.log().contains("null-cipher"), "{}", refused.log());
}

#[test]
fn a_disk_that_answers_the_second_read_differently_is_opened_by_the_first() {
    if !(emulator_runs_here() && crate::has_cryptsetup()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("volume");
    format(folder.path(), &disk, UUID, &KEY);
    let stack = start(folder.path());

    let path = folder.path().join("mnt");
    std::fs::create_dir(&path).unwrap();
    let bad = mutant::any_key_opens(&disk).unwrap();
    let lying = LyingDisk::mount(&path, &disk, bad, Lies::Again).unwrap();

    let (done, said) = prepare(&stack, &lying.path(), &[]);
    assert!(done && said.contains("fits its tag"), "{said}");
    assert_eq!(lying.told(), 0, "no byte was read twice");
    // The copy is the first header: cryptsetup opens with it whatever the disk says by now.
    let copy = stack.folder().join("headers/data.header");
    let (whole, other) = (std::fs::read(&copy).unwrap(), folder.path().join("other"));
    assert!(!whole.windows(11).any(|window| window == b"cipher_null"));
    assert!(opens(&copy, &KEY) && !opens(&copy, b"wrong"));

    // Whoever reads now gets the second header: it is refused, and no copy is left.
    let (done, said) = prepare(&stack, &lying.path(), &[]);
    assert!(!done && said.contains("null-cipher") && !copy.exists(), "{said}");

    // The valid disk of another machine: another UUID; or the same UUID and another key.
    format(folder.path(), &other, &UUID.replace("4444", "5555"), &KEY);
    let (done, said) = prepare(&stack, &other, &[]);
    assert!(!done && said.contains("[VOLUME_UUID_DIFFERS]") && !copy.exists(), "{said}");
    format(folder.path(), &other, UUID, &[7; 64]);
    let (done, said) = prepare(&stack, &other, &[]);
    assert!(!done && said.contains("[LUKS_TAG_MISMATCH]") && !copy.exists(), "{said}");
    let (done, said) = prepare(&stack, &folder.path().join("absent"), &[]);
    assert!(!done && said.contains("[INPUT_UNREADABLE]") && !copy.exists(), "{said}");
}
