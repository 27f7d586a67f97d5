//! Configuration files of the two daemons that have one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cc_tests::process::own_binary;
use rustix::fs::{CWD, FileType, Mode};

use super::run;

const DAEMONS: [&str; 2] = ["attestation-agent", "confidential-data-hub"];

/// Exit code and words of a daemon started with this file, which must be refused.
fn refused(daemon: &str, file: &Path, expected: &[&str]) {
    for check in [false, true] {
        let mut command = own_binary(daemon).unwrap();
        command.arg("-c").arg(file);
        if check {
            command.arg("--check-config");
        }
        let (code, told) = run(command);
        assert_eq!(code, Some(64), "{daemon} {}: {told}", file.display());
        for text in expected.iter().chain(&[file.file_name().unwrap().to_str().unwrap()]) {
            assert!(told.contains(text), "{daemon} does not say {text:?}: {told}");
        }
        assert!(!told.contains("panicked"), "{told}");
    }
}

fn check(daemon: &str, file: &Path) -> (Option<i32>, String) {
    let mut command = own_binary(daemon).unwrap();
    command.arg("-c").arg(file).arg("--check-config");
    run(command)
}

#[test]
fn missing() {
    let folder = tempfile::tempdir().unwrap();
    for daemon in DAEMONS {
        refused(daemon, &folder.path().join("none.toml"), &["[CONFIG_UNREADABLE]", "No such file", "hint: "]);
    }
}

#[test]
fn empty() {
    let folder = tempfile::tempdir().unwrap();
    for extension in ["toml", "json", "yaml", "yml"] {
        let file = folder.path().join(format!("empty.{extension}"));
        std::fs::write(&file, "").unwrap();
        // All defaults for the agent; the hub must be told which client it is.
        assert_eq!(check("attestation-agent", &file).0, Some(0), "{extension}");
        refused("confidential-data-hub", &file, &["[CONFIG_INVALID]", "kbc"]);
    }
}

#[test]
fn usable() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hub.toml");
    let text = "[kbc]\nname = \"cc_kbc\"\nurl = \"https://kbs.example.com\"\n[kms.vault]\naddress = \"https://vault.example.com\"\n\
                token = \"kbs:///default/kms/vault-token\"\n";
    std::fs::write(&file, text).unwrap();
    assert_eq!(check("confidential-data-hub", &file), (Some(0), String::new()));
}

#[test]
fn the_default_files_of_the_packages_are_usable_once_a_key_broker_is_named() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/packages/default");
    let agent = shipped.join("attestation-agent.toml");
    assert_eq!(check("attestation-agent", &agent).0, Some(0));
    let hub = shipped.join("confidential-data-hub.toml");
    let (code, told) = check("confidential-data-hub", &hub);
    assert!(code == Some(64) && told.contains("URL of the KBS"), "{code:?} {told}");
    let folder = tempfile::tempdir().unwrap();
    let filled_in = folder.path().join("confidential-data-hub.toml");
    let text = std::fs::read_to_string(hub).unwrap().replace("url = \"\"", "url = \"https://kbs:8080\"");
    // What is commented out there is valid too, but for the certificate.
    let (begin, rules) = text.split_once("\n#[access]\n").unwrap();
    let rules = format!("{begin}\n[access]\n{}", rules.replace('#', ""));
    for text in [&text, &rules] {
        std::fs::write(&filled_in, text).unwrap();
        let (code, told) = check("confidential-data-hub", &filled_in);
        assert_eq!(code, Some(0), "{told}");
    }
}

#[test]
fn malformed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("bad.toml", "[log\nlevel = 1"),
        ("bad.json", "{\"log\": {\"level\": \"info\""),
        ("bad.yaml", "log: [unclosed\n  - x"),
        ("nul.toml", "log = \"\0\""),
        ("twice.toml", "[log]\nlevel = \"info\"\n[log]\nlevel = \"warn\"\n"),
        ("aliases.yaml", "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\nlog: *c\n"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        for daemon in DAEMONS {
            refused(daemon, &file, &["[CONFIG_INVALID]"]);
        }
    }
    let file = folder.path().join("deep.json");
    std::fs::write(&file, "[".repeat(500_000)).unwrap();
    for daemon in DAEMONS {
        refused(daemon, &file, &["[CONFIG_INVALID]"]);
    }
    let file = folder.path().join("latin1.toml");
    std::fs::write(&file, b"# \xe9\n").unwrap();
    for daemon in DAEMONS {
        refused(daemon, &file, &["[CONFIG_INVALID]", "UTF-8"]);
    }
}

#[test]
fn unknown_keys() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "odd.toml",
            "colour = 1\n[kbc]\nname = \"offline_fs_kbc\"\nurll = 2\n[log]\nlevel = \"info\"\nfile = \"x\"\n",
        ),
        (
            "odd.json",
            r#"{"colour": 1, "kbc": {"name": "offline_fs_kbc", "urll": 2}, "log": {"level": "info", "file": "x"}}"#,
        ),
        ("odd.yaml", "colour: 1\nkbc:\n  name: offline_fs_kbc\n  urll: 2\nlog:\n  level: info\n  file: x\n"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        // For the agent all of [kbc] means nothing.
        for (daemon, keys) in
            DAEMONS.into_iter().zip([["colour", "kbc", "log.file"], ["colour", "kbc.urll", "log.file"]])
        {
            let (code, told) = check(daemon, &file);
            assert_eq!(code, Some(64), "{daemon} {name}: {told}");
            // Started for real they are a warning each. The address cannot be served, so that it ends.
            let mut command = own_binary(daemon).unwrap();
            command.arg("-c").arg(&file);
            let occupied = folder.path().join("occupied");
            std::fs::write(&occupied, "").unwrap();
            if daemon == "attestation-agent" {
                command.arg("-a").arg(cc_tests::stack::address(&occupied));
            } else {
                let socket = format!("socket = {:?}\n{text}", cc_tests::stack::address(&occupied));
                if name != "odd.toml" {
                    continue;
                }
                std::fs::write(&file, socket).unwrap();
            }
            let (_, warned) = run(command);
            for key in keys {
                assert!(told.contains(key), "{daemon} {name}: {key} is not named: {told}");
                assert!(
                    warned.contains("unknown configuration key") && warned.contains(key),
                    "{daemon}: {warned}"
                );
            }
        }
    }
}

#[test]
fn wrong_types() {
    let folder = tempfile::tempdir().unwrap();
    let kbc = "[kbc]\nname = \"offline_fs_kbc\"\n";
    for (daemon, text, key) in [
        // Where a type is wrong the place is told, elsewhere the key.
        ("attestation-agent", "token_configs = 3\n".to_owned(), "line 1, column 17"),
        (
            "attestation-agent",
            "[eventlog_config]\nenable_eventlog = \"yes\"\n".to_owned(),
            "line 2, column 19",
        ),
        ("attestation-agent", "[token_configs.kbs]\nurl = [\"a\"]\n".to_owned(), "line 2, column 7"),
        ("confidential-data-hub", format!("socket = 5\n{kbc}"), "line 1, column 10"),
        ("confidential-data-hub", format!("credentials = \"x\"\n{kbc}"), "line 1, column 15"),
        (
            "confidential-data-hub",
            "[kbc]\nname = \"cc_kbc\"\nallow_plain_http = 1\n".to_owned(),
            "line 3, column 20",
        ),
        ("confidential-data-hub", format!("{kbc}[socket_options]\nmode = \"rw\"\n"), "socket_options.mode"),
    ] {
        let file = folder.path().join("wrong.toml");
        std::fs::write(&file, &text).unwrap();
        let (code, told) = check(daemon, &file);
        assert_eq!(code, Some(64), "{text}: {told}");
        assert!(told.contains(key), "{text}: the key is not named: {told}");
    }
    // The same mistakes in the other formats.
    for (name, text) in [("wrong.json", r#"{"log": {"level": 3}}"#), ("wrong.yaml", "log:\n  level: {}\n")] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        for daemon in DAEMONS {
            refused(daemon, &file, &["[CONFIG_INVALID]"]);
        }
    }
}

#[test]
fn too_large() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("large.toml");
    std::fs::write(&file, "# comment\n".repeat(200_000)).unwrap();
    for daemon in DAEMONS {
        refused(daemon, &file, &["[CONFIG_TOO_LARGE]", "1048576"]);
    }
}

#[test]
fn no_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("directory.toml");
    std::fs::create_dir(&directory).unwrap();
    // Nobody ever writes to it: opening it would wait for ever.
    let pipe = folder.path().join("pipe.toml");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let device = folder.path().join("zero.toml");
    std::os::unix::fs::symlink("/dev/zero", &device).unwrap();
    for daemon in DAEMONS {
        for file in [&directory, &pipe, &device] {
            refused(daemon, file, &["[CONFIG_NOT_A_FILE]"]);
        }
    }
}

#[test]
fn unreadable() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("secret.toml");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o000)).unwrap();
    for daemon in DAEMONS {
        let mut command = own_binary(daemon).unwrap();
        // Root reads everything; the daemon is started as nobody, from a place that nobody can reach.
        if rustix::process::geteuid().is_root() {
            let binary = folder.path().join(daemon);
            std::fs::copy(cc_tests::process::binary_folder().unwrap().join(daemon), &binary).unwrap();
            command = cc_tests::process::command("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(binary);
        }
        command.arg("-c").arg(&file);
        let (code, told) = run(command);
        // Not a mistake in the file: the service manager tries again.
        assert_eq!(code, Some(69), "{told}");
        assert!(told.contains("[CONFIG_UNREADABLE]") && told.contains("Permission denied"), "{told}");
    }
}
