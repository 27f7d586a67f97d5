//! Evidence without any hardware behind it, for development.
//!
//! `{"svn":"1","report_data":"<base64>"}`: anyone can write it, so a verifier that accepts it proves
//! nothing. Shape: the `sample` and `sampledevice` attesters of the guest components.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Longest text that [`parse`] reads, in bytes.
pub const MAX_JSON_LEN: usize = 16 * 1024;

/// Sample evidence as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleEvidence {
    /// Security version number, a text of digits.
    pub svn: String,
    /// Report data as the attester was given it: not padded.
    pub report_data: Vec<u8>,
}

/// Evidence of the TEE `sample` for `report_data` (raw bytes), as compact JSON.
#[must_use]
pub fn evidence_json(report_data: &[u8]) -> String {
    write("1", report_data)
}

/// Evidence of the device `sampledevice` for `report_data` (raw bytes), as compact JSON.
#[must_use]
pub fn device_evidence_json(report_data: &[u8]) -> String {
    write("2", report_data)
}

/// Reads sample evidence, of the TEE or of the device.
///
/// # Errors
/// [`Error::TooLarge`] above [`MAX_JSON_LEN`]; [`Error::Json`] for another shape or bad base64.
pub fn parse(text: &str) -> Result<SampleEvidence, Error> {
    const WHAT: &str = "sample evidence";
    if text.len() > MAX_JSON_LEN {
        return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
    }
    let wire: Wire =
        serde_json::from_str(text).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })?;
    let report_data = BASE64_STANDARD
        .decode(&wire.report_data)
        .map_err(|e| Error::Json { what: WHAT, why: format!("report_data is not standard base64: {e}") })?;
    Ok(SampleEvidence { svn: wire.svn, report_data })
}

/// Member order is part of the wire form.
#[derive(Serialize, Deserialize)]
struct Wire {
    svn: String,
    report_data: String,
}

fn write(svn: &str, report_data: &[u8]) -> String {
    // Digits and base64 need no JSON escapes, so this cannot produce invalid JSON.
    format!(r#"{{"svn":"{svn}","report_data":"{}"}}"#, BASE64_STANDARD.encode(report_data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exact_text() {
        assert_eq!(evidence_json(&[0]), r#"{"svn":"1","report_data":"AA=="}"#);
        assert_eq!(device_evidence_json(b""), r#"{"svn":"2","report_data":""}"#);
    }

    #[test]
    fn malformed_evidence_is_refused() {
        for text in ["", "null", "{}", r#"{"svn":1,"report_data":""}"#, r#"{"svn":"1","report_data":"*"}"#] {
            assert_eq!(parse(text).map_err(|e| e.code()), Err("EVIDENCE_JSON_INVALID"), "{text}");
        }
        let long = " ".repeat(MAX_JSON_LEN + 1);
        assert_eq!(parse(&long).map_err(|e| e.code()), Err("EVIDENCE_TOO_LARGE"));
    }

    proptest! {
        #[test]
        fn round_trip(data in proptest::collection::vec(any::<u8>(), 0..100)) {
            let parsed = parse(&evidence_json(&data)).unwrap();
            prop_assert_eq!(parsed, SampleEvidence { svn: "1".into(), report_data: data });
        }

        #[test]
        fn random_text_never_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
