//! Configuration files of every format, and the choice of the format.
#![no_main]

use std::collections::BTreeMap;

use cc_daemon::config::{Format, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for format in [Format::sniff(text), Format::Toml, Format::Json, Format::Yaml] {
        let _ = parse::<BTreeMap<String, BTreeMap<String, Vec<String>>>>(text, format);
    }
});
