//! A program that shares no line with ours proves the emulator's reports, the binding, and the JWE.

use cc_tests::process::{binary_folder, command};
use cc_tests::stack::Options;

use crate::stack;

#[test]
fn an_independent_program_agrees_on_report_binding_and_jwe() {
    let Some(stack) = stack(Options::default()) else { return };
    // The administrator's token, out of the header line that curl uses.
    let header = std::fs::read_to_string(stack.admin_headers()).unwrap();
    let token = stack.folder().join("admin-token");
    std::fs::write(&token, header.trim().trim_start_matches("Authorization: Bearer ")).unwrap();
    let opener = binary_folder().unwrap().join("jwe-open");
    // The distribution's Python, for which the distribution's packages are.
    let out = command("/usr/bin/python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/independent/check.py"))
        .args(["--kbs", stack.kbs_url(), "--ca"])
        .arg(stack.kbs_certificate())
        .arg("--tsm-report-dir")
        .arg(stack.tsm_report())
        .arg("--roots")
        .arg(stack.roots())
        .arg("--admin-token-file")
        .arg(&token)
        .arg("--open-command")
        .arg(&opener)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{text}");
    for part in ["report: ECDSA", "chain: RSA-PSS", "binding:", "resource: opened", "opener: opens"] {
        let checked = |line: &str| line.starts_with("ok: ") && line.contains(part);
        assert!(text.lines().any(checked), "nothing about the {part} was checked:\n{text}");
    }
}
