//! Image references and digests: the whole form is a fixed point.
#![no_main]

use image_rs::{Digest, Pointer, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    let Ok(reference) = text.parse::<Reference>() else { return };
    let whole = reference.to_string();
    let again: Reference = whole.parse().expect("the whole form is a reference");
    assert_eq!(again.to_string(), whole);
    assert_eq!(again.pointer(), reference.pointer());
    assert!(again.registry_named());
    match reference.pointer() {
        Pointer::Digest(digest) => assert!(whole.ends_with(&format!("@{digest}"))),
        Pointer::Tag(tag) => assert!(whole.ends_with(&format!(":{tag}"))),
    }
    // Parts of a request's path: nothing in them can end it or leave it.
    for part in reference.repository().split('/') {
        assert!(!matches!(part, "" | "." | ".."));
    }
    assert!(!whole.contains(['?', '#', '%', '\\', ' ']) && whole.is_ascii());
});
