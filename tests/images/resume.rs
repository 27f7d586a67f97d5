//! Pulls that are killed, stopped or cut off from the registry, and the ones after them: what comes over the line again, and what
//! does not.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use cc_tests::{
    process::{command, own_binary},
    stack::skip,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{Workshop, archive, left_in, line::Line, run};

/// How long it may take until something has come, on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);
const MB: u64 = 1_000_000;
/// What came but is not kept when a pull ends: for each of two files up to a mark, and what is on its way; documents.
const LOST: u64 = 12 * MB;

/// Bytes that do not compress (SplitMix64).
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 27)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A model of three files in the registry, and a line to it.
struct Remote {
    shop: Workshop,
    line: Line,
    files: [(&'static str, Vec<u8>); 3],
}

impl Remote {
    fn open() -> Option<Self> {
        let shop = Workshop::open()?;
        let files = [("model/a.bin", 40 * MB), ("model/b.bin", 30 * MB), ("c.json", 1000)];
        let files = files.map(|(name, length)| (name, noise(usize::try_from(length).unwrap(), length)));
        let parts = files.each_ref().map(|(name, content)| (*name, content.as_slice()));
        shop.layout.artifact("model", &parts).unwrap();
        shop.push("model");
        let line = Line::to(shop.registry.address());
        Some(Self { shop, line, files })
    }

    /// `guestctl pull` over the line.
    fn pull(&self, tag: &str, more: &[&str]) -> Command {
        let mut guestctl = own_binary("guestctl").unwrap();
        guestctl.args(["pull", &format!("{}/app:{tag}", self.line.address()), "--plain-http"]).args(more);
        for proxy in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            guestctl.env_remove(proxy);
        }
        guestctl
    }

    fn artifact(&self, target: &Path, more: &[&str]) -> Command {
        self.pull("model", &[&["--artifact", target.to_str().unwrap()], more].concat())
    }

    /// Starts a pull over a line that stands still after `most` bytes; it is there when that has come.
    fn held(&self, mut pull: Command, most: u64) -> Child {
        self.line.allow(Some(most), false);
        let mut child = pull.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while self.line.came() < most {
            assert!(start.elapsed() < TIME_LIMIT && child.try_wait().unwrap().is_none(), "nothing comes");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }

    #[track_caller]
    fn is_whole(&self, target: &Path) {
        for (name, content) in &self.files {
            assert!(fs::read(target.join(name)).unwrap() == *content, "{name}");
        }
    }
}

/// Waits until a killed or stopped pull has written what it had got, at least `least` bytes.
fn wait_for_bytes(kept: &Path, least: u64) {
    let start = Instant::now();
    let written = || {
        let names = fs::read_dir(kept).map_or(0, |names| {
            names.map(|name| name.unwrap().metadata().map_or(0, |status| status.len())).sum()
        });
        names >= least
    };
    while !written() {
        assert!(start.elapsed() < TIME_LIMIT, "it writes nothing to {}", kept.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[track_caller]
fn passed(out: &Output) -> Vec<Value> {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let lines = str::from_utf8(&out.stdout).unwrap().lines();
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The one event of this kind.
fn event<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let mut found = events.iter().filter(|event| event["event"] == kind);
    let first = found.next().unwrap_or(&Value::Null);
    assert!(found.next().is_none(), "{events:?}");
    first
}

#[test]
fn a_model_goes_on_after_a_kill_a_signal_and_a_broken_line() {
    let Some(remote) = Remote::open() else { return };
    let place = remote.shop.path("place");
    fs::create_dir(&place).unwrap();
    let target = place.join("model");
    let partial = place.join(".model.guestctl-partial");
    let kept = partial.join("kept");

    let mut child = remote.held(remote.artifact(&target, &[]), 30 * MB);
    wait_for_bytes(&kept, 20 * MB);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(left_in(&place), [".model.guestctl-partial"]);
    let status = fs::metadata(&partial).unwrap();
    assert_eq!((status.permissions().mode() & 0o777, status.uid()), (0o700, 0), "for root alone");

    let child = remote.held(remote.artifact(&target, &["--json"]), 15 * MB);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let out = child.wait_with_output().unwrap();
    let (error, told) = (String::from_utf8_lossy(&out.stderr), String::from_utf8_lossy(&out.stdout));
    assert!(error.contains("[IMAGE_INTERRUPTED]"), "{error}");
    assert!(
        told.contains("\"resumed\"") && told.contains("\"kept\"") && told.contains("guestctl-partial"),
        "{told}"
    );
    assert!(!partial.join("work").exists() && !target.exists());

    remote.line.allow(Some(10 * MB), true);
    let out = remote.artifact(&target, &[]).output().unwrap();
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && error.contains("[REGISTRY_UNREACHABLE]"), "{error}");
    assert!(error.contains("of an earlier pull are right") && error.contains("--restart"), "{error}");

    remote.line.allow(None, false);
    let events = passed(&remote.artifact(&target, &["--json"]).output().unwrap());
    let (came, resumed) = (remote.line.came(), event(&events, "done")["bytes_resumed"].as_u64().unwrap());
    // Of 70 MB 55 came before.
    assert!(
        came <= 15 * MB + 3 * LOST && resumed >= 55 * MB - 3 * LOST,
        "{came} bytes came, {resumed} were there"
    );
    assert!(resumed + came >= 70 * MB, "{came} bytes came, {resumed} were there");
    match event(&events, "confined")["landlock"].as_str().unwrap() {
        "none" => skip("this kernel's Landlock cannot confine"),
        how => assert!(["fully", "partly"].contains(&how), "{how}"),
    }
    remote.is_whole(&target);
    assert_eq!(left_in(&place), ["model"]);
}

#[test]
fn what_is_whole_is_not_asked_for_and_what_was_changed_is_asked_for_again() {
    let Some(remote) = Remote::open() else { return };
    let place = remote.shop.path("place");
    fs::create_dir(&place).unwrap();
    let target = place.join("model");
    let kept = place.join(".model.guestctl-partial/kept");
    // All files have come when it is killed.
    let mut child = remote.held(remote.artifact(&target, &[]), 60 * MB);
    wait_for_bytes(&kept, 50 * MB);
    child.kill().unwrap();
    child.wait().unwrap();
    for (_, content) in &remote.files {
        let name = cc_tests::image::sha256(content).replace(':', "-");
        fs::write(kept.join(name), content).unwrap();
    }
    remote.line.allow(None, false);
    let events = passed(&remote.artifact(&target, &["--json"]).output().unwrap());
    assert!(remote.line.came() < MB, "{}", remote.line.came());
    assert_eq!(event(&events, "done")["bytes_resumed"], json!(70 * MB + 1000));
    remote.is_whole(&target);

    fs::remove_dir_all(&target).unwrap();
    let mut child = remote.held(remote.artifact(&target, &[]), 60 * MB);
    wait_for_bytes(&kept, 50 * MB);
    child.kill().unwrap();
    child.wait().unwrap();
    for name in left_in(&kept).iter().filter(|name| !name.ends_with(".marks")) {
        let mut bytes = fs::read(kept.join(name)).unwrap();
        if let Some(byte) = bytes.get_mut(5) {
            *byte ^= 1;
        }
        fs::write(kept.join(name), bytes).unwrap();
    }
    remote.line.allow(None, false);
    passed(&remote.artifact(&target, &[]).output().unwrap());
    assert!(remote.line.came() >= 70 * MB, "nothing of it is believed: {}", remote.line.came());
    remote.is_whole(&target);
    assert_eq!(left_in(&place), ["model"]);
}

#[test]
fn what_is_kept_goes_when_it_is_not_wanted_any_more() {
    let Some(remote) = Remote::open() else { return };
    let place = remote.shop.path("place");
    fs::create_dir(&place).unwrap();
    let target = place.join("model");
    let cut_off = || {
        remote.line.allow(Some(30 * MB), true);
        assert!(!remote.artifact(&target, &[]).output().unwrap().status.success());
        assert_eq!(left_in(&place), [".model.guestctl-partial"]);
        remote.line.allow(None, false);
    };
    // A policy that does not admit it any more.
    cut_off();
    let policy = remote.shop.path("policy.json");
    fs::write(&policy, r#"{"default": [{"type": "reject"}]}"#).unwrap();
    let out = remote.artifact(&target, &["--policy", policy.to_str().unwrap()]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&out.stderr).contains("[IMAGE_REJECTED]"),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert_eq!(left_in(&place), [""; 0]);
    // The operator says so.
    cut_off();
    let events = passed(&remote.artifact(&target, &["--restart", "--json"]).output().unwrap());
    assert_eq!(event(&events, "done")["bytes_resumed"], json!(0));
    assert!(remote.line.came() >= 70 * MB);
    fs::remove_dir_all(&target).unwrap();
    // Another image takes the place.
    cut_off();
    remote.shop.layout.artifact("other", &[("a.bin", remote.files[0].1.as_slice())]).unwrap();
    remote.shop.push("other");
    passed(&remote.pull("other", &["--artifact", target.to_str().unwrap()]).output().unwrap());
    assert!(remote.line.came() >= 40 * MB);
    assert_eq!(left_in(&place), ["model"]);
}

#[test]
fn layers_of_an_image_are_not_fetched_again() {
    let Some(remote) = Remote::open() else { return };
    let layers: Vec<_> = (0..3)
        .map(|number| {
            let folder = remote.shop.path(&format!("layer-{number}"));
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join(format!("f{number}")), noise(20_000_000, number)).unwrap();
            remote.shop.layout.gzip(&archive(&folder)).unwrap()
        })
        .collect();
    remote.shop.layout.image("image", &layers).unwrap();
    remote.shop.push("image");
    // On a disk, whatever the temporary folder is on: in memory there are no copies.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let target = place.path().join("root");
    let pull = || remote.pull("image", &["--rootfs", target.to_str().unwrap(), "--json"]);
    let mut child = remote.held(pull(), 45 * MB);
    wait_for_bytes(&place.path().join(".root.guestctl-partial/kept"), 35 * MB);
    child.kill().unwrap();
    child.wait().unwrap();
    remote.line.allow(None, false);
    let events = passed(&pull().output().unwrap());
    let (came, resumed) = (remote.line.came(), event(&events, "done")["bytes_resumed"].as_u64().unwrap());
    assert!(
        came <= 15 * MB + 2 * LOST && resumed >= 45 * MB - 2 * LOST,
        "{came} bytes came, {resumed} were there"
    );
    for number in 0..3 {
        assert!(fs::read(target.join(format!("f{number}"))).unwrap() == noise(20_000_000, number));
    }
    assert_eq!(left_in(place.path()), ["root"]);
}

#[test]
fn wrong_bytes_of_a_mirror_that_breaks_off_do_not_spoil_the_pull_from_the_registry() {
    let Some(remote) = Remote::open() else { return };
    let mirror = Line::to(remote.shop.registry.address());
    let rules = remote.shop.path("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"{}\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
        remote.line.address(),
        mirror.address()
    );
    fs::write(&rules, text).unwrap();
    let folder = remote.shop.path("layer");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("f"), noise(20_000_000, 9)).unwrap();
    let layer = remote.shop.layout.gzip(&archive(&folder)).unwrap();
    remote.shop.layout.image("image", &[layer]).unwrap();
    remote.shop.push("image");
    for (tag, kind) in [("model", "--artifact"), ("image", "--rootfs")] {
        let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let target = disk.path().join("it");
        mirror.alter(12 * MB);
        remote.line.allow(None, false);
        let more = [kind, target.to_str().unwrap(), "--registries-conf", rules.to_str().unwrap()];
        let out = remote.pull(tag, &more).output().unwrap();
        assert!(out.status.success(), "{kind}: {}", String::from_utf8_lossy(&out.stderr));
        assert!(mirror.came() >= 12 * MB, "{kind}: the mirror was asked first");
        match tag {
            "model" => remote.is_whole(&target),
            _ => assert!(fs::read(target.join("f")).unwrap() == noise(20_000_000, 9)),
        }
        assert_eq!(left_in(disk.path()), ["it"]);
    }
}

/// A file system in memory, gone at the end.
struct Memory(PathBuf);

impl Memory {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        run(command("mount").args(["-t", "tmpfs", "-o", "size=90m,mode=0750", "tmpfs"]).arg(at));
        Self(at.to_owned())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = command("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_mount_point_is_filled_also_after_a_kill() {
    let Some(remote) = Remote::open() else { return };
    let target = remote.shop.path("models");
    let _memory = Memory::mount(&target);
    let mut child = remote.held(remote.artifact(&target, &[]), 40 * MB);
    wait_for_bytes(&target.join(".guestctl-partial/kept"), 30 * MB);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(left_in(&target), [".guestctl-partial"]);
    remote.line.allow(None, false);
    let out = remote.artifact(&target, &[]).output().unwrap();
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{told}");
    // Without a terminal there are plain lines: what came before, and the end of each file.
    assert!(told.contains("model/a.bin: ") && told.contains("\nc.json: done, 1 entries\n"), "{told}");
    assert!(told.contains("of an earlier pull are right") && !told.contains('\r'), "{told}");
    assert!(remote.line.came() <= 30 * MB + 2 * LOST, "{}", remote.line.came());
    remote.is_whole(&target);
    assert_eq!(left_in(&target), ["c.json", "model"]);
    assert_eq!(
        fs::metadata(&target).unwrap().permissions().mode() & 0o777,
        0o750,
        "the mount point stays as it was"
    );
}
