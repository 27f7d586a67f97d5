//! Manifests of artifacts: whatever they say, files get below the folder, each to a place of its own.
#![no_main]

use std::{
    io::Read,
    path::{Component, Path},
};

use image_rs::{Artifact, Descriptor, Document, Error, Platform, Pointer, Source};
use libfuzzer_sys::fuzz_target;

/// One document under every name.
#[derive(Debug)]
struct One(Vec<u8>);

impl Source for One {
    fn document(&self, _: &Pointer) -> Result<Document, Error> {
        Ok(Document { media_type: None, bytes: self.0.clone() })
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>, Error> {
        Err(Error::NotFound { what: descriptor.digest.to_string() })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let source = One(bytes.to_vec());
    let pointer = Pointer::Tag("it".to_owned());
    match Artifact::resolve(&source, &pointer, &Platform::of_this_machine()) {
        Ok(artifact) => {
            let parts = artifact.parts();
            assert!(!parts.is_empty() && parts.len() <= 500);
            for (number, part) in parts.iter().enumerate() {
                let path = Path::new(part.title.as_str());
                assert!(path.is_relative() && path.components().all(|c| matches!(c, Component::Normal(_))));
                for other in parts.iter().skip(number + 1) {
                    let other = Path::new(other.title.as_str());
                    assert!(!other.starts_with(path) && !path.starts_with(other));
                }
            }
        }
        Err(error) => assert!(!error.code().is_empty() && !error.hint().is_empty()),
    }
});
