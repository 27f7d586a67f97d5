//! Init-data in the forms in which a host delivers it: device image, gzip, annotation. Nothing panics, nothing grows
//! beyond the limit, and what is read is written and read again.
#![no_main]

use cc_evidence::initdata::{MAX_LEN, carrier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let from_device = carrier::from_device(bytes).ok().flatten();
    let from_gzip = carrier::expand(bytes).ok();
    let from_annotation =
        std::str::from_utf8(bytes).ok().and_then(|text| carrier::from_annotation(text).ok());
    for text in [from_device, from_gzip, from_annotation].into_iter().flatten() {
        assert!(text.len() <= MAX_LEN);
        let image = carrier::to_device(&text).unwrap();
        assert_eq!(carrier::from_device(&image).unwrap().as_deref(), Some(text.as_str()));
    }
});
