//! Options of SecureMount, which the host chose: one `name TAB value` a line.
#![no_main]

use cc_volume::mount_request::{Device, Plan, Target};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options = text.lines().filter_map(|line| line.split_once('\t'));
    for mount_point in ["/srv/data", text] {
        let Ok(plan) = Plan::read("block-device", options.clone(), mount_point) else { continue };
        assert!(plan.mount_point.starts_with('/'));
        assert!(plan.mount_point.split('/').all(|part| part != ".." && part != "."));
        if let Some(name) = plan.name {
            assert!(!name.contains('/') && !name.starts_with(['-', '.']));
        }
        if let Device::Path(path) = plan.device {
            assert!(path.starts_with('/') && path.split('/').all(|part| part != ".."));
        }
        if let Target::FileSystem { mkfs } = plan.target {
            assert!(mkfs.iter().all(|word| !word.contains(['/', ' ']) && word != "-d" && word != "-z"));
        }
    }
});
