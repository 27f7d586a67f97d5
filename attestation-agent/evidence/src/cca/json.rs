//! CCA evidence as JSON, in exactly the shape that Trustee's CCA verifier reads: `{"token": [bytes]}`.

use serde::{Deserialize, Serialize};

use super::MAX_TOKEN_LEN;
use crate::Error;

/// Longest text that [`CcaEvidence::from_json`] reads, in bytes: the longest token as numbers, with room for blanks.
pub const MAX_JSON_LEN: usize = 512 * 1024;

const WHAT: &str = "CCA evidence";

/// A token as bytes; whether it can be read is not looked at here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CcaEvidence {
    /// The attestation token, CBOR.
    pub token: Vec<u8>,
}

impl CcaEvidence {
    /// Compact JSON.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a token that no verifier of this project would read.
    pub fn to_json(&self) -> Result<String, Error> {
        self.check_size()?;
        serde_json::to_string(self).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })
    }

    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another shape.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_JSON_LEN {
            return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
        }
        let evidence: Self =
            serde_json::from_str(text).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })?;
        evidence.check_size()?;
        Ok(evidence)
    }

    fn check_size(&self) -> Result<(), Error> {
        let size = self.token.len();
        if size > MAX_TOKEN_LEN {
            return Err(Error::TooLarge { what: "a CCA token", size, limit: MAX_TOKEN_LEN });
        }
        Ok(())
    }
}
