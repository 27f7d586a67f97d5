//! A text member of a JSON document that is secret: wiped when dropped, never printed.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cc_crypto::Secret;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A secret text out of a JSON document.
pub(crate) struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The text itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The UTF-8 bytes of the text.
    pub(crate) fn into_secret(mut self) -> Secret {
        Secret::new(std::mem::take(&mut *self.0).into_bytes())
    }

    /// The bytes that the text is the standard base64 of; none if it is not.
    pub(crate) fn decode(&self) -> Option<Secret> {
        // Room for all of it from the start: growing would leave a copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(self.0.len()));
        STANDARD.decode_vec(self.0.as_bytes(), &mut bytes).ok()?;
        Some(Secret::from(bytes))
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretText({} bytes)", self.0.len())
    }
}

/// The standard-base64 text of `secret`, wiped when dropped.
pub(crate) fn encode(secret: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(secret.len().div_ceil(3) * 4));
    STANDARD.encode_string(secret.expose(), &mut text);
    text
}
