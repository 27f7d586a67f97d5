//! What an encrypted layer says about itself, in three lines: the list of wrapped keys, the public and the private options.
#![no_main]

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_crypto::Secret;
use cc_sealed::LayerEncryption;
use libfuzzer_sys::fuzz_target;

const PREFIX: &str = "org.opencontainers.image.enc.";

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (list, public, private) = (String::from_utf8_lossy(line()).into_owned(), line(), line());
    let annotations = |provider: &str, public: &str| {
        let packets = (format!("{PREFIX}{provider}"), list.clone());
        BTreeMap::from([packets, (format!("{PREFIX}pubopts"), public.to_owned())])
    };
    let _ = LayerEncryption::parse(&annotations("keys.jwe", &String::from_utf8_lossy(public)));
    let public = BASE64_STANDARD.encode(public);
    if let Ok(encryption) = LayerEncryption::parse(&annotations("keys.provider.any", &public)) {
        assert_eq!(encryption.packets().len(), list.split(',').count());
        if let Ok(key) = encryption.join(&Secret::new(private.to_vec())) {
            assert_eq!(key.key.len(), 32);
        }
    }
});
