//! A volume whose tag is kept at the key broker and whose key is a sealed secret: made, given another key, damaged and mended, on a file in
//! place of a disk.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Output;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cc_tests::process::own_binary;
use cc_tests::stack::{Options, Stack, emulator_runs_here};
use serde_json::{Value, json};

const UUID: &str = "77777777-93f4-4a55-8f70-1d3b2c5e9a10";

/// A sealed secret that leads to this resource, with a signature that nobody looks at.
fn sealed(resource: &str) -> String {
    let payload = json!({"version": "0.1.0", "type": "vault", "provider": "kbs", "name": resource,
        "provider_settings": {}, "annotations": {}});
    format!("sealed.e30.{}.e30", URL_SAFE_NO_PAD.encode(payload.to_string()))
}

/// `guestctl disk` with the data hub of `stack`.
fn guestctl(stack: &Stack, arguments: &[&str], disk: &Path) -> Output {
    let mut command = own_binary("guestctl").unwrap();
    let hub = format!("unix://{}", stack.hub_socket().display());
    command.arg("disk").args(arguments).args(["--cdh", &hub, "--device"]).arg(disk);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into_owned()
}

/// The documents that it prints, one behind the other.
fn documents(output: &Output) -> Vec<Value> {
    let documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
    documents.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}: {}", text(output)))
}

fn tear(disk: &Path, at: u64) {
    let file = std::fs::File::options().write(true).open(disk).unwrap();
    file.write_all_at(&[0xa5; 512], at).unwrap();
}

#[test]
fn a_volume_whose_tag_is_kept_at_the_key_broker_gets_another_key() {
    if !(emulator_runs_here() && crate::has_cryptsetup()) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(64 << 20).unwrap();
    let hub_config = format!(
        "cryptsetup_socket = \"unix://{}\"\nskip_sealed_secret_verification = true\n[[volumes]]\nname = \"data\"\nuuid = {UUID:?}\n\
         key = {:?}\ntag = \"kbs:///disk/data/tag\"\n",
        folder.path().join("keys.sock").display(),
        sealed("kbs:///disk/data/key"),
    );
    let stack =
        Stack::start(Options { hub_config, ..Options::default() }).unwrap_or_else(|e| panic!("{e:#}"));
    stack.put_resource("disk/data/key", &[1; 64]).unwrap();
    stack.put_resource("disk/data/next", &[2; 64]).unwrap();
    let prepare = || crate::lying::prepare(&stack, &disk, &[]);

    // The tag is told before there is a volume, and with it.
    let made = guestctl(&stack, &["format", "data", "--no-file-system", "--json"], &disk);
    assert!(made.status.success(), "{}", text(&made));
    let told = documents(&made);
    let [first, last] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&first["written"], &first["keep_at"]), (&false.into(), &"kbs:///disk/data/tag".into()));
    assert_eq!((&first["tag"], &last["outcome"]), (&last["tag"], &"is formatted".into()));
    let tag = first["tag"].as_str().unwrap().to_owned();
    let (done, said) = prepare();
    assert!(!done && said.contains("disk/data/tag"), "the tag is not stored yet: {said}");
    stack.put_resource("disk/data/tag", tag.as_bytes()).unwrap();
    let (done, said) = prepare();
    assert!(done && said.contains("fits its tag"), "{said}");

    // Another key, in a sealed secret too. A dry run writes nothing and tells no tag.
    let next = sealed("kbs:///disk/data/next");
    let before = std::fs::read(&disk).unwrap();
    let dry = guestctl(&stack, &["rotate", "data", "--new-key", &next, "--dry-run", "--json"], &disk);
    assert!(dry.status.success() && documents(&dry).len() == 1, "{}", text(&dry));
    assert!(std::fs::read(&disk).unwrap() == before);
    let rotated = guestctl(&stack, &["rotate", "data", "--new-key", &next, "--json"], &disk);
    assert!(rotated.status.success(), "{}", text(&rotated));
    let told = documents(&rotated);
    let [first, last] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((&first["written"], &last["written"]), (&false.into(), &true.into()));
    let new_tag = first["tag"].as_str().unwrap().to_owned();
    assert!(new_tag != tag && last["tag"] == new_tag.as_str());

    // Cut off inside of the first copy: with the former tag the former key opens it.
    let after = std::fs::read(&disk).unwrap();
    let mut torn = before.clone();
    torn[..4608].copy_from_slice(&after[..4608]);
    std::fs::write(&disk, &torn).unwrap();
    let (done, said) = prepare();
    assert!(done && said.contains("first copy is damaged"), "{said}");
    std::fs::write(&disk, &after).unwrap();

    // Done: the new tag and key, under the same name.
    let (done, said) = prepare();
    assert!(!done && said.contains("[LUKS_TAG_MISMATCH]"), "{said}");
    let again = guestctl(&stack, &["rotate", "data", "--new-key", &next], &disk);
    assert!(again.status.success() && text(&again).contains(&new_tag), "{}", text(&again));
    stack.put_resource("disk/data/tag", new_tag.as_bytes()).unwrap();
    stack.put_resource("disk/data/key", &[2; 64]).unwrap();
    let (done, said) = prepare();
    assert!(done && said.contains("fits its tag") && !said.contains("damaged"), "{said}");
    assert!(crate::opens(&stack.folder().join("headers/data.header"), &[2; 64]));

    // Either copy is mended by the other.
    for (at, copy) in [(4608, "first"), (0x4000 + 4608, "second")] {
        tear(&disk, at);
        let dry = guestctl(&stack, &["repair", "data", "--dry-run", "--json"], &disk);
        assert_eq!(documents(&dry)[0]["copy"], copy, "{}", text(&dry));
        let mended = guestctl(&stack, &["repair", "data"], &disk);
        assert!(mended.status.success() && text(&mended).contains(copy), "{}", text(&mended));
        let (done, said) = prepare();
        assert!(done && !said.contains("damaged"), "{said}");
    }
    let whole = guestctl(&stack, &["repair", "data", "--json"], &disk);
    assert_eq!(documents(&whole)[0]["copy"], Value::Null, "{}", text(&whole));
    // With both gone there is nothing to mend it by.
    tear(&disk, 4608);
    tear(&disk, 0x4000 + 4608);
    let lost = guestctl(&stack, &["repair", "data"], &disk);
    assert!(!lost.status.success() && text(&lost).contains("[LUKS_HEADER_MALFORMED]"), "{}", text(&lost));
}
