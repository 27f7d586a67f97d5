//! The kernel command line and the text in it that names the key broker.
#![no_main]

use cc_kbs::params::{KbcParams, kernel_parameter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &str| {
    let name = "agent.aa_kbc_params";
    let found = kernel_parameter(line, name);
    if let Some(value) = found {
        assert!(line.contains(&format!("{name}={value}")) && !value.contains(' '));
    }
    for text in [found, Some(line)].into_iter().flatten() {
        if let Ok(params) = KbcParams::parse(text) {
            assert_eq!(format!("{}::{}", params.name, params.uri), text);
        }
    }
    let by_line = found.map_or_else(|| Ok(KbcParams::default()), KbcParams::parse);
    assert_eq!(KbcParams::find(None, line), by_line);
});
