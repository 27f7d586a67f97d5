//! `PullImage`, asked as kata-agent asks: an image becomes a bundle and an event, or nothing at all.

mod workplace;

use std::fs;
use std::time::{Duration, Instant};

use cc_evidence::HashAlgorithm;
use cc_evidence::ccel::{assemble, replay};
use cc_tests::process::{Process, own_binary};
use cc_tests::registry::Registry;
use cc_tests::stack::{Options, Part, skip};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::image_keys::of_tree;
use crate::measurement;
use crate::measurement::register;
use workplace::{Pulls, archive, layer};

/// Waits for something that is about to be so.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A policy that refuses everything.
const REJECT: &str = r#"{"default":[{"type":"reject"}]}"#;

#[test]
fn an_image_becomes_a_bundle_and_one_event_with_the_exact_text() {
    let Some(mut pulls) = Pulls::start(measurement::options()) else { return };
    pulls
        .stack
        .put_resource("default/policy/images", br#"{"default":[{"type":"insecureAcceptAnything"}]}"#)
        .unwrap();
    pulls.configure("image_security_policy_uri = \"kbs:///default/policy/images\"\n");
    let (low, high) = (layer("low", &[("both", "1"), ("low", "1")]), layer("high", &[("both", "2")]));
    let config = json!({"Entrypoint": ["/bin/app"], "Cmd": ["-x"], "Env": ["A=1"], "Labels": {"l": "v"}});
    // The lowest layer comes again at the top: what it says counts there.
    let manifest = pulls.image("app-1.0", &[low.clone(), high, low], &config);
    assert_eq!(pulls.pull("app-1.0", "b/one").unwrap(), manifest);

    let rootfs = |name: &str| fs::read_to_string(pulls.seen(&format!("b/one/rootfs/{name}")));
    assert_eq!((rootfs("both").unwrap().as_str(), rootfs("low").unwrap().as_str()), ("1", "1"));
    let text = fs::read_to_string(pulls.stack.folder().join("b/one/config.json")).unwrap();
    let spec: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(spec["process"]["args"], json!(["/bin/app", "-x"]));
    assert_eq!((&spec["root"]["path"], &spec["annotations"]["l"]), (&json!("rootfs"), &json!("v")));

    let log = fs::read(pulls.stack.agent_log()).unwrap();
    let event = format!(
        r#"github.com/confidential-containers PullImage {{"image":"{}", "digest":"{manifest}"}}"#,
        pulls.reference("app-1.0")
    );
    let found = log.windows(event.len()).filter(|window| *window == event.as_bytes()).count();
    assert_eq!(found, 1, "{}", String::from_utf8_lossy(&log));
    let log = assemble(None, Some(&log)).unwrap().unwrap();
    let replayed = replay(&log, HashAlgorithm::Sha384).unwrap();
    assert_eq!(replayed.run_time().nth(3), Some(register(&pulls.stack, 3).as_slice()));
    // The hub's token was older than the event: the next secret needs a new one.
    assert_eq!(pulls.stack.quotes().unwrap(), 1);
    assert_eq!(pulls.stack.rest_get(crate::REST_PATH).unwrap().status, 200);
    assert_eq!(pulls.stack.quotes().unwrap(), 2);
}

#[test]
fn a_policy_that_refuses_leaves_nothing_also_when_all_layers_are_there() {
    let Some(mut pulls) = Pulls::start(Options::default()) else { return };
    pulls.configure("");
    pulls.image("app-1", &[layer("l", &[("file", "1")])], &json!({}));
    pulls.pull("app-1", "b/one").unwrap();
    let mounted = pulls.mounts();
    assert_eq!(mounted, 1);
    pulls.stack.stop_part(Part::Hub).unwrap();
    pulls.configure(&format!("image_security_policy = '{REJECT}'\n"));
    let (status, message) = pulls.pull("app-1", "b/two").unwrap_err();
    assert_eq!(status, 13);
    assert!(message.starts_with("[CDH] [ERROR]: ") && message.contains("IMAGE_REJECTED"), "{message}");
    assert!(!pulls.stack.folder().join("b/two").exists());
    assert!(pulls.mounts() <= mounted && pulls.overlays() <= 1);
    // No event for what was not pulled.
    assert!(!pulls.stack.agent_log().exists());
}

#[test]
fn a_pull_whose_event_is_refused_leaves_nothing() {
    let Some(mut pulls) = Pulls::start(measurement::options()) else { return };
    pulls.configure("");
    pulls.image("app-1", &[layer("l", &[("file", "1")])], &json!({}));
    // The agent cannot write its log.
    fs::create_dir_all(pulls.stack.agent_log()).unwrap();
    let (_, message) = pulls.pull("app-1", "b/one").unwrap_err();
    assert!(message.contains("getting an event measured"), "{message}");
    assert!(!pulls.stack.folder().join("b").exists(), "{message}");
    assert_eq!((pulls.mounts(), pulls.overlays()), (0, 0));
    // Without an agent there is nobody to ask.
    pulls.stack.stop_part(Part::Agent).unwrap();
    let _ = fs::remove_file(pulls.stack.agent_socket());
    pulls.pull("app-1", "b/two").unwrap();
    assert_eq!(pulls.mounts(), 1);
}

#[test]
fn a_strict_hub_waits_for_an_agent_that_is_started_again_and_pulls_nothing_without() {
    let access = "access = { strict = true, rules = [{ uid = [0], resources = [\"image:**\"] }] }\n";
    let options = Options { hub_config: access.to_owned(), ..measurement::options() };
    let Some(mut pulls) = Pulls::start(options) else { return };
    pulls.configure("image_security_policy = '{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}'\n");
    pulls.image("app-1", &[layer("l", &[("file", "1")])], &json!({}));
    pulls.stack.stop_part(Part::Agent).unwrap();
    let _ = fs::remove_file(pulls.stack.agent_socket());
    let (_, message) = pulls.pull("app-1", "b").unwrap_err();
    assert!(message.contains("AA_UNREACHABLE"), "{message}");
    assert!(!pulls.stack.folder().join("b").exists() && pulls.records() == 0);
    let config = pulls.stack.folder().join("b/config.json");
    let _agent = std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pulls.pull("app-1", "b"));
        wait_until("the bundle stands", || config.exists());
        let agent = pulls.stack.spawn_agent().unwrap();
        pulling.join().unwrap().unwrap();
        agent
    });
    assert!(pulls.stack.agent_log().exists(), "it is measured");
}

#[test]
fn a_hub_that_is_killed_in_a_pull_leaves_no_bundle_that_nobody_was_told_of() {
    let Some(mut pulls) = Pulls::start(measurement::options()) else { return };
    pulls.configure("");
    pulls.image("app-1", &[layer("l", &[("file", "1")])], &json!({}));
    // The agent hears of the event, and does not answer: the bundle stands, and is not measured.
    pulls.stack.part(Part::Agent).unwrap().signal(Signal::STOP).unwrap();
    let hub = rustix::process::Pid::from_raw(pulls.stack.part(Part::Hub).unwrap().pid() as i32).unwrap();
    let config = pulls.stack.folder().join("b/one/config.json");
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pulls.pull("app-1", "b/one"));
        wait_until("the bundle stands", || config.exists());
        rustix::process::kill_process(hub, Signal::KILL).unwrap();
        // The caller's client gives up loudly when its connection is cut.
        assert!(!pulling.join().is_ok_and(|answer| answer.is_ok()));
    });
    wait_until("the bundle is gone", || !pulls.stack.folder().join("b").exists());
    wait_until("its overlay is gone", || pulls.overlays() == 0);
    assert_eq!(pulls.records(), 0, "an image whose pull failed is not listed");
    pulls.stack.part(Part::Agent).unwrap().signal(Signal::CONT).unwrap();
    let _ = pulls.stack.stop_part(Part::Hub);
    fs::remove_file(pulls.stack.hub_socket()).unwrap();
    pulls.configure("");
    pulls.pull("app-1", "b/one").unwrap();
    assert_eq!((pulls.mounts(), pulls.records()), (1, 1));
}

#[test]
fn what_cannot_be_pulled_is_told_and_leaves_nothing() {
    let Some(mut pulls) = Pulls::start(Options::default()) else { return };
    pulls.configure("max_store_bytes = 60000\n");
    pulls.image("good-1", &[layer("l", &[("file", "1")])], &json!({}));
    pulls.image(
        "large-1",
        &[layer("s", &[("file", "2")]), layer("l", &[("file", &"x".repeat(99_000))])],
        &json!({}),
    );
    pulls.image("damaged-1", &[layer("s", &[("file", "3")]), layer("d", &[("file", "4")])], &json!({}));
    pulls.damage_last_layer("damaged-1");
    pulls.image("empty-1", &[], &json!({}));
    pulls.annotate("annotated-1", &"x".repeat(130 << 10));
    fs::create_dir_all(pulls.stack.folder().join("taken")).unwrap();
    fs::write(pulls.stack.folder().join("taken/config.json"), "theirs").unwrap();
    for (image, bundle, says) in [
        ("large-1", "b", &["IMAGE_STORE_FULL", "60000"][..]),
        ("damaged-1", "b", &["LAYER_DIGEST_MISMATCH", "layer sha256:"]),
        ("absent-1", "b", &["IMAGE_NOT_FOUND"]),
        ("empty-1", "b", &["IMAGE_LAYERS_UNUSABLE", "empty-1: it has no layers"]),
        ("annotated-1", "b", &["IMAGE_LAYERS_UNUSABLE", "annotated-1: layer sha256:"]),
        ("good-1", "taken", &["BUNDLE_EXISTS"]),
        ("good-1", "../b", &["BUNDLE_PATH_REFUSED"]),
    ] {
        let (_, message) = pulls.pull(image, bundle).unwrap_err();
        for words in says {
            assert!(message.contains(words), "{image}: {words} is missing in {message}");
        }
        assert!(!pulls.stack.folder().join("b").exists(), "{image}");
        assert_eq!((pulls.mounts(), pulls.overlays()), (0, 0), "{image}");
    }
    assert_eq!(fs::read_to_string(pulls.stack.folder().join("taken/config.json")).unwrap(), "theirs");
    let elsewhere = pulls.call("oci:/etc:x", "b").unwrap_err().1;
    assert!(elsewhere.contains("IMAGE_LAYOUT_REFUSED"), "{elsewhere}");
    let malformed = pulls.call("not a name", "b").unwrap_err().1;
    assert!(malformed.contains("IMAGE_REFERENCE_INVALID"), "{malformed}");
    pulls.pull("good-1", "b/one").unwrap();
}

#[test]
fn a_store_full_of_what_failed_pulls_left_has_room_for_the_next() {
    let Some(mut pulls) = Pulls::start(measurement::options()) else { return };
    pulls.configure("max_store_bytes = 60000\nmax_concurrent_layer_downloads_per_image = 1\n");
    let sized = |name: &str, length: usize| layer(name, &[("file", &"x".repeat(length))]);
    pulls.image("three-1", &[sized("a", 20_000), sized("b", 21_000), sized("c", 22_000)], &json!({}));
    pulls.image("first-1", &[sized("d", 40_000)], &json!({}));
    pulls.image("next-1", &[sized("e", 41_000)], &json!({}));
    // Two of three layers get in.
    let (_, message) = pulls.pull("three-1", "b").unwrap_err();
    assert!(message.contains("IMAGE_STORE_FULL"), "{message}");
    assert_eq!(pulls.layers(), 0);
    // A pull that is not measured, because the agent cannot write its log: its layer stays for whoever tries again.
    fs::create_dir_all(pulls.stack.agent_log()).unwrap();
    pulls.pull("first-1", "b").unwrap_err();
    assert_eq!((pulls.layers(), pulls.records()), (1, 0));
    pulls.stack.stop_part(Part::Agent).unwrap();
    let _ = fs::remove_file(pulls.stack.agent_socket());
    pulls.pull("next-1", "b/next").unwrap();
    assert_eq!((pulls.layers(), pulls.records()), (1, 1));
}

#[test]
fn only_root_may_have_an_image_pulled() {
    let Some(mut pulls) = Pulls::start(Options::default()) else { return };
    pulls.configure("");
    pulls.open_socket_to_all();
    pulls.image("app-1", &[layer("l", &[("file", "1")])], &json!({}));
    let refusal = pulls.pull_as_nobody("app-1", "b");
    assert!(refusal.contains("CALLER_NOT_ROOT") || refusal.contains("only root may"), "{refusal}");
    assert!(!pulls.stack.folder().join("b").exists());
}

#[test]
fn a_rule_about_an_image_counts_however_the_image_is_spelled() {
    let claim = "access = { rules = [{ uid = [12345], resources = [\"image:**/images:secret-1\"] }] }\n";
    let Some(mut pulls) = Pulls::start(Options { hub_config: claim.to_owned(), ..Options::default() }) else {
        return;
    };
    pulls.configure("");
    for name in ["secret-1", "open-1"] {
        pulls.image(name, &[layer("l", &[("file", name)])], &json!({}));
    }
    let folder = pulls.stack.folder().to_owned();
    std::os::unix::fs::symlink(".", folder.join("images/again")).unwrap();
    for spelled in ["images", "images/.", "images/again", "../{}/images"] {
        let spelled = spelled.replace("{}", folder.file_name().unwrap().to_str().unwrap());
        let (_, message) =
            pulls.call(&format!("oci:{}/{spelled}:secret-1", folder.display()), "b").unwrap_err();
        assert!(message.contains("ACCESS_DENIED"), "{spelled}: {message}");
    }
    pulls.pull("open-1", "b").unwrap();
}

#[test]
fn five_hundred_layers_are_one_root_and_directories_keep_their_modes() {
    let Some(mut pulls) = Pulls::start(Options::default()) else { return };
    pulls.configure("max_concurrent_layer_downloads_per_image = 8\n");
    let mut layers: Vec<Vec<u8>> = (0..499)
        .map(|number| layer("many", &[(&format!("f{number}"), ""), ("newest", &number.to_string())]))
        .collect();
    // The lowest one says who may write to `tmp`; the topmost one has a file there, and says nothing.
    layers[0] = archive("mkdir tmp && chmod 1777 tmp && touch tmp/low", &["tmp", "tmp/low"]);
    layers.push(archive("mkdir tmp && touch tmp/high", &["tmp/high"]));
    pulls.image("many-1", &layers, &json!({}));
    pulls.pull("many-1", "b").unwrap();
    assert_eq!(fs::read_to_string(pulls.seen("b/rootfs/newest")).unwrap(), "498");
    let names = fs::read_dir(pulls.seen("b/rootfs")).unwrap().count();
    assert_eq!(names, 498 + 2);
    let tmp = fs::metadata(pulls.seen("b/rootfs/tmp")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&tmp.permissions()) & 0o7777, 0o1777);
    assert_eq!(fs::read_dir(pulls.seen("b/rootfs/tmp")).unwrap().count(), 2);
}

#[test]
fn parallel_pulls_share_their_layers_and_a_killed_helper_is_started_again() {
    let Some(mut pulls) = Pulls::start(Options::default()) else { return };
    pulls.configure("");
    let shared = layer("shared", &[("shared", &"s".repeat(300_000))]);
    for number in 0..4 {
        let own = layer("own", &[("own", &number.to_string())]);
        pulls.image(&format!("app-{number}"), &[shared.clone(), own], &json!({}));
    }
    let results = pulls.pull_all(&[("app-0", "b0"), ("app-1", "b1"), ("app-2", "b2"), ("app-3", "b3")]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(pulls.layers(), 5, "the shared one once");
    assert_eq!(pulls.mounts(), 4);
    for mode in ["unpack", "mount"] {
        pulls.kill(mode);
        pulls.image("late-1", &[shared.clone(), layer("late", &[("late", mode)])], &json!({}));
        pulls.pull("late-1", &format!("late-{mode}")).unwrap();
        let seen = fs::read_to_string(pulls.seen(&format!("late-{mode}/rootfs/late")));
        assert_eq!(seen.unwrap(), mode);
    }
}

/// An image as a team builds and keeps it: encrypted by skopeo under a key of the key broker, in a registry.
#[test]
fn an_encrypted_image_comes_from_a_registry_over_one_attestation_or_not_at_all() {
    let (Some(mut skopeo), Some(mut pulls)) = (of_tree("skopeo"), Pulls::start(Options::default())) else {
        return skip("encrypting images needs the tree that tests/trees/make makes, with skopeo");
    };
    let folder = pulls.stack.folder().to_owned();
    let registry = Registry::start(&folder).unwrap();
    let repository = format!("{}/team/app", registry.address());
    let layers = [layer("low", &[("both", "1"), ("low", "1")]), layer("high", &[("both", "2")])];
    pulls.image("app-1", &layers, &json!({"Entrypoint": ["/bin/app"]}));

    let keys = folder.join("keys");
    fs::create_dir(&keys).unwrap();
    for (name, byte) in [("team", 1), ("other", 2)] {
        fs::write(keys.join(name), [byte; 32]).unwrap();
    }
    pulls.stack.put_resource("default/image-kek/team", &[1; 32]).unwrap();
    let port = cc_tests::port::claim().unwrap();
    let mut provider = own_binary("coco_keyprovider").unwrap();
    provider.arg("--socket").arg(format!("127.0.0.1:{port}")).arg("--key-dir").arg(&keys);
    let mut provider = Process::start("coco_keyprovider", provider, &folder).unwrap();
    provider.wait_for_port(port).unwrap();
    let config = folder.join("ocicrypt.conf");
    let grpc = json!({"key-providers": {"attestation-agent": {"grpc": format!("127.0.0.1:{port}")}}});
    fs::write(&config, grpc.to_string()).unwrap();
    skopeo
        .args(["--insecure-policy", "copy", "--dest-tls-verify=false"])
        .env("OCICRYPT_KEYPROVIDER_CONFIG", config);
    let copy = |key: &str| {
        let mut copy = std::process::Command::new(skopeo.get_program());
        copy.args(skopeo.get_args()).envs(skopeo.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let recipient =
            format!("provider:attestation-agent:keypath={key}::keyid=kbs:///default/image-kek/{key}");
        copy.args(["--encryption-key", &recipient]);
        copy.arg(format!("oci:{}/images:app-1", folder.display()))
            .arg(format!("docker://{repository}:{key}"));
        let out = copy.output().unwrap();
        assert!(out.status.success(), "{key}: {}", String::from_utf8_lossy(&out.stderr));
    };
    copy("team");
    copy("other");

    let plain_http = format!(
        "registry_config = {{ registry = [{{ prefix = {:?}, insecure = true }}] }}\n",
        registry.address()
    );
    pulls.configure(&plain_http);
    let digest = pulls.call(&format!("{repository}:team"), "b/team").unwrap();
    assert!(digest.starts_with("sha256:"), "{digest}");
    let content = |name: &str| fs::read_to_string(pulls.seen(&format!("b/team/rootfs/{name}"))).unwrap();
    assert_eq!((content("both").as_str(), content("low").as_str()), ("2", "1"));
    assert_eq!(pulls.stack.quotes().unwrap(), 1, "one attestation for the keys of all layers");

    // The key broker has no key of that name for this machine.
    let (mounts, layers) = (pulls.mounts(), pulls.layers());
    let (_, message) = pulls.call(&format!("{repository}:other"), "b/other").unwrap_err();
    assert!(message.contains("KBS_NOT_FOUND") && message.contains("image-kek/other"), "{message}");
    assert!(!folder.join("b/other").exists());
    assert_eq!((pulls.mounts(), pulls.layers()), (mounts, layers), "nothing is left of it");
}

#[test]
fn a_policy_key_that_the_key_broker_denies_is_a_denial_of_the_image() {
    let options = Options { no_reference_values: true, ..Options::default() };
    let Some(mut pulls) = Pulls::start(options) else { return };
    pulls.stack.put_resource("default/cosign/team", b"a key").unwrap();
    let requirement = json!({"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign/team"});
    pulls.configure(&format!("image_security_policy = '{}'\n", json!({"default": [requirement]})));
    pulls.image("app-1", &[layer("l", &[("file", "1")])], &json!({}));
    let (_, message) = pulls.pull("app-1", "b").unwrap_err();
    for words in ["IMAGE_POLICY_KEY_WITHHELD", "KBS_DENIED_POLICY", "kbs:///default/cosign/team"] {
        assert!(message.contains(words), "{words} is missing in {message}");
    }
    assert!(!pulls.stack.folder().join("b").exists());
}

#[test]
fn the_user_of_an_image_is_looked_up_in_its_own_files() {
    let Some(mut pulls) = Pulls::start(Options::default()) else { return };
    pulls.configure("");
    let make =
        "mkdir etc; echo app:x:1000:50::/: >etc/passwd; printf 'users:x:50:\\nwheel:x:10:app\\n' >etc/group";
    let files = archive(make, &["etc", "etc/passwd", "etc/group"]);
    let image = |pulls: &mut Pulls, name: &str, user: &str| {
        let config = json!({"User": user, "Volumes": {"/data": {}, "/": {}, "../x": {}}});
        pulls.image(name, std::slice::from_ref(&files), &config);
    };
    for (name, user, expected) in [
        ("named-1", "app", json!({"uid": 1000, "gid": 50, "additionalGids": [10]})),
        ("grouped-1", "app:wheel", json!({"uid": 1000, "gid": 10})),
        ("numbers-1", "7:8", json!({"uid": 7, "gid": 8})),
        ("nobody-1", "", json!({"uid": 0, "gid": 0})),
    ] {
        image(&mut pulls, name, user);
        pulls.pull(name, name).unwrap();
        let text = fs::read_to_string(pulls.stack.folder().join(name).join("config.json")).unwrap();
        let spec: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(spec["process"]["user"], expected, "{user}");
        // Of the volumes the one that is a path below the root directory; the others would hide the image or leave it.
        let mounts = spec["mounts"].as_array().unwrap();
        assert_eq!(
            (&mounts[0]["destination"], &mounts[1]["destination"]),
            (&json!("/data"), &json!("/proc"))
        );
    }
    image(&mut pulls, "unknown-1", "www");
    let (_, message) = pulls.pull("unknown-1", "b").unwrap_err();
    assert!(message.contains("IMAGE_USER_UNKNOWN") && message.contains("\"www\""), "{message}");
    assert!(!pulls.stack.folder().join("b").exists());
    assert_eq!(pulls.mounts(), 4);
}
