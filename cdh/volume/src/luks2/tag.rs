//! A tag that ties a header to the secret that opens its volume.
//!
//! Nothing in a LUKS2 header is authenticated. The tag is HMAC-SHA-256 over the header's canonical form, under the key that
//! HKDF-SHA-256 (RFC 5869) derives from the volume's secret for the purpose `luks-header`. It is kept in a token of the
//! header itself, which does not count for the tag, or beside the secret in the key broker.
//!
//! The canonical form is one JSON document by RFC 8785:
//! `{"form":"luks2-header-1","hdr_size":…,"label":…,"metadata":…,"subsystem":…,"uuid":…}`, where `metadata` is the JSON text without
//! the tokens of the tag. Magic, checksums, salts and the count of writes are left out, because every write changes
//! them. So are the encrypted keys: the digest in the metadata tells whether a key is the right one. A tag says nothing about
//! the data, and an old header with its old tag verifies.

use std::{fmt, str::FromStr};

use base64::{Engine, engine::general_purpose::STANDARD};
use cc_crypto::{
    Secret,
    mac::{MacKey, TAG_LEN},
};
use serde_json::{Value, json};

use super::{Header, format::TAG_TOKEN};
use crate::Error;

const PURPOSE: &str = "luks-header";
const FORM: &str = "luks2-header-1";

/// Bytes of the shortest secret that a tag is made with: whoever sees the tag can try shorter ones.
const MIN_SECRET_LEN: usize = 32;

/// Integers up to this are the same in every reader of JSON (RFC 8785 section 3.2.2.3).
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The tag of a header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag([u8; TAG_LEN]);

impl Tag {
    /// The token that carries it, as `cryptsetup token import` takes it.
    #[must_use]
    pub fn to_token(&self) -> Value {
        json!({"type": TAG_TOKEN, "keyslots": [], "tag": self.to_string()})
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({self})")
    }
}

impl FromStr for Tag {
    type Err = Error;

    /// Reads base64 with padding.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(Error::TagMalformed)
    }
}

/// The key that headers of one volume are authenticated with.
#[derive(Debug)]
pub struct HeaderKey(MacKey);

impl HeaderKey {
    /// Derives it from the secret that opens the volume, exactly as cryptsetup gets it; at least 32 random bytes.
    ///
    /// # Errors
    /// [`Error::WeakSecret`] for a shorter one, [`Error::Crypto`] if the library refuses.
    pub fn derive(secret: &Secret) -> Result<Self, Error> {
        if secret.len() < MIN_SECRET_LEN {
            return Err(Error::WeakSecret { found: secret.len(), least: MIN_SECRET_LEN });
        }
        let key = MacKey::derive(secret, PURPOSE);
        key.map(Self).map_err(|source| Error::Crypto { doing: "deriving the header's key", source })
    }

    /// The tag of `header`, which the policy should have admitted.
    ///
    /// # Errors
    /// [`Error::NotCanonical`] for numbers that readers of JSON see differently.
    pub fn sign(&self, header: &Header) -> Result<Tag, Error> {
        Ok(Tag(self.0.tag(&canonical(header)?)))
    }

    /// Compares `tag` with that of `header`.
    ///
    /// # Errors
    /// [`Error::TagMismatch`], or [`Error::NotCanonical`] as in [`HeaderKey::sign`].
    pub fn verify(&self, header: &Header, tag: &Tag) -> Result<(), Error> {
        self.0.verify("header", &canonical(header)?, &tag.0).map_err(|_| Error::TagMismatch)
    }
}

fn canonical(header: &Header) -> Result<Vec<u8>, Error> {
    let mut metadata = header.json().clone();
    if let Some(tokens) = metadata.get_mut("tokens").and_then(Value::as_object_mut) {
        tokens.retain(|_, token| token.get("type").and_then(Value::as_str) != Some(TAG_TOKEN));
    }
    if !has_safe_numbers(&metadata) {
        return Err(Error::NotCanonical {
            why: "it has a number that is no integer from 0 to 2^53 - 1".to_owned(),
        });
    }
    let binary = header.binary();
    let document = json!({
        "form": FORM,
        "hdr_size": binary.size,
        "label": binary.label,
        "metadata": metadata,
        "subsystem": binary.subsystem,
        "uuid": binary.uuid,
    });
    serde_json_canonicalizer::to_vec(&document)
        .map_err(|error| Error::NotCanonical { why: error.to_string() })
}

fn has_safe_numbers(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| number <= MAX_SAFE_INTEGER),
        Value::Array(items) => items.iter().all(has_safe_numbers),
        Value::Object(members) => members.values().all(has_safe_numbers),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}
