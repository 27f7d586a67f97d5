//! TPM evidence as JSON, in the shape that Trustee's `tpm` verifier reads.
//!
//! `{"tpm_quote":{"signature":…,"message":…,"pcrs":[…]},"ak_public":…}`: standard base64 of TPMT_SIGNATURE, of
//! TPMS_ATTEST and of the attestation key's SubjectPublicKeyInfo; the 24 values of the SHA-256 bank in hex. Whether
//! the parts can be read and fit each other is NOT looked at here.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Longest text that [`TpmEvidence::from_json`] reads, in bytes; a quote with a key of 4096 bits needs 4 KiB.
pub const MAX_JSON_LEN: usize = 16 * 1024;

/// Number of values in evidence: PCR 0 to 23.
pub const PCR_COUNT: usize = 24;

/// Bytes of a PCR of the SHA-256 bank.
const PCR_LEN: usize = 32;

const WHAT: &str = "TPM evidence";

/// A quote with what is needed to check it, but for the reason to trust its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmEvidence {
    /// TPMT_SIGNATURE, see [`super::Signature`].
    pub signature: Vec<u8>,
    /// TPMS_ATTEST, see [`super::Attest`].
    pub message: Vec<u8>,
    /// PCR 0 to 23 of the SHA-256 bank.
    pub pcrs: [[u8; 32]; PCR_COUNT],
    /// The attestation key, DER of a SubjectPublicKeyInfo.
    pub ak_public: Vec<u8>,
}

impl TpmEvidence {
    /// Compact JSON.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for a text that nobody would read.
    pub fn to_json(&self) -> Result<String, Error> {
        let wire = EvidenceJson {
            tpm_quote: QuoteJson {
                signature: BASE64_STANDARD.encode(&self.signature),
                message: BASE64_STANDARD.encode(&self.message),
                pcrs: self.pcrs.iter().map(hex::encode).collect(),
            },
            ak_public: BASE64_STANDARD.encode(&self.ak_public),
        };
        let text =
            serde_json::to_string(&wire).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })?;
        check_len(&text)?;
        Ok(text)
    }

    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another shape, broken base64 or hex; [`Error::Invalid`] for another
    /// number of PCRs than 24.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        check_len(text)?;
        let json_error = |why: String| Error::Json { what: WHAT, why };
        let wire: EvidenceJson = serde_json::from_str(text).map_err(|e| json_error(e.to_string()))?;
        let decode = |member: &str, text: &str| {
            BASE64_STANDARD.decode(text).map_err(|e| json_error(format!("{member} is not base64: {e}")))
        };
        let found = &wire.tpm_quote.pcrs;
        if found.len() != PCR_COUNT {
            let why = format!("{} values, {PCR_COUNT} are expected", found.len());
            return Err(Error::Invalid { field: "tpm_quote.pcrs", why });
        }
        let mut pcrs = [[0; PCR_LEN]; PCR_COUNT];
        for (pcr, (value, text)) in pcrs.iter_mut().zip(found).enumerate() {
            hex::decode_to_slice(text, value)
                .map_err(|e| json_error(format!("PCR {pcr} is not {PCR_LEN} bytes in hex: {e}")))?;
        }
        Ok(Self {
            pcrs,
            signature: decode("signature", &wire.tpm_quote.signature)?,
            message: decode("message", &wire.tpm_quote.message)?,
            ak_public: decode("ak_public", &wire.ak_public)?,
        })
    }
}

fn check_len(text: &str) -> Result<(), Error> {
    if text.len() > MAX_JSON_LEN {
        return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
    }
    Ok(())
}

/// Members in the order of the wire form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceJson {
    tpm_quote: QuoteJson,
    ak_public: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct QuoteJson {
    signature: String,
    message: String,
    pcrs: Vec<String>,
}
