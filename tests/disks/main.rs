//! Encrypted disks: opened at boot of a virtual machine by systemd-cryptsetup after a TPM attestation, by the header that was checked
//! and no other. `lying.rs`: disks whose header changes while it is looked at, or that are another machine's. `broker.rs`: key brokers that
//! give no key, or another one. `several.rs`: several volumes at once. `network.rs`: an initramfs without network. `rotation.rs`: other keys,
//! tags kept elsewhere, damaged headers.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests fail loudly"
)]

mod broker;
mod lying;
mod network;
mod rotation;
mod several;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use cc_tests::mutant;
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

/// Disks that no configuration names: one for this guest alone, and a volume whose header nobody signed.
const SCRATCH: &str = "scratch";
const UNSIGNED: (&str, &str) = ("unsigned", "55555555-93f4-4a55-8f70-1d3b2c5e9a10");

/// The volume with integrity that the machine makes.
const SAFE: (&str, &str) = ("safe", "66666666-93f4-4a55-8f70-1d3b2c5e9a10");

/// What every machine does first: it tells its PCRs, and which volumes are open with what.
const REPORT: &str = r#"
for pcr in 7 11; do echo "PCR $pcr $(tr A-F a-f </sys/class/tpm/tpm0/pcr-sha256/$pcr)"; done
systemctl start format-fresh.service
# As the unit does, but when udev has seen what was made: a machine without its own processor takes seconds for that.
udevadm settle; systemctl start systemd-cryptsetup@fresh.service
for name in data taken fresh; do
    while state=$(systemctl show --property=ActiveState,SubState,Result --value systemd-cryptsetup@$name.service | tr '\n' ' ')
        [ -n "$(systemctl show --property=Job --value systemd-cryptsetup@$name.service)" ] || echo "$state" | grep -qE ' (start|stop)'
    do sleep 0.2; done
    echo "STATE $name $state"
    [ ! -e /dev/mapper/$name ] || echo "TABLE $name $(dmsetup table $name)"
done
if [ -e /dev/mapper/fresh ]; then
    for glance in $(seq 100); do grep -q ' /srv/fresh ext4 ' /proc/mounts && echo FSTAB fresh && break; sleep 0.2; done
    systemctl stop srv-fresh.mount
fi
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
        for name in [FRESH.0, SCRATCH, SAFE.0] {
            std::fs::File::create(disks.disk(name)).unwrap().set_len(64 << 20).unwrap();
        }
        format(disks.folder.path(), &disks.disk(UNSIGNED.0), UNSIGNED.1, &[0x11; 64]);
        // Its tag is taken away: nobody signed it.
        let unsigned = disks.disk(UNSIGNED.0);
        piped(CRYPTSETUP, &["token", "remove", "--token-id", "0", unsigned.to_str().unwrap()], b"");
        disks.stack.put_resource("disk/unsigned/key", &[0x11; 64]).unwrap();
        disks.stack.put_resource("disk/other/key", &[0x12; 64]).unwrap();
        disks.stack.put_resource(&format!("disk-encryption/{}/luks-key-0", SAFE.0), &[0x66; 64]).unwrap();
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
        for (name, uuid) in VOLUMES.into_iter().chain([FRESH, SAFE]) {
            hub += &format!(
                "[[volumes]]\nname = {name:?}\nuuid = {uuid:?}\nkey = \"kbs:///disk-encryption/{name}/luks-key-0\"\n"
            );
        }
        // As the existing stack has it: one of the volumes is unsigned.
        hub += "[secure_mount]\nheader = \"allow-list\"\n";
        let agent = format!("[token_configs.kbs]\nurl = {url:?}\ncert = '''{certificate}'''\n");
        let mut setup = Setup::new(&format!("{REPORT}{work}"))
            .unwrap()
            .file("etc/confidential-containers/attestation-agent.toml", agent, 0o600)
            .unwrap()
            .file("etc/confidential-containers/confidential-data-hub.toml", hub, 0o600)
            .unwrap()
            .tpm(&self.folder.path().join("tpm/state"));
        let mount = fstab_line().replace("data", FRESH.0).replace("/srv", "/srv/fresh");
        setup = setup.file("etc/fstab", mount, 0o644).unwrap();
        for program in ["attestation-agent", "confidential-data-hub", "cdh-storage", "guestctl"] {
            setup = setup.program(program).unwrap();
        }
        let units = [
            "attestation-agent.service",
            "confidential-data-hub.service",
            "cdh-storage-disk.service",
            "cdh-storage-disk.socket",
        ];
        for unit in units {
            let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(unit);
            let text = std::fs::read_to_string(shipped).unwrap();
            setup = setup.file(&format!("etc/systemd/system/{unit}"), text, 0o644).unwrap();
            if unit != "cdh-storage-disk.service" {
                setup = setup.wanted("multi-user.target", unit).unwrap();
            }
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
            // The machine is slow where others work beside it. What is made at the first boot comes up when systemd has given it up, too.
            let patience = if name == FRESH.0 { 5 } else { 300 };
            let patience = ["--options", &format!("x-systemd.device-timeout={patience}")];
            let enable = ["disk", "enable", name, "--uuid", uuid, "--root", root.to_str().unwrap()];
            let enable = [&enable[..], &patience].concat();
            piped(binary_folder().unwrap().join("guestctl").to_str().unwrap(), &enable, b"");
        }
        for (name, _) in VOLUMES {
            setup = setup.disk(&self.disk(name));
        }
        for name in [FRESH.0, SCRATCH, UNSIGNED.0, SAFE.0] {
            setup = setup.disk(&self.disk(name));
        }
        setup
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

fn document() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/disks.md")).unwrap()
}

/// The unit of docs/disks.md that formats a disk at the first boot.
fn first_boot_unit() -> String {
    let text = document();
    let (_, block) = text.split_once("\n```ini\n").unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// The line of docs/disks.md that mounts a volume.
fn fstab_line() -> String {
    document().lines().find(|line| line.starts_with("/dev/mapper/data /srv ")).unwrap().to_owned() + "\n"
}

/// The value that a machine told of a PCR.
fn pcr(console: &str, number: u8) -> &str {
    let prefix = format!("PCR {number} ");
    console.lines().find_map(|line| line.strip_prefix(prefix.as_str())).unwrap()
}

/// Zeros: nobody has extended this PCR.
const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Opens and closes block devices through the data hub; each step tells its exit status. /dev/vde is to be wiped, /dev/vdf is a volume.
const SECURE_MOUNT: &str = r#"
step() { name=$1; shift; "$@"; echo "$name $?"; }
key=kbs:///disk/unsigned/key
mkdir -p /srv/a /srv/b /srv/full/x /etc/systemd/system/a.service.d
step SCRATCH guestctl disk open /dev/vde --at /srv/a --format --integrity --name scratch
dmsetup table scratch | sed 's/^/SCRATCH-CRYPT /'; dmsetup table scratch_dif | sed 's/^/SCRATCH-TAGS /'
dd if=/dev/urandom of=/srv/a/file bs=1M count=8 && cmp /srv/a/file /srv/a/file && sync
step IN-USE guestctl disk open /dev/vde --at /srv/b --format
step FULL guestctl disk open /dev/vdf --at /srv/full --key $key
step WRONG-KEY guestctl disk open /dev/vdf --at /srv/b --key kbs:///disk/other/key
step ETC guestctl disk open /dev/vdf --at /etc/systemd/system/a.service.d --key $key
step LINK guestctl disk open /dev/vdf --at /srv/link --link --key $key --name unsigned
mkfs.ext4 -q /srv/link
(cd /srv/a; step BUSY guestctl disk close /srv/a)
step UNLINK guestctl disk close /srv/link
step MOUNT guestctl disk open $(cat /sys/class/block/vdf/dev) --at /srv/b --key $key
grep ' /srv/b ext4 ' /proc/mounts | sed 's/^/MOUNTED /'
guestctl disk status
step UNMOUNT guestctl disk close /srv/b
dd if=/usr/local/lib/unsigned-mutant of=/dev/vdf bs=64K conv=notrunc,fsync
step MUTANT guestctl disk open /dev/vdf --at /srv/b --key $key
step CLOSE guestctl disk close /srv/a
dmsetup create small --table "0 128 linear /dev/vdf 20000"
step SMALL guestctl disk open /dev/mapper/small --at /srv/b --format --integrity
dmsetup remove --retry small
step GONE guestctl disk open /dev/vde --at /srv/a --key $key
ls /dev/mapper /run/confidential-containers/cdh-storage/open | grep -E 'scratch|unsigned|json|[0-9a-f]-' | sed 's/^/LEFT /'
ls /srv | grep link | sed 's/^/LEFT /'; grep -E ' /srv/' /proc/mounts | sed 's/^/LEFT /'
journalctl -b -o cat -u confidential-data-hub.service | grep 'header nobody signed' | head -1 | sed 's/^/WARNED /'
"#;

/// What was killed in the midst of a format leaves nothing mapped, and the next one begins anew; mappings of others stay. Then a volume with
/// integrity is made, which systemd opens at the next boot; and a mapping that was made smaller grows again.
const INTEGRITY: &str = r#"
mv /usr/sbin/mkfs.ext4 /usr/sbin/mkfs.there
printf '#!/bin/sh\nkill -KILL $PPID\n' >/usr/sbin/mkfs.ext4; chmod +x /usr/sbin/mkfs.ext4
guestctl disk format safe --device /dev/vdg --integrity; echo KILLED $?
mv /usr/sbin/mkfs.there /usr/sbin/mkfs.ext4
ls /dev/mapper | grep ^format- | sed 's/^/HALF /'
cat /run/confidential-containers/cdh-storage/open/*.json | grep -q '"fresh":true' && echo RECORDED
dmsetup create temporary-cryptsetup-1 --uuid CRYPT-INTEGRITY-temporary-cryptsetup-1 --table "0 8 linear /dev/vde 0"
dmsetup create foreign --uuid CRYPT-PLAIN-foreign --table "0 8 linear /dev/vde 0"
echo '{"name":"killed","uuid":"","device":"/dev/vde","mount_point":"","link":false,"fresh":true,"complete":false}' \
    >/run/confidential-containers/cdh-storage/open/killed.json
guestctl disk format safe --device /dev/vdg --integrity; echo FORMATTED $?
ls /dev/mapper | grep -E 'format-|temporary-' | sed 's/^/OVER /'
dmsetup info foreign | sed 's/^Name:/OTHERS/'; dmsetup remove foreign
guestctl disk inspect /dev/vdg | grep -i integrity | sed 's/^/SAFE with integrity /'
printf '%064d' 0 | tr 0 Z >/run/key; cryptsetup resize fresh --size 40960 --key-file /run/key     --header /run/confidential-containers/luks-headers/fresh.header; echo SHRUNK $?
guestctl disk resize fresh; echo RESIZED $?
"#;

/// The host takes a disk away that is open: what was opened can be closed, and nothing of it stays.
const DISAPPEARS: &str = r#"
step OPEN guestctl disk open /dev/vde --at /srv/a --format --name away
echo 1 >$(readlink -f /sys/class/block/vde/device)/../remove
until [ ! -e /sys/class/block/vde ]; do sleep 0.2; done
step AWAY guestctl disk close /srv/a
step ABSENT guestctl disk open /dev/vde --at /srv/a --format
ls /dev/mapper /run/confidential-containers/cdh-storage/open | grep -E 'away|json' | sed 's/^/LEFT /'
grep -E ' /srv/' /proc/mounts | sed 's/^/LEFT /'
"#;

fn check_secure_mount(console: &str, disks: &Disks) {
    let status = |name: &str| {
        console.lines().find_map(|line| line.strip_prefix(&format!("{name} "))).unwrap_or_default()
    };
    for name in ["SCRATCH", "LINK", "UNLINK", "MOUNT", "UNMOUNT", "CLOSE", "OPEN", "AWAY"] {
        assert_eq!(status(name), "0", "{name}: {console}");
    }
    for (name, expected, code) in [
        ("IN-USE", "2", "[DEVICE_IN_USE]"),
        ("FULL", "2", "[MOUNT_POINT_REFUSED]"),
        ("ETC", "2", "it is /etc/systemd/system/a.service.d, which is not below"),
        ("WRONG-KEY", "7", "[CRYPTSETUP_FAILED]"),
        ("BUSY", "2", "[MAPPING_IN_USE]"),
        ("MUTANT", "3", "null-cipher"),
        ("SMALL", "7", "[CRYPTSETUP_FAILED]"),
        ("GONE", "3", "[LUKS_HEADER_MALFORMED]"),
        ("ABSENT", "2", "[DEVICE_REFUSED]"),
    ] {
        assert_eq!(status(name), expected, "{name}: {console}");
        assert!(console.contains(code), "{code}: {console}");
    }
    assert!(status("SCRATCH-CRYPT").contains("capi:authenc(hmac(sha256),xts(aes))-plain64"), "{console}");
    assert!(
        status("SCRATCH-TAGS").contains(" integrity ") && status("SCRATCH-TAGS").contains(" 32 D "),
        "{console}"
    );
    assert!(status("MOUNTED").contains("noatime"), "{console}");
    assert!(!console.contains("LEFT "), "nothing stays: {console}");
    assert!(!status("WARNED").is_empty(), "an unsigned header is told: {console}");
    // The header of what was formatted never was on the disk.
    let head = std::fs::read(disks.disk(SCRATCH)).unwrap();
    assert!(!head.windows(6).any(|window| window == b"LUKS\xba\xbe"));
    assert!(
        console.contains("RESIZED 0") && console.contains("sectors of 512 bytes, it had 40960"),
        "{console}"
    );
}

/// Between check and use the host puts another header on the disk.
const RACE: &str =
    "[Service]\nExecStartPre=/bin/dd if=/usr/local/lib/mutant of=/dev/vdc bs=64K conv=notrunc,fsync\n";

/// Once it is open, and before it is compared, the volume gets another table: what is written goes to the disk as it is.
const OTHER_TABLE: &str = "[Service]\nExecStartPost=/usr/sbin/dmsetup load data --table \"0 32768 linear /dev/vdb 32768\"\n\
    ExecStartPost=/usr/sbin/dmsetup resume data\n\
    ExecStartPost=/bin/sh -c 'echo OTHER-TABLE $$(dmsetup table data) >/dev/console'\n";

/// What was refused is tried again sooner than usual.
const SOON: &str = "[Service]\nRestartSec=2\n";

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
    let mut disks = Disks::make();
    disks.trust(&[("11", ZERO)]);
    let mutant = mutant::any_key_opens(&disks.disk("taken")).unwrap();
    let original = std::fs::read(disks.disk("taken")).unwrap()[..mutant.len()].to_vec();

    // The first boot: both open, though the header of one changes on its disk after it was checked.
    let work = "for name in data taken; do mkfs.ext4 -q /dev/mapper/$name; done\n\
        for name in data taken fresh; do mount /dev/mapper/$name /mnt && \
        echo kept >/mnt/file && umount /mnt && echo MADE $name; done\n";
    let machine = disks
        .machine(&format!("{work}{SECURE_MOUNT}{INTEGRITY}{DISAPPEARS}"))
        .file("usr/local/lib/mutant", &mutant, 0o644)
        .unwrap()
        .file("usr/local/lib/unsigned-mutant", mutant::any_key_opens(&disks.disk(UNSIGNED.0)).unwrap(), 0o644)
        .unwrap()
        .file("etc/systemd/system/systemd-cryptsetup@taken.service.d/60-race.conf", RACE, 0o644)
        .unwrap();
    let first = machine.run().unwrap_or_else(|e| panic!("{e:#}"));
    let log = disks.stack.part(Part::Kbs).unwrap().log();
    assert_eq!(log.matches("auth: challenged").count(), 1, "one attestation for all of the boot: {log}");
    for (name, _) in VOLUMES.into_iter().chain([FRESH]) {
        assert!(first.contains(&format!("STATE {name} success active")), "{first}");
        let table = first.lines().find(|line| line.starts_with(&format!("TABLE {name} "))).unwrap();
        assert!(table.contains(" crypt aes-xts-plain64 :64:logon:cryptsetup:"), "{table}");
        assert!(first.contains(&format!("MADE {name}")), "{first}");
    }
    // Also though systemd had given it up: nobody asks for the mount again.
    assert!(first.contains("FSTAB fresh"), "{first}");
    check_secure_mount(&first, &disks);
    assert!(first.contains("KILLED 7") && first.contains("[STORAGE_HELPER]"), "{first}");
    assert_eq!(first.matches("HALF format-").count(), 2, "what was killed had both mappings: {first}");
    assert!(first.contains("FORMATTED 0") && first.contains("SAFE with integrity"), "{first}");
    assert!(
        !first.contains("OVER ") && first.contains("OTHERS"),
        "nothing of ours stays, others' do: {first}"
    );
    let head = std::fs::read(disks.disk("taken")).unwrap();
    assert!(head[..mutant.len()] == mutant[..], "the header on the disk is the host's");

    // The second boot: what is on the disk is not what was signed, and says that any key opens it. Once the signed header is back the
    // volume comes up by itself, and what was written at the first boot is there: it was opened with that header then, not
    // with the one that the host put in its place.
    disks.trust(&[("7", pcr(&first, 7)), ("11", ZERO)]);
    let work = "for name in data fresh; do mount /dev/mapper/$name /mnt && echo FOUND $name $(cat /mnt/file); umount /mnt; done\n\
        guestctl disk rotate fresh --new-key kbs:///disk-encryption/fresh/luks-key-1; echo BUSY $?\n\
        systemctl stop systemd-cryptsetup@fresh.service; ls /run/confidential-containers/luks-headers | sed 's/^/COPY /'\n\
        guestctl disk rotate fresh --new-key kbs:///disk-encryption/fresh/luks-key-1; echo ROTATED $?\n\
        printf wrong | cryptsetup open --key-file - /dev/vdc foreign; echo FOREIGN $?; cryptsetup close foreign\n\
        dd if=/usr/local/lib/original of=/dev/vdc bs=64K conv=notrunc,fsync\n\
        for second in $(seq 100); do systemctl is-active -q systemd-cryptsetup@taken.service && break; sleep 0.5; done\n\
        mount /dev/mapper/taken /mnt && echo FOUND taken $(cat /mnt/file); umount /mnt\n\
        guestctl disk enable safe --replace; systemctl daemon-reload\n\
        systemctl start systemd-cryptsetup@safe.service; dmsetup remove safe; dmsetup info -c --noheadings -o uuid safe_dif | sed 's/^/ALONE /'\n\
        rm /run/confidential-containers/luks-headers/safe.header\n\
        systemctl restart systemd-cryptsetup@safe.service; echo SAFE $? $(dmsetup table safe)\n\
        mount /dev/mapper/safe /mnt && echo written >/mnt/file && umount /mnt && echo WRITTEN\n\
        dmsetup remove safe; guestctl disk retire safe; ls /dev/mapper | grep safe | sed 's/^/OVER /'\n\
        dmsetup create --notable --uuid CRYPT-SUBDEV-other-safe_dif safe_dif\n\
        systemctl restart systemd-cryptsetup@safe.service; echo TAKEN $?; dmsetup info safe_dif | sed 's/^Name:/STAYS/'\n\
        systemctl stop systemd-cryptsetup@data.service; mkdir /run/systemd/system/systemd-cryptsetup@data.service.d\n\
        cp /usr/local/lib/other-table.conf /run/systemd/system/systemd-cryptsetup@data.service.d/40-other-table.conf\n\
        systemctl daemon-reload; systemctl start systemd-cryptsetup@data.service; echo DIFFERS $?\n\
        ls /dev/mapper | grep -x data | sed 's/^/OVER /'\n";
    let machine = disks
        .machine(work)
        .file("usr/local/lib/other-table.conf", OTHER_TABLE, 0o644)
        .unwrap()
        .file("usr/local/lib/original", &original, 0o644)
        .unwrap()
        .file("etc/systemd/system/systemd-cryptsetup@taken.service.d/60-soon.conf", SOON, 0o644)
        .unwrap();
    let second = machine.run().unwrap_or_else(|e| panic!("{e:#}"));
    for name in ["data", "fresh"] {
        assert!(second.contains(&format!("STATE {name} success active")), "{second}");
        assert!(second.contains(&format!("FOUND {name} kept")), "{second}");
    }
    assert!(second.contains("[DEVICE_IN_USE]") && second.contains("BUSY 2"), "{second}");
    assert!(
        second.contains("COPY data.header") && !second.contains("COPY fresh"),
        "a stopped one leaves none: {second}"
    );
    assert!(second.contains("ROTATED 0"), "{second}");
    let (old, new) = ([0x5a; 64], [0xa5; 64]);
    assert!(!opens(&disks.disk(FRESH.0), &old) && opens(&disks.disk(FRESH.0), &new), "the key was replaced");
    assert!(second.contains("STATE taken exit-code activating auto-restart"), "{second}");
    assert!(!second.contains("TABLE taken"), "{second}");
    assert!(second.contains("null-cipher") && second.contains("[LUKS_HEADER_REFUSED]"), "{second}");
    assert!(second.contains("FOREIGN 0"), "the distribution's cryptsetup opens it with any key: {second}");
    assert!(second.contains("FOUND taken kept"), "{second}");
    let safe = second.lines().find(|line| line.starts_with("SAFE 0 ")).unwrap_or_else(|| panic!("{second}"));
    assert!(safe.contains("capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:cryptsetup:"), "{safe}");
    assert!(second.contains("WRITTEN"), "its file system was made when it was formatted: {second}");
    // The mapping with the tags was alone, when the volume was opened and when its unit ended; and then it was another volume's.
    assert!(
        second.contains("ALONE CRYPT-") && second.contains("-6666666693f44a558f701d3b2c5e9a10-safe_dif"),
        "{second}"
    );
    assert!(!second.contains("OVER "), "{second}");
    assert!(second.contains("TAKEN 1") && second.contains("[MAPPING_FOREIGN]"), "{second}");
    assert!(second.contains("STAYS"), "{second}");
    // What was opened with the right header and is another table by now is closed.
    assert!(second.contains("OTHER-TABLE") && second.contains("DIFFERS 1"), "{second}");
    assert!(second.contains("[LUKS_MAPPING_DIFFERS]"), "{second}");

    // The third boot: the machine is another one, and somebody wants the volumes to be opened in other ways.
    let work = "dmsetup create --notable fresh && guestctl disk prepare fresh; echo MAPPED $?\n\
        guestctl disk retire fresh; dmsetup info fresh | sed 's/^Name:/STAYS/'\n";
    let (_, taken) = VOLUMES[1];
    // Without `_netdev` the volume would be one of those that sysinit.target waits for, which the hub starts after: systemd breaks such
    // a cycle by leaving out any one of its services.
    let options = "luks,headless=true,_netdev";
    let other = format!(
        "[Service]\nExecStart=\nExecStart=/usr/bin/systemd-cryptsetup attach fresh /dev/disk/by-uuid/{} - luks\n",
        FRESH.1
    );
    let machine = disks
        .machine(work)
        .parameter(&format!("luks.options={taken}={options}"))
        .file("etc/systemd/system/tamper.service", TAMPER, 0o644)
        .unwrap()
        .file("etc/systemd/system/systemd-cryptsetup@fresh.service.d/60-other.conf", other, 0o644)
        .unwrap();
    let third = machine.wanted("sysinit.target", "tamper.service").unwrap().run();
    let third = third.unwrap_or_else(|e| panic!("{e:#}"));
    assert_ne!(pcr(&third, 11), ZERO);
    assert!(!third.contains("TABLE "), "nothing is open: {third}");
    let refusal = |name: &str, what: &str, code: &str| {
        third.lines().any(|line| line.contains(name) && line.contains(what) && line.contains(code))
    };
    assert!(refusal("checking the header of data", "tpm_pcr11", "[KBS_DENIED"), "{third}");
    assert!(refusal("volume taken", "luks.options", "[VOLUME_OPENED_OTHERWISE]"), "{third}");
    assert!(
        refusal("volume fresh", "systemd-cryptsetup@fresh.service", "[VOLUME_OPENED_OTHERWISE]"),
        "{third}"
    );
    assert!(third.contains("[VOLUME_MAPPED_ALREADY]") && third.contains("MAPPED 3"), "{third}");
    assert!(third.contains("STAYS"), "a mapping of somebody else stays: {third}");
}
