//! Pulls that end in the middle: killed at any moment, and stopped by the operator.
//!
//! The moments are random; their seed is printed, and `SEED` sets it.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Workshop, archive,
    hub::{HALVES, Hub},
    left_in, tree,
};

/// How often a pull is killed.
const KILLS: u32 = 100;
/// How long a stopped pull may take to end, on a loaded machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// How long the shortest of three runs of `work` takes: others may keep the machine busy meanwhile.
fn shortest(mut work: impl FnMut(usize)) -> Duration {
    let timed = |round| {
        let start = Instant::now();
        work(round);
        start.elapsed()
    };
    (0..3).map(timed).min().unwrap()
}

/// Numbers that nobody foresees, and that come again with their seed (SplitMix64).
struct Random(u64);

impl Random {
    fn new(test: &str) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| u64::try_from(now.as_micros()).unwrap());
        eprintln!("{test}: SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// A moment within `time`.
    fn moment(&mut self, time: Duration) -> Duration {
        Duration::from_micros(self.below(1 + u64::try_from(time.as_micros()).unwrap()))
    }
}

/// An image of three layers with some hundred small files, which no other image has.
fn make_image(shop: &Workshop, tag: &str) {
    let layers: Vec<_> = (0..3)
        .map(|number| {
            let folder = shop.path(&format!("{tag}-layer-{number}"));
            for file in 0..120 {
                let path = folder.join(format!("{}/{}", file % 7, file % 11));
                fs::create_dir_all(&path).unwrap();
                fs::write(path.join(format!("{number}-{file}")), tag.repeat(file * 50)).unwrap();
            }
            shop.layout.gzip(&archive(&folder)).unwrap()
        })
        .collect();
    shop.layout.image(tag, &layers).unwrap();
    shop.push(tag);
}

#[test]
fn a_pull_that_is_killed_at_any_moment_leaves_nothing_under_its_name() {
    let Some(shop) = Workshop::open() else { return };
    make_image(&shop, "it");
    let mut random = Random::new("a_pull_that_is_killed_at_any_moment");
    let whole = shop.path("whole");
    let time = shortest(|round| shop.pulled("it", &shop.path(&format!("measured-{round}"))));
    shop.pulled("it", &whole);
    let expected = tree::of(&whole);
    let place = shop.path("place");
    fs::create_dir(&place).unwrap();
    let target = place.join("root");
    let (mut killed, mut left) = (0, 0);
    for _ in 0..KILLS {
        let mut command = shop.pull_command("it", &target, &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(random.moment(time));
        let _ = child.kill();
        killed += u32::from(child.wait().unwrap().signal() == Some(9));
        if target.exists() {
            assert_eq!(tree::of(&target), expected, "what has its name is complete");
            fs::remove_dir_all(&target).unwrap();
        }
        left += u32::from(!left_in(&place).is_empty());
    }
    // On a loaded machine some are over before, and some have not begun.
    assert!(killed >= KILLS / 4 && left >= 1, "{killed} were killed, {left} in the middle");
    shop.pulled("it", &target);
    assert_eq!(tree::of(&target), expected);
    assert_eq!(left_in(&place), ["root"], "the next pull clears away what the killed ones left");
}

#[test]
fn a_store_is_sound_whoever_is_killed_at_any_moment_of_a_pull() {
    let Some(shop) = Workshop::open() else { return };
    let mut random = Random::new("a_store_is_sound_whoever_is_killed");
    let mut hub = Hub::start(&shop, "");
    // Images that are not in the store yet, as those below.
    let measured = ["first", "second", "third"];
    measured.iter().for_each(|tag| make_image(&shop, tag));
    let time = shortest(|round| assert!(hub.pull(&shop, measured[round], measured[round]).status.success()));
    let mut failed = 0;
    for round in 0..5 {
        // In each round an image that is not in the store; once a pull has passed, the later ones find its layers there.
        let tag = format!("it{round}");
        make_image(&shop, &tag);
        for kill in 0..10 {
            let bundle = format!("{round}-{kill}");
            let mut command = hub.pull_command(&shop, &tag, &bundle);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(random.moment(time));
            let victim = random.below(4);
            match victim {
                0 => child.kill().unwrap(),
                1 => hub.kill_half(HALVES[0]),
                2 => hub.kill_half(HALVES[1]),
                _ => hub.kill(),
            }
            let passed = child.wait().unwrap().success();
            failed += u32::from(!passed);
            if passed && victim < 2 {
                assert_eq!(fs::read_dir(hub.seen(&bundle, "")).unwrap().count(), 7, "{bundle}");
            }
            if !hub.is_running() {
                hub.run();
            }
        }
        let bundle = format!("{round}-last");
        let out = hub.pull(&shop, &tag, &bundle);
        assert!(out.status.success(), "{tag}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(fs::read_dir(hub.seen(&bundle, "")).unwrap().count(), 7);
        // Everything goes that nobody needs, and nothing else is there.
        hub.stop();
        let images = hub.images(&["ls"]);
        let listed = images["images"].as_array().unwrap();
        let record = listed.iter().find(|image| image["reference"] == shop.name(&tag)).unwrap();
        assert_eq!(record["layers"], 3, "{images}");
        for image in listed {
            hub.images(&["rm", image["manifest_digest"].as_str().unwrap()]);
        }
        hub.images(&["gc"]);
        hub.run();
        let other = hub.pull(&shop, "first", &format!("{round}-other"));
        assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
        assert_eq!((left_in(&hub.store().join("overlay")).len(), hub.mounts()), (1, 1), "{tag}");
        hub.stop();
        hub.images(&["gc"]);
        let layers = left_in(&hub.store().join("layers"));
        assert!(layers.len() == 3 && layers.iter().all(|name| !name.starts_with('.')), "{tag}: {layers:?}");
        assert_eq!(left_in(&hub.store().join("images")).len(), 1, "{tag}");
        hub.run();
    }
    // On a loaded machine some are over before.
    assert!(failed >= 1, "{failed} of 50 pulls failed");
}

#[test]
fn a_pull_that_is_stopped_leaves_nothing_unpacked() {
    let Some(shop) = Workshop::open() else { return };
    // Half a gigabyte of zeros is some megabytes on the wire, and takes a while.
    let folder = shop.path("long");
    fs::create_dir(&folder).unwrap();
    let mut file = tempfile::NamedTempFile::new_in(&folder).unwrap();
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 200 << 20), &mut file).unwrap();
    let mut tar = cc_tests::process::command("tar");
    let layer = crate::run(tar.args(["--create", "--directory"]).arg(&folder).arg("."));
    shop.layout.image("long", &[shop.layout.gzip(&layer).unwrap()]).unwrap();
    drop((file, layer));
    shop.push("long");
    let place = shop.path("place");
    fs::create_dir(&place).unwrap();
    for stop in [Signal::TERM, Signal::INT] {
        let mut command = shop.pull_command("long", &place.join("root"), &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let partial = place.join(".root.guestctl-partial/work/0");
        let start = Instant::now();
        while fs::read_dir(&partial).map_or(0, Iterator::count) == 0 {
            assert!(
                start.elapsed() < TIME_LIMIT && child.try_wait().unwrap().is_none(),
                "it does not unpack"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        signal(&child, stop);
        let out = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && error.contains("[IMAGE_INTERRUPTED]"), "{stop:?}: {error}");
        // At most the layer as it came, for the next pull.
        let left = left_in(&place);
        assert!(left.is_empty() || left == [".root.guestctl-partial"], "{stop:?}: {left:?}");
        assert!(!place.join(".root.guestctl-partial/work").exists(), "{stop:?}");
    }
}
