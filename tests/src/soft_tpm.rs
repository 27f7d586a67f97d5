//! A real TPM 2.0 in software (swtpm), and tpm2-tools talking to it as an administrator does.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use crate::process::{Process, command};
use crate::stack::skip;

/// Where the attestation key is kept, as docs/tpm.md has it.
pub const AK_HANDLE: u32 = 0x8101_0002;

/// A running software TPM. Dropping it stops it.
#[derive(Debug)]
pub struct SoftTpm {
    process: Process,
    folder: PathBuf,
}

/// Whether swtpm and tpm2-tools are installed; tells which is not.
#[allow(clippy::disallowed_methods, reason = "a test looks for the programs that it needs")]
pub fn runs_here() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = ["swtpm", "tpm2_quote"]
        .into_iter()
        .find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).exists()));
    if let Some(program) = missing {
        skip(&format!("{program} is not installed"));
    }
    missing.is_none()
}

impl SoftTpm {
    /// A TPM whose state, sockets and files are in `folder`; a new one if the folder has no state yet. It is started up as
    /// firmware does, all PCRs are zero.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.join("state"))?;
        let socket = folder.join("tpm");
        let mut swtpm = command("swtpm");
        swtpm
            .args(["socket", "--tpm2", "--flags", "startup-clear"])
            .args(["--tpmstate", &format!("dir={}", folder.join("state").display())])
            .args(["--server", &format!("type=unixio,path={}", socket.display())])
            .args(["--ctrl", &format!("type=unixio,path={}.ctrl", socket.display())]);
        let mut process = Process::start("swtpm", swtpm, folder)?;
        process.wait_for_listener(&socket)?;
        Ok(Self { process, folder: folder.to_owned() })
    }

    /// Makes an attestation key with the commands of docs/tpm.md, for the kind of key given: `-G rsa -s rsassa`.
    ///
    /// # Errors
    /// A tool fails.
    pub fn make_key(&self, kind: &str) -> anyhow::Result<()> {
        self.tool("tpm2_createek -Q -G rsa -c ek.ctx")?;
        self.tool(&format!("tpm2_createak -Q -C ek.ctx {kind} -g sha256 -c ak.ctx"))?;
        self.tool("tpm2_flushcontext -t")?;
        self.tool(&format!("tpm2_evictcontrol -Q -C o -c ak.ctx {AK_HANDLE:#x}"))?;
        self.tool("tpm2_flushcontext -t")?;
        self.tool(&format!("tpm2_readpublic -Q -c {AK_HANDLE:#x} -f pem -o ak.pem"))?;
        Ok(())
    }

    /// Resets the machine: the PCRs are zero again, keys stay.
    ///
    /// # Errors
    /// It does not stop or start.
    pub fn reset(&mut self) -> anyhow::Result<()> {
        self.process.stop()?;
        for socket in ["tpm", "tpm.ctrl"] {
            // swtpm removes them itself when it ends in order.
            let _ = std::fs::remove_file(self.folder.join(socket));
        }
        *self = Self::start(&self.folder)?;
        Ok(())
    }

    /// The socket that carries raw commands.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("tpm")
    }

    /// Where the tools leave files and look for them; the attestation key is `ak.pem`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a tool, which has to succeed; its output.
    ///
    /// # Errors
    /// It fails; what it said is in the error.
    pub fn tool(&self, line: &str) -> anyhow::Result<String> {
        let (ok, text) = self.try_tool(line)?;
        ensure!(ok, "{line}: {text}");
        Ok(text)
    }

    /// Runs a tool: whether it succeeded, and its output.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_tool(&self, line: &str) -> anyhow::Result<(bool, String)> {
        let mut words = line.split_whitespace();
        let output = command(words.next().context("no tool is named")?)
            .args(words)
            .current_dir(&self.folder)
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.socket().display()))
            .output()
            .with_context(|| format!("starting {line}"))?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Number of objects and sessions that are loaded.
    ///
    /// # Errors
    /// The tool fails.
    pub fn loaded(&self) -> anyhow::Result<usize> {
        let mut count = 0;
        for kind in ["handles-transient", "handles-loaded-session", "handles-saved-session"] {
            count +=
                self.tool(&format!("tpm2_getcap {kind}"))?.lines().filter(|l| l.starts_with("- 0x")).count();
        }
        Ok(count)
    }

    /// The value of a PCR of the SHA-256 bank, in hex.
    ///
    /// # Errors
    /// The tool fails.
    pub fn pcr(&self, pcr: u32) -> anyhow::Result<String> {
        self.tool(&format!("tpm2_pcrread -Q sha256:{pcr} -o pcr"))?;
        Ok(hex::encode(std::fs::read(self.folder.join("pcr"))?))
    }
}
