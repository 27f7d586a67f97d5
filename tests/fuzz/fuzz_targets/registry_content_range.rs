//! `Content-Range`: a range that can be, and the same when it is written and read again.
#![no_main]

use image_registry::ContentRange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some(range) = ContentRange::parse(text) else { return };
    assert!(range.first <= range.last && range.whole.is_none_or(|whole| range.last < whole));
    let whole = range.whole.map_or("*".to_owned(), |whole| whole.to_string());
    let again = format!("bytes {}-{}/{whole}", range.first, range.last);
    assert_eq!(ContentRange::parse(&again), Some(range));
});
