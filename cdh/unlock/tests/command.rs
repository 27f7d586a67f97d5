//! The program as scripts call it, as far as it goes on a machine that was not booted for it: exit statuses, and what is said where.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests fail loudly")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_initrd-unlock"))
        .env_clear()
        .arg("--config")
        .arg(config)
        .args(arguments)
        .output()
        .unwrap()
}

fn configuration(root: &str) -> String {
    let certificate = rcgen::generate_simple_self_signed(vec!["kbs".to_owned()]).unwrap().cert.pem();
    format!(
        "root = {root:?}\ntimeout = 5\n[kbs]\nurl = \"https://192.0.2.7:8080\"\ncertificate = '''{certificate}'''\n\
         [[volumes]]\nname = \"no-such-volume\"\nuuid = \"6a2d7e1c-93f4-4a55-8f70-1d3b2c5e9a10\"\nkey = \"kbs:///a/b/c\"\n"
    )
}

#[test]
fn each_kind_of_failure_has_its_status_and_is_told_to_people_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unlock.toml");
    std::fs::write(&file, configuration("/dev/vda1")).unwrap();
    let bad = folder.path().join("bad.toml");
    std::fs::copy(&file, &bad).unwrap();
    // No machine that runs tests was booted with this.
    std::fs::write(&file, configuration("/dev/mapper/no-such-volume")).unwrap();
    for (config, arguments, status, code) in [
        (&folder.path().join("absent"), &[][..], 1, "INPUT_UNREADABLE"),
        (&bad, &[], 2, "UNLOCK_CONFIG_INVALID"),
        (&file, &["other"], 2, "VOLUME_UNKNOWN"),
        (&file, &[], 3, "KERNEL_COMMAND_LINE_REFUSED"),
    ] {
        let output = run(config, arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{told}");
        assert!(told.contains(&format!("[{code}]\nhint: ")) && told.starts_with("initrd-unlock: "), "{told}");
        assert!(output.stdout.is_empty());

        let output = run(config, &[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(status));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["error"]["code"], code);
    }
}

/// On a machine that was not booted with this configuration, too, it can be tried.
#[test]
fn a_dry_run_goes_past_what_would_stop_a_boot() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("unlock.toml");
    std::fs::write(&file, configuration("/dev/mapper/no-such-volume")).unwrap();
    let output = run(&file, &["--dry-run"]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{told}");
    let (warning, end) = told.split_once("initrd-unlock: the volume no-such-volume stays closed").unwrap();
    assert!(warning.contains("KERNEL_COMMAND_LINE_REFUSED"), "{told}");
    assert!(end.contains("[VOLUME_DISK_MISSING]"), "{told}");
}

#[test]
fn help_and_version_are_no_failures() {
    for argument in ["--help", "--version"] {
        let output = run(Path::new("/absent"), &[argument]);
        assert!(output.status.success() && !output.stdout.is_empty(), "{argument}");
    }
}
