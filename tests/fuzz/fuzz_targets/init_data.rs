//! Init-data documents: the text is kept as it was, whatever is in it.
#![no_main]

use cc_evidence::initdata::InitData;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(document) = InitData::parse(text) else { return };
    assert_eq!(document.body(), text);
    assert_eq!(document.digest().len(), document.algorithm().digest_len());
    let _ = format!("{document:?}");
});
