//! A virtual machine: a Debian kernel and tree under QEMU, with a TPM in software and virtio disks.
//!
//! What needs a kernel of its own (device mapper, a boot, disks that a host attaches) is tested here. The processor is emulated
//! (TCG), so this works everywhere and takes half a minute for a boot. The root file system is the tree `trixie`, never
//! changed: what the machine writes to it is in memory and gone afterwards. Only disks and the TPM keep what they get. The
//! machine reaches what listens on loopback here as 10.0.2.2, and ends by itself when its work is done.
//!
//! `tests/trees/make` makes the kernel, the first file system in memory and the disk with the tree.

mod boot;

use std::fs;
use std::io::Write;
use std::iter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tempfile::TempDir;

pub use self::boot::{Boot, PRODUCT_UUID};
use crate::process::{binary_folder, command};
use crate::stack::skip;

/// The line by which a machine says that its work is done.
const DONE: &str = "VM-DONE";

/// How the machine gets its address, what it does, and how it ends. `WORK` is run by a shell when everything is started that
/// was to be started, with its output on the console.
const NETWORK: &str = "[Unit]\nDefaultDependencies=no\nBefore=network.target network-online.target\nWants=network.target\n\n\
    [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -ec 'ip link set lo up; ip link set eth0 up; \
    ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2'\n\n[Install]\nWantedBy=network-online.target\n";
const WORK: &str = "[Unit]\nAfter=multi-user.target\n\n[Service]\nType=oneshot\n\
    ExecStart=/bin/sh /usr/local/lib/work\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n\
    ExecStopPost=/bin/sh -c 'echo VM-DONE >/dev/ttyS0; sync; systemctl poweroff -ff'\n";
/// Units of the tree that only cost time here.
const MASKED: [&str; 15] = [
    "podman.service",
    "podman.socket",
    "podman-auto-update.timer",
    "podman-restart.service",
    "e2scrub_reap.service",
    "e2scrub_all.timer",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "ldconfig.service",
    "systemd-journal-catalog-update.service",
    "systemd-update-done.service",
    "systemd-logind.service",
    "getty.target",
    "serial-getty@ttyS0.service",
];

/// Whether this machine can run virtual machines (root, QEMU, the tree and its kernel); tells why not.
#[must_use]
pub fn runs_here() -> bool {
    let root = rustix::process::geteuid().is_root();
    let tree = trees().join("kernel/initrd").is_file() && trees().join("trixie.ext4").is_file();
    let qemu = command("qemu-system-x86_64").arg("--version").output().is_ok();
    if !(root && tree && qemu) {
        skip(&format!(
            "a virtual machine needs root (here: {root}), the trees that tests/trees/make makes (here: {tree}) and \
             qemu-system-x86_64 (here: {qemu})"
        ));
    }
    root && tree && qemu
}

/// The kernel of all machines.
#[must_use]
pub fn kernel() -> PathBuf {
    trees().join("kernel/vmlinuz")
}

/// The folder with the trees.
#[must_use]
pub fn trees() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/trees")
}

/// What a machine has beyond the tree.
#[derive(Debug)]
pub struct Setup {
    folder: TempDir,
    disks: Vec<PathBuf>,
    tpm: Option<PathBuf>,
    parameters: String,
}

impl Setup {
    /// A machine that runs the shell script `work` when it is up, and ends then.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new(work: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("vm-").tempdir()?;
        let mut setup = Self { folder, disks: Vec::new(), tpm: None, parameters: String::new() };
        setup = setup
            .file("etc/systemd/system/network.service", NETWORK, 0o644)?
            .file("etc/systemd/system/work.service", WORK, 0o644)?
            .file("usr/local/lib/work", work, 0o644)?
            .wanted("network-online.target", "network.service")?
            .wanted("multi-user.target", "work.service")?;
        Ok(setup)
    }

    /// Puts a file with this content and mode at `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> anyhow::Result<Self> {
        let target = self.root().join(path);
        fs::create_dir_all(target.parent().context("a file has a folder")?)?;
        fs::write(&target, content).with_context(|| format!("writing {path}"))?;
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        Ok(self)
    }

    /// Has the unit started with `target`.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn wanted(self, target: &str, unit: &str) -> anyhow::Result<Self> {
        let folder = self.root().join(format!("etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&folder)?;
        std::os::unix::fs::symlink(format!("../{unit}"), folder.join(unit))?;
        Ok(self)
    }

    /// Puts one of our own programs, without its debugging information, into `/usr/local/bin`.
    ///
    /// # Errors
    /// It is not built, or cannot be stripped.
    pub fn program(self, name: &str) -> anyhow::Result<Self> {
        let target = self.root().join("usr/local/bin").join(name);
        fs::create_dir_all(target.parent().context("a program has a folder")?)?;
        let out = command("strip")
            .arg("-o")
            .arg(&target)
            .arg(binary_folder()?.join(name))
            .output()
            .context("strip")?;
        ensure!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(self)
    }

    /// Attaches a file as the next disk: the first one is `/dev/vdb`.
    #[must_use]
    pub fn disk(mut self, file: &Path) -> Self {
        self.disks.push(file.to_owned());
        self
    }

    /// Attaches a TPM whose state is in this folder. It is reset by the boot.
    #[must_use]
    pub fn tpm(mut self, state: &Path) -> Self {
        self.tpm = Some(state.to_owned());
        self
    }

    /// Adds a parameter to the kernel's command line, which the host writes.
    #[must_use]
    pub fn parameter(mut self, parameter: &str) -> Self {
        self.parameters += &format!(" {parameter}");
        self
    }

    /// The folder whose files come over the tree's.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Boots the machine and waits for its end; what it wrote on its console.
    ///
    /// # Errors
    /// It does not start, or does not do its work in time; the console is in the error.
    pub fn run(self) -> anyhow::Result<String> {
        let folder = self.folder.path();
        let initrd = self.initrd()?;
        let masks: String = MASKED.iter().map(|unit| format!(" systemd.mask={unit}")).collect();
        let tree = format!("file={},format=raw,readonly=on", trees().join("trixie.ext4").display());
        let disks = self.disks.iter().map(|disk| format!("file={},format=raw", disk.display()));
        let boot = Boot {
            kernel: &kernel(),
            initrd: &initrd,
            command_line: &format!(
                "systemd.unit=multi-user.target systemd.show_status=1{masks}{}",
                self.parameters
            ),
            drives: &iter::once(tree).chain(disks).collect::<Vec<_>>(),
            tpm: self.tpm.as_deref(),
            firmware: None,
            variables: None,
        };
        let said = boot.run(folder)?;
        ensure!(said.contains(DONE), "the machine did not do its work:\n{said}");
        Ok(said)
    }

    /// The first file system in memory, with the files of this machine in a second archive behind it.
    fn initrd(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("initrd");
        fs::copy(trees().join("kernel/initrd"), &path)?;
        let mut file = fs::OpenOptions::new().append(true).open(&path)?;
        // Archives behind one that is compressed begin at a multiple of four bytes.
        let gap = file.metadata()?.len().next_multiple_of(4) - file.metadata()?.len();
        file.write_all([0; 3].get(..usize::try_from(gap)?).unwrap_or_default())?;
        let files = self.folder.path().join("archive");
        fs::create_dir_all(&files)?;
        fs::rename(self.root(), files.join("files"))?;
        let mut pack = command("sh");
        pack.args(["-ec", "find files | cpio --quiet -o -H newc"])
            .current_dir(&files)
            .stdout(Stdio::from(file));
        ensure!(pack.status().context("packing the machine's files")?.success(), "packing the files failed");
        fs::remove_dir_all(files)?;
        Ok(path)
    }
}
