//! Reading members of a document's settings and annotations, with errors that name the member.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::Members;
use crate::error::KmsError;

/// Longest text of one member, in bytes.
const MAX_TEXT_LEN: usize = 4096;

/// The members of one object of a document for `provider`.
pub(crate) struct Document<'a> {
    pub(crate) provider: &'static str,
    pub(crate) members: &'a Members,
}

impl<'a> Document<'a> {
    /// The text of the member `name`; none if it is absent, null or empty.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<&'a str>, KmsError> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() > MAX_TEXT_LEN => {
                Err(self.refuse(name, format!("longer than {MAX_TEXT_LEN} bytes")))
            }
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.refuse(name, "not a text")),
        }
    }

    /// The bytes of the standard-base64 member `name`; none if it is absent, null or empty.
    pub(crate) fn bytes(&self, name: &'static str) -> Result<Option<Vec<u8>>, KmsError> {
        let decode = |text| STANDARD.decode(text).map_err(|_| self.refuse(name, "not base64"));
        self.text(name)?.map(decode).transpose()
    }

    /// The member `name`, an object of texts; none if it is absent, null or empty.
    pub(crate) fn texts(&self, name: &'static str) -> Result<Option<&'a Members>, KmsError> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(texts)) if texts.values().all(Value::is_string) => {
                Ok(Some(texts).filter(|texts| !texts.is_empty()))
            }
            Some(_) => Err(self.refuse(name, "not an object of texts")),
        }
    }

    /// A [`KmsError::Document`] about the member `what`.
    pub(crate) fn refuse(&self, what: &'static str, why: impl Into<String>) -> KmsError {
        KmsError::Document { provider: self.provider, what, why: why.into() }
    }
}
