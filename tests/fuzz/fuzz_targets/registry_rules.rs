//! Rules for names: a first line with the name, then containers-registries.conf. No place begins with another
//! registry than a rule or the search list names, unless it is the name itself.
#![no_main]

use image_registry::Registries;
use image_rs::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some((name, file)) = text.split_once('\n') else { return };
    let Ok(registries) = Registries::parse(file) else { return };
    let Ok(reference) = name.parse::<Reference>() else { return };
    match registries.attempts(&reference) {
        Ok(attempts) => {
            assert!(!attempts.is_empty());
            for attempt in attempts {
                let place = attempt.reference;
                // A port may have stayed from the name.
                let host = place.registry().rsplit_once(':').map_or(place.registry(), |(host, _)| host);
                let named = place.registry() == reference.registry() || place.registry() == "docker.io";
                assert!(named || file.contains(host) || file.contains('\\'), "{place}");
                assert!(reference.digest().is_none() || place.digest() == reference.digest());
            }
        }
        Err(error) => assert!(matches!(error.code(), "REGISTRY_BLOCKED" | "REGISTRY_CONFIG")),
    }
});
