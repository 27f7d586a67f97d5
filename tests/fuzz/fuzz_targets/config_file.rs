//! Configuration files of every format, and the choice of the format.
#![no_main]

use std::collections::BTreeMap;

use cc_daemon::config::{Format, LogSection, SocketSection, parse};
use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use serde_json::Value;

/// The shapes that the daemons' files are made of.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    socket: Option<String>,
    token_configs: BTreeMap<String, BTreeMap<String, String>>,
    image: Option<Value>,
    rules: Vec<Rule>,
    log: LogSection,
    socket_options: SocketSection,
}

#[derive(Debug, Deserialize)]
struct Rule {
    uid: u32,
    #[serde(default)]
    paths: Vec<String>,
}

fuzz_target!(|text: &str| {
    for format in [Format::sniff(text), Format::Toml, Format::Json, Format::Yaml] {
        let Ok((file, unknown)) = parse::<File>(text, format) else { continue };
        assert!(unknown.is_sorted(), "{unknown:?}");
        if let Ok(options) = file.socket_options.options() {
            assert!(options.mode <= 0o777);
        }
        let _ = (&file.socket, &file.token_configs, &file.image, &file.log.level);
        let _ = file.rules.iter().map(|rule| (rule.uid, rule.paths.len())).max();
    }
});
