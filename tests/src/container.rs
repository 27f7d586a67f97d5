//! A machine with a real service manager: a Debian tree booted by systemd-nspawn, with an overlay in memory.
//!
//! The tree (`tests/trees/make`) is never changed. The machine has its own mounts, processes and control groups, and shares
//! the network with this one, so that what listens on loopback here is reached from it. Dropping it ends every process in it.
//! It is NOT a virtual machine: the kernel is this machine's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::process::{Process, command};
use crate::stack::skip;

/// How long a boot may take, and one command in the machine.
const TIME_LIMIT: Duration = Duration::from_secs(90);
/// Pause between two looks.
const GLANCE: Duration = Duration::from_millis(20);

/// A Debian release whose tree tests boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// Debian 12: systemd 252.
    Bookworm,
    /// Debian 13: systemd 257, Podman 5.
    Trixie,
}

impl Tree {
    /// The folder of the tree, which `tests/trees/make` makes.
    #[must_use]
    pub fn folder(self) -> PathBuf {
        let name = match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/trees").join(name)
    }

    /// Whether this machine can boot the tree (root, the tree, systemd-nspawn); tells why not.
    #[must_use]
    pub fn boots_here(self) -> bool {
        let root = rustix::process::geteuid().is_root();
        let tree = self.folder().is_dir();
        let nspawn = command("systemd-nspawn").arg("--version").output().is_ok();
        if !(root && tree && nspawn) {
            skip(&format!(
                "booting {self:?} needs root (here: {root}), the tree that tests/trees/make makes (here: {tree}) and \
                 systemd-nspawn (here: {nspawn})"
            ));
        }
        root && tree && nspawn
    }
}

/// What a machine has beyond its tree.
#[derive(Debug)]
pub struct Setup {
    tree: Tree,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Setup {
    /// A machine with nothing beyond the tree.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new(tree: Tree) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("container-").tempdir()?;
        std::fs::create_dir(folder.path().join("root"))?;
        Ok(Self { tree, folder, arguments: Vec::new() })
    }

    /// Puts a file with this content and mode at `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> anyhow::Result<Self> {
        let target = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().context("a file has a folder")?)?;
        std::fs::write(&target, content).with_context(|| format!("writing {path}"))?;
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode))?;
        Ok(self)
    }

    /// Puts a symbolic link to `target` at `path`.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn link(self, path: &str, target: &str) -> anyhow::Result<Self> {
        let link = self.root().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(link.parent().context("a link has a folder")?)?;
        std::os::unix::fs::symlink(target, &link).with_context(|| format!("linking {path}"))?;
        Ok(self)
    }

    /// Lays a tree of files over that of the machine.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn tree(self, tree: &Path) -> anyhow::Result<Self> {
        let out = command("cp").arg("-a").arg(tree.join(".")).arg(self.root()).output()?;
        ensure!(out.status.success(), "copying {}: {}", tree.display(), String::from_utf8_lossy(&out.stderr));
        Ok(self)
    }

    /// Shows a file or folder of this machine at `path`.
    #[must_use]
    pub fn bind(mut self, source: &Path, path: &str) -> Self {
        self.arguments.push(format!("--bind={}:{path}", source.display()));
        self
    }

    /// Shows a file or folder of this machine at `path`, read-only.
    #[must_use]
    pub fn bind_read_only(mut self, source: &Path, path: &str) -> Self {
        self.arguments.push(format!("--bind-ro={}:{path}", source.display()));
        self
    }

    /// Allows what containers inside of the machine need: all capabilities but that of loading kernel modules, and the system
    /// calls of keyrings, mounts and Landlock.
    #[must_use]
    pub fn with_containers(mut self) -> Self {
        self.arguments.push("--capability=all".to_owned());
        self.arguments.push("--drop-capability=CAP_SYS_MODULE".to_owned());
        self.arguments.push("--system-call-filter=@keyring bpf @mount @privileged landlock_create_ruleset landlock_add_rule landlock_restrict_self".to_owned());
        self
    }

    /// Boots it, and waits until its service manager has nothing left to start.
    ///
    /// # Errors
    /// It does not come up; its console is in the error.
    pub fn boot(self) -> anyhow::Result<Container> {
        let name = unique_name();
        let process = Process::start("console", self.enter(&name, &["--boot"])?, self.folder.path())?;
        let leader = leader(&process, &name)?;
        let container = Container { leader, process, _folder: self.folder };
        container.wait_until_started()?;
        Ok(container)
    }

    /// Runs one command in the machine without booting it; its output.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut enter = self.enter(&unique_name(), &["--as-pid2", "--", "timeout"])?;
        enter.arg(TIME_LIMIT.as_secs().to_string()).args(arguments);
        enter.output().context("running a command in a tree")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn enter(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        let tree =
            self.tree.folder().canonicalize().context("the tree is not there; see tests/trees/make")?;
        // It ends with the test, whatever becomes of that.
        let mut enter = command("setpriv");
        enter.arg("--pdeathsig=KILL").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("trees/enter"));
        enter.arg(tree).arg(self.root()).arg(name).args(&self.arguments).args(arguments);
        Ok(enter)
    }
}

/// A booted machine.
#[derive(Debug)]
pub struct Container {
    /// Its first process, as this machine numbers it.
    leader: Pid,
    process: Process,
    // Dropped after the machine has ended.
    _folder: TempDir,
}

impl Container {
    /// Runs a command in the machine, as root and in no unit; its output.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut enter = command("timeout");
        enter.arg(TIME_LIMIT.as_secs().to_string());
        enter.args(["nsenter", "--all", "--root", "--wd=/", "--target"]);
        enter.arg(self.leader.as_raw_nonzero().to_string()).arg("--").args(arguments);
        // The variables of this machine mean nothing there.
        enter.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin");
        enter.output().with_context(|| format!("running {arguments:?} in the machine"))
    }

    /// Runs a command that has to succeed; its standard output.
    ///
    /// # Errors
    /// It fails; what it said on standard error is in the error.
    pub fn must(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let out = self.run(arguments)?;
        let (said, error) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "{arguments:?}: {}: {said}{error}", out.status);
        Ok(said.into_owned())
    }

    /// What the HTTP server on this port of the loopback answers to an application without any right: head and body.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn ask(&self, port: u16, path: &str) -> anyhow::Result<String> {
        let request = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3"
        );
        let application = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"];
        self.must(&[&application[..], &[&request]].concat())
    }

    /// What the journal has of `unit`, oldest first, without times.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn journal(&self, unit: &str) -> anyhow::Result<String> {
        // What was logged a moment ago may still be on its way.
        self.must(&["journalctl", "--sync"])?;
        self.must(&["journalctl", "--unit", unit, "--output=cat", "--no-pager"])
    }

    /// The first process of the machine, as this machine numbers it.
    #[must_use]
    pub fn leader(&self) -> u32 {
        self.leader.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until `done` says so.
    ///
    /// # Errors
    /// It does not in time, or fails.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn wait_for(&self, what: &str, mut done: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let start = Instant::now();
        while !done()? {
            if start.elapsed() > TIME_LIMIT {
                let journal = self.must(&["journalctl", "--output=short-monotonic", "--no-pager"])?;
                bail!("{what} did not come in time; the journal:\n{journal}");
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    fn wait_until_started(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            // While the service manager is not there yet, asking it fails.
            let out = self.run(&["systemctl", "is-system-running", "--wait"])?;
            let state = String::from_utf8_lossy(&out.stdout).trim().to_owned();
            match state.as_str() {
                "running" => return Ok(()),
                "degraded" => {
                    let failed = self.must(&["systemctl", "list-units", "--failed", "--no-legend"])?;
                    // A unit that failed and was started again since is in the journal alone.
                    let journal = self.must(&["journalctl", "--output=short-monotonic", "--no-pager"])?;
                    bail!("units failed at boot:\n{failed}\n{}\n{journal}", self.process.log());
                }
                _ if start.elapsed() > TIME_LIMIT => bail!("it is {state}:\n{}", self.process.log()),
                _ => pause(),
            }
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Nothing in it has to end in order. The supervisor then tidies up and ends by itself.
        let _ = kill_process(self.leader, Signal::KILL);
        let _ = self.process.wait();
    }
}

/// The first process of the machine `name`: systemd-nspawn puts it into a group of that name.
fn leader(supervisor: &Process, name: &str) -> anyhow::Result<Pid> {
    // The groups as the supervisor sees them: this machine may have none of version 2.
    let group =
        format!("/proc/{}/root/sys/fs/cgroup/{name}/payload/init.scope/cgroup.procs", supervisor.pid());
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(&group).unwrap_or_default();
        let first = text.lines().next().and_then(|line| line.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = first {
            return Ok(pid);
        }
        ensure!(start.elapsed() < TIME_LIMIT, "the machine did not start:\n{}", supervisor.log());
        pause();
    }
}

#[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
fn pause() {
    std::thread::sleep(GLANCE);
}

fn unique_name() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}
