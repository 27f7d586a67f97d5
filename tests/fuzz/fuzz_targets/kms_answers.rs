//! Answers of key management services (Alibaba Cloud, AWS, Vault) with any status and any body, about names of all kinds.
#![no_main]

use cc_crypto::Secret;
use cc_kms::answers;
use http::StatusCode;
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] = [
    "db",
    "alias/kek",
    "key-hzz630494463ejqjx1234",
    "acs:kms:cn-hangzhou:1:secret/db",
    "arn:aws:kms:eu-central-1:1:key/1234abcd",
];

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (status, name, body) = input;
    let status = StatusCode::from_u16(200 + status % 400).expect("a status");
    let asked = NAMES[usize::from(name) % NAMES.len()];
    for result in answers::read(asked, status, &Secret::new(body.to_vec())) {
        match result {
            // Decoding makes nothing longer.
            Ok(secret) => assert!(status.is_success() && secret.len() <= body.len()),
            // What the other side says goes into logs: on one line, and not without end.
            Err(error) => {
                let text = error.to_string();
                assert!(!text.contains(char::is_control) && text.len() < 4096, "{text:?}");
                assert!(!error.code().is_empty() && !error.hint().is_empty());
            }
        }
    }
});
