//! The hub's access table: who gets which secret.

use std::path::Path;

use cc_tests::process::{binary_folder, command, own_binary};
use cc_tests::stack::{Options, Part, Stack, address};

use crate::sealed::independent;
use crate::{RESOURCE, REST_PATH, SECRET, code, stack};

/// A user with no rights.
const NOBODY: &str = "65534";

fn options(access: &str) -> Options {
    let hub_config = format!("socket_options = {{ mode = \"0666\" }}\naccess = {access}");
    Options { hub_config, ..Options::default() }
}

/// `guestctl get` as a user: exit code, standard output, standard error.
fn get(stack: &Stack, user: Option<&str>, uri: &str) -> (Option<i32>, Vec<u8>, String) {
    let mut command = match user {
        None => own_binary("guestctl").unwrap(),
        Some(user) => {
            let mut command = command("/usr/bin/setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
            command.arg(binary_folder().unwrap().join("guestctl"));
            command
        }
    };
    let out = command.args(["get", uri, "--cdh", &address(&stack.hub_socket())]).output().unwrap();
    (out.status.code(), out.stdout, String::from_utf8(out.stderr).unwrap())
}

/// Lets other users through the folders above the socket and to the program.
fn open_way(stack: &Stack) {
    use std::os::unix::fs::PermissionsExt;
    for folder in [stack.folder(), stack.hub_socket().parent().unwrap_or_else(|| Path::new("/"))] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_rule_gives_a_secret_to_one_user_and_to_nobody_else() {
    let access = "{ rules = [{ uid = [65534], resources = [\"kbs:///default/key/*\"] }] }";
    let Some(mut stack) = stack(options(access)) else { return };
    stack.put_resource("default/other/1", b"open").unwrap();
    open_way(&stack);
    let uri = format!("kbs:///{RESOURCE}");
    let (exit, out, _) = get(&stack, Some(NOBODY), &uri);
    assert_eq!((exit, out.as_slice()), (Some(0), SECRET));
    for spelling in [uri.clone(), format!("kbs://elsewhere:1/{RESOURCE}"), format!("{uri}?version=1")] {
        let (exit, out, err) = get(&stack, None, &spelling);
        assert_eq!((exit, out.as_slice()), (Some(3), &b""[..]), "{spelling}: {err}");
        assert!(err.contains("[ACCESS_DENIED]") && err.contains("uid 0"), "{err}");
    }
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!(answer.status, 403, "local HTTP is nobody's: {}", answer.text());
    let (exit, out, _) = get(&stack, None, "kbs:///default/other/1");
    assert_eq!((exit, out.as_slice()), (Some(0), &b"open"[..]), "no rule claims it");
    let hub = stack.part(Part::Hub).unwrap();
    hub.wait_for_log("decision=given code=OK").unwrap();
    hub.wait_for_log("decision=refused code=ACCESS_DENIED").unwrap();
    assert!(!hub.log().contains(std::str::from_utf8(SECRET).unwrap()));
}

#[test]
fn strict_gives_nothing_that_no_rule_allows() {
    let access = "{ strict = true, rules = [{ local = true, resources = [\"kbs:///default/key/1\"] }] }";
    let Some(stack) = stack(options(access)) else { return };
    stack.put_resource("default/key/2", b"closed").unwrap();
    stack.put_resource("default/sealed-signing/team-a", independent(&["jwk"]).as_bytes()).unwrap();
    open_way(&stack);
    let answer = stack.rest_get(REST_PATH).unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (200, SECRET));
    let answer = stack.rest_get("/cdh/resource/default/key/2").unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    for user in [None, Some(NOBODY)] {
        let (exit, _, err) = get(&stack, user, "kbs:///default/key/2");
        assert_eq!(exit, Some(3), "{user:?}: {err}");
        let (exit, _, err) = get(&stack, user, &format!("kbs:///{RESOURCE}"));
        assert_eq!(exit, Some(3), "a rule for local HTTP is for nobody else: {user:?}: {err}");
    }
    assert_eq!(stack.quotes().unwrap(), 1, "refusals cost no attestation");
}

#[test]
fn a_refusal_over_http_says_so_in_json() {
    let access = "{ strict = true }";
    let Some(stack) = stack(options(access)) else { return };
    let url = format!("{}{REST_PATH}", stack.rest_url());
    let out = command("curl").args(["-s", "-H", "Accept: application/json", &url]).output().unwrap();
    assert_eq!(code(&out.stdout), "ACCESS_DENIED");
    assert_eq!(stack.quotes().unwrap(), 0);
}
