//! Encrypted disks: opened at boot of a virtual machine by systemd-cryptsetup after a TPM attestation, by the header that was checked
//! and no other. `lying.rs`: disks whose header changes while it is looked at, or that are another machine's.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests fail loudly"
)]

mod lying;
mod mutant;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use cc_tests::process::{binary_folder, command};
use cc_tests::soft_tpm::{self, SoftTpm};
use cc_tests::stack::{Options, Part, Stack, Tee, skip};
use cc_tests::vm::{self, Setup};

/// Users' search paths do not lead there.
const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";

/// The volumes, in the order of their disks.
const VOLUMES: [(&str, &str); 2] =
    [("data", "11111111-93f4-4a55-8f70-1d3b2c5e9a10"), ("taken", "22222222-93f4-4a55-8f70-1d3b2c5e9a10")];

/// The volume that the machine makes itself at its first boot, on the disk behind those of the others.
const FRESH: (&str, &str) = ("fresh", "33333333-93f4-4a55-8f70-1d3b2c5e9a10");

/// What every machine does first: it tells its PCRs, and which volumes are open with what.
const REPORT: &str = r#"
for pcr in 7 11; do echo "PCR $pcr $(tr A-F a-f </sys/class/tpm/tpm0/pcr-sha256/$pcr)"; done
for name in data taken fresh; do
    while systemctl is-active systemd-cryptsetup@$name.service | grep -q activating; do sleep 0.2; done
    echo "STATE $name $(systemctl show --property=ActiveState,Result --value systemd-cryptsetup@$name.service | tr '\n' ' ')"
    [ ! -e /dev/mapper/$name ] || echo "TABLE $name $(dmsetup table $name)"
done
"#;

/// Disks, a TPM and a key broker that outlive the boots of one machine.
struct Disks {
    folder: tempfile::TempDir,
    stack: Stack,
}

impl Disks {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kbs_arguments = vec!["--tls-name".to_owned(), "10.0.2.2".to_owned()];
        let mut stack =
            Stack::prepare(Options { tee: Tee::Tpm, kbs_arguments, ..Options::default() }).unwrap();
        stack.start_part(Part::Kbs).unwrap();
        SoftTpm::start(&folder.path().join("tpm")).unwrap().make_key("-G rsa -s rsassa").unwrap();
        let policy = "default = \"affirming\"\n[[allow]]\nresource = \"*/*/*\"\ntee = \"tpm\"\n";
        stack.set_policy(policy).unwrap();
        let disks = Self { folder, stack };
        std::fs::File::create(disks.disk(FRESH.0)).unwrap().set_len(64 << 20).unwrap();
        disks.stack.put_resource(&format!("disk-encryption/{}/luks-key-0", FRESH.0), &[0x5a; 64]).unwrap();
        disks.stack.put_resource(&format!("disk-encryption/{}/luks-key-1", FRESH.0), &[0xa5; 64]).unwrap();
        for (name, uuid) in VOLUMES {
            // As good as random for whoever does not know it.
            let key: Vec<u8> = name.bytes().cycle().take(64).collect();
            format(disks.folder.path(), &disks.disk(name), uuid, &key);
            disks.stack.put_resource(&format!("disk-encryption/{name}/luks-key-0"), &key).unwrap();
        }
        disks
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The machine with its agent, hub and volumes, which does `work` when it is up.
    fn machine(&self, work: &str) -> Setup {
        let certificate = std::fs::read_to_string(self.stack.kbs_certificate()).unwrap();
        let url = self.stack.kbs_url().replace("127.0.0.1", "10.0.2.2");
        let mut hub = format!("[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\nkbs_cert = '''{certificate}'''\n");
        for (name, uuid) in VOLUMES.into_iter().chain([FRESH]) {
            hub += &format!(
                "[[volumes]]\nname = {name:?}\nuuid = {uuid:?}\nkey = \"kbs:///disk-encryption/{name}/luks-key-0\"\n"
            );
        }
        let agent = format!("[token_configs.kbs]\nurl = {url:?}\ncert = '''{certificate}'''\n");
        let mut setup = Setup::new(&format!("{REPORT}{work}"))
            .unwrap()
            .file("etc/confidential-containers/attestation-agent.toml", agent, 0o600)
            .unwrap()
            .file("etc/confidential-containers/confidential-data-hub.toml", hub, 0o600)
            .unwrap()
            .tpm(&self.folder.path().join("tpm/state"));
        for program in ["attestation-agent", "confidential-data-hub", "cdh-storage", "guestctl"] {
            setup = setup.program(program).unwrap();
        }
        for unit in ["attestation-agent.service", "confidential-data-hub.service"] {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(unit);
            let text = std::fs::read_to_string(shipped).unwrap();
            setup = setup.file(&format!("etc/systemd/system/{unit}"), text, 0o644).unwrap();
            setup = setup.wanted("multi-user.target", unit).unwrap();
        }
        let unit = first_boot_unit()
            .replace("/dev/disk/by-id/virtio-data", "/dev/vdd")
            .replace("@data.service", "@fresh.service")
            .replace("format data ", "format fresh ");
        let name = format!("format-{}.service", FRESH.0);
        setup = setup.file(&format!("etc/systemd/system/{name}"), unit, 0o644).unwrap();
        setup = setup.wanted("remote-cryptsetup.target", &name).unwrap();
        for (name, uuid) in VOLUMES.into_iter().chain([FRESH]) {
            let root = setup.root();
            let enable = ["disk", "enable", name, "--uuid", uuid, "--root", root.to_str().unwrap()];
            piped(binary_folder().unwrap().join("guestctl").to_str().unwrap(), &enable, b"");
        }
        for (name, _) in VOLUMES {
            setup = setup.disk(&self.disk(name));
        }
        setup.disk(&self.disk(FRESH.0))
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

/// Makes a volume with cryptsetup, and signs its header. The key lies in `folder` for a moment.
fn format(folder: &Path, disk: &Path, uuid: &str, key: &[u8]) {
    std::fs::File::create(disk).unwrap().set_len(32 << 20).unwrap();
    let disk = disk.to_str().unwrap();
    let format = format!(
        "luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid {uuid} --key-file - {disk}"
    );
    piped(CRYPTSETUP, &format.split(' ').collect::<Vec<_>>(), key);
    let file = folder.join("key");
    std::fs::write(&file, key).unwrap();
    let guestctl = binary_folder().unwrap().join("guestctl");
    let token =
        piped(guestctl.to_str().unwrap(), &["disk", "sign", disk, "--key", file.to_str().unwrap()], b"");
    piped(CRYPTSETUP, &["token", "import", "--json-file", "-", disk], &token);
}

/// Whether cryptsetup is installed; tells if not.
fn has_cryptsetup() -> bool {
    let there = command(CRYPTSETUP).arg("--version").output().is_ok();
    if !there {
        skip("needs cryptsetup");
    }
    there
}

/// Whether cryptsetup opens the volume with this key.
fn opens(disk: &Path, key: &[u8]) -> bool {
    use std::io::Write as _;
    let mut child = command(CRYPTSETUP)
        .args(["open", "--test-passphrase", "--key-file", "-"])
        .arg(disk)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(key).unwrap();
    child.wait().unwrap().success()
}

/// Runs a program that has to succeed, with `input` on its standard input; its standard output.
fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut child =
        command(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}");
    out.stdout
}

/// The unit of docs/disks.md that formats a disk at the first boot.
fn first_boot_unit() -> String {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/disks.md");
    let text = std::fs::read_to_string(document).unwrap();
    let (_, block) = text.split_once("\n```ini\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// The value that a machine told of a PCR.
fn pcr(console: &str, number: u8) -> &str {
    let prefix = format!("PCR {number} ");
    console.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap()
}

/// Zeros: nobody has extended this PCR.
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Between check and use the host puts another header on the disk.
const RACE: &str =
    "[Service]\nExecStartPre=/bin/dd if=/usr/local/lib/mutant of=/dev/vdc bs=64K conv=notrunc,fsync\n";

/// Extends PCR 11 (TPM2_PCR_Extend of TCG's "TPM 2.0 Part 3: Commands") before the agent starts.
const TAMPER: &str = r#"[Unit]
DefaultDependencies=no
Before=attestation-agent.service

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -c 'import os, struct; tpm = os.open("/dev/tpmrm0", os.O_RDWR); \
    os.write(tpm, struct.pack(">HIIIIIHBHIH", 0x8002, 65, 0x182, 11, 9, 0x40000009, 0, 0, 0, 1, 0xb) + b"x" * 32); os.read(tpm, 4096)'
"#;

#[test]
fn disks_open_at_boot_by_the_checked_header_after_attestation_alone() {
    if !(vm::runs_here() && soft_tpm::runs_here() && has_cryptsetup()) {
        return;
    }
    let disks = Disks::make();
    disks.trust(&[("11", ZERO)]);
    let mutant = mutant::any_key_opens(&disks.disk("taken"));

    // The first boot: both open, though the header of one changes on its disk after it was checked.
    let work = "for name in data taken fresh; do mkfs.ext4 -q /dev/mapper/$name && mount /dev/mapper/$name /mnt && \
        echo kept >/mnt/file && umount /mnt && echo MADE $name; done\n";
    let machine = disks
        .machine(work)
        .file("usr/local/lib/mutant", &mutant, 0o644)
        .unwrap()
        .file("etc/systemd/system/systemd-cryptsetup@taken.service.d/60-race.conf", RACE, 0o644)
        .unwrap();
    let first = machine.run().unwrap_or_else(|e| panic!("{e:#}"));
    for (name, _) in VOLUMES.into_iter().chain([FRESH]) {
        assert!(first.contains(&format!("STATE {name} success active")), "{first}");
        let table = first.lines().find(|line| line.starts_with(&format!("TABLE {name} "))).unwrap();
        assert!(table.contains(" crypt aes-xts-plain64 :64:logon:cryptsetup:"), "{table}");
        assert!(first.contains(&format!("MADE {name}")), "{first}");
    }
    let head = std::fs::read(disks.disk("taken")).unwrap();
    assert!(head[..mutant.len()] == mutant[..], "the header on the disk is the host's");

    // The second boot: what is on the disk is not what was signed, and says that any key opens it.
    disks.trust(&[("7", pcr(&first, 7)), ("11", ZERO)]);
    let work = "for name in data fresh; do mount /dev/mapper/$name /mnt && echo FOUND $name $(cat /mnt/file); umount /mnt; done\n\
        guestctl disk rotate fresh --new-key kbs:///disk-encryption/fresh/luks-key-1; echo BUSY $?\n\
        systemctl stop systemd-cryptsetup@fresh.service\n\
        guestctl disk rotate fresh --new-key kbs:///disk-encryption/fresh/luks-key-1; echo ROTATED $?\n\
        printf wrong | cryptsetup open --key-file - /dev/vdc foreign; echo FOREIGN $?\n";
    let second = disks.machine(work).run().unwrap_or_else(|e| panic!("{e:#}"));
    assert!(second.contains("STATE data success active") && second.contains("FOUND data kept"), "{second}");
    assert!(second.contains("STATE fresh success active") && second.contains("FOUND fresh kept"), "{second}");
    assert!(second.contains("[DEVICE_IN_USE]") && second.contains("BUSY 2"), "{second}");
    assert!(second.contains("ROTATED 0"), "{second}");
    let (old, new) = ([0x5a; 64], [0xa5; 64]);
    assert!(!opens(&disks.disk(FRESH.0), &old) && opens(&disks.disk(FRESH.0), &new), "the key was replaced");
    assert!(second.contains("STATE taken exit-code failed") && !second.contains("TABLE taken"), "{second}");
    assert!(second.contains("null-cipher") && second.contains("[LUKS_HEADER_REFUSED]"), "{second}");
    assert!(second.contains("FOREIGN 0"), "the distribution's cryptsetup opens it with any key: {second}");

    // The third boot: the machine is another one.
    let machine = disks.machine("").file("etc/systemd/system/tamper.service", TAMPER, 0o644).unwrap();
    let third =
        machine.wanted("sysinit.target", "tamper.service").unwrap().run().unwrap_or_else(|e| panic!("{e:#}"));
    assert_ne!(pcr(&third, 11), ZERO);
    assert!(third.contains("STATE data exit-code failed") && !third.contains("TABLE "), "{third}");
    assert!(third.contains("PCR 11") && third.contains("[KBS_DENIED"), "{third}");
}
