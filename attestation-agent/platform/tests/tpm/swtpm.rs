//! A software TPM of one test, and tpm2-tools talking to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cc_platform::tpm::{DEFAULT_AK_HANDLE, Device};
use tempfile::TempDir;

/// How long one operation may take in tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A running swtpm. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Swtpm {
    folder: TempDir,
    child: Child,
}

impl Swtpm {
    /// A fresh TPM that is started up; none, with a line that says so, where swtpm or tpm2-tools are not installed.
    pub(crate) fn start() -> Option<Self> {
        for program in ["swtpm", "tpm2_quote"] {
            let found =
                std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join(program).exists());
            if !found {
                println!("SKIPPED: {program} is not installed");
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::create_dir(path("state")).unwrap();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear"])
            .args(["--tpmstate", &format!("dir={}", path("state"))])
            .args(["--server", &format!("type=unixio,path={}", path("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", path("tpm.ctrl"))])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let swtpm = Self { folder, child };
        let begun = Instant::now();
        while Device::open(&swtpm.path(), LIMIT).is_err() {
            assert!(begun.elapsed() < LIMIT, "swtpm does not serve");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(swtpm)
    }

    /// With an RSA attestation key, as docs/tpm.md makes it, at the default handle.
    pub(crate) fn with_key() -> Option<Self> {
        let swtpm = Self::start()?;
        swtpm.tool("tpm2_createek -Q -G rsa -c ek.ctx");
        swtpm.tool("tpm2_createak -Q -C ek.ctx -G rsa -g sha256 -s rsassa -c ak.ctx");
        swtpm.tool("tpm2_flushcontext -t");
        swtpm.tool(&format!("tpm2_evictcontrol -Q -C o -c ak.ctx {DEFAULT_AK_HANDLE:#x}"));
        swtpm.tool("tpm2_flushcontext -t");
        Some(swtpm)
    }

    /// The socket with raw commands.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }

    /// Where the tools leave and look for files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The TPM as our client sees it.
    pub(crate) fn device(&self) -> Device {
        Device::open(&self.path(), LIMIT).unwrap()
    }

    /// Runs one of tpm2-tools, which has to succeed; its output.
    pub(crate) fn tool(&self, line: &str) -> String {
        let (ok, text) = self.try_tool(line);
        assert!(ok, "{line}: {text}");
        text
    }

    /// Runs one of tpm2-tools: whether it succeeded, and its output.
    pub(crate) fn try_tool(&self, line: &str) -> (bool, String) {
        let mut words = line.split_whitespace();
        let output = Command::new(words.next().unwrap())
            .args(words)
            .current_dir(self.folder())
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path().display()))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// Number of loaded objects and sessions.
    pub(crate) fn loaded(&self) -> usize {
        ["handles-transient", "handles-loaded-session", "handles-saved-session"]
            .iter()
            .map(|kind| {
                self.tool(&format!("tpm2_getcap {kind}")).lines().filter(|l| l.starts_with("- 0x")).count()
            })
            .sum()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
