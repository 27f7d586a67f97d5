//! A root disk that is opened in the initramfs: virtual machines whose root file system is a LUKS2 volume with its key at a key broker,
//! by the hook of initramfs-tools and by the module of dracut, on Debian 12 and 13. `image.rs` makes disk and initramfs.
//!
//! The firmware is UEFI where the measurement counts: it measures kernel, command line and initramfs into PCRs 4 and 9. The program in
//! the initramfs is a debug build: static as in a release, or with the libraries that the hook finds for it. What it adds to an initramfs
//! and to a boot is written to `target/rootdisk-summary.json`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    missing_docs,
    reason = "tests fail loudly"
)]

mod daemons;
mod image;
mod summary;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use cc_tests::lying_disk::{Lies, LyingDisk};
use cc_tests::mutant;
use cc_tests::process::command;
use cc_tests::soft_tpm::{self, SoftTpm};
use cc_tests::stack::{Options, Part, Stack, Tee, skip};
use cc_tests::vm::{self, Boot};

use crate::image::{CRYPTSETUP, Image, KEY, Linked, Maker, System};

/// UEFI firmware for virtual machines, as Debian has it, and its variables as they are before the first boot.
const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Nobody has extended this PCR.
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A machine with an encrypted root disk, and its key broker.
struct Machine {
    folder: tempfile::TempDir,
    stack: Stack,
    system: System,
    image: Image,
    /// Disks of other volumes, as values of QEMU's `-drive`.
    drives: Vec<String>,
}

impl Machine {
    fn make(system: System) -> Self {
        Self::make_with(system, |_, _| None)
    }

    /// With a tree of files more on the root disk, which `more` makes in this folder for this key broker.
    fn make_with(system: System, more: impl FnOnce(&Path, &Stack) -> Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kbs_arguments = vec!["--tls-name".to_owned(), "10.0.2.2".to_owned()];
        let mut stack =
            Stack::prepare(Options { tee: Tee::Tpm, kbs_arguments, ..Options::default() }).unwrap();
        stack.start_part(Part::Kbs).unwrap();
        SoftTpm::start(&folder.path().join("tpm")).unwrap().make_key("-G rsa -s rsassa").unwrap();
        let policy = "default = \"affirming\"\n[[allow]]\nresource = \"*/*/*\"\ntee = \"tpm\"\n";
        stack.set_policy(policy).unwrap();
        stack.put_resource("disk-encryption/vm/luks-key-0", &KEY).unwrap();
        let more = more(folder.path(), &stack);
        let image = Image::make(folder.path(), system, more.as_deref());
        Self { folder, stack, system, image, drives: Vec::new() }
    }

    /// An initramfs that asks this machine's key broker; `more` is one line more of its configuration.
    fn initrd(&self, maker: Maker, linked: Linked, more: &str) -> PathBuf {
        let certificate = std::fs::read_to_string(self.stack.kbs_certificate()).unwrap();
        let url = self.stack.kbs_url().replace("127.0.0.1", "10.0.2.2");
        let mut config = image::config(&url, &certificate, more);
        if !self.drives.is_empty() {
            config += &image::vault_config();
        }
        image::initrd(self.folder.path(), self.system, maker, linked, Some(&config))
    }

    fn boot(&self, initrd: &Path, more: &str) -> String {
        self.boot_from(&self.image.disk, initrd, more)
    }

    fn boot_from(&self, disk: &Path, initrd: &Path, more: &str) -> String {
        self.boot_with(disk, initrd, None, &format!("systemd.import_credentials=no {more}"))
    }

    /// The same with UEFI firmware, and variables of its own.
    fn boot_measured(&self, initrd: &Path, more: &str) -> String {
        let variables = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        std::fs::copy(VARIABLES, variables.path()).unwrap();
        self.boot_with_variables(initrd, variables.path(), more)
    }

    /// The same with the variables in this file.
    fn boot_with_variables(&self, initrd: &Path, variables: &Path, more: &str) -> String {
        let line = format!("systemd.import_credentials=no {more}");
        self.boot_with(&self.image.disk, initrd, Some(variables), &line)
    }

    fn boot_with(&self, disk: &Path, initrd: &Path, variables: Option<&Path>, more: &str) -> String {
        let folder = tempfile::tempdir_in(self.folder.path()).unwrap();
        let boot = Boot {
            kernel: &self.system.kernel(),
            initrd,
            command_line: &format!("root=/dev/mapper/root rw systemd.show_status=1 {more}"),
            drives: &[&[drive(disk)], &self.drives[..]].concat(),
            tpm: Some(&self.folder.path().join("tpm/state")),
            firmware: variables.map(|_| Path::new(FIRMWARE)),
            variables,
        };
        boot.run(folder.path()).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Writes down what opening the volume adds to the initramfs and to the boot.
    fn record(&self, name: &str, maker: Maker, initrd: &Path, console: &str) {
        // Nothing is linked there.
        let without = image::initrd(self.folder.path(), self.system, maker, Linked::Dynamically, None);
        summary::record(name, initrd, &without, console);
    }

    /// Tells the key broker that a machine with these PCRs is good.
    fn trust(&self, pcrs: &[(&str, &str)]) {
        let ak = std::fs::read_to_string(self.folder.path().join("tpm/ak.pem")).unwrap();
        let mut values = serde_json::json!({ "trusted_aks": [ak] });
        for (pcr, value) in pcrs {
            values[format!("tpm_pcr{pcr:0>2}")] = serde_json::json!([value]);
        }
        self.stack.set_reference_values(&values).unwrap();
    }
}

/// A disk that keeps nothing of what a machine writes to it.
fn drive(disk: &Path) -> String {
    format!("file={},format=raw,snapshot=on", disk.display())
}

/// Whether this machine has what these tests need; tells what is missing.
fn runs_here(system: System) -> bool {
    if !(vm::runs_here() && soft_tpm::runs_here()) {
        return false;
    }
    let tree = system.tree().is_dir() && system.kernel().is_file();
    let cryptsetup = command(CRYPTSETUP).arg("--version").output().is_ok();
    let firmware = Path::new(FIRMWARE).is_file() && Path::new(VARIABLES).is_file();
    let python = command("/usr/bin/python3").args(["-c", "import cryptography"]).output();
    let python = python.is_ok_and(|output| output.status.success());
    let all = tree && cryptsetup && firmware && python;
    if !all {
        skip(&format!(
            "a root disk needs {} and its kernel (here: {tree}), cryptsetup (here: {cryptsetup}), {FIRMWARE} (here: {firmware}) \
             and Python's cryptography (here: {python})",
            system.tree().display()
        ));
    }
    all
}

/// The value that a machine told of a PCR.
fn pcr(console: &str, number: u8) -> &str {
    let prefix = format!("PCR {number} ");
    console.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap_or_else(|| panic!("{console}"))
}

/// That the machine came to its end with the root file system of the volume, opened as the header says.
fn assert_booted(console: &str) {
    assert!(console.contains("ROOT-BOOTED"), "{console}");
    assert!(console.contains("the volume root on /dev/vda"), "{console}");
    let table = console.lines().find(|line| line.starts_with("TABLE ")).unwrap();
    assert!(table.contains(" crypt aes-xts-plain64 :64:logon:cryptsetup:"), "{table}");
}

/// That the volume stayed closed for the reason `code`, and the machine ended in its initramfs.
fn assert_closed(console: &str, code: &str) {
    assert!(console.contains(&format!("[{code}]")), "{console}");
    assert!(console.contains("the volume root stays closed"), "{console}");
    assert!(!console.contains("ROOT-BOOTED") && !console.contains("(initramfs)"), "{console}");
}

#[test]
fn a_root_disk_opens_by_the_hook_of_initramfs_tools_on_the_measured_machine_alone() {
    if !runs_here(System::Debian13) {
        return;
    }
    let mut machine = Machine::make(System::Debian13);
    machine.trust(&[("11", ZERO)]);
    let initrd = machine.initrd(Maker::InitramfsTools, Linked::Dynamically, "");
    let variables = machine.folder.path().join("variables");
    std::fs::copy(VARIABLES, &variables).unwrap();
    let first = machine.boot_with_variables(&initrd, &variables, "");
    assert_booted(&first);
    assert!(first.contains("VARIABLE-WRITTEN"), "{first}");
    machine.record("initramfs-tools 0.148", Maker::InitramfsTools, &initrd, &first);

    // From here on the key broker wants the kernel, the command line and the initramfs of the first boot.
    machine.trust(&[("4", pcr(&first, 4)), ("9", pcr(&first, 9)), ("11", ZERO)]);
    let other_line = machine.boot_measured(&initrd, "quiet");
    assert_closed(&other_line, "KBS_DENIED_POLICY");
    assert!(other_line.contains("PCR 9"), "{other_line}");
    let other_initrd = machine.initrd(Maker::InitramfsTools, Linked::Dynamically, "timeout = 99");
    let other_initrd = machine.boot_measured(&other_initrd, "");
    assert_closed(&other_initrd, "KBS_DENIED_POLICY");
    assert!(other_initrd.contains("PCR 9"), "{other_initrd}");
    // Kernel, command line and initramfs are the same; the firmware has an option for systemd by now.
    let options = machine.boot_with_variables(&initrd, &variables, "");
    assert!(options.contains("no volume was opened: the firmware has the variable"), "{options}");
    assert!(options.contains("[FIRMWARE_VARIABLE_REFUSED]") && !options.contains("ROOT-BOOTED"), "{options}");

    // The header on its disk is the host's: seen before anything is measured, so the faster firmware does.
    machine.image.swap_header(&mutant::any_key_opens(&machine.image.disk).unwrap());
    let mutant = machine.boot(&initrd, "");
    assert_closed(&mutant, "LUKS_HEADER_REFUSED");
    assert!(mutant.contains("null-cipher"), "{mutant}");
}

#[test]
fn a_root_disk_opens_by_the_module_of_dracut_by_its_own_header_alone() {
    if !runs_here(System::Debian13) {
        return;
    }
    let mut machine = Machine::make(System::Debian13);
    machine.trust(&[("11", ZERO)]);
    let initrd = machine.initrd(Maker::Dracut, Linked::Statically, "");
    // The host has a file system of its own on the disk, which its partition table says to mount.
    let disk = machine.image.partitioned(machine.folder.path());
    let first = machine.boot_from(&disk, &initrd, "");
    assert_booted(&first);
    assert_follows_no_partition_table(&first);
    machine.record("dracut 106", Maker::Dracut, &initrd, &first);

    machine.image.swap_header(&mutant::any_key_opens(&machine.image.disk).unwrap());
    let mutant = machine.boot(&initrd, "");
    assert_closed(&mutant, "LUKS_HEADER_REFUSED");
    assert!(mutant.contains("null-cipher"), "{mutant}");
}

/// With systemd 252, as RHEL 9 has it: a root disk and a volume beside it in the initramfs, a third one by crypttab. The headers of the latter
/// two become the host's after they were checked.
#[test]
fn root_and_data_volumes_open_with_the_tools_of_debian_12_too() {
    if !runs_here(System::Debian12) {
        return;
    }
    let mut machine =
        Machine::make_with(System::Debian12, |folder, stack| Some(daemons::tree(folder, stack)));
    machine.trust(&[("11", ZERO)]);
    for id in [vm::PRODUCT_UUID, daemons::MACHINE_ID] {
        machine.stack.put_resource(&format!("disk-encryption/{id}/luks-key-0"), &KEY).unwrap();
    }
    let [vault, data] = ["vault", "data"].map(|name| machine.folder.path().join(name));
    image::data_disk(&vault, image::VAULT.1);
    image::data_disk(&data, daemons::DATA.1);
    let folder = machine.folder.path().join("lying");
    std::fs::create_dir(&folder).unwrap();
    let lie = mutant::any_key_opens(&data).unwrap();
    let lying = LyingDisk::mount(&folder, &data, lie, Lies::OnceRead).unwrap();
    let other_vault = mutant::any_key_opens(&vault).unwrap();
    machine.drives = vec![drive(&vault), drive(&lying.path())];

    let disk = machine.image.partitioned(machine.folder.path());
    let initrd = machine.initrd(Maker::InitramfsTools, Linked::Statically, "");
    let raced = image::with_race(machine.folder.path(), System::Debian12, &initrd, &other_vault);
    let console = machine.boot_from(&disk, &raced, "");
    assert_booted(&console);
    assert_follows_no_partition_table(&console);
    machine.record("initramfs-tools 0.142", Maker::InitramfsTools, &initrd, &console);
    assert_vault_opened(&console);
    assert!(console.contains("VAULT-ON-DISK null cipher"), "{console}");
    let opened = console
        .lines()
        .find(|line| line.starts_with("DATA systemd 252 "))
        .unwrap_or_else(|| panic!("{console}"));
    assert!(
        opened.contains(", active: ") && opened.contains(" crypt aes-xts-plain64 :64:logon:cryptsetup:"),
        "{opened}"
    );
    assert!(console.contains("DATA-ON-DISK null cipher") && lying.told() > 0, "{console}");

    let initrd = machine.initrd(Maker::Dracut, Linked::Statically, "");
    let console = machine.boot_from(&disk, &initrd, "luks.crypttab=no");
    assert_booted(&console);
    assert_follows_no_partition_table(&console);
    assert_vault_opened(&console);
    machine.record("dracut 059", Maker::Dracut, &initrd, &console);
}

/// That the volume beside the root disk was opened with it, as its header says.
fn assert_vault_opened(console: &str) {
    assert!(console.contains("the volume vault on /dev/vdb is open"), "{console}");
    let table =
        console.lines().find(|line| line.starts_with("VAULT ")).unwrap_or_else(|| panic!("{console}"));
    assert!(table.contains(" crypt aes-xts-plain64 :64:logon:cryptsetup:"), "{table}");
}

/// The file system on the host's partition is not mounted, and would be if the generator was not masked.
fn assert_follows_no_partition_table(console: &str) {
    assert!(console.contains("GENERATOR-WRITES") && !console.contains("SRV-MOUNTED"), "{console}");
    assert!(console.contains("GENERATOR-WRITES srv.mount"), "{console}");
}

#[test]
fn neither_units_of_the_host_nor_shells_are_started_in_an_initramfs_of_dracut() {
    if !runs_here(System::Debian13) {
        return;
    }
    let machine = Machine::make(System::Debian13);
    let initrd = machine.initrd(Maker::Dracut, Linked::Statically, "");
    // systemd takes units out of credentials (systemd.system-credentials(7)): this one runs as root before anything is opened.
    let unit = "[Unit]\nDefaultDependencies=no\nConditionPathExists=/etc/initrd-release\n\
        [Service]\nExecStart=sh -c 'echo HOST-UNIT-RUNS >/dev/console; exec systemctl poweroff -ff'\n";
    let wants = "[Unit]\nWants=host.service\n";
    let credential =
        |name: &str, text: &str| format!("systemd.set_credential_binary={name}:{}", BASE64.encode(text));
    // What is refused later ends the boot soon.
    let line = format!(
        "init=/refused {} {}",
        credential("systemd.extra-unit.host.service", unit),
        credential("systemd.unit-dropin.sysinit.target~host", wants)
    );
    let boot = |initrd: &Path, line: &str| machine.boot_with(&machine.image.disk, initrd, None, line);
    let masked = boot(&initrd, &line);
    assert!(!masked.contains("HOST-UNIT-RUNS"), "{masked}");
    assert!(masked.contains("[KERNEL_COMMAND_LINE_REFUSED]"), "{masked}");
    // In the system nothing of ours masks them: without the word that turns them off nothing is opened.
    let credentials = boot(&initrd, "");
    assert!(credentials.contains("[KERNEL_COMMAND_LINE_REFUSED]"), "{credentials}");
    assert!(
        credentials.contains("the kernel's command line lacks systemd.import_credentials=no"),
        "{credentials}"
    );
    assert!(!credentials.contains("ROOT-BOOTED"), "{credentials}");

    // dracut's own way to a shell, before the volumes are opened.
    let shell = machine.boot(&initrd, "rd.break=pre-udev");
    assert!(shell.contains("no shell is given; the machine is switched off"), "{shell}");
    assert!(!shell.contains("initrd-unlock: "), "{shell}");

    let generator = "system-generators/systemd-debug-generator";
    let unmasked = image::with_link(
        machine.folder.path(),
        &initrd,
        &format!("etc/systemd/{generator}"),
        &format!("/usr/lib/systemd/{generator}"),
    );
    let unmasked = boot(&unmasked, &line);
    assert!(unmasked.contains("HOST-UNIT-RUNS"), "{unmasked}");
}

#[test]
fn the_scripts_of_the_initramfs_have_no_finding() {
    let Ok(version) = command("shellcheck").arg("--version").output() else {
        return skip("needs shellcheck");
    };
    assert!(version.status.success());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let scripts = [
        "systemd/initramfs-tools/hooks/confidential-unlock",
        "systemd/initramfs-tools/scripts/local-top/confidential-unlock",
        "systemd/dracut/confidential-unlock/module-setup.sh",
        "tests/trees/initramfs",
        "tests/trees/overlaid",
    ];
    let found = command("shellcheck").args(scripts).current_dir(workspace).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
}
