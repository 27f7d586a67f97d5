//! Encrypts layers as image tools do, and in ways that they do not.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use cc_crypto::{Secret, cipher::ContentCipher};
use image_rs::Compression;
use serde_json::{Value, json};

use crate::layout::{self, sha256};

pub const PREFIX: &str = "org.opencontainers.image.enc.";

/// A layer being encrypted. Everything can be changed before it is written.
#[derive(Clone)]
pub struct Layer {
    pub media_type: String,
    pub cipher_text: Vec<u8>,
    pub diff_id: String,
    pub public: Value,
    pub private: Value,
    /// Annotations beside the wrapped options.
    pub more: BTreeMap<String, String>,
}

pub fn base64(bytes: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(bytes)
}

impl Layer {
    /// `archive`, compressed and encrypted with a key made of `seed`.
    pub fn new(compression: Compression, archive: &[u8], seed: u8) -> Self {
        let (plain, media_type) = layout::compress(compression, archive);
        let (key, nonce) = ([seed; 32], [seed ^ 0xff; 16]);
        // Counter mode encrypts as it decrypts.
        let cipher_text = ContentCipher::A256Ctr.open(&Secret::new(key.to_vec()), &nonce, &plain);
        let cipher_text = cipher_text.unwrap().expose().to_vec();
        let mut layer = Self {
            media_type: format!("{media_type}+encrypted"),
            cipher_text,
            diff_id: sha256(archive).to_string(),
            public: json!({"cipher": "AES_256_CTR_HMAC_SHA256", "cipheroptions": {}}),
            private: json!({
                "symkey": base64(key), "digest": sha256(&plain).to_string(),
                "cipheroptions": {"nonce": base64(nonce)},
            }),
            more: BTreeMap::new(),
        };
        layer.authenticate(key);
        layer
    }

    /// Names the code that the cipher text has now.
    pub fn authenticate(&mut self, key: [u8; 32]) {
        let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &self.cipher_text);
        self.public["hmac"] = json!(base64(code.as_ref()));
    }

    /// Stores the layer with its options wrapped by `wrap`, which gives the annotation's name and content.
    pub fn store(&self, image: &layout::Image, wrap: impl Fn(&Value) -> (&'static str, Vec<u8>)) -> Value {
        let mut descriptor = image.blob(&self.media_type, &self.cipher_text);
        let (name, wrapped) = wrap(&self.private);
        let mut annotations = json!({
            format!("{PREFIX}{name}"): base64(wrapped),
            format!("{PREFIX}pubopts"): base64(self.public.to_string()),
        });
        for (name, value) in &self.more {
            annotations[name] = json!(value);
        }
        descriptor["annotations"] = annotations;
        descriptor
    }
}

/// Wraps nothing: the packet is the private options themselves. [`super::Open`] opens it.
pub fn in_clear(options: &Value) -> (&'static str, Vec<u8>) {
    ("keys.provider.attestation-agent", options.to_string().into_bytes())
}
