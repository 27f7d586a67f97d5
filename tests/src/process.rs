//! One program started by a test: its log, its readiness, its end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a program may take to get ready, and to stop after SIGTERM: the emulator makes an RSA key of 4096 bits first,
/// which takes long where many others work.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two looks at a path or a process.
const GLANCE: Duration = Duration::from_millis(5);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The folder of the built binaries: beside the running test or demo.
///
/// # Errors
/// The running program's own path is not known.
pub fn binary_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding the running program")?;
    let folder = own.parent().context("the running program has no folder")?;
    // Test programs lie one level below the binaries, in `deps`.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

/// A command for one of our own binaries.
///
/// # Errors
/// It was not built.
pub fn own_binary(name: &str) -> anyhow::Result<Command> {
    let path = binary_folder()?.join(name);
    if !path.exists() {
        bail!("{} is not built: run `cargo build --workspace --bins` first", path.display());
    }
    Ok(command(path))
}

/// The same command in a mount namespace of its own, which goes with what it starts. The data hub refuses its children new ones, so that
/// whoever wants its mounts apart gives it one.
#[must_use]
pub fn with_own_mounts(inner: &Command) -> Command {
    let mut outer = command("unshare");
    outer.args(["--mount", "--propagation", "private"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// A command for any program.
#[allow(clippy::disallowed_methods, reason = "tests and demo start programs; daemons do not")]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}

impl Process {
    /// Starts `command`; standard error goes to `folder/<name>.log`, standard output with it.
    ///
    /// # Errors
    /// The log cannot be made or the program cannot be started.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let (log, file) = open_log(name, folder)?;
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Starts `command` and waits for the one line of JSON that it prints when it is ready.
    ///
    /// # Errors
    /// As [`Process::start`]; and the program ended or said nothing in time.
    pub fn start_announced(
        name: &str,
        mut command: Command,
        folder: &Path,
    ) -> anyhow::Result<(Self, serde_json::Value)> {
        let (log, file) = open_log(name, folder)?;
        command.stdout(Stdio::piped()).stderr(file);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let out = child.stdout.take().context("no standard output")?;
        let process = Self { name: name.to_owned(), child, log };
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(out);
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let _ = sender.send(line);
            // Keep reading, so that the program never meets a closed pipe.
            let _ = reader.read_to_end(&mut Vec::new());
        });
        let line = receiver.recv_timeout(TIME_LIMIT).unwrap_or_default();
        let value = serde_json::from_str(&line)
            .with_context(|| format!("{name} did not get ready; its log:\n{}", process.log()))?;
        Ok((process, value))
    }

    /// Waits until `path` exists.
    ///
    /// # Errors
    /// The program ended, or the path did not appear in time.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn wait_for_path(&mut self, path: &Path) -> anyhow::Result<()> {
        let start = Instant::now();
        while !path.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}; its log:\n{}", self.name, self.log());
            }
            if start.elapsed() > TIME_LIMIT {
                bail!("{} did not make {} in time; its log:\n{}", self.name, path.display(), self.log());
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Waits until somebody listens on the Unix socket `path`. A program that binds a socket in place makes the path before it
    /// listens, and whoever connects in between is refused. Nothing is connected: some serve one client only.
    ///
    /// # Errors
    /// As [`Process::wait_for_path`].
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn wait_for_listener(&mut self, path: &Path) -> anyhow::Result<()> {
        self.wait_for_path(path)?;
        // The kernel's flag of listening sockets, `__SO_ACCEPTCON` (include/linux/net.h), in proc_net_unix's column.
        let listens = |line: &str| {
            line.ends_with(&*path.to_string_lossy()) && line.split_whitespace().nth(3) == Some("00010000")
        };
        let start = Instant::now();
        while !std::fs::read_to_string("/proc/net/unix")?.lines().any(listens) {
            if start.elapsed() > TIME_LIMIT {
                bail!("{} does not listen on {}; its log:\n{}", self.name, path.display(), self.log());
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Waits until somebody listens on the loopback port.
    ///
    /// # Errors
    /// The program ended, or nobody listened in time.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn wait_for_port(&mut self, port: u16) -> anyhow::Result<()> {
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}; its log:\n{}", self.name, self.log());
            }
            if start.elapsed() > TIME_LIMIT {
                bail!("{} does not listen on port {port}; its log:\n{}", self.name, self.log());
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Whether the program has not ended yet.
    ///
    /// # Errors
    /// The system does not say.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program has logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the program has logged `words`: what a peer sees of an event may come before the line about it.
    ///
    /// # Errors
    /// The words do not come in time; the log is in the error.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn wait_for_log(&self, words: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        while !self.log().contains(words) {
            if start.elapsed() > TIME_LIMIT {
                bail!("{words:?} is not in the log of {}:\n{}", self.name, self.log());
            }
            std::thread::sleep(GLANCE);
        }
        Ok(())
    }

    /// Waits for the program to end by itself; its exit code, or `None` if a signal ended it.
    ///
    /// # Errors
    /// It does not end in time.
    #[allow(clippy::disallowed_methods, reason = "a test waits for another process")]
    pub fn wait(&mut self) -> anyhow::Result<Option<i32>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if start.elapsed() > TIME_LIMIT {
                bail!("{} did not end in time; its log:\n{}", self.name, self.log());
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// The program has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no such process")?;
        kill_process(pid, signal).with_context(|| format!("sending a signal to {}", self.name))
    }

    /// Asks the program to stop; its exit code.
    ///
    /// # Errors
    /// It does not stop in time, or a signal ended it.
    pub fn stop(&mut self) -> anyhow::Result<i32> {
        if let Some(status) = self.child.try_wait()? {
            return status.code().context("a signal ended it");
        }
        self.signal(Signal::TERM)?;
        self.wait()?.with_context(|| format!("a signal ended {}", self.name))
    }

    /// Resident memory of the program, in bytes (`VmRSS` of proc(5)).
    ///
    /// # Errors
    /// The program has ended.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that the program ever had, in bytes (`VmHWM`).
    ///
    /// # Errors
    /// The program has ended.
    pub fn peak_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix(name)).context(name.to_owned())?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Processor time the program has used, user and system.
    ///
    /// # Errors
    /// The program has ended.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name may hold anything but ends at the last parenthesis (proc(5)).
        let rest = stat.rsplit_once(')').context("malformed stat")?.1;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let user: u64 = fields.next().context("no utime")?.parse()?;
        let system: u64 = fields.next().context("no stime")?.parse()?;
        let ticks = rustix::param::clock_ticks_per_second();
        Ok(Duration::from_millis((user + system) * 1000 / ticks))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn open_log(name: &str, folder: &Path) -> anyhow::Result<(PathBuf, std::fs::File)> {
    let log = folder.join(format!("{name}.log"));
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("making the log {}", log.display()))?;
    Ok((log, file))
}
