//! The parsers of the local HTTP door: request targets, query parameters, `Host` values, path prefixes.

#![no_main]

use api_server_rest::door::PathPrefix;
use api_server_rest::host::Host;
use api_server_rest::routes::{ROUTES, Root};
use api_server_rest::target::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Host::parse(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(target) = Target::parse(text) else { return };
    // Nothing is rewritten, and no dot segment or empty segment gets through in any spelling.
    assert!(text.starts_with(target.path()));
    let decoded = target.path().replace("%2e", ".").replace("%2E", ".");
    assert!(!decoded.split('/').any(|segment| segment == "." || segment == ".."));
    assert!(!target.path().contains("//"));
    let _ = target.parameter("runtime_data");
    assert!(ROUTES.iter().filter(|route| route.pattern.matches(target.path())).count() <= 1);
    let _ = Root::of(target.path());
    let path = target.path().trim_start_matches('/');
    if let Ok(prefix) = PathPrefix::parse(path) {
        assert!(prefix.covers(path.trim_end_matches('/')));
    }
});
