//! A key broker that denies the key of a volume, has another one, or is away while its header is checked: no copy of the header is laid
//! down, so nothing can be opened, until the broker is as it was.

use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Part, Stack, emulator_runs_here};

use crate::format;
use crate::lying::prepare;

const UUID: &str = "77777777-93f4-4a55-8f70-1d3b2c5e9a10";
const KEY: [u8; 64] = *b"what this volume is opened with: nobody has it besides its owner";
const OPEN: &str = "default = \"affirming\"\n";

#[test]
fn no_volume_is_prepared_without_its_own_key_and_by_itself_once_the_broker_is_back() {
    if !(emulator_runs_here() && crate::has_cryptsetup()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("volume");
    format(folder.path(), &disk, UUID, &KEY);
    let hub_config = format!(
        "cryptsetup_socket = \"unix://{}\"\n[[volumes]]\nname = \"data\"\nuuid = {UUID:?}\nkey = \"kbs:///disk/data/key\"\n",
        folder.path().join("keys.sock").display()
    );
    let mut stack =
        Stack::start(Options { hub_config, ..Options::default() }).unwrap_or_else(|e| panic!("{e:#}"));
    let copy = stack.folder().join("headers/data.header");
    let header = std::fs::read(&disk).unwrap();

    stack.put_resource("disk/data/key", &KEY).unwrap();
    stack.set_policy("default = \"affirming\"\n[[deny]]\nresource = \"disk/*/*\"\n").unwrap();
    let (done, said) = prepare(&stack, &disk, &[]);
    assert!(!done && said.contains("[KBS_DENIED") && !copy.exists(), "{said}");
    stack.set_policy(OPEN).unwrap();
    stack.put_resource("disk/data/key", &[7; 64]).unwrap();
    let (done, said) = prepare(&stack, &disk, &[]);
    assert!(!done && said.contains("[LUKS_TAG_MISMATCH]") && !copy.exists(), "{said}");
    stack.put_resource("disk/data/key", b"short").unwrap();
    let (done, said) = prepare(&stack, &disk, &[]);
    assert!(!done && said.contains("[LUKS_SECRET_WEAK]") && !copy.exists(), "{said}");
    stack.put_resource("disk/data/key", &KEY).unwrap();

    // While nobody answers it is waited for, and what was asked for comes to its end when the broker is there again.
    stack.stop_part(Part::Kbs).unwrap();
    let (place, hub) = (stack.folder().to_owned(), stack.hub_socket());
    let (done, said) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| crate::lying::prepare_at(&place, &hub, &disk, &["--wait", "300"]));
        while !waiting.is_finished() && !stack.part(Part::Hub).unwrap().log().contains("KBS_UNREACHABLE") {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(!copy.exists(), "nothing was checked yet");
        stack.start_part(Part::Kbs).unwrap();
        waiting.join().unwrap()
    });
    assert!(done && copy.exists(), "{said}");
    assert!(std::fs::read(&disk).unwrap() == header, "nothing was written");
}

#[test]
fn a_blank_disk_in_place_of_a_volume_whose_tag_is_kept_is_not_formatted() {
    if !emulator_runs_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("blank");
    std::fs::File::create(&disk).unwrap().set_len(32 << 20).unwrap();
    let hub_config = format!(
        "cryptsetup_socket = \"unix://{}\"\n[[volumes]]\nname = \"data\"\nuuid = {UUID:?}\nkey = \"kbs:///disk/data/key\"\n\
         tag = \"kbs:///disk/data/tag\"\n",
        folder.path().join("keys.sock").display()
    );
    let stack =
        Stack::start(Options { hub_config, ..Options::default() }).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource("disk/data/key", &KEY).unwrap();
    let format = |more: &[&str]| {
        let out = own_binary("guestctl")
            .unwrap()
            .args(["disk", "format", "data", "--dry-run", "--device", disk.to_str().unwrap()])
            .args(more)
            .args(["--cdh", &format!("unix://{}", stack.hub_socket().display())])
            .output()
            .unwrap();
        (out.status.code().unwrap(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };

    let (status, said) = format(&["--no-file-system", "--first-boot"]);
    assert!(status == 0 && said.contains("would be formatted"), "the key broker has no tag yet: {said}");
    stack.put_resource("disk/data/tag", &[b'0'; 64]).unwrap();
    let (status, said) = format(&["--no-file-system", "--first-boot"]);
    assert!(status == 3 && said.contains("[VOLUME_MADE_BEFORE]"), "{said}");
    let (status, said) = format(&["--no-file-system", "--overwrite"]);
    assert!(status == 0 && said.contains("would be formatted"), "whoever asks by hand knows: {said}");
    stack.set_policy("default = \"affirming\"\n[[deny]]\nresource = \"disk/*/*\"\n").unwrap();
    let (status, said) = format(&["--no-file-system", "--first-boot"]);
    assert!(status == 3 && said.contains("[KBS_DENIED"), "nobody knows whether it has one: {said}");
    // A file system is made on a device alone, which a dry run says too.
    let (status, said) = format(&[]);
    assert!(status == 2 && said.contains("[DEVICE_REFUSED]"), "{said}");
    assert!(std::fs::read(&disk).unwrap().iter().all(|byte| *byte == 0), "nothing was written");
}
