//! What `make demo` shows: to its end, with every release and every denial.

use cc_tests::process::own_binary;
use cc_tests::stack::emulator_runs_here;

#[test]
fn the_demo_shows_each_release_and_each_refusal_with_its_reason() {
    if !emulator_runs_here() {
        return;
    }
    let mut demo = own_binary("stack").unwrap();
    demo.args(["demo", "--rest-port", &cc_tests::port::claim().unwrap().to_string()]);
    let out = demo.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.ends_with("\ndemo: ok\n"), "{text}");
    let mut rest = text.as_str();
    for words in [
        "the horse is called battery staple",
        "[KBS_DENIED_POLICY]",
        "[KBS_DENIED_ATTESTATION]",
        "== a systemd credential",
        "RTMR3",
        "PCR 11",
        "nvidia.signature",
        "== a signed and encrypted image",
        "hello from inside",
        "== gate 1",
        "[IMAGE_UNSIGNED]",
        "== gate 2",
        "[KBS_DENIED_POLICY]",
        "== the host writes another header",
        "null-cipher",
    ] {
        let found =
            rest.find(words).unwrap_or_else(|| panic!("{words:?} is missing or out of order:\n{text}"));
        rest = rest.get(found + words.len()..).unwrap();
    }
}
