//! The payload of a sealed secret: what it is a reference to, or what it is the ciphertext of.
//!
//! Sealed-secret format of the Confidential Containers guest components, version `0.1.0`. A `vault` names a secret in a
//! store; an `envelope` carries the secret encrypted under a data key that a key management service unwraps. Members that
//! are not known are passed over, as the existing readers do. Nothing here contacts a store.

use std::str::FromStr;

use cc_crypto::Secret;
use cc_crypto::cipher::{self, ContentCipher};
use serde_json::{Map, Value, json};

use crate::SealedError;
use crate::error::quoted;
use crate::json::{self, Members};

/// The version that is read and written.
const VERSION: &str = "0.1.0";
const WHAT: &str = "sealed-secret payload";

/// What a sealed secret holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// A reference.
    Vault(Vault),
    /// A ciphertext.
    Envelope(Envelope),
}

/// A secret in a store, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Vault {
    /// The store's kind, lower case: `kbs`, `aws`, `aliyun`, `vault`, …
    pub provider: String,
    /// The secret's name there; for `kbs` a `kbs://` URI.
    pub name: String,
    /// Public settings of the store's client.
    pub provider_settings: Map<String, Value>,
    /// What else the one request needs.
    pub annotations: Map<String, Value>,
}

/// A secret encrypted under a wrapped data key.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The key management service's kind, lower case.
    pub provider: String,
    /// The wrapping key's name there.
    pub key_id: String,
    /// The data key as that key wrapped it.
    pub encrypted_key: Vec<u8>,
    /// The secret under the data key; with `A256GCM` the tag is behind it.
    pub encrypted_data: Vec<u8>,
    /// How.
    pub wrap_type: ContentCipher,
    /// Initialization vector: 12 bytes for `A256GCM`, 16 for `A256CTR`.
    pub iv: Vec<u8>,
    /// Public settings of the service's client.
    pub provider_settings: Map<String, Value>,
    /// What else the one request needs.
    pub annotations: Map<String, Value>,
}

impl Payload {
    /// Reads the JSON text of a payload.
    ///
    /// # Errors
    /// [`SealedError::Malformed`] or [`SealedError::Unsupported`], naming the member.
    pub fn parse(text: &[u8]) -> Result<Self, SealedError> {
        let members = json::object(WHAT, text, crate::MAX_SEALED_LEN)?;
        let members = Members { what: WHAT, members: &members };
        let version = members.text("version")?;
        if version != VERSION {
            return Err(unsupported("version", version, VERSION));
        }
        match members.text("type")? {
            "vault" => Vault::read(&members).map(Self::Vault),
            "envelope" => Envelope::read(&members).map(Self::Envelope),
            other => Err(unsupported("type", other, "vault or envelope")),
        }
    }

    /// The JSON text of this payload, with every member.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self {
            Self::Vault(vault) => json!({
                "version": VERSION, "type": "vault", "provider": vault.provider, "name": vault.name,
                "provider_settings": vault.provider_settings, "annotations": vault.annotations,
            }),
            Self::Envelope(envelope) => json!({
                "version": VERSION, "type": "envelope", "provider": envelope.provider, "key_id": envelope.key_id,
                "encrypted_key": json::encode(&envelope.encrypted_key),
                "encrypted_data": json::encode(&envelope.encrypted_data),
                "wrap_type": envelope.wrap_type.as_str(), "iv": json::encode(&envelope.iv),
                "provider_settings": envelope.provider_settings, "annotations": envelope.annotations,
            }),
        }
        .to_string()
    }

    /// The kind of store or service that is needed, lower case.
    #[must_use]
    pub fn provider(&self) -> &str {
        match self {
            Self::Vault(vault) => &vault.provider,
            Self::Envelope(envelope) => &envelope.provider,
        }
    }
}

impl Vault {
    fn read(members: &Members<'_>) -> Result<Self, SealedError> {
        Ok(Self {
            provider: members.text("provider")?.to_ascii_lowercase(),
            name: members.text("name")?.to_owned(),
            provider_settings: members.object("provider_settings")?,
            annotations: members.object("annotations")?,
        })
    }
}

impl Envelope {
    fn read(members: &Members<'_>) -> Result<Self, SealedError> {
        let name = members.text("wrap_type")?;
        let wrap_type = ContentCipher::from_str(name)
            .map_err(|_| unsupported("wrap_type", name, "A256GCM or A256CTR"))?;
        let iv = members.bytes("iv")?;
        if iv.len() != wrap_type.iv_len() {
            let why = format!("member iv has {} bytes, {wrap_type} takes {}", iv.len(), wrap_type.iv_len());
            return Err(SealedError::malformed(WHAT, why));
        }
        Ok(Self {
            provider: members.text("provider")?.to_ascii_lowercase(),
            key_id: members.text("key_id")?.to_owned(),
            encrypted_key: members.bytes("encrypted_key")?,
            encrypted_data: members.bytes("encrypted_data")?,
            wrap_type,
            iv,
            provider_settings: members.object("provider_settings")?,
            annotations: members.object("annotations")?,
        })
    }

    /// Encrypts `secret` under `data_key` (32 bytes), which `encrypted_key` is the wrapped form of. The members that the
    /// service's client needs start out empty.
    ///
    /// # Errors
    /// [`SealedError::Crypto`] for a key of another length, or without random numbers.
    pub fn encrypt(
        provider: &str,
        key_id: &str,
        data_key: &Secret,
        encrypted_key: Vec<u8>,
        secret: &Secret,
    ) -> Result<Self, SealedError> {
        let (iv, encrypted_data) =
            cipher::seal(data_key, secret.expose()).map_err(SealedError::crypto("encrypting the secret"))?;
        Ok(Self {
            provider: provider.to_owned(),
            key_id: key_id.to_owned(),
            encrypted_key,
            encrypted_data,
            wrap_type: ContentCipher::A256Gcm,
            iv: iv.to_vec(),
            provider_settings: Map::new(),
            annotations: Map::new(),
        })
    }

    /// Decrypts the secret with the unwrapped `data_key` (32 bytes).
    ///
    /// # Errors
    /// [`SealedError::Crypto`].
    pub fn decrypt(&self, data_key: &Secret) -> Result<Secret, SealedError> {
        self.wrap_type
            .open(data_key, &self.iv, &self.encrypted_data)
            .map_err(SealedError::crypto("decrypting an enveloped secret with its unwrapped data key"))
    }
}

fn unsupported(what: &'static str, found: &str, expected: &'static str) -> SealedError {
    SealedError::Unsupported { what, found: quoted(found), expected }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vault(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Payload, SealedError> {
        let mut payload =
            json!({"version": "0.1.0", "type": "vault", "provider": "KBS", "name": "kbs:///a/b/c"});
        change(payload.as_object_mut().unwrap());
        Payload::parse(payload.to_string().as_bytes())
    }

    fn envelope() -> (Envelope, Secret) {
        let key = cipher::random_key().unwrap();
        let secret = Secret::new(b"top".to_vec());
        (Envelope::encrypt("aws", "k", &key, vec![1, 2, 3], &secret).unwrap(), key)
    }

    #[test]
    fn absent_settings_are_empty_and_the_provider_has_one_case() {
        let Ok(Payload::Vault(vault)) = vault(|_| {}) else { panic!("refused") };
        assert_eq!((vault.provider.as_str(), vault.name.as_str()), ("kbs", "kbs:///a/b/c"));
        assert!(vault.provider_settings.is_empty() && vault.annotations.is_empty());
    }

    #[test]
    fn what_is_written_is_read_back_with_every_member() {
        let (envelope, key) = envelope();
        let text = Payload::Envelope(envelope.clone()).to_json();
        for member in
            ["provider_settings", "annotations", "wrap_type", "iv", "encrypted_key", "encrypted_data"]
        {
            assert!(text.contains(&format!("\"{member}\":")), "{member}");
        }
        let Ok(Payload::Envelope(again)) = Payload::parse(text.as_bytes()) else { panic!("refused") };
        assert_eq!(again, envelope);
        assert_eq!(again.decrypt(&key).unwrap().expose(), b"top");
        let other = cipher::random_key().unwrap();
        assert_eq!(again.decrypt(&other).unwrap_err().blame(), cc_evidence::blame::Blame::Denied);
    }

    #[test]
    fn bad_payloads_are_refused() {
        assert_eq!(
            vault(|m| drop(m.insert("version".into(), json!("0.2.0")))).unwrap_err().code(),
            "SEALED_UNSUPPORTED"
        );
        assert_eq!(
            vault(|m| drop(m.insert("type".into(), json!("file")))).unwrap_err().code(),
            "SEALED_UNSUPPORTED"
        );
        assert_eq!(vault(|m| drop(m.remove("name"))).unwrap_err().code(), "SEALED_MALFORMED");
        assert_eq!(
            vault(|m| drop(m.insert("annotations".into(), json!([])))).unwrap_err().code(),
            "SEALED_MALFORMED"
        );
        let text = Payload::Envelope(envelope().0).to_json();
        for (from, to) in [("A256GCM", "A256CTR"), ("A256GCM", "none"), ("\"iv\":\"", "\"iv\":\"*")] {
            assert!(Payload::parse(text.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
        }
        for bad in ["", "[]", "null", "{\"version\":\"0.1.0\",\"version\":\"0.1.0\"}"] {
            assert!(Payload::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Payload::parse(&bytes);
        }
    }
}
