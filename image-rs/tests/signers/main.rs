//! Signatures that real programs made: `gpg`, and `skopeo` with OpenPGP and Sigstore keys into a real registry.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start programs, wait for them, and say what they skip"
)]

mod gnupg;
#[path = "../policy/registry.rs"]
#[allow(dead_code, reason = "this test uses only part of it")]
mod registry;
mod skopeo;

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

/// Whether all of `programs` are installed; where nothing may be skipped, they must be.
fn installed(programs: &[&str]) -> bool {
    let found = |program: &&&str| {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    let missing: Vec<_> = programs.iter().filter(|program| !found(program)).collect();
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "missing: {missing:?}");
    if !missing.is_empty() {
        eprintln!("skipped: needs {missing:?}");
    }
    missing.is_empty()
}

/// Runs `command` with `input`; gives its output.
fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Writes the smallest image into `folder` as `skopeo` reads it (`dir:`).
fn write_image(folder: &Path) {
    let layer = vec![0; 1024];
    let digest = registry::sha256(&layer);
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": [digest.to_string()]},
    });
    let config = config.to_string().into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| {
        std::fs::write(folder.join(registry::sha256(bytes).hex()), bytes).unwrap();
        serde_json::json!({"mediaType": kind, "digest": registry::sha256(bytes).to_string(), "size": bytes.len()})
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
}
