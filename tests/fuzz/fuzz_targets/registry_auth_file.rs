//! Credentials of registries: whatever is in the file, no error quotes it.
#![no_main]

use image_registry::{AuthFile, Login};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = AuthFile::parse(bytes) {
        assert_eq!(error.code(), "REGISTRY_CONFIG");
    }
    if let Ok(login) = Login::parse(bytes) {
        assert_eq!(format!("{login:?}"), "Login");
    }
});
