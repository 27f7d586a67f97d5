//! What happens after a file has changed: a unit is reloaded, its main process gets a signal, or a program runs.
//!
//! The service manager is asked by its own tool, systemctl(1), which is there where it is. No shell is involved, the program
//! gets no environment but `PATH` and no input, and it is ended with its process group when it takes too long.

use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;

/// The service manager's tool.
const SYSTEMCTL: &str = "/usr/bin/systemctl";
/// How long a hook may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Where programs that a hook starts look for others.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "HookConfig")]
pub(super) enum Hook {
    /// Reloads the unit, or restarts it if it cannot be reloaded; nothing if it does not run.
    Reload(String),
    /// Sends a signal to the main process of a unit.
    Signal { unit: String, signal: String },
    /// Runs a program.
    Command(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HookConfig {
    reload: Option<String>,
    unit: Option<String>,
    signal: Option<String>,
    command: Option<Vec<String>>,
}

impl TryFrom<HookConfig> for Hook {
    type Error = String;

    fn try_from(hook: HookConfig) -> Result<Self, String> {
        // What begins with a dash would be an option.
        let plain = |text: &String| text.bytes().all(|b| b.is_ascii_graphic()) && !text.starts_with('-');
        let is_unit = |unit: &String| plain(unit) && unit.contains('.') && !unit.contains('/');
        match hook {
            HookConfig { reload: Some(unit), unit: None, signal: None, command: None } if is_unit(&unit) => {
                Ok(Self::Reload(unit))
            }
            HookConfig { reload: None, unit: Some(unit), signal: Some(signal), command: None }
                if is_unit(&unit) && signal.starts_with("SIG") && plain(&signal) =>
            {
                Ok(Self::Signal { unit, signal })
            }
            HookConfig { reload: None, unit: None, signal: None, command: Some(command) }
                if command.first().is_some_and(|program| program.starts_with('/')) =>
            {
                Ok(Self::Command(command))
            }
            _ => Err("on_change is one of { reload = \"x.service\" }, { unit = \"x.service\", signal = \"SIGHUP\" } and \
                      { command = [\"/absolute/path\", \"argument\"] }"
                .to_owned()),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reload(unit) => write!(f, "reloading {unit}"),
            Self::Signal { unit, signal } => write!(f, "sending {signal} to {unit}"),
            Self::Command(command) => write!(f, "running {}", command.first().map_or("", String::as_str)),
        }
    }
}

impl Hook {
    /// Runs it to its end, for at most 30 seconds; why it failed.
    pub(super) async fn run(&self) -> Result<(), String> {
        let hook = self.clone();
        let ended = tokio::task::spawn_blocking(move || hook.run_for(TIME_LIMIT)).await;
        ended.unwrap_or_else(|e| Err(e.to_string()))
    }

    fn run_for(&self, time_limit: Duration) -> Result<(), String> {
        let arguments = match self {
            Self::Reload(unit) => vec![SYSTEMCTL, "try-reload-or-restart", "--", unit],
            // A unit that does not run, or is only starting, reads the new file by itself; a signal before it has a handler
            // would end it.
            Self::Signal { unit, .. }
                if !run(&[SYSTEMCTL, "is-active", "--quiet", "--", unit], time_limit)?.success() =>
            {
                return Ok(());
            }
            Self::Signal { unit, signal } => {
                vec![SYSTEMCTL, "kill", "--kill-who=main", "--signal", signal, "--", unit]
            }
            Self::Command(command) => command.iter().map(String::as_str).collect(),
        };
        let status = run(&arguments, time_limit)?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    }
}

/// Runs a program to its end, which is made to come after the time limit; how it ended by itself.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place of this daemon that starts programs: configured ones"
)]
fn run(arguments: &[&str], time_limit: Duration) -> Result<ExitStatus, String> {
    let (program, arguments) = arguments.split_first().ok_or("no program")?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // What a program of others says may hold what it read; the tool's own words go to the hub's log.
        .stderr(if *program == SYSTEMCTL { Stdio::inherit() } else { Stdio::null() })
        .process_group(0)
        .spawn()
        .map_err(|e| format!("starting {program}: {e}"))?;
    let ended = ends_within(&child, time_limit);
    if !matches!(ended, Ok(true)) {
        // It has not been waited for, so the group still is its own.
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
    let status = child.wait().map_err(|e| format!("waiting for {program}: {e}"))?;
    match ended {
        Ok(true) => Ok(status),
        Ok(false) => Err(format!("it took longer than {} s and was ended", time_limit.as_secs())),
        Err(e) => Err(format!("waiting for {program}: {e}")),
    }
}

/// Whether the process ends by itself within the time: its descriptor becomes readable when it does (pidfd_open(2)).
fn ends_within(child: &Child, time_limit: Duration) -> rustix::io::Result<bool> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let start = Instant::now();
    loop {
        let left = time_limit.saturating_sub(start.elapsed());
        let time = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&time)) {
            Err(Errno::INTR) => {}
            other => return other.map(|ready| ready > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Table {
        on_change: Hook,
    }

    fn hook(text: &str) -> Result<Hook, toml::de::Error> {
        toml::from_str::<Table>(&format!("on_change = {text}")).map(|table| table.on_change)
    }

    #[test]
    fn a_hook_is_exactly_one_thing() {
        assert_eq!(hook("{ reload = \"a.service\" }").unwrap(), Hook::Reload("a.service".to_owned()));
        assert!(matches!(
            hook("{ unit = \"a.service\", signal = \"SIGHUP\" }").unwrap(),
            Hook::Signal { .. }
        ));
        assert!(matches!(hook("{ command = [\"/bin/true\", \"-x\"] }").unwrap(), Hook::Command(_)));
        for bad in [
            "{}",
            "{ reload = \"--all.service\" }",
            "{ reload = \"a\" }",
            "{ reload = \"a b.service\" }",
            "{ reload = \"a.service\", command = [\"/bin/true\"] }",
            "{ signal = \"SIGHUP\" }",
            "{ unit = \"a.service\", signal = \"HUP\" }",
            "{ command = [\"true\"] }",
            "{ command = [] }",
            "{ restart = \"a.service\" }",
        ] {
            assert!(hook(bad).is_err(), "{bad}");
        }
    }

    fn command(arguments: &[&str]) -> Hook {
        Hook::Command(arguments.iter().map(|argument| (*argument).to_owned()).collect())
    }

    #[tokio::test]
    async fn programs_run_without_our_environment_and_not_for_long() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script = format!("env >{}", out.display());
        command(&["/bin/sh", "-c", &script]).run().await.unwrap();
        let environment = std::fs::read_to_string(&out).unwrap();
        assert!(environment.contains("PATH=") && !environment.contains("CARGO"), "{environment}");
        assert!(command(&["/bin/false"]).run().await.unwrap_err().contains("exit status: 1"));
        assert!(command(&["/nonexistent"]).run().await.unwrap_err().contains("starting"));
        // The program that it starts is ended as well.
        let pid = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! >{}; wait", pid.display());
        let late = command(&["/bin/sh", "-c", &script]).run_for(Duration::from_secs(4)).unwrap_err();
        assert!(late.contains("longer than"), "{late}");
        let sleeper = std::fs::read_to_string(&pid).unwrap();
        let status = format!("/proc/{}/stat", sleeper.trim());
        let start = Instant::now();
        // It may lie there as a zombie where nobody collects orphans.
        while std::fs::read_to_string(&status).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(start.elapsed() < Duration::from_secs(10), "it runs on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
