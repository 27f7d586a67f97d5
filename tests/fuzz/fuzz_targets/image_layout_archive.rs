//! Image layouts in tar archives: what is found is compared with its digest, or not given.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use image_rs::{Image, Platform, source::Layout};
use libfuzzer_sys::fuzz_target;

static FILE: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("layout-archive-{}", std::process::id())));

fuzz_target!(|bytes: &[u8]| {
    fs::write(&*FILE, bytes).expect("the temporary folder can be written to");
    let Ok(layout) = Layout::open_archive(&FILE) else { return };
    let Ok(pointer) = layout.only() else { return };
    let _ = Image::resolve(&layout, &pointer, &Platform::of_this_machine());
});
