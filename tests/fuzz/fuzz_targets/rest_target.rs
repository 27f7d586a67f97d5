//! The parsers of the local HTTP door: request targets, query parameters, `Host` values, path prefixes.

#![no_main]

use std::net::IpAddr;

use api_server_rest::door::PathPrefix;
use api_server_rest::host::{AllowedHosts, Host};
use api_server_rest::routes::{ROUTES, Root};
use api_server_rest::target::Target;
use http::header::{HOST, HeaderMap, HeaderValue, ORIGIN};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    host(data);
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

/// As `Host`, as `Origin`, and as a name that an operator adds.
fn host(data: &[u8]) {
    let bound = IpAddr::from([10, 0, 0, 1]);
    let named = std::str::from_utf8(data).map(|name| AllowedHosts::new(bound, &[name]));
    if let Ok(Ok(_)) = named {
        assert!(Host::parse(data).is_ok());
    }
    let (Ok(allowed), Ok(value)) =
        (AllowedHosts::new(bound, &["kbs.example"]), HeaderValue::from_bytes(data))
    else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(HOST, value.clone());
    if allowed.check(&headers, None).is_ok() {
        match Host::parse(data).expect("an allowed host is a host") {
            Host::Address(address) => assert!(address.is_loopback() || address == bound),
            Host::Name(name) => {
                assert!(["localhost", "kbs.example"].iter().any(|n| n.eq_ignore_ascii_case(name)))
            }
        }
    }
    headers.insert(HOST, HeaderValue::from_static("localhost"));
    headers.insert(ORIGIN, value);
    if allowed.check(&headers, None).is_ok() {
        assert!(data.starts_with(b"http://") || data.starts_with(b"https://"));
    }
}
