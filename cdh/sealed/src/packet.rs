//! The annotation packet: the wrapped key of an encrypted image layer, and who unwraps it.
//!
//! JSON in the annotation `org.opencontainers.image.enc.keys.provider.attestation-agent` of a layer descriptor. Version 1 is
//! `{"kid","wrapped_data","iv","wrap_type"}`; version 2 adds `version`, `provider`, `provider_settings`, `annotations`. With
//! the provider `kbs` the key named by `kid` (32 bytes, a resource of the key broker) unwraps; with any other a key
//! management service does. What comes out are the private options of ocicrypt.

use cc_crypto::Secret;
use cc_crypto::cipher::ContentCipher;
use serde_json::{Map, Value, json};

use crate::SealedError;
use crate::error::quoted;
use crate::json::{self, Members};

/// Longest packet read, in bytes; a real one has 500.
pub(crate) const MAX_PACKET_LEN: usize = 64 * 1024;
const VERSION: &str = "0.1.0";
const WHAT: &str = "annotation packet";

/// A wrapped key with the name of what unwraps it.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnotationPacket {
    /// Name of the key-encryption key; with the provider `kbs` a `kbs://` URI.
    pub kid: String,
    /// The wrapped private options.
    pub wrapped_data: Vec<u8>,
    /// How they are wrapped.
    pub wrapping: Wrapping,
}

/// Who unwraps, and how.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrapping {
    /// The key itself comes from the key broker.
    KeyBroker {
        /// The cipher.
        wrap_type: ContentCipher,
        /// Its initialization vector, of the cipher's length.
        iv: Vec<u8>,
    },
    /// A key management service.
    Service {
        /// Its kind.
        provider: String,
        /// Public settings of its client.
        provider_settings: Map<String, Value>,
        /// What else the request needs.
        annotations: Map<String, Value>,
    },
}

impl AnnotationPacket {
    /// Reads the JSON text of a packet of either version.
    ///
    /// # Errors
    /// [`SealedError::TooLarge`], [`SealedError::Malformed`], [`SealedError::Unsupported`].
    pub fn parse(text: &[u8]) -> Result<Self, SealedError> {
        let members = json::object(WHAT, text, MAX_PACKET_LEN)?;
        let members = Members { what: WHAT, members: &members };
        let version = members.optional_text("version")?.unwrap_or(VERSION);
        if version != VERSION {
            return Err(SealedError::Unsupported {
                what: "version",
                found: quoted(version),
                expected: VERSION,
            });
        }
        let wrapping = match members.optional_text("provider")?.unwrap_or("kbs") {
            "kbs" => {
                let name = members.text("wrap_type")?;
                let wrap_type: ContentCipher = name.parse().map_err(|_| SealedError::Unsupported {
                    what: "wrap_type",
                    found: quoted(name),
                    expected: "A256GCM or A256CTR",
                })?;
                let iv = members.bytes("iv")?;
                if iv.len() != wrap_type.iv_len() {
                    let why =
                        format!("member iv has {} bytes, {wrap_type} takes {}", iv.len(), wrap_type.iv_len());
                    return Err(SealedError::malformed(WHAT, why));
                }
                Wrapping::KeyBroker { wrap_type, iv }
            }
            provider => Wrapping::Service {
                provider: provider.to_ascii_lowercase(),
                provider_settings: members.object("provider_settings")?,
                annotations: members.object("annotations")?,
            },
        };
        Ok(Self {
            kid: members.text("kid")?.to_owned(),
            wrapped_data: members.bytes("wrapped_data")?,
            wrapping,
        })
    }

    /// Wraps `options` with `wrap_type` under `key` (32 bytes), which the key broker keeps as `kid`.
    ///
    /// # Errors
    /// [`SealedError::Crypto`] for a key of another length, or without random numbers.
    pub fn wrap(
        kid: &str,
        wrap_type: ContentCipher,
        key: &Secret,
        options: &Secret,
    ) -> Result<Self, SealedError> {
        let (iv, wrapped_data) =
            wrap_type.seal(key, options.expose()).map_err(SealedError::crypto("wrapping an image key"))?;
        let wrapping = Wrapping::KeyBroker { wrap_type, iv };
        Ok(Self { kid: kid.to_owned(), wrapped_data, wrapping })
    }

    /// Unwraps with the key (32 bytes) that the key broker keeps as [`AnnotationPacket::kid`].
    ///
    /// # Errors
    /// [`SealedError::Crypto`]; [`SealedError::Unsupported`] if a key management service has to do it.
    pub fn unwrap(&self, key: &Secret) -> Result<Secret, SealedError> {
        match &self.wrapping {
            Wrapping::KeyBroker { wrap_type, iv } => wrap_type
                .open(key, iv, &self.wrapped_data)
                .map_err(SealedError::crypto("unwrapping an image key with the key that its packet names")),
            Wrapping::Service { provider, .. } => {
                Err(SealedError::Unsupported { what: "provider", found: quoted(provider), expected: "kbs" })
            }
        }
    }

    /// The JSON text: version 1 with the key broker, which every reader knows, else version 2.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut packet = json!({"kid": self.kid, "wrapped_data": json::encode(&self.wrapped_data)});
        let more = match &self.wrapping {
            Wrapping::KeyBroker { wrap_type, iv } => {
                json!({"iv": json::encode(iv), "wrap_type": wrap_type.as_str()})
            }
            Wrapping::Service { provider, provider_settings, annotations } => json!({
                "version": VERSION, "provider": provider, "provider_settings": provider_settings,
                "annotations": annotations,
            }),
        };
        if let (Some(packet), Value::Object(more)) = (packet.as_object_mut(), more) {
            packet.extend(more);
        }
        packet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use cc_crypto::cipher;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_wrapped_unwraps_and_version_two_is_read() {
        let key = cipher::random_key().unwrap();
        for wrap_type in [ContentCipher::A256Gcm, ContentCipher::A256Ctr] {
            let options = Secret::new(b"opts".to_vec());
            let packet = AnnotationPacket::wrap("kbs:///d/k/1", wrap_type, &key, &options).unwrap();
            let text = packet.to_json();
            assert!(text.contains(wrap_type.as_str()) && !text.contains("version"), "{text}");
            let again = AnnotationPacket::parse(text.as_bytes()).unwrap();
            assert_eq!(again, packet);
            assert_eq!(again.unwrap(&key).unwrap().expose(), b"opts");
        }
        let service =
            r#"{"version":"0.1.0","provider":"AWS","kid":"k","wrapped_data":"AQ==","annotations":{"a":"b"}}"#;
        let service = AnnotationPacket::parse(service.as_bytes()).unwrap();
        let Wrapping::Service { provider, .. } = &service.wrapping else { panic!("kbs") };
        assert_eq!(provider, "aws");
        assert_eq!(AnnotationPacket::parse(service.to_json().as_bytes()).unwrap(), service);
        assert_eq!(service.unwrap(&key).unwrap_err().code(), "SEALED_UNSUPPORTED");
    }

    #[test]
    fn bad_packets_are_refused() {
        let key = cipher::random_key().unwrap();
        let good = AnnotationPacket::wrap("k", ContentCipher::A256Gcm, &key, &Secret::new(vec![1]));
        let good = good.unwrap().to_json();
        for (from, to) in [
            ("A256GCM", "A256CTR"),
            ("A256GCM", ""),
            ("\"kid\"", "\"kit\""),
            ("\"wrapped_data\":\"", "\"wrapped_data\":\"?"),
            ("{", "{\"version\":\"0.3.0\","),
            ("{", "{\"kid\":\"other\","),
            ("{", "{\"provider\":7,"),
        ] {
            assert!(
                AnnotationPacket::parse(good.replacen(from, to, 1).as_bytes()).is_err(),
                "{from} -> {to}"
            );
        }
        assert_eq!(AnnotationPacket::parse(&vec![b' '; 100_000]).unwrap_err().code(), "SEALED_TOO_LARGE");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = AnnotationPacket::parse(&bytes);
        }
    }
}
