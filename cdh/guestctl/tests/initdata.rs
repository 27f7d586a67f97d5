//! `guestctl initdata` from files to a folder and back, and what it says to bad input.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::{fs, path::Path};

use base64::{Engine, engine::general_purpose::STANDARD};
use guestctl::{Console, Exit};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn initdata(arguments: &[&str]) -> (Exit, Vec<u8>, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let arguments = ["guestctl", "initdata"].iter().chain(arguments);
    let exit = guestctl::run(arguments, &mut Console::new(&mut out, &mut err)).await;
    (exit, out, String::from_utf8(err).unwrap())
}

fn text(arguments: &[&str]) -> String {
    let (exit, out, err) = initdata(arguments);
    assert_eq!(exit, Exit::Success, "{arguments:?}: {err}");
    String::from_utf8(out).unwrap()
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// A folder with two files to put into a document.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("agent"), "[log]\nlevel = \"info\"\n").unwrap();
    fs::write(folder.path().join("hub"), "[kbc]\nname = 'cc_kbc'\nurl = '''https://kbs'''\n").unwrap();
    folder
}

#[test]
fn every_row_of_the_vectors_is_told() {
    let Some(vectors) = cc_vectors::folder("initdata-generated") else { return };
    let facts: Value = serde_json::from_slice(&fs::read(vectors.join("facts.json")).unwrap()).unwrap();
    for (name, facts) in facts.as_object().unwrap() {
        let file = path(&vectors, name);
        let inspected: Value = serde_json::from_str(&text(&["inspect", &file, "--json"])).unwrap();
        for (fact, value) in facts.as_object().unwrap() {
            assert_eq!(&inspected[fact], value, "{name} {fact}");
        }
        let digest = hex::decode(facts["digest"].as_str().unwrap()).unwrap();
        let words = [
            ("digest", "digest"),
            ("snp", "snp_host_data"),
            ("tdx", "tdx_mrconfigid"),
            ("sgx", "sgx_configid"),
            ("cca", "cca_realm_personalization_value"),
            ("pcr8", "pcr8_after_extend_from_zero"),
        ];
        for (word, fact) in words {
            let (exit, out, err) = initdata(&["digest", &file, "--field", word]);
            let Some(value) = facts.get(fact) else {
                assert_eq!(exit, Exit::Usage, "{name} {word}");
                assert!(err.contains("launch the machine with its new digest"), "{err}");
                continue;
            };
            let value = value.as_str().unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), format!("{value}\n"), "{name} {word}");
            let base64 = STANDARD.encode(hex::decode(value).unwrap());
            assert_eq!(text(&["digest", &file, "--field", word, "--base64"]), format!("{base64}\n"));
            assert_eq!(
                err.contains("only the first"),
                digest.len() > value.len() / 2,
                "{name} {word}: {err}"
            );
        }
        let all: Value = serde_json::from_str(&text(&["digest", &file, "--json"])).unwrap();
        assert_eq!(all["digest"]["base64"], STANDARD.encode(&digest));
        assert_eq!(all["fields"]["snp_host_data"]["hex"], facts["snp_host_data"]);
    }
}

#[test]
fn what_is_built_is_unpacked_in_every_form() {
    let folder = files();
    let (agent, hub) = (path(folder.path(), "agent"), path(folder.path(), "hub"));
    let entries = [format!("aa.toml={agent}"), format!("cdh.toml={hub}")];
    let mut digests = Vec::new();
    for (number, form) in ["toml", "annotation", "device-image"].into_iter().enumerate() {
        let to = path(folder.path(), form);
        let build = ["build", "--file", &entries[0], "--file", &entries[1], "--algorithm", "sha384"];
        let said = text(&[&build[..], &["--output", form, "--to", &to]].concat());
        assert!(said.contains("sha384"), "{said}");
        let (_, direct, _) = initdata(&[&build[..], &["--output", form]].concat());
        assert_eq!(direct, fs::read(&to).unwrap(), "{form}: the same files give the same bytes");
        digests.push(text(&["digest", &to, "--field", "digest"]));

        let target = path(folder.path(), &format!("unpacked/{number}"));
        text(&["unpack", &to, "--to", &target]);
        for (entry, source) in [("aa.toml", &agent), ("cdh.toml", &hub)] {
            assert_eq!(fs::read(Path::new(&target).join(entry)).unwrap(), fs::read(source).unwrap());
        }
        let document = path(Path::new(&target), "initdata.toml");
        digests.push(text(&["digest", &document, "--field", "digest"]));
        let inspected = text(&["inspect", &to]);
        assert!(inspected.contains("aa.toml") && inspected.contains("21 bytes"), "{inspected}");
        assert!(!inspected.contains("https://kbs"), "contents are not shown: {inspected}");
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the system's own tools are what is tested against")]
fn gzip_and_base64_of_the_system_are_read() {
    use std::process::{Command, Stdio};
    let folder = files();
    let document = path(folder.path(), "initdata.toml");
    text(&["build", "--file", &format!("aa.toml={}", path(folder.path(), "agent")), "--to", &document]);
    let packed = path(folder.path(), "packed");
    let status = Command::new("sh")
        .args(["-c", "gzip -c \"$1\" | base64 -w0 > \"$2\"", "sh", &document, &packed])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(text(&["digest", &packed]), text(&["digest", &document]));
}

#[test]
fn bad_input_is_refused_with_a_code_and_leaves_nothing() {
    let folder = files();
    let put = |name: &str, content: &[u8]| {
        fs::write(folder.path().join(name), content).unwrap();
        path(folder.path(), name)
    };
    let document = b"version = \"0.1.0\"\nalgorithm = \"sha256\"\n[data]\n";
    let escape = put("escape", &[&document[..], b"\"../../x\" = 'y'\n"].concat());
    let duplicate = put("duplicate", &[&document[..], b"\"a\" = ''\n\"a\" = ''\n"].concat());
    let number = put("number", &[&document[..], b"\"a\" = 1\n"].concat());
    let gzip = put("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\0");
    let lying = put("lying", b"initdata\xff\xff\xff\xff\xff\xff\xff\xff");
    let short = put("short", b"initdata\x40\0\0\0\0\0\0\0too short");
    let long = put("long", &vec![b'#'; 4 << 20]);
    let binary = put("binary", b"\xff\xfe");
    let target = path(folder.path(), "target");
    for bad in [&duplicate, &number, &gzip, &lying, &short, &long, &binary, &escape] {
        let (exit, _, err) = initdata(&["unpack", bad, "--to", &target]);
        assert_eq!(exit, Exit::Failed, "{bad}");
        assert!(err.contains("[INPUT_MALFORMED]\nhint: "), "{bad}: {err}");
        assert!(!Path::new(&target).exists(), "{bad}");
    }
    let agent = path(folder.path(), "agent");
    let twice = format!("aa.toml={agent}");
    for (arguments, exit, code) in [
        (vec!["build", "--file", &twice, "--file", &twice], Exit::Usage, "ARGUMENT_REFUSED"),
        (vec!["build", "--file", "aa.toml=/nonexistent"], Exit::Failed, "INPUT_UNREADABLE"),
        (vec!["build", "--file", &format!("a={binary}")], Exit::Failed, "INPUT_MALFORMED"),
        (vec!["build", "--file", &format!("a={long}")], Exit::Failed, "INPUT_MALFORMED"),
        (vec!["build", "--file", &format!("a.toml={binary}")], Exit::Failed, "INPUT_MALFORMED"),
        (vec!["build", "--file", &twice, "--to", &agent], Exit::Failed, "OUTPUT_FILE"),
        (vec!["build", "--file", &twice, "--json"], Exit::Usage, "ARGUMENT_REFUSED"),
        (vec!["unpack", &target, "--to", &target], Exit::Failed, "INPUT_UNREADABLE"),
    ] {
        let (status, out, err) = initdata(&arguments);
        assert_eq!(status, exit, "{arguments:?}: {err}");
        assert!(out.is_empty() && err.contains(&format!("[{code}]\nhint: ")), "{arguments:?}: {err}");
    }
    let (_, _, err) = initdata(&["build", "--file", &format!("notes.txt={agent}")]);
    assert!(err.contains("note: no daemon reads the entry notes.txt"), "{err}");
}

#[test]
fn checking_without_an_agent_is_unavailable() {
    let folder = files();
    let document = path(folder.path(), "initdata.toml");
    text(&["build", "--file", &format!("aa.toml={}", path(folder.path(), "agent")), "--to", &document]);
    let socket = format!("unix://{}", path(folder.path(), "aa.sock"));
    let (exit, _, err) = initdata(&["inspect", &document, "--check", "--aa", &socket]);
    assert_eq!(exit, Exit::Unavailable, "{err}");
}
