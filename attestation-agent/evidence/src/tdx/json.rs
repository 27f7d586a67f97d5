//! TDX evidence as JSON, in exactly the shape that Trustee's TDX verifier reads.
//!
//! `{"cc_eventlog": "<base64>" | null, "quote": "<base64>"}`, standard base64 with padding. Whether quote and
//! log can be read is NOT looked at here.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::ccel::MAX_LOG_LEN;
use crate::dcap::MAX_QUOTE_LEN;

/// Longest text that [`TdxEvidence::from_json`] reads, in bytes: the largest log and quote in base64.
pub const MAX_JSON_LEN: usize = 3 * 1024 * 1024;

const WHAT: &str = "TDX evidence";

/// A quote with the event log that explains its registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxEvidence {
    /// The quote, possibly with bytes after it.
    pub quote: Vec<u8>,
    /// The event log, see [`crate::ccel::assemble`].
    pub cc_eventlog: Option<Vec<u8>>,
}

impl TdxEvidence {
    /// Compact JSON; `cc_eventlog` is `null` without a log.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a quote or a log that no verifier of this project would read.
    pub fn to_json(&self) -> Result<String, Error> {
        self.check_sizes()?;
        let wire = EvidenceJson {
            cc_eventlog: self.cc_eventlog.as_ref().map(|log| BASE64_STANDARD.encode(log)),
            quote: BASE64_STANDARD.encode(&self.quote),
        };
        serde_json::to_string(&wire).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })
    }

    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another shape or broken base64.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_JSON_LEN {
            return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
        }
        let json_error = |why: String| Error::Json { what: WHAT, why };
        let wire: EvidenceJson = serde_json::from_str(text).map_err(|e| json_error(e.to_string()))?;
        let decode = |member: &str, text: String| {
            BASE64_STANDARD.decode(text).map_err(|e| json_error(format!("{member} is not base64: {e}")))
        };
        let evidence = TdxEvidence {
            quote: decode("quote", wire.quote)?,
            cc_eventlog: wire.cc_eventlog.map(|log| decode("cc_eventlog", log)).transpose()?,
        };
        evidence.check_sizes()?;
        Ok(evidence)
    }

    fn check_sizes(&self) -> Result<(), Error> {
        let log = self.cc_eventlog.as_deref().unwrap_or_default();
        for (what, size, limit) in
            [("a quote", self.quote.len(), MAX_QUOTE_LEN), ("an event log", log.len(), MAX_LOG_LEN)]
        {
            if size > limit {
                return Err(Error::TooLarge { what, size, limit });
            }
        }
        Ok(())
    }
}

/// Members in the order of the wire form.
#[derive(Serialize, Deserialize)]
struct EvidenceJson {
    cc_eventlog: Option<String>,
    quote: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wire_form_is_fixed() {
        let bare = TdxEvidence { quote: vec![1, 2], cc_eventlog: None };
        assert_eq!(bare.to_json().unwrap(), r#"{"cc_eventlog":null,"quote":"AQI="}"#);
        let with_log = TdxEvidence { cc_eventlog: Some(vec![255]), ..bare.clone() };
        assert_eq!(with_log.to_json().unwrap(), r#"{"cc_eventlog":"/w==","quote":"AQI="}"#);
        assert_eq!(TdxEvidence::from_json(r#"{"quote":"AQI="}"#), Ok(bare));
    }

    #[test]
    fn other_shapes_and_sizes_are_refused() {
        for text in ["", "{}", "[]", r#"{"quote":1}"#, r#"{"quote":"AQI"}"#, r#"{"quote":"","quote":""}"#] {
            assert_eq!(TdxEvidence::from_json(text).unwrap_err().code(), "EVIDENCE_JSON_INVALID", "{text}");
        }
        let bad_log = r#"{"quote":"","cc_eventlog":"-"}"#;
        assert_eq!(TdxEvidence::from_json(bad_log).unwrap_err().code(), "EVIDENCE_JSON_INVALID");
        let long = TdxEvidence { quote: vec![0; MAX_QUOTE_LEN + 1], cc_eventlog: None };
        assert_eq!(long.to_json().unwrap_err().code(), "EVIDENCE_TOO_LARGE");
        let text = format!(r#"{{"quote":"{}"}}"#, BASE64_STANDARD.encode(&long.quote));
        assert_eq!(TdxEvidence::from_json(&text).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
        let largest = TdxEvidence { quote: vec![1; MAX_QUOTE_LEN], cc_eventlog: Some(vec![2; MAX_LOG_LEN]) };
        assert_eq!(TdxEvidence::from_json(&largest.to_json().unwrap()), Ok(largest));
        assert!(TdxEvidence::from_json(&" ".repeat(MAX_JSON_LEN + 1)).is_err());
    }

    proptest! {
        #[test]
        fn round_trip(quote: Vec<u8>, cc_eventlog: Option<Vec<u8>>) {
            let evidence = TdxEvidence { quote, cc_eventlog };
            prop_assert_eq!(TdxEvidence::from_json(&evidence.to_json().unwrap()), Ok(evidence));
        }
    }
}
