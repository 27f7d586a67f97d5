//! Reading members of a JSON object with errors that name the member.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroize;

use crate::SealedError;

/// The members of one JSON object, called `what` in errors.
pub(crate) struct Members<'a> {
    pub(crate) what: &'static str,
    pub(crate) members: &'a Map<String, Value>,
}

/// Parses a JSON object of at most `limit` bytes. Member names that appear twice are refused.
pub(crate) fn object(
    what: &'static str,
    text: &[u8],
    limit: usize,
) -> Result<Map<String, Value>, SealedError> {
    if text.len() > limit {
        return Err(SealedError::TooLarge { what, found: text.len(), limit });
    }
    let value =
        cc_crypto::unique_json::parse(what, text).map_err(|e| SealedError::malformed(what, e.to_string()))?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(SealedError::malformed(what, "not a JSON object")),
    }
}

impl<'a> Members<'a> {
    /// The string member `name`.
    pub(crate) fn text(&self, name: &str) -> Result<&'a str, SealedError> {
        self.optional_text(name)?
            .ok_or_else(|| SealedError::malformed(self.what, format!("member {name} is missing")))
    }

    /// The string member `name`, if it is there and not null.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<&'a str>, SealedError> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(SealedError::malformed(self.what, format!("member {name} is not a string"))),
        }
    }

    /// The bytes of the standard-base64 member `name`.
    pub(crate) fn bytes(&self, name: &str) -> Result<Vec<u8>, SealedError> {
        decode(self.what, name, self.text(name)?)
    }

    /// The object member `name`; empty where it is absent or null.
    pub(crate) fn object(&self, name: &str) -> Result<Map<String, Value>, SealedError> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(members)) => Ok(members.clone()),
            Some(_) => Err(SealedError::malformed(self.what, format!("member {name} is not an object"))),
        }
    }
}

/// The bytes of standard base64 with padding.
pub(crate) fn decode(what: &'static str, name: &str, text: &str) -> Result<Vec<u8>, SealedError> {
    STANDARD.decode(text).map_err(|_| SealedError::malformed(what, format!("member {name} is not base64")))
}

/// The standard-base64 text of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Wipes a value that held secret bytes.
pub(crate) fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(numbers) => numbers.iter_mut().for_each(|n| *n = Value::Null),
        _ => {}
    }
}
