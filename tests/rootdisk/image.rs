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
/// Of the file system: the tree and some room.
const LEN: &str = "256M";

/// What the system on the disk does when it is up.
const WORK: &str = "[Unit]\nAfter=multi-user.target\n\n[Service]\nType=oneshot\n\
    ExecStart=/bin/sh /usr/local/lib/work\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n\
    ExecStopPost=systemctl poweroff -ff\n\n[Install]\nWantedBy=multi-user.target\n";
const REPORT: &str = r#"
for pcr in 4 9 11; do echo "PCR $pcr $(tr A-F a-f </sys/class/tpm/tpm0/pcr-sha256/$pcr)"; done
echo "TABLE $(dmsetup table root)"
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

/// What makes an initramfs.
#[derive(Clone, Copy)]
pub(crate) enum Maker {
    InitramfsTools,
    Dracut,
}

/// A disk with an encrypted root file system.
pub(crate) struct Image {
    pub(crate) disk: PathBuf,
}

impl Image {
    /// Makes it in `folder`.
    pub(crate) fn make(folder: &Path) -> Self {
        let (plain, disk, files) = (folder.join("plain"), folder.join("disk"), folder.join("root"));
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
            &files,
            &["mkfs.ext4", "-q", "-b", "4096", "-O", "^has_journal", "-d", "/mnt/tree", name, LEN],
        );

        fs::File::create(&disk).unwrap().set_len(DATA + fs::metadata(&plain).unwrap().len()).unwrap();
        let (key, volume_key) = (folder.join("key"), folder.join("volume-key"));
        fs::write(&key, KEY).unwrap();
        fs::write(&volume_key, KEY.map(|byte| byte ^ 0x55)).unwrap();
        let (name, key, volume_key) =
            (disk.to_str().unwrap(), key.to_str().unwrap(), volume_key.to_str().unwrap());
        let format = format!(
            "luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --uuid {UUID} \
             --key-size 512 --volume-key-file {volume_key} --key-file {key} {name}"
        );
        run(CRYPTSETUP, &format.split(' ').collect::<Vec<_>>(), b"");
        let guestctl = binary_folder().unwrap().join("guestctl");
        let token = run(guestctl.to_str().unwrap(), &["disk", "sign", name, "--key", key], b"");
        run(CRYPTSETUP, &["token", "import", "--json-file", "-", name], &token);

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

    /// The host puts another header on the disk.
    pub(crate) fn swap_header(&mut self, header: &[u8]) {
        let mut file = fs::OpenOptions::new().write(true).open(&self.disk).unwrap();
        file.write_all(header).unwrap();
    }
}

/// The configuration of a machine's initramfs, with one line more.
pub(crate) fn config(url: &str, certificate: &str, more: &str) -> String {
    format!(
        "root = \"/dev/mapper/root\"\n{more}\n[kbs]\nurl = {url:?}\ncertificate = '''{certificate}'''\n\
         [[volumes]]\nname = \"root\"\nuuid = {UUID:?}\nkey = \"kbs:///disk-encryption/vm/luks-key-0\"\n"
    )
}

/// Makes an initramfs with this configuration in `folder`.
pub(crate) fn initrd(folder: &Path, maker: Maker, config: &str) -> PathBuf {
    let files = tempfile::tempdir_in(folder).unwrap();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = format!("ROOT={}", files.path().display());
    run("make", &["-s", "-C", workspace.to_str().unwrap(), "install-initramfs", &root], b"");
    write(&files.path().join("etc/confidential-containers/unlock.toml"), config, 0o600);
    let program = files.path().join("usr/local/bin/initrd-unlock");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    let built = binary_folder().unwrap().join("initrd-unlock");
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
    let trees = vm::trees();
    let script = workspace.join("tests/trees/initramfs");
    let kernel = trees.join("kernel");
    let fixed = [&script, &kernel, &out].map(|path| path.to_str().unwrap());
    overlaid(files.path(), &[&fixed[..], making].concat());
    out
}

/// Runs a command beside the tree with these files over it.
fn overlaid(files: &Path, line: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("trees/overlaid");
    let tree = vm::trees().join("rootdisk");
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
