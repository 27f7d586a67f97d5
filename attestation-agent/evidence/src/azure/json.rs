//! Azure evidence as JSON, in exactly the shapes that Trustee's Azure verifiers read.
//!
//! Version 2 is written: `{"version":2,"tpm_quote":{"signature","message","pcrs"},"hcl_report","vcek"}`, hexadecimal
//! in the quote, base64url with padding elsewhere; on TDX `td_quote` stands in the place of `vcek`. Version 1 has the
//! same members. Version 0, which names no version, has arrays of numbers, a PEM certificate and, on SEV-SNP, other
//! names. Whether the HCL report can be read is NOT looked at here.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use serde::{Deserialize, Serialize};

use super::MAX_HCL_LEN;
use crate::dcap::MAX_QUOTE_LEN;
use crate::tpm::PCR_COUNT;
use crate::{Error, Tee};

/// Longest text that [`AzureEvidence::from_json`] reads, in bytes: the largest quote as numbers.
pub const MAX_JSON_LEN: usize = 1024 * 1024;

/// Longest certificate or quote that vouches for the hardware's report, in bytes.
pub const MAX_ENDORSEMENT_LEN: usize = MAX_QUOTE_LEN;

/// Longest TPM signature, in bytes: RSA of 4096 bits.
const MAX_SIGNATURE_LEN: usize = 512;

/// Longest quoted structure that is read, in bytes. Those of 24 registers have some 150.
const MAX_MESSAGE_LEN: usize = 2048;

const WHAT: &str = "Azure evidence";

/// Version of the JSON form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvidenceVersion {
    /// Arrays of numbers; the nonce is bound to the TPM quote alone.
    V0,
    /// Hexadecimal and base64url; the nonce is bound to the TPM quote alone.
    V1,
    /// As version 1, and the nonce is in the runtime data that the hardware vouches for.
    V2,
}

impl EvidenceVersion {
    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            EvidenceVersion::V0 => 0,
            EvidenceVersion::V1 => 1,
            EvidenceVersion::V2 => 2,
        }
    }
}

/// A quote of the TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmQuote {
    /// The RSA signature (RSASSA-PKCS1-v1_5), bare.
    pub signature: Vec<u8>,
    /// The signed structure (TPMS_ATTEST).
    pub message: Vec<u8>,
    /// The registers that it stands for.
    pub pcrs: [[u8; 32]; PCR_COUNT],
}

/// Evidence of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureEvidence {
    /// Version of the JSON that it came from.
    pub version: EvidenceVersion,
    /// [`Tee::AzSnpVtpm`] or [`Tee::AzTdxVtpm`].
    pub tee: Tee,
    /// The TPM's quote.
    pub quote: TpmQuote,
    /// The HCL report, see [`super::HclReport`].
    pub hcl_report: Vec<u8>,
    /// What makes the hardware's report verifiable: on SEV-SNP the VCEK certificate (DER; PEM in version 0), on TDX the
    /// quote over the TDREPORT.
    pub endorsement: Vec<u8>,
}

impl AzureEvidence {
    /// Compact JSON of version 2, whatever the evidence came from.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for parts that no verifier of this project would read.
    pub fn to_json(&self) -> Result<String, Error> {
        self.check_sizes()?;
        let endorsement = BASE64_URL_SAFE.encode(&self.endorsement);
        let (vcek, td_quote) = match self.tee {
            Tee::AzTdxVtpm => (None, Some(endorsement)),
            _ => (Some(endorsement), None),
        };
        let wire = EvidenceOut {
            version: EvidenceVersion::V2.number(),
            tpm_quote: QuoteOut {
                signature: hex::encode(&self.quote.signature),
                message: hex::encode(&self.quote.message),
                pcrs: self.quote.pcrs.map(hex::encode),
            },
            hcl_report: BASE64_URL_SAFE.encode(&self.hcl_report),
            vcek,
            td_quote,
        };
        serde_json::to_string(&wire).map_err(|e| json_error(e.to_string()))
    }

    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes of a machine with `tee`.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another version, members that the version does not have, members that
    /// are missing or repeated, other than 24 registers of 32 bytes, or a `tee` that is not of Azure.
    pub fn from_json(tee: Tee, text: &str) -> Result<Self, Error> {
        if text.len() > MAX_JSON_LEN {
            return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
        }
        let wire: EvidenceIn = serde_json::from_str(text).map_err(|e| json_error(e.to_string()))?;
        let evidence = wire.into_evidence(tee)?;
        evidence.check_sizes()?;
        Ok(evidence)
    }

    fn check_sizes(&self) -> Result<(), Error> {
        for (what, part, limit) in [
            ("a TPM signature", &self.quote.signature, MAX_SIGNATURE_LEN),
            ("a TPM quote", &self.quote.message, MAX_MESSAGE_LEN),
            ("an HCL report", &self.hcl_report, MAX_HCL_LEN),
            ("the endorsement of the hardware's report", &self.endorsement, MAX_ENDORSEMENT_LEN),
        ] {
            if part.len() > limit {
                return Err(Error::TooLarge { what, size: part.len(), limit });
            }
        }
        Ok(())
    }
}

/// Members in the order of the wire form.
#[derive(Serialize)]
struct EvidenceOut {
    version: u8,
    tpm_quote: QuoteOut,
    hcl_report: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vcek: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    td_quote: Option<String>,
}

#[derive(Serialize)]
struct QuoteOut {
    signature: String,
    message: String,
    pcrs: [String; PCR_COUNT],
}

/// The members of all versions: one reading decides which version it is, and the rest follows from that.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceIn {
    version: Option<u64>,
    quote: Option<QuoteIn>,
    tpm_quote: Option<QuoteIn>,
    report: Option<Blob>,
    hcl_report: Option<Blob>,
    vcek: Option<Blob>,
    td_quote: Option<Blob>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuoteIn {
    signature: Blob,
    message: Blob,
    pcrs: Vec<Blob>,
}

/// Bytes as the versions write them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Blob {
    Text(String),
    Numbers(Vec<u8>),
}

/// How the texts of one version are to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Numbers,
    Hexadecimal,
    Base64Url,
    /// A certificate as it is: PEM.
    Verbatim,
}

impl EvidenceIn {
    fn into_evidence(self, tee: Tee) -> Result<AzureEvidence, Error> {
        let version = match self.version {
            None => EvidenceVersion::V0,
            Some(1) => EvidenceVersion::V1,
            Some(2) => EvidenceVersion::V2,
            Some(other) => return Err(json_error(format!("version {other} is neither 1 nor 2"))),
        };
        let old = version == EvidenceVersion::V0;
        let (blobs, bytes) =
            if old { (Form::Numbers, Form::Numbers) } else { (Form::Base64Url, Form::Hexadecimal) };
        // Version 0 of SEV-SNP alone has names of its own.
        let renamed = old && tee == Tee::AzSnpVtpm;
        let (quote, no_quote) =
            if renamed { (self.quote, self.tpm_quote) } else { (self.tpm_quote, self.quote) };
        let (report, no_report) =
            if renamed { (self.report, self.hcl_report) } else { (self.hcl_report, self.report) };
        let (endorsement, no_endorsement, form) = match tee {
            Tee::AzSnpVtpm => (self.vcek, self.td_quote, if old { Form::Verbatim } else { blobs }),
            Tee::AzTdxVtpm => (self.td_quote, self.vcek, blobs),
            other => return Err(json_error(format!("there is no such evidence of {other}"))),
        };
        if no_quote.is_some() || no_report.is_some() || no_endorsement.is_some() {
            return Err(json_error(format!(
                "it has members that version {} of {tee} has not",
                version.number()
            )));
        }
        let quote = quote.ok_or_else(|| missing("TPM quote"))?;
        let registers: Vec<[u8; 32]> =
            quote.pcrs.into_iter().map(|pcr| register(pcr, bytes)).collect::<Result<_, _>>()?;
        Ok(AzureEvidence {
            version,
            tee,
            quote: TpmQuote {
                signature: quote.signature.read("signature", bytes)?,
                message: quote.message.read("message", bytes)?,
                pcrs: registers
                    .try_into()
                    .map_err(|all: Vec<_>| json_error(format!("it has {} registers, not 24", all.len())))?,
            },
            hcl_report: report.ok_or_else(|| missing("HCL report"))?.read("HCL report", blobs)?,
            endorsement: endorsement
                .ok_or_else(|| missing("vcek or td_quote"))?
                .read("vcek or td_quote", form)?,
        })
    }
}

impl Blob {
    fn read(self, member: &str, form: Form) -> Result<Vec<u8>, Error> {
        let broken = |why: &dyn std::fmt::Display| json_error(format!("{member} is broken: {why}"));
        match (self, form) {
            (Blob::Numbers(bytes), Form::Numbers) => Ok(bytes),
            (Blob::Text(text), Form::Hexadecimal) => hex::decode(text).map_err(|e| broken(&e)),
            (Blob::Text(text), Form::Base64Url) => BASE64_URL_SAFE.decode(text).map_err(|e| broken(&e)),
            (Blob::Text(text), Form::Verbatim) => Ok(text.into_bytes()),
            (Blob::Text(_), Form::Numbers) => Err(broken(&"it must be an array of numbers")),
            (Blob::Numbers(_), _) => Err(broken(&"it must be a text")),
        }
    }
}

fn register(blob: Blob, form: Form) -> Result<[u8; 32], Error> {
    let bytes = blob.read("pcrs", form)?;
    <[u8; 32]>::try_from(bytes.as_slice())
        .map_err(|_| json_error(format!("a register has {} bytes, not 32", bytes.len())))
}

fn missing(what: &str) -> Error {
    json_error(format!("there is no {what}"))
}

fn json_error(why: String) -> Error {
    Error::Json { what: WHAT, why }
}

#[cfg(test)]
mod tests;
