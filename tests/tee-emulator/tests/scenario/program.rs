//! The program itself: start, change of the machine, a hang, signals, and recovery from a killed emulator.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cc_evidence::snp::SnpEvidence;
use cc_platform::{ReportData, detect};
use rustix::process::{Pid, Signal, kill_process};

use crate::platform::{eventually, options};
use crate::room::{REPORT, can_mount, list};

/// A running emulator.
struct Program {
    child: Child,
    root: PathBuf,
}

impl Program {
    fn start(root: &Path) -> Self {
        fs::write(root.join("machine.toml"), "").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tee-emulator"))
            .args(["--mount".as_ref(), root.join(REPORT).as_os_str()])
            .args(["--machine".as_ref(), root.join("machine.toml").as_os_str()])
            .args(["--roots-out".as_ref(), root.join("roots.pem").as_os_str()])
            .args(["--stats".as_ref(), root.join("stats.json").as_os_str()])
            .args(["--generation-time-ms", "1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&ready["ready"], &ready["tee"]), (&true.into(), &"snp".into()));
        Self { child, root: root.to_owned() }
    }

    fn machine(&self, text: &str) {
        let aside = self.root.join("machine.new");
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.root.join("machine.toml")).unwrap();
    }

    fn stats(&self) -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(self.root.join("stats.json")).unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.signal(Signal::TERM);
            self.child.wait().unwrap();
        }
    }
}

fn is_mounted(root: &Path) -> bool {
    let point = root.join(REPORT);
    fs::read_to_string("/proc/self/mounts").unwrap().contains(point.to_str().unwrap())
}

#[test]
fn a_hang_ends_in_a_timeout_then_refusals_then_recovery() {
    if !can_mount() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut program = Program::start(root.path());
    let platform = detect(&options(root.path(), Duration::from_secs(3))).unwrap().primary;
    let data = ReportData::new(&[1; 64]).unwrap();
    platform.evidence(&data).unwrap();

    program.machine("fault = \"hang\"");
    let error = platform.evidence(&data).unwrap_err();
    assert_eq!(error.code(), "TSM_TIMEOUT", "{error}");
    for _ in 0..3 {
        assert_eq!(platform.evidence(&data).unwrap_err().code(), "TSM_STUCK");
    }
    assert_eq!(list(&root.path().join(REPORT)).len(), 1, "one stuck request, no pile");

    program.machine("guest_svn = 7");
    let mut evidence = String::new();
    eventually("served again", || platform.evidence(&data).map(|json| evidence = json).is_ok());
    assert_eq!(
        SnpEvidence::from_json(&evidence).unwrap().report.guest_svn,
        7,
        "the machine file was read again"
    );
    assert!(list(&root.path().join(REPORT)).is_empty(), "the stuck request has removed its directory too");
    assert_eq!(program.stats(), serde_json::json!({"quotes": 3, "entries_open": 0}));

    // A hang while the emulator ends: the client gets an error, nothing stays mounted.
    program.machine("fault = \"hang\"");
    assert_eq!(platform.evidence(&data).unwrap_err().code(), "TSM_TIMEOUT");
    program.signal(Signal::TERM);
    assert!(program.child.wait().unwrap().success());
    assert!(!is_mounted(root.path()));
    eventually("the stuck thread has come back", || {
        platform.evidence(&data).unwrap_err().code() != "TSM_STUCK"
    });
}

#[test]
fn signals_end_it_cleanly_and_a_killed_one_is_replaced() {
    if !can_mount() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut program = Program::start(root.path());
    assert!(is_mounted(root.path()));
    let pem = fs::read_to_string(root.path().join("roots.pem")).unwrap();
    assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----").count(), 2);
    program.signal(Signal::KILL);
    program.child.wait().unwrap();
    assert!(is_mounted(root.path()), "a killed emulator leaves its mount");
    assert!(fs::metadata(root.path().join(REPORT)).is_err());

    let mut next = Program::start(root.path());
    assert!(list(&root.path().join(REPORT)).is_empty());
    assert_ne!(fs::read_to_string(root.path().join("roots.pem")).unwrap(), pem, "new roots at each start");
    next.signal(Signal::INT);
    assert!(next.child.wait().unwrap().success());
    assert!(!is_mounted(root.path()));
}

#[test]
fn the_printed_machine_file_is_complete() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_tee-emulator")).args(arguments).output().unwrap()
    };
    let printed = run(&["--print-machine"]);
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(text, tee_emulator::machine::EXAMPLE);
    assert!(!run(&[]).status.success(), "--mount is needed");
    let without_tdx = run(&["--mount", "/nowhere", "--collateral-out", "/nowhere"]);
    let error = String::from_utf8_lossy(&without_tdx.stderr).into_owned();
    assert!(!without_tdx.status.success() && error.contains("--collateral-out"), "{error}");
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("Example:") && help.contains("--print-machine"), "{help}");
}
