//! A program that is run to its end under observation: its time, its memory, and what it says of its stages.

use std::{
    fs,
    io::{Read as _, Seek as _},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Pause between two looks at the memory of a program.
const GLANCE: Duration = Duration::from_millis(10);
/// How long a pull may take: then it is killed.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// One pull.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// From start to end of the program or programs.
    pub time: Duration,
    /// The most resident memory in bytes, where it was looked at.
    pub peak: Option<u64>,
    /// What each stage took, where that is told.
    pub stages: Vec<Stage>,
}

/// What one stage took.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Seconds on the clock, without waiting for other stages.
    pub seconds: f64,
    /// Of that on a processor.
    pub processor_seconds: f64,
}

impl Pull {
    /// One that took so long, of which nothing else is known.
    pub(super) fn timed(time: Duration) -> Self {
        Self { time, ..Self::default() }
    }
}

/// Runs a program to its end, which is killed if that does not come, and looks at its memory on the way.
#[allow(clippy::disallowed_methods, reason = "a measurement waits for another process")]
pub(super) fn watched(program: &mut Command) -> anyhow::Result<Pull> {
    let (mut said, mut complained) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let start = Instant::now();
    let mut child = program
        .stdin(Stdio::null())
        .stdout(Stdio::from(said.try_clone()?))
        .stderr(Stdio::from(complained.try_clone()?))
        .spawn()
        .with_context(|| format!("starting {program:?}"))?;
    let mut peak = 0;
    let status = loop {
        // It is gone once the program has ended.
        peak = peak.max(memory(child.id(), "VmHWM").unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > TIME_LIMIT {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("{program:?} did not end within {} s", TIME_LIMIT.as_secs());
        }
        std::thread::sleep(GLANCE);
    };
    let time = start.elapsed();
    let mut text = [String::new(), String::new()];
    for (file, text) in [&mut said, &mut complained].into_iter().zip(&mut text) {
        file.rewind()?;
        file.read_to_string(text)?;
    }
    let [said, complained] = text;
    ensure!(status.success(), "{program:?}: {complained}");
    Ok(Pull { time, peak: Some(peak), stages: stages(&said).unwrap_or_default() })
}

/// The stages in the last line of JSON that `guestctl pull` has printed.
fn stages(said: &str) -> Option<Vec<Stage>> {
    let done: Value = serde_json::from_str(said.lines().last()?).ok()?;
    let stage = |(name, spent): (&String, &Value)| {
        let seconds = |member: &str| spent.get(member).and_then(Value::as_f64);
        Some(Stage {
            name: name.clone(),
            seconds: seconds("seconds")?,
            processor_seconds: seconds("processor_seconds")?,
        })
    };
    done.get("stages")?.as_object()?.iter().map(stage).collect()
}

/// `VmRSS` or `VmHWM` of a process, in bytes (proc_pid_status(5)).
pub(super) fn memory(pid: u32, name: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: u64 = line.context("no such line")?.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Has `VmHWM` of a process begin anew (proc_pid_clear_refs(5)).
pub(super) fn forget_peak(pid: u32) -> anyhow::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("resetting the peak of {pid}"))
}
