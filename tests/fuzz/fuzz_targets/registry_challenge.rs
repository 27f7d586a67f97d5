//! `WWW-Authenticate`: what is read says the same when it is written and read again.
#![no_main]

use image_registry::Challenge;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let headers: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    let Ok(challenge) = Challenge::choose(headers) else { return };
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let written = match &challenge {
        Challenge::Basic => "Basic".to_owned(),
        Challenge::Bearer { realm, service } => {
            let service = service.as_deref().map(|service| format!(",service={}", quote(service)));
            format!("Bearer realm={}{}", quote(realm), service.unwrap_or_default())
        }
    };
    if written.len() <= 4096 {
        assert_eq!(Challenge::choose([written.as_bytes()]), Ok(challenge));
    }
});
