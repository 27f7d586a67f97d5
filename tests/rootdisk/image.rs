//! The disk and the initramfs of a machine, made on a machine without device mapper: cryptsetup makes and signs the header, the file system is
//! encrypted beside it with the volume key that was given to cryptsetup.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cc_tests::process::{binary_folder, command};
use cc_tests::vm;

/// Users' search paths do not lead there.
pub(crate) const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
/// What opens the volume. As good as random for whoever does not know it.
pub(crate) const KEY: [u8; 64] = *b"the key of the root disk, which only the key broker has, or had.";
const UUID: &str = "44444444-93f4-4a55-8f70-1d3b2c5e9a10";
/// Where the data begins, as cryptsetup has it unless told otherwise.
const DATA: u64 = 16 << 20;
/// Of the file system: the tree and some room; with more files in it.
const LEN: &str = "256M";
const LARGER_LEN: &str = "400M";
/// The volume that is opened in the initramfs beside the root disk.
pub(crate) const VAULT: (&str, &str) = ("vault", "88888888-93f4-4a55-8f70-1d3b2c5e9a10");

/// What the system on the disk does when it is up.
const WORK: &str = "[Unit]\nAfter=multi-user.target\n\n[Service]\nType=oneshot\n\
    ExecStart=/bin/sh /usr/local/lib/work\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n\
    ExecStopPost=systemctl poweroff -ff\n\n[Install]\nWantedBy=multi-user.target\n";
const REPORT: &str = r#"
for pcr in 4 9 11; do echo "PCR $pcr $(tr A-F a-f </sys/class/tpm/tpm0/pcr-sha256/$pcr)"; done
echo "TABLE $(dmsetup table root)"
# What the partition table says, and what comes of it if the generator that follows it is started all the same.
mountpoint -q /srv && echo "SRV-MOUNTED"
mkdir /run/generated
/usr/lib/systemd/system-generators/systemd-gpt-auto-generator /run/generated /run/generated /run/generated
echo "GENERATOR-WRITES $(cd /run/generated && echo *.mount)"
vault=$(dmsetup table vault 2>/dev/null) && echo "VAULT $vault"
grep -q cipher_null /dev/vdb 2>/dev/null && echo "VAULT-ON-DISK null cipher"
data=systemd-cryptsetup@data.service
while systemctl show --property=SubState --value $data | grep -qE '^(start|stop)'; do sleep 0.2; done
[ ! -e /dev/mapper/data ] || echo "DATA $(systemctl --version | head -1), $(systemctl show --property=ActiveState --value $data): $(dmsetup table data)"
dd if=/dev/vdc bs=4096 count=8 iflag=direct 2>/dev/null | grep -q cipher_null && echo "DATA-ON-DISK null cipher"
# What the host can do as well: an option for systemd among the firmware's variables.
if mount -o remount,rw /sys/firmware/efi/efivars 2>/dev/null; then
    variable=/sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67
    printf '\007\000\000\000q\000u\000i\000e\000t\000\000\000' >$variable && echo "VARIABLE-WRITTEN"
fi
[ "$(findmnt -no SOURCE /)" = /dev/mapper/root ] && echo "ROOT-BOOTED after $(cut -d' ' -f1 /proc/uptime) s"
"#;
/// Encrypts standard input to standard output as dm-crypt does with aes-xts-plain64 and sectors of 4096 bytes: the tweak is the number
/// of the sector, counted in those of 512 bytes. The key is the file that is named.
const ENCRYPT: &str = "
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key = algorithms.AES(open(sys.argv[1], 'rb').read())
number = 0
while sector := sys.stdin.buffer.read(4096):
    cipher = Cipher(key, modes.XTS((8 * number).to_bytes(16, 'little'))).encryptor()
    sys.stdout.buffer.write(cipher.update(sector))
    number += 1
";

/// Writes a partition table (GPT) with two partitions to the disk that is named: from 1 MiB to the sector that is given, and from there
/// on to the end one of the type that systemd mounts at `/srv`.
const PARTITION: &str = "
import struct, sys, uuid, zlib
path, second = sys.argv[1], int(sys.argv[2])
disk = open(path, 'r+b')
last = disk.seek(0, 2) // 512 - 1
data, srv = '0fc63daf-8483-4772-8e79-3d69d8477de4', '3b8f8425-20e0-4f3b-907f-1a25a76f98e8'
def entry(kind, number, begin, end):
    return uuid.UUID(kind).bytes_le + uuid.UUID(int=number).bytes_le + struct.pack('<QQQ', begin, end, 0) + bytes(72)
entries = (entry(data, 1, 2048, second - 1) + entry(srv, 2, second, last - 33)).ljust(16384, b'\\0')
def header(here, other, table):
    fields = [b'EFI PART', 0x10000, 92, 0, 0, here, other, 34, last - 33, uuid.UUID(int=3).bytes_le, table, 128, 128, zlib.crc32(entries)]
    form = '<8sIIIIQQQQ16sQIII'
    fields[3] = zlib.crc32(struct.pack(form, *fields))
    return struct.pack(form, *fields).ljust(512, b'\\0')
mbr = bytes(446) + struct.pack('<BBBBBBBBII', 0, 0, 2, 0, 0xee, 255, 255, 255, 1, last) + bytes(48) + bytes([0x55, 0xaa])
for sector, content in [(0, mbr + header(1, last, 2) + entries), (last - 32, entries + header(last, 1, last - 32))]:
    disk.seek(512 * sector)
    disk.write(content)
";

/// The system on a root disk, which makes its initramfs itself.
#[derive(Clone, Copy)]
pub(crate) enum System {
    /// dracut 059, initramfs-tools 0.142, Linux 6.1.
    Debian12,
    /// dracut 106, initramfs-tools 0.148, Linux 6.12.
    Debian13,
}

impl System {
    pub(crate) fn tree(self) -> PathBuf {
        vm::trees().join(["rootdisk-bookworm", "rootdisk"][usize::from(matches!(self, Self::Debian13))])
    }

    fn kernel_tree(self) -> PathBuf {
        vm::trees().join(["kernel-bookworm", "kernel"][usize::from(matches!(self, Self::Debian13))])
    }

    pub(crate) fn kernel(self) -> PathBuf {
        self.kernel_tree().join("vmlinuz")
    }
}

/// What makes an initramfs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Maker {
    InitramfsTools,
    Dracut,
}

/// How the program in an initramfs is linked.
#[derive(Clone, Copy)]
pub(crate) enum Linked {
    /// With the libraries that the hook finds for it.
    Dynamically,
    /// As it is installed.
    Statically,
}

/// A disk with an encrypted root file system.
pub(crate) struct Image {
    pub(crate) disk: PathBuf,
}

impl Image {
    /// Makes it in `folder`, with the files of the tree `more` on it.
    pub(crate) fn make(folder: &Path, system: System, more: Option<&Path>) -> Self {
        let (plain, disk, files) = (folder.join("plain"), folder.join("disk"), folder.join("root"));
        if let Some(more) = more {
            fs::rename(more, &files).unwrap();
        }
        let len = if more.is_some() { LARGER_LEN } else { LEN };
        write(&files.join("etc/systemd/system/work.service"), WORK, 0o644);
        write(&files.join("usr/local/lib/work"), REPORT, 0o644);
        let wants = files.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        std::os::unix::fs::symlink("../work.service", wants.join("work.service")).unwrap();
        // They only cost time here.
        let masked = "e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
            systemd-logind.service getty.target serial-getty@ttyS0.service systemd-update-done.service ldconfig.service \
            systemd-journal-catalog-update.service dbus.service dbus.socket fstrim.timer systemd-tmpfiles-clean.timer";
        for unit in masked.split_ascii_whitespace() {
            std::os::unix::fs::symlink("/dev/null", files.join("etc/systemd/system").join(unit)).unwrap();
        }
        let name = plain.to_str().unwrap();
        overlaid(
            system,
            &files,
            &["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-d", "/mnt/tree", name, len],
        );

        fs::File::create(&disk).unwrap().set_len(DATA + fs::metadata(&plain).unwrap().len()).unwrap();
        let volume_key = folder.join("volume-key");
        fs::write(&volume_key, KEY.map(|byte| byte ^ 0x55)).unwrap();
        let volume_key = volume_key.to_str().unwrap();
        format(&disk, UUID, &["--key-size", "512", "--volume-key-file", volume_key]);

        let mut file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.seek(SeekFrom::Start(DATA)).unwrap();
        let status = command("/usr/bin/python3")
            .args(["-c", ENCRYPT, volume_key])
            .stdin(Stdio::from(fs::File::open(&plain).unwrap()))
            .stdout(Stdio::from(file))
            .status()
            .unwrap();
        assert!(status.success());
        fs::remove_file(plain).unwrap();
        Self { disk }
    }

    /// The same volume as a partition, and behind it one of the host's with a file system.
    pub(crate) fn partitioned(&self, folder: &Path) -> PathBuf {
        const MIB: u64 = 1 << 20;
        let (disk, srv) = (folder.join("partitioned"), folder.join("srv"));
        let mut volume = fs::File::open(&self.disk).unwrap();
        let len = volume.metadata().unwrap().len();
        let mut file = fs::File::create(&disk).unwrap();
        file.set_len(len + 18 * MIB).unwrap();
        file.seek(SeekFrom::Start(MIB)).unwrap();
        std::io::copy(&mut volume, &mut file).unwrap();
        fs::File::create(&srv).unwrap().set_len(16 * MIB).unwrap();
        run("/sbin/mkfs.ext4", &["-q", "-F", srv.to_str().unwrap()], b"");
        file.seek(SeekFrom::Start(len + MIB)).unwrap();
        file.write_all(&fs::read(&srv).unwrap()).unwrap();
        let second = ((len + MIB) / 512).to_string();
        run("/usr/bin/python3", &["-c", PARTITION, disk.to_str().unwrap(), &second], b"");
        disk
    }

    /// The host puts another header on the disk.
    pub(crate) fn swap_header(&mut self, header: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(&self.disk).unwrap();
        file.write_all(header).unwrap();
    }
}

/// Makes a signed volume in the file `disk`, which [`KEY`] opens.
pub(crate) fn format(disk: &Path, uuid: &str, more: &[&str]) {
    let key = disk.with_extension("key");
    fs::write(&key, KEY).unwrap();
    let (name, key) = (disk.to_str().unwrap(), key.to_str().unwrap());
    let format = format!(
        "luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid {uuid} --key-file {key}"
    );
    let format: Vec<&str> = format.split(' ').chain(more.iter().copied()).chain([name]).collect();
    run(CRYPTSETUP, &format, b"");
    let guestctl = binary_folder().unwrap().join("guestctl");
    let token = run(guestctl.to_str().unwrap(), &["disk", "sign", name, "--key", key], b"");
    run(CRYPTSETUP, &["token", "import", "--json-file", "-", name], &token);
}

/// A disk of its own for the volume `uuid`.
pub(crate) fn data_disk(path: &Path, uuid: &str) {
    fs::File::create(path).unwrap().set_len(2 * DATA).unwrap();
    format(path, uuid, &[]);
}

/// The configuration of a machine's initramfs, with one line more.
pub(crate) fn config(url: &str, certificate: &str, more: &str) -> String {
    format!(
        "root = \"/dev/mapper/root\"\n{more}\n[kbs]\nurl = {url:?}\ncertificate = '''{certificate}'''\n\
         [[volumes]]\nname = \"root\"\nuuid = {UUID:?}\nkey = \"kbs:///disk-encryption/vm/luks-key-0\"\n"
    )
}

/// What it has besides where there is the volume [`VAULT`]: its key is named by the product's UUID.
pub(crate) fn vault_config() -> String {
    let (name, uuid) = VAULT;
    format!("[[volumes]]\nname = {name:?}\nuuid = {uuid:?}\nkey = \"kbs:///disk-encryption/%u/luks-key-0\"\n")
}

/// Makes an initramfs in `folder`, with this configuration or as it is without one.
pub(crate) fn initrd(
    folder: &Path,
    system: System,
    maker: Maker,
    linked: Linked,
    config: Option<&str>,
) -> PathBuf {
    let files = tempfile::tempdir_in(folder).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = format!("ROOT={}", files.path().display());
    run("make", &["-s", "-C", workspace.to_str().unwrap(), "install-initramfs", &root], b"");
    if let Some(config) = config {
        write(&files.path().join("etc/confidential-containers/unlock.toml"), config, 0o600);
    }
    let program = files.path().join("usr/local/bin/initrd-unlock");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let built = match linked {
        Linked::Dynamically => binary_folder().unwrap().join("initrd-unlock"),
        Linked::Statically => static_program(&workspace),
    };
    run("strip", &["-o", program.to_str().unwrap(), built.to_str().unwrap()], b"");
    let making: &[&str] = match maker {
        Maker::InitramfsTools => {
            let settings = "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n";
            write(&files.path().join("etc/initramfs-tools/initramfs.conf"), settings, 0o644);
            write(&files.path().join("etc/initramfs-tools/modules"), "ext4\n", 0o644);
            &["mkinitramfs", "-o", "/out/initrd", "{}"]
        }
        // Not the drivers of all machines there are: only those that our module asks for, and the file system's.
        Maker::Dracut => {
            let settings = "hostonly=no\nhostonly_cmdline=no\nearly_microcode=no\ncompress=\"zstd -3\"\ndrivers+=\" ext4 \"\n\
                 omit_dracutmodules+=\" kernel-modules kernel-modules-extra crypt systemd-cryptsetup lvm mdraid btrfs \"\n";
            write(&files.path().join("etc/dracut.conf.d/test.conf"), settings, 0o644);
            &["dracut", "--quiet", "--force", "--kver", "{}", "/out/initrd"]
        }
    };
    let out = files.path().with_extension("initrd");
    let script = workspace.join("tests/trees/initramfs");
    let kernel = system.kernel_tree();
    let fixed = [&script, &kernel, &out].map(|path| path.to_str().unwrap());
    overlaid(system, files.path(), &[&fixed[..], making].concat());
    out
}

/// The program as it is installed, but for the optimisation.
fn static_program(workspace: &Path) -> PathBuf {
    let path = workspace.join("target/debug/static/initrd-unlock");
    run("make", &["-s", "-C", workspace.to_str().unwrap(), "target/debug/static/initrd-unlock"], b"");
    let libraries = command("ldd").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&libraries.stdout).into_owned();
    assert!(said.contains("statically linked"), "{said}");
    path
}

/// The initramfs with a link more in it, in place of what is there.
pub(crate) fn with_link(folder: &Path, initrd: &Path, link: &str, target: &str) -> PathBuf {
    let files = tempfile::tempdir_in(folder).unwrap();
    let path = files.path().join(link);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(target, path).unwrap();
    with_tree(initrd, files.path())
}

/// The initramfs with a cryptsetup that first writes `header` to the disk of the volume [`VAULT`]: between check and use.
pub(crate) fn with_race(folder: &Path, system: System, initrd: &Path, header: &[u8]) -> PathBuf {
    let files = tempfile::tempdir_in(folder).unwrap();
    let script = format!(
        "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nname=$(for name; do :; done; echo $name)\n\
         [ \"$name\" != {} ] || cat /header >/dev/vdb\nexec /usr/sbin/cryptsetup.there \"$@\"\n",
        VAULT.0
    );
    write(&files.path().join("usr/sbin/cryptsetup"), &script, 0o755);
    fs::copy(system.tree().join("usr/sbin/cryptsetup"), files.path().join("usr/sbin/cryptsetup.there"))
        .unwrap();
    fs::write(files.path().join("header"), header).unwrap();
    with_tree(initrd, files.path())
}

/// The initramfs with a tree of files behind it.
fn with_tree(initrd: &Path, files: &Path) -> PathBuf {
    let pack = format!("cd {} && find * | cpio --quiet -o -H newc", files.display());
    let archive = run("sh", &["-ec", &pack], b"");
    let mut bytes = fs::read(initrd).unwrap();
    // Archives behind one that is compressed begin at a multiple of four bytes.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive);
    let out = files.with_extension("initrd");
    fs::write(&out, bytes).unwrap();
    out
}

/// Runs a command beside the tree with these files over it.
fn overlaid(system: System, files: &Path, line: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("trees/overlaid");
    let tree = system.tree();
    let fixed = [&script, &tree, files].map(|path| path.to_str().unwrap());
    run(fixed[0], &[&fixed[1..], line].concat(), b"");
}

fn write(path: &Path, content: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a program that has to succeed, with `input` on its standard input; its standard output.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        command(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}");
    out.stdout
}
