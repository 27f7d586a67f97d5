//! One run of QEMU, from a kernel to the end of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::process::{Process, command};

/// How long a machine may run, on a busy host.
const TIME_LIMIT: Duration = Duration::from_secs(400);
/// The UUID of the product that firmware tells.
pub const PRODUCT_UUID: &str = "6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10";
/// Pause between two looks at the console.
const GLANCE: Duration = Duration::from_millis(100);

/// What a machine boots, and what it has. It gets a network in which this machine is 10.0.2.2.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// Its first file system in memory.
    pub initrd: &'a Path,
    /// What is on its command line, besides where its console is.
    pub command_line: &'a str,
    /// Disks with virtio, each as a value of QEMU's `-drive` without the interface.
    pub drives: &'a [String],
    /// The folder with the state of a software TPM. It is reset by the boot.
    pub tpm: Option<&'a Path>,
    /// UEFI firmware, which measures kernel, command line and initrd; a BIOS that does not if there is none.
    pub firmware: Option<&'a Path>,
    /// Where that firmware keeps its variables, if it does: a file of the host's. Then it is the half without them.
    pub variables: Option<&'a Path>,
}

impl Boot<'_> {
    /// Boots and waits for the end; what was written on the console. `folder` is for files that are worth nothing afterwards.
    ///
    /// # Errors
    /// It does not start, or does not end in time; the console is in the error.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another machine")]
    pub fn run(&self, folder: &Path) -> anyhow::Result<String> {
        let console = folder.join("console");
        let mut tpm = None;
        let mut qemu = command("qemu-system-x86_64");
        // One processor: a kernel that patches its code while another processor runs it dies of that under emulation now and then.
        qemu.args(
            "-machine q35 -accel tcg,thread=single -cpu max,-cx16 -m 1536 -smp 1 -nodefaults".split(' '),
        )
        .args(["-uuid", PRODUCT_UUID])
        .args("-no-user-config -no-reboot -display none -device virtio-rng-pci".split(' '))
        .args("-netdev user,id=n0 -device virtio-net-pci,netdev=n0,romfile=".split(' '))
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-kernel")
        .arg(self.kernel)
        .arg("-initrd")
        .arg(self.initrd)
        .arg("-append")
        // A kernel that panics ends the machine; names of network devices are the kernel's own.
        .arg(format!("console=ttyS0 loglevel=4 panic=-1 net.ifnames=0 {}", self.command_line));
        match (self.firmware, self.variables) {
            (Some(firmware), Some(variables)) => {
                for (file, more) in [(firmware, ",readonly=on"), (variables, "")] {
                    qemu.arg("-drive").arg(format!("if=pflash,format=raw,file={}{more}", file.display()));
                }
            }
            (Some(firmware), None) => {
                qemu.arg("-bios").arg(firmware);
            }
            (None, _) => {}
        }
        for drive in self.drives {
            qemu.arg("-drive").arg(format!("{drive},if=virtio"));
        }
        if let Some(state) = self.tpm {
            let (process, socket) = start_tpm(state, folder)?;
            tpm = Some(process);
            qemu.arg("-chardev")
                .arg(format!("socket,id=ct,path={}", socket.display()))
                .args("-tpmdev emulator,id=t0,chardev=ct -device tpm-tis,tpmdev=t0".split(' '));
        }
        let mut machine = Process::start("qemu", qemu, folder)?;
        let started = Instant::now();
        let said = || String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).replace('\r', "");
        while machine.is_running()? {
            ensure!(
                started.elapsed() < TIME_LIMIT,
                "the machine did not end in time:\n{}\n{}",
                said(),
                machine.log()
            );
            std::thread::sleep(GLANCE);
        }
        drop(tpm);
        Ok(format!("{}{}", said(), machine.log()))
    }
}

fn start_tpm(state: &Path, folder: &Path) -> anyhow::Result<(Process, PathBuf)> {
    let socket = folder.join("tpm.ctrl");
    let mut swtpm = command("swtpm");
    swtpm
        .args(["socket", "--tpm2", "--terminate", "--flags", "startup-clear", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", socket.display()));
    let mut process = Process::start("swtpm", swtpm, folder)?;
    process.wait_for_path(&socket)?;
    Ok((process, socket))
}
