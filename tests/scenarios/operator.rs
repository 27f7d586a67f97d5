//! The operator's tool against the running stack.

use cc_tests::machine::Machine;
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Part, Stack, address};

use crate::{REST_PATH, SECRET, stack};

pub(crate) fn guestctl(stack: &Stack, arguments: &[&str]) -> (Option<i32>, String, String) {
    let aa = address(&stack.agent_socket());
    let cdh = address(&stack.hub_socket());
    let rest = stack.rest_url().trim_start_matches("http://").to_owned();
    let mut command = own_binary("guestctl").unwrap();
    command.args(arguments);
    match arguments[0] {
        "get" => command.args(["--cdh", &cdh]),
        "doctor" => command.args(["--aa", &aa, "--cdh", &cdh, "--rest", &rest]),
        "token" | "evidence" => command.args(["--aa", &aa]),
        _ => &mut command,
    };
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn guestctl_shows_the_machine_and_fetches_the_secret() {
    let Some(mut stack) = stack(Options::default()) else { return };
    let (status, out, error) = guestctl(&stack, &["get", "default/key/1"]);
    assert_eq!((status, out.as_bytes()), (Some(0), SECRET), "{error}");
    let (status, out, error) = guestctl(&stack, &["evidence", "--report-data", &"ab".repeat(48)]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains(&Machine::default().measurement[..32]), "{out}");
    let (status, out, error) = guestctl(&stack, &["token"]);
    assert_eq!(status, Some(0), "{error}");
    assert!(out.contains("affirming"), "{out}");
    assert!(!out.contains("eyJ"), "the token itself stays away from the terminal: {out}");
    let (status, out, error) = guestctl(&stack, &["doctor", "--json"]);
    assert_eq!(status, Some(0), "{out}{error}");
    serde_json::from_str::<serde_json::Value>(&out).unwrap();

    // A denial: exit code 3, and doctor remembers it.
    stack.stop_part(Part::Hub).unwrap();
    stack.set_machine(&Machine { measurement: "66".repeat(48), ..Machine::default() }).unwrap();
    stack.start_part(Part::Hub).unwrap();
    assert_eq!(stack.rest_get(REST_PATH).unwrap().status, 403);
    let (status, _, error) = guestctl(&stack, &["get", "default/key/1"]);
    assert_eq!(status, Some(3), "{error}");
    let (_, out, _) = guestctl(&stack, &["doctor"]);
    assert!(out.contains("KBS_DENIED_POLICY"), "{out}");

    stack.stop_part(Part::Agent).unwrap();
    let (status, out, _) = guestctl(&stack, &["doctor"]);
    assert_eq!(status, Some(1), "{out}");
}

#[test]
fn guestctl_inspects_evidence_that_the_agent_gave() {
    let Some(stack) = stack(Options::default()) else { return };
    let (_, raw, error) = guestctl(&stack, &["evidence", "--raw", "--report-data", &"cd".repeat(48)]);
    let file = stack.folder().join("evidence.json");
    std::fs::write(&file, &raw).unwrap();
    let roots = stack.roots().display().to_string();
    let (status, out, error2) =
        guestctl(&stack, &["inspect", &file.display().to_string(), "--roots", &roots, "--json"]);
    assert_eq!(status, Some(0), "{error}{error2}");
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(value.to_string().contains(&Machine::default().measurement), "{out}");
}
