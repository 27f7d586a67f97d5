//! `guestctl pull` beside umoci, on a Debian image that umoci and skopeo packed.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test fails loudly, starts programs and says what it skips"
)]

#[allow(
    unreachable_pub,
    dead_code,
    reason = "shared with the tests of the image library, which use more of it"
)]
#[path = "../../../image-rs/tests/image/snapshot.rs"]
mod snapshot;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use snapshot::Seen;

/// `security.capability` with cap_net_raw, revision 2, effective.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// How long to wait for what takes a second.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Whether this machine has what the test needs; tells what is missing.
fn can_run(test: &str) -> bool {
    let there = |program: &&str| Command::new(program).arg("--version").output().is_ok();
    let missing: Vec<_> = ["mmdebstrap", "umoci", "skopeo"].into_iter().filter(|p| !there(p)).collect();
    let why = match () {
        () if !rustix::process::geteuid().is_root() => "needs root".to_owned(),
        () if !missing.is_empty() => format!("needs {}", missing.join(", ")),
        () => return true,
    };
    let note = format!("skipped: {test}: {why}\n");
    eprint!("{note}");
    if let Some(path) = std::env::var_os("SKIPPED_TESTS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(note.as_bytes()).unwrap();
    }
    false
}

fn run(folder: &Path, program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// An image `it:2` of two layers in `folder`: a Debian tree, and everything that can change in one.
fn make_image(folder: &Path) {
    let packages = "--include=base-files,coreutils,libc-bin";
    run(folder, "mmdebstrap", &["--quiet", "--variant=extract", packages, "bookworm", "root.tar"]);
    run(folder, "umoci", &["init", "--layout", "it"]);
    run(folder, "umoci", &["new", "--image", "it:1"]);
    run(folder, "umoci", &["raw", "add-layer", "--image", "it:1", "root.tar"]);
    run(folder, "umoci", &["unpack", "--image", "it:1", "change"]);
    let at = |path: &str| folder.join("change/rootfs").join(path);
    fs::remove_file(at("usr/bin/tac")).unwrap();
    fs::remove_dir_all(at("usr/share/doc")).unwrap();
    fs::remove_dir_all(at("usr/share/man")).unwrap();
    symlink("doc", at("usr/share/manuals")).unwrap();
    fs::remove_file(at("usr/bin/wc")).unwrap();
    fs::create_dir_all(at("usr/bin/wc/directory")).unwrap();
    fs::write(at("etc/new"), "content\n").unwrap();
    fs::write(at("usr/bin/sum"), vec![b'x'; 300_000]).unwrap();
    fs::set_permissions(at("usr/bin/sort"), PermissionsExt::from_mode(0o6711)).unwrap();
    fs::set_permissions(at("tmp"), PermissionsExt::from_mode(0o1700)).unwrap();
    fs::hard_link(at("usr/bin/sort"), at("usr/bin/sort-again")).unwrap();
    std::os::unix::fs::chown(at("var/lib"), Some(12), Some(34)).unwrap();
    setxattr(at("usr/bin/od"), "security.capability", CAPABILITY, XattrFlags::empty()).unwrap();
    setxattr(at("etc/new"), "user.note", b"a note", XattrFlags::empty()).unwrap();
    mknodat(CWD, at("dev/made"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(1, 5))
        .unwrap();
    mknodat(CWD, at("run/pipe"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    run(folder, "umoci", &["repack", "--image", "it:2", "change"]);
    run(folder, "umoci", &["unpack", "--image", "it:2", "expected"]);
}

fn guestctl(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestctl"));
    command.arg("pull").args(arguments).current_dir(folder).stdin(Stdio::null());
    command
}

fn texts(out: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn the_environment_does_not_keep_the_hub_from_a_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let hub = format!("unix://{}", folder.path().join("none.sock").display());
    let bundle = ["--bundle", "b", "--cdh", &hub, "x"];
    let ask = |more: &[&str]| {
        let mut command = guestctl(folder.path(), &[&bundle, more].concat());
        for variable in ["REGISTRY_AUTH_FILE", "CONTAINERS_REGISTRIES_CONF"] {
            command.env(variable, "/nonexistent");
        }
        texts(&command.output().unwrap())
    };
    let (_, _, told) = ask(&[]);
    assert!(told.contains("none.sock") && !told.contains("cannot be used with"), "{told}");
    for more in [["--platform", "linux/arm64"], ["--authfile", "a"], ["--registries-conf", "a"]] {
        let (_, _, told) = ask(&more);
        assert!(told.contains("cannot be used with"), "{told}");
    }
    // A pull of its own reads them.
    let mut own = guestctl(folder.path(), &["--rootfs", "r", "localhost:1/x"]);
    let (_, _, told) = texts(&own.env("REGISTRY_AUTH_FILE", "/nonexistent").output().unwrap());
    assert!(told.contains("/nonexistent"), "{told}");
}

#[track_caller]
fn assert_same(is: &BTreeMap<PathBuf, Seen>, expected: &BTreeMap<PathBuf, Seen>) {
    let all = is.keys().chain(expected.keys());
    let different: Vec<_> = all.filter(|path| is.get(*path) != expected.get(*path)).take(10).collect();
    assert!(
        different.is_empty(),
        "{different:?}: {:?}, {:?}",
        is.get(different[0]),
        expected.get(different[0])
    );
}

#[track_caller]
fn wait_until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + TIME_LIMIT;
    while !done() {
        assert!(Instant::now() < end, "waiting until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_debian_image_comes_out_as_umoci_unpacks_it() {
    if !can_run("a_debian_image_comes_out_as_umoci_unpacks_it") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_image(folder);
    let expected = snapshot::of(&folder.join("expected/rootfs"));
    assert!(expected.len() > 500 && !expected.contains_key(Path::new("usr/bin/tac")));

    let (status, out, error) =
        texts(&guestctl(folder, &["oci:it:2", "--rootfs", "gzip", "--quiet"]).output().unwrap());
    assert_eq!((status, error.as_str()), (Some(0), WARNING), "{out}");
    assert!(out.starts_with("gzip: 2 layers, ") && out.contains("\nmanifest sha256:"), "{out}");
    assert_same(&snapshot::of(&folder.join("gzip")), &expected);

    let to_zstd =
        ["copy", "--quiet", "--dest-compress", "--dest-compress-format", "zstd", "oci:it:2", "oci:zstd:2"];
    run(folder, "skopeo", &to_zstd);
    let pull = ["oci:zstd", "--rootfs", "from-zstd", "--json"];
    let (status, out, error) = texts(&guestctl(folder, &pull).output().unwrap());
    assert_eq!((status, error.as_str()), (Some(0), WARNING), "{out}");
    let events: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_kind = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!((of_kind("layer"), of_kind("unpacked"), of_kind("done")), (2, 2, 1), "{out}");
    let done = events.last().unwrap();
    assert_eq!((&done["layers"], done.get("policy")), (&json!(2), Some(&Value::Null)));
    assert_same(&snapshot::of(&folder.join("from-zstd")), &expected);

    what_is_refused(folder);
    what_is_interrupted(folder);
}

/// What a pull without a policy says.
const WARNING: &str = "warning: no --policy: whatever image this is, it is unpacked\n";

/// Exit status, code and next step, and that nothing is left.
fn what_is_refused(folder: &Path) {
    for (image, more, status, code) in [
        ("oci:nowhere", &[][..], 4, "IMAGE_NOT_FOUND"),
        ("oci:it:3", &[], 4, "IMAGE_NOT_FOUND"),
        ("oci:it", &[], 2, "IMAGE_AMBIGUOUS"),
        ("oci:it:2", &["--refuse-devices"], 6, "LAYER_ENTRY_REFUSED"),
        ("oci:it:2", &["--max-bytes", "1000000"], 6, "LAYER_LIMIT"),
    ] {
        let arguments = [&[image, "--rootfs", "refused"][..], more].concat();
        let (is, out, error) = texts(&guestctl(folder, &arguments).output().unwrap());
        assert_eq!((is, out.as_str()), (Some(status), ""), "{image}: {error}");
        assert!(error.contains(&format!("[{code}]\nhint: ")), "{image}: {error}");
    }
    let (status, _, error) = texts(&guestctl(folder, &["oci:it:2", "--rootfs", "gzip"]).output().unwrap());
    assert!(status == Some(2) && error.contains("IMAGE_TARGET_EXISTS"), "{error}");
    let largest = fs::read_dir(folder.join("it/blobs/sha256")).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let right = fs::read(&largest).unwrap();
    let mut damaged = right.clone();
    damaged[right.len() / 2] ^= 1;
    fs::write(&largest, &damaged).unwrap();
    let (status, _, error) = texts(&guestctl(folder, &["oci:it:2", "--rootfs", "refused"]).output().unwrap());
    assert!(status == Some(6) && error.contains("LAYER_DIGEST_MISMATCH"), "{error}");
    fs::write(&largest, right).unwrap();
    assert!(!folder.join("refused").exists() && !folder.join(".refused.guestctl-partial").exists());
}

/// A signal leaves nothing but layers as they came; with those, and with what a killed process leaves, the next pull goes on.
fn what_is_interrupted(folder: &Path) {
    let partial = folder.join(".stopped.guestctl-partial");
    let start = || {
        let arguments = ["oci:it:2", "--rootfs", "stopped"];
        let child =
            guestctl(folder, &arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        wait_until("the pull has begun", || partial.join("work/0").exists());
        child
    };
    let child = start();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let (status, _, error) = texts(&child.wait_with_output().unwrap());
    assert!(status == Some(5) && error.contains("IMAGE_INTERRUPTED"), "{status:?} {error}");
    assert!(!partial.join("work").exists() && !folder.join("stopped").exists());

    let mut child = start();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(partial.exists());
    let (status, _, error) = texts(&guestctl(folder, &["oci:it:2", "--rootfs", "stopped"]).output().unwrap());
    assert_eq!(status, Some(0), "{error}");
    assert!(!partial.exists() && folder.join("stopped/usr/bin/sort").exists());
}
