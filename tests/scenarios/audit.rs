//! One line for every secret that is asked for, at every door, and no content in any.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cc_tests::process::{command, own_binary};
use cc_tests::stack::{Options, Part, Stack, address};

use crate::sealed::{independent, unseal, unwrap};
use crate::{RESOURCE, REST_PATH, SECRET, stack};

/// Where the public signing key is kept.
const SIGNER: &str = "default/sealed-signing/team-a";

/// Removes what it names when a test ends.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What it is, how its line begins and ends, and how it is asked for.
type Case<'a> = (&'a str, (String, String), Box<dyn Fn(&Stack) + 'a>);

fn lines(stack: &mut Stack) -> Vec<String> {
    let log = stack.part(Part::Hub).unwrap().log();
    let line = |line: &str| line.split_once(" audit: ").map(|(_, line)| line.to_owned());
    log.lines().filter_map(line).collect()
}

/// Does `ask`, and gives the lines it left: at least one, or the test ends.
fn after(stack: &mut Stack, ask: impl FnOnce(&Stack)) -> Vec<String> {
    let before = lines(stack).len();
    ask(stack);
    let start = Instant::now();
    while lines(stack).len() == before {
        assert!(start.elapsed() < Duration::from_secs(30), "no line came");
        std::thread::sleep(Duration::from_millis(10));
    }
    lines(stack).split_off(before)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn every_door_writes_one_line_for_each_ask() {
    let folder = PathBuf::from(format!("/dev/shm/audit-{}", std::process::id()));
    let credential =
        Cleanup(PathBuf::from(format!("/run/confidential-containers/cdh/kbs/audit-{}", std::process::id())));
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("credentials.sock");
    let hub_config = format!(
        "credential_socket = {:?}\n\
         credentials = [{{ path = {:?}, resource_uri = \"kbs:///{RESOURCE}\" }}]\n\
         files = [{{ path = {:?}, secret = \"kbs:///{RESOURCE}\", refresh_seconds = 1 }}]\n\
         unit_credentials = [{{ unit = \"db.service\", credential = \"pw\", secret = \"kbs:///{RESOURCE}\" }}]\n",
        address(&socket),
        credential.0,
        folder.join("key"),
    );
    let folder = Cleanup(folder);
    let Some(mut stack) = stack(Options { hub_config, ..Options::default() }) else { return };
    stack.put_resource(SIGNER, independent(&["jwk"]).as_bytes()).unwrap();
    // Files and credentials may have been asked for before the secret was there; they come all the same.
    stack.stop_part(Part::Hub).unwrap();
    assert!(!folder.0.join("key").exists(), "the file goes with the hub");
    stack.start_part(Part::Hub).unwrap();
    let start = Instant::now();
    while !(folder.0.join("key").exists() && credential.0.exists()) {
        assert!(start.elapsed() < Duration::from_secs(30), "{:#?}", lines(&mut stack));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(std::fs::read(folder.0.join("key")).unwrap(), SECRET);
    for door in ["file", "credentials"] {
        let given = format!(
            "door={door} uid=- unit=\"-\" container=\"-\" resource=\"kbs:///{RESOURCE}\" decision=given code=OK"
        );
        assert!(lines(&mut stack).contains(&given), "{:#?}", lines(&mut stack));
    }

    let uri = format!("kbs:///{RESOURCE}");
    let sealed = independent(&["vault", &format!("kbs:///{SIGNER}"), &uri]);
    let hub = stack.hub_socket();
    let given =
        |door: &str| (format!("door={door} uid=0 "), format!("resource={uri:?} decision=given code=OK"));
    let failed = |door: &str, resource: &str, code: &str| {
        (format!("door={door} uid=0 "), format!("resource={resource:?} decision=failed code={code}"))
    };
    let get = |uri: &str| {
        own_binary("guestctl").unwrap().args(["get", uri, "--cdh", &address(&hub)]).output().unwrap();
    };
    let cases: [Case<'_>; 7] = [
        ("a resource", given("get-resource"), Box::new(|_| get(&uri))),
        (
            "one that is not there",
            failed("get-resource", "kbs:///default/key/missing", "KBS_NOT_FOUND"),
            Box::new(|_| get("kbs://elsewhere/default/key/missing")),
        ),
        ("over HTTP", given("rest"), Box::new(|stack| drop(stack.rest_get(REST_PATH).unwrap()))),
        (
            "a sealed secret",
            given("unseal-secret"),
            Box::new(|_| assert_eq!(block_on(unseal(&hub, &sealed)).unwrap(), SECRET)),
        ),
        (
            "none",
            failed("unseal-secret", "?", "SEALED_MALFORMED"),
            Box::new(|_| drop(block_on(unseal(&hub, "sealed.x")).unwrap_err())),
        ),
        (
            "no image key",
            failed("unwrap-key", "?", "SEALED_MALFORMED"),
            Box::new(|_| drop(block_on(unwrap(&hub, "{}")).unwrap_err())),
        ),
        (
            "a credential of a unit in which the caller does not run",
            (
                "door=unit-credential uid=0 ".to_owned(),
                format!("resource={uri:?} decision=refused code=UNIT_UNPROVEN"),
            ),
            Box::new(|_| {
                let ask = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/doors/ask.py");
                let out = command("/usr/bin/python3")
                    .arg(ask)
                    .arg(&socket)
                    .args(["db.service", "pw"])
                    .output()
                    .unwrap();
                assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            }),
        ),
    ];
    for (what, (start, end), ask) in cases {
        let written = after(&mut stack, ask);
        let [line] = written.as_slice() else { panic!("{what}: {written:#?}") };
        assert!(line.starts_with(&start) && line.ends_with(&end), "{what}: {line}");
    }
    let log = stack.part(Part::Hub).unwrap().log();
    assert!(!log.contains(std::str::from_utf8(SECRET).unwrap()), "a secret in the log");
}
