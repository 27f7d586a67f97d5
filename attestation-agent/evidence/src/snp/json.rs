//! SNP evidence as JSON, in exactly the shape that Trustee's SNP verifier reads.
//!
//! `{"attestation_report": {…fields…}, "cert_chain": [{"cert_type","data"}] | null}`: the form that the
//! SNP attester of the guest components sends. It carries fields, not bytes, so reading rebuilds the
//! report with zeros in reserved places. `{"report": "<base64url>"}` is read too: it carries the bytes.
//! Nothing is verified here.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::cert_table::{MAX_ENTRIES, MAX_TABLE_LEN, guid_from_text, guid_text};
use super::{CertEntry, CertKind, Report};
use crate::Error;

mod wire;

use wire::ReportJson;

/// Longest text that [`SnpEvidence::from_json`] reads, in bytes.
pub const MAX_JSON_LEN: usize = 1024 * 1024;

const WHAT: &str = "SNP evidence";

/// A report with the certificates that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpEvidence {
    /// The report.
    pub report: Report,
    /// Certificates from the host, possibly none.
    pub certs: Vec<CertEntry>,
}

impl SnpEvidence {
    /// Compact JSON with the member order of the wire form; `cert_chain` is `null` without certificates.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the report has bytes that the JSON form cannot carry: the verifier would
    /// rebuild other bytes and find the signature broken.
    pub fn to_json(&self) -> Result<String, Error> {
        let fields = self.report.fields();
        if let Some(offset) = fields.encode().iter().zip(self.report.raw()).position(|(a, b)| a != b) {
            return Err(Error::Invalid {
                field: "snp.report",
                why: format!(
                    "the reserved byte at {offset:#x} is not zero (report version {}), the JSON form of \
                     evidence cannot carry it",
                    fields.version
                ),
            });
        }
        let certs = self.certs.iter().map(CertJson::from_entry).collect::<Vec<_>>();
        let wire = EvidenceOut {
            attestation_report: ReportJson::from_fields(fields),
            cert_chain: (!certs.is_empty()).then_some(certs),
        };
        serde_json::to_string(&wire).map_err(|e| Error::Json { what: WHAT, why: e.to_string() })
    }

    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes and rebuilds the report.
    ///
    /// Entries of type `Empty` carry no certificate and are dropped.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another shape, arrays of a wrong length, repeated members
    /// or values that no report of that version and processor can have.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_JSON_LEN {
            return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
        }
        let wire: EvidenceIn = serde_json::from_str(text).map_err(|e| json_error(e.to_string()))?;
        let report = match (wire.attestation_report, wire.report) {
            (Some(fields), None) => fields.rebuild()?,
            (None, Some(bytes)) => {
                let bytes = BASE64_URL_SAFE_NO_PAD
                    .decode(bytes.trim_end_matches('='))
                    .map_err(|e| json_error(format!("report is not base64url: {e}")))?;
                Report::parse(&bytes)?
            }
            (Some(_), Some(_)) => return Err(json_error("it has two reports".to_owned())),
            (None, None) => return Err(json_error("attestation_report is missing".to_owned())),
        };
        let chain = wire.cert_chain.unwrap_or_default();
        if chain.len() > MAX_ENTRIES {
            return Err(Error::TooLarge {
                what: "the number of certificate entries",
                size: chain.len(),
                limit: MAX_ENTRIES,
            });
        }
        let certs = chain.into_iter().filter_map(|cert| cert.into_entry().transpose());
        Ok(SnpEvidence { report, certs: certs.collect::<Result<_, _>>()? })
    }
}

#[derive(Serialize)]
struct EvidenceOut {
    attestation_report: ReportJson,
    cert_chain: Option<Vec<CertJson>>,
}

/// Both forms in one structure: a tagless enum would hide which member was wrong.
#[derive(Deserialize)]
struct EvidenceIn {
    attestation_report: Option<ReportJson>,
    report: Option<String>,
    cert_chain: Option<Vec<CertJson>>,
}

#[derive(Serialize, Deserialize)]
struct CertJson {
    cert_type: CertTypeJson,
    data: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
enum CertTypeJson {
    #[serde(rename = "ARK")]
    Ark,
    #[serde(rename = "ASK")]
    Ask,
    #[serde(rename = "VCEK")]
    Vcek,
    #[serde(rename = "VLEK")]
    Vlek,
    #[serde(rename = "CRL")]
    Crl,
    Empty,
    #[serde(rename = "OTHER")]
    Other(String),
}

impl CertJson {
    fn from_entry(entry: &CertEntry) -> Self {
        let cert_type = match entry.kind {
            CertKind::Ark => CertTypeJson::Ark,
            CertKind::Ask => CertTypeJson::Ask,
            CertKind::Vcek => CertTypeJson::Vcek,
            CertKind::Vlek => CertTypeJson::Vlek,
            CertKind::Crl => CertTypeJson::Crl,
            CertKind::Other(guid) => CertTypeJson::Other(guid_text(guid)),
        };
        CertJson { cert_type, data: entry.data.clone() }
    }

    fn into_entry(self) -> Result<Option<CertEntry>, Error> {
        let kind = match self.cert_type {
            CertTypeJson::Ark => CertKind::Ark,
            CertTypeJson::Ask => CertKind::Ask,
            CertTypeJson::Vcek => CertKind::Vcek,
            CertTypeJson::Vlek => CertKind::Vlek,
            CertTypeJson::Crl => CertKind::Crl,
            CertTypeJson::Empty => return Ok(None),
            CertTypeJson::Other(guid) => guid_from_text(&guid)
                .map(CertKind::from_guid)
                .ok_or_else(|| json_error("cert_type OTHER is not a UUID".to_owned()))?,
        };
        if self.data.len() > MAX_TABLE_LEN {
            return Err(Error::TooLarge {
                what: "a certificate",
                size: self.data.len(),
                limit: MAX_TABLE_LEN,
            });
        }
        Ok(Some(CertEntry { kind, data: self.data }))
    }
}

fn json_error(why: String) -> Error {
    Error::Json { what: WHAT, why }
}

#[cfg(test)]
mod tests;
