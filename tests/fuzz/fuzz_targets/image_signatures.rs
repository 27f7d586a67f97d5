//! What a registry, a folder of signatures and a source of keys give: the same bytes in every place.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use image_rs::policy::{Lookaside, Policy, Signatures, Subject, Verdict};
use image_rs::{Algorithm, Descriptor, Digest, Document, Error, Pointer, Reference};
use libfuzzer_sys::fuzz_target;

const POLICIES: [&str; 4] = [
    r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"ring"}]}"#,
    r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"bytes"}]}"#,
    r#"{"default":[{"type":"sigstoreSigned","keyPath":"key","rekorPublicKeyPath":"key"}]}"#,
    r#"{"default":[{"type":"guest-services/bundleSigned","keyPath":"key","transparencyLog":"ignored"}]}"#,
];
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n-----END PUBLIC KEY-----\n";
const RING: &[u8] = include_bytes!("../seeds/image_signatures/ring");

static PARSED: LazyLock<Vec<Policy>> = LazyLock::new(|| {
    let lookaside =
        Lookaside::parse([("a", "default-docker: {lookaside: 'https://a'}")]).expect("it is well-formed");
    let parse = |text: &&str| {
        Policy::parse(text.as_bytes()).expect("it is well-formed").with_lookaside(lookaside.clone())
    };
    POLICIES.iter().map(parse).collect()
});

#[derive(Debug)]
struct Everywhere<'a>(&'a [u8]);

impl Signatures for Everywhere<'_> {
    fn document(&mut self, _: &Pointer) -> Result<Document, Error> {
        Ok(Document { media_type: None, bytes: self.0.to_vec() })
    }

    fn referrers(&mut self, _: &Digest) -> Result<Vec<u8>, Error> {
        Ok(self.0.to_vec())
    }

    fn blob(&mut self, _: &Descriptor) -> Result<Vec<u8>, Error> {
        Ok(self.0.to_vec())
    }

    fn lookaside(&mut self, url: &str) -> Result<Vec<u8>, Error> {
        if url.ends_with("-1") { Ok(self.0.to_vec()) } else { Err(Error::NotFound { what: url.to_owned() }) }
    }

    fn key(&mut self, location: &str) -> Result<Vec<u8>, Error> {
        Ok(match location {
            "key" => KEY.as_bytes().to_vec(),
            "ring" => RING.to_vec(),
            _ => self.0.to_vec(),
        })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let reference: Reference = "quay.io/team/app:1".parse().expect("it is well-formed");
    let manifest = Digest::of(Algorithm::Sha256, b"nobody signed this");
    let subject = Subject { reference: Some(&reference), manifest, index: None };
    let at = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    for policy in PARSED.iter() {
        assert!(matches!(policy.decide(&subject, at, &mut Everywhere(bytes)), Verdict::Refused(_)));
    }
});
