//! Manifests, indexes and configurations: bounded, and what is chosen is what was there.
#![no_main]

use image_rs::{
    ImageConfig, Platform,
    manifest::{INDEX_TYPES, MANIFEST_TYPES, Top},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ImageConfig::parse(bytes) {
        assert!(config.os == "linux" && config.diff_ids.len() <= 500);
    }
    let own = Top::parse(None, bytes);
    for announced in MANIFEST_TYPES.into_iter().chain(INDEX_TYPES) {
        let top = Top::parse(Some(announced), bytes);
        // A document that names its kind is of that kind only.
        if let (Ok(own), Ok(top)) = (&own, &top) {
            assert_eq!(own, top);
        }
        match top {
            Ok(Top::Manifest(manifest)) => {
                assert!(MANIFEST_TYPES.contains(&announced) && manifest.layers.len() <= 500);
            }
            Ok(Top::Index(index)) => {
                assert!(INDEX_TYPES.contains(&announced));
                if let Ok(chosen) = index.choose(&Platform::of_this_machine()) {
                    assert!(index.manifests.contains(chosen));
                }
            }
            Err(error) => assert!(!error.code().is_empty() && !error.hint().is_empty()),
        }
    }
});
