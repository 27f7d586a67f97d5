//! `Link`: the next page is a part of the header.
#![no_main]

use image_registry::next_page;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(Some(target)) = next_page(text) {
        assert!(text.contains(&format!("<{target}>")) && !target.contains('>'));
    }
});
