//! The name that systemd binds before it asks for a unit's credential.
#![no_main]

use cc_daemon::peer::BoundName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(BoundName { unit, credential }) = BoundName::parse(bytes) {
        assert!(!credential.contains('/') && !unit.contains('/'));
        assert!(bytes.ends_with(format!("/unit/{unit}/{credential}").as_bytes()));
    }
});
