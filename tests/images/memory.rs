//! The memory of the half that unpacks, with layers that were compressed for size: what docs/images.md says is the bound.

use std::{
    fs,
    io::Write as _,
    time::{Duration, Instant},
};

use cc_tests::image::{LAYER, Layer, sha256};
use zstd::stream::write::Encoder;

use crate::{Workshop, archive, hub::Hub};

/// Most bytes above those of an idle program, but for a large window.
const BUDGET: u64 = 64_000_000;
/// The largest window, of which there is one at a time.
const LARGE_WINDOW: u64 = 128 << 20;
/// What may stay after a pull: the program's own pages that were touched meanwhile, and what is between live blocks.
const REST: u64 = 8_000_000;
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A layer with a file of so many megabytes, in a frame with a window of two to the power `log`.
fn layer(shop: &Workshop, name: &str, megabytes: usize, log: u32) -> Layer {
    let folder = shop.path(name);
    fs::create_dir(&folder).unwrap();
    let megabyte: Vec<u8> =
        (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    fs::write(folder.join(name), megabyte.repeat(megabytes)).unwrap();
    let archive = archive(&folder);
    let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(log).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&archive).unwrap();
    let descriptor = shop.layout.blob(&format!("{LAYER}+zstd"), &encoder.finish().unwrap()).unwrap();
    fs::remove_dir_all(folder).unwrap();
    Layer { descriptor, diff_id: sha256(&archive) }
}

impl Hub {
    /// `VmRSS` or `VmHWM` of the half that unpacks, in bytes (proc(5)).
    fn unpack_memory(&self, name: &str) -> u64 {
        let pid = self.pid("unpack").expect("the half that unpacks runs");
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let kib: u64 = line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse().unwrap();
        kib * 1024
    }

    /// Pulls the image, and gives the most memory that it took above `idle`. Afterwards that has gone back.
    fn peak(&self, shop: &Workshop, tag: &str, idle: u64) -> u64 {
        // From here on it is counted anew (proc_pid_clear_refs(5)).
        let pid = self.pid("unpack").unwrap();
        fs::write(format!("/proc/{}/clear_refs", pid.as_raw_nonzero()), "5").unwrap();
        let out = self.pull(shop, tag, tag);
        assert!(out.status.success(), "{tag}: {}", String::from_utf8_lossy(&out.stderr));
        let peak = self.unpack_memory("VmHWM");
        let begun = Instant::now();
        while self.unpack_memory("VmRSS") > idle + REST {
            let left = self.unpack_memory("VmRSS");
            assert!(begun.elapsed() < TIME_LIMIT, "{tag}: {left} bytes after the pull, {idle} before");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Pages that the first pull left behind may have gone since.
        let left = self.unpack_memory("VmRSS").saturating_sub(idle);
        let peak = peak.saturating_sub(idle);
        eprintln!("{tag}: {peak} bytes above idle, {left} stay");
        peak
    }
}

#[test]
fn layers_that_were_compressed_for_size_stay_within_the_memory_that_is_told() {
    let Some(shop) = Workshop::open() else { return };
    let small: Vec<_> = (0..8).map(|n| layer(&shop, &format!("small{n}"), 1, 20)).collect();
    // As `zstd -19` and `zstd --long=27` write them.
    let usual: Vec<_> = (0..8).map(|n| layer(&shop, &format!("usual{n}"), 12, 23)).collect();
    let large: Vec<_> = (0..2).map(|n| layer(&shop, &format!("large{n}"), 140 + n, 27)).collect();
    for (tag, layers) in [("small", &small), ("usual", &usual), ("large", &large)] {
        shop.layout.image(tag, layers).unwrap();
        shop.push(tag);
    }
    let hub = Hub::start(&shop, "max_concurrent_layer_downloads_per_image = 8\n");
    let first = hub.pull(&shop, "small", "first");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let idle = hub.unpack_memory("VmRSS");
    let usual = hub.peak(&shop, "usual", idle);
    assert!(usual <= BUDGET, "{usual} bytes above idle");
    let large = hub.peak(&shop, "large", idle);
    assert!(large <= BUDGET + LARGE_WINDOW, "{large} bytes above idle");
    assert!(large > LARGE_WINDOW, "{large} bytes above idle: there was no large window");
}
