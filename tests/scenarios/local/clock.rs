//! Wall clocks that are wrong: the guest's clock is the host's to choose.

use std::path::{Path, PathBuf};

use cc_tests::process::{Process, own_binary};
use cc_tests::stack::{Options, Stack, address};

use crate::{RESOURCE, SECRET, stack};

/// The library of the Debian package `faketime`.
pub(crate) fn faketime() -> Option<PathBuf> {
    let found = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|triple| Path::new("/usr/lib").join(triple).join("faketime/libfaketime.so.1"))
        .into_iter()
        .find(|path| path.exists());
    if found.is_none() {
        cc_tests::stack::skip("the package faketime is not installed");
    }
    found
}

/// A hub whose wall clock starts at `date`; its monotonic clock is untouched.
fn hub_at(stack: &Stack, library: &Path, date: &str, kbc: &str) -> (Process, PathBuf) {
    let name = format!("cdh-{}", &date[1..5]);
    let (config, socket) =
        (stack.folder().join(format!("{name}.toml")), stack.folder().join(format!("{name}.sock")));
    let text = format!(
        "socket = {:?}\n[kbc]\nname = \"cc_kbc\"\nurl = {:?}\n{kbc}[aa]\naa_socket = {:?}\n",
        address(&socket),
        stack.kbs_url(),
        address(&stack.agent_socket())
    );
    std::fs::write(&config, text).unwrap();
    let mut command = own_binary("confidential-data-hub").unwrap();
    command.arg("-c").arg(config).env("LD_PRELOAD", library).env("FAKETIME", date);
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("RUST_LOG", "info");
    let mut hub = Process::start(&name, command, stack.folder()).unwrap();
    hub.wait_for_path(&socket).unwrap();
    (hub, socket)
}

fn get(socket: &Path) -> std::process::Output {
    own_binary("guestctl")
        .unwrap()
        .args(["get", &format!("kbs:///{RESOURCE}"), "--cdh", &address(socket)])
        .output()
        .unwrap()
}

#[test]
fn a_key_brokers_certificate_out_of_its_time_is_refused_with_the_clock_named() {
    let Some(library) = faketime() else { return };
    let Some(stack) = stack(Options::default()) else { return };
    let certificate = std::fs::read_to_string(stack.kbs_certificate()).unwrap();
    // The development key broker's certificate has no end that a test could reach, but it has a beginning.
    for (date, year, refused) in
        [("@1970-01-02 00:00:00", "1970-01-02", true), ("@2099-12-31 00:00:00", "2099-12-31", false)]
    {
        let kbc = format!("kbs_cert = '''{certificate}'''\n");
        let (hub, socket) = hub_at(&stack, &library, date, &kbc);
        let out = get(&socket);
        // Only now: the socket may be seen before the first line of the log is.
        let log = hub.log();
        assert!(log.contains(year), "the clock is set: {log}");
        let error = String::from_utf8_lossy(&out.stderr);
        // A certificate has its life by the wall clock, and the reader is told where to look.
        if refused {
            assert!(out.stdout.is_empty() && !out.status.success(), "{date}: {error}");
            let sentence = "certificate not valid yet";
            assert!(error.contains(sentence) && error.contains("[KBS_TLS_UNTRUSTED]"), "{date}: {error}");
            assert!(error.contains("check the clock of this machine"), "{date}: {error}");
        } else {
            assert_eq!(out.stdout, SECRET, "{date}: {error}");
        }
        assert_eq!(get(&socket).status.code(), out.status.code(), "it goes on answering");
        assert!(!hub.log().contains("panicked"), "{}", hub.log());
    }
}

/// Over plain HTTP on loopback there is no certificate: what is left is our own use of the clock, and a token's
/// life is `exp − iat` on the monotonic clock.
#[test]
fn tokens_do_not_depend_on_the_wall_clock() {
    let Some(library) = faketime() else { return };
    let kbs_arguments = vec!["--insecure-http".to_owned()];
    let Some(stack) = stack(Options { kbs_arguments, ..Options::default() }) else { return };
    for date in ["@1970-01-02 00:00:00", "@2099-12-31 00:00:00"] {
        let (hub, socket) = hub_at(&stack, &library, date, "");
        for _ in 0..3 {
            let out = get(&socket);
            assert_eq!(out.stdout, SECRET, "{date}: {}\n{}", String::from_utf8_lossy(&out.stderr), hub.log());
        }
        assert_eq!(
            hub.log().matches("attested to the KBS").count(),
            1,
            "one token, neither dead nor immortal"
        );
    }
}
