//! Resource URIs: what parses prints as a fixed point and never climbs out of its path.
#![no_main]

use cc_kbs::ResourceUri;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(uri) = text.parse::<ResourceUri>() {
        let printed = uri.to_string();
        let again: ResourceUri = printed.parse().expect("the printed form parses");
        assert_eq!(again, uri);
        assert_eq!(again.to_string(), printed);
        assert!(!uri.segments().is_empty());
        assert!(
            uri.segments().iter().all(|s| !matches!(s.as_str(), "" | "." | "..") && !s.contains(['/', '\\']))
        );
        assert!(uri.http_path().starts_with("/kbs/v0/"));
    }
});
