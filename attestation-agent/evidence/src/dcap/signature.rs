//! The signature data at the end of a quote: who signed it, and the chain that vouches for the signer.
//!
//! The attestation key signs the quote; the quoting enclave (QE) binds that key into its own report; the
//! platform's provisioning key (PCK) signs that report; a certificate chain vouches for the PCK. Numbers of
//! keys and signatures are big endian, x‖y and r‖s. Only P-256 keys and PEM chains (certification type 5)
//! exist in the field and are read here.

use crate::Error;
use crate::hash::HashAlgorithm;
use crate::read::Reader;

use super::EnclaveReport;

/// Certification data: certificate chain in PEM.
const TYPE_PEM_CHAIN: u16 = 5;

/// Certification data: the report of the QE, with its own certification data inside.
const TYPE_QE_REPORT: u16 = 6;

/// Where the report of the quoting enclave stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapping {
    /// Directly after the attestation key: quote version 3.
    Bare,
    /// Inside certification data of type 6: quote versions 4 and 5.
    QeReport,
}

/// The content of the signature data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureData {
    /// Signature by the attestation key over header and body, r‖s.
    pub signature: [u8; 64],
    /// Public attestation key, x‖y.
    pub attestation_key: [u8; 64],
    /// What the hardware says of the quoting enclave.
    pub qe_report: EnclaveReport,
    /// Signature by the PCK over the enclave report, r‖s.
    pub qe_report_signature: [u8; 64],
    /// Data of the quoting enclave that its report binds together with the attestation key.
    pub qe_auth_data: Vec<u8>,
    /// PEM: PCK certificate, its issuer, the root. As sent, including a possible NUL at the end.
    pub pck_chain: Vec<u8>,
}

/// Report data by which a quoting enclave binds the attestation key (x‖y): SHA-256 of key and
/// authentication data, then zeros.
#[must_use]
pub fn qe_report_data(attestation_key: &[u8; 64], auth_data: &[u8]) -> [u8; 64] {
    let digest = HashAlgorithm::Sha256.digest(&[attestation_key, auth_data].concat());
    let mut data = [0; 64];
    for (target, byte) in data.iter_mut().zip(digest) {
        *target = byte;
    }
    data
}

impl SignatureData {
    /// The bytes of the signature data of quote versions 4 and 5, without the length before them.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when a part is longer than its length field can say.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let auth_len = u16::try_from(self.qe_auth_data.len()).map_err(|_| Error::TooLarge {
            what: "the authentication data of the quoting enclave",
            size: self.qe_auth_data.len(),
            limit: usize::from(u16::MAX),
        })?;
        let inner = [
            self.qe_report.raw().as_slice(),
            &self.qe_report_signature,
            &auth_len.to_le_bytes(),
            &self.qe_auth_data,
            &TYPE_PEM_CHAIN.to_le_bytes(),
            &length(&self.pck_chain)?,
            &self.pck_chain,
        ]
        .concat();
        Ok([
            self.signature.as_slice(),
            &self.attestation_key,
            &TYPE_QE_REPORT.to_le_bytes(),
            &length(&inner)?,
            &inner,
        ]
        .concat())
    }

    /// Reads all of `bytes`.
    pub(crate) fn parse(bytes: &[u8], wrapping: Wrapping) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let signature = *r.array("quote.signature")?;
        let attestation_key = *r.array("quote.attestation_key")?;
        let mut inner = match wrapping {
            Wrapping::Bare => r,
            Wrapping::QeReport => {
                let content = certification(&mut r, TYPE_QE_REPORT, "quote.certification_type")?;
                r.finish("the signature data of a quote")?;
                Reader::new(content)
            }
        };
        let qe_report = EnclaveReport::read(&mut inner)?;
        let qe_report_signature = *inner.array("quote.qe_report_signature")?;
        let auth_len = inner.u16_le("quote.qe_auth_data_len")?;
        let qe_auth_data = inner.take(usize::from(auth_len), "quote.qe_auth_data")?.to_vec();
        let pck_chain = certification(&mut inner, TYPE_PEM_CHAIN, "quote.inner_certification_type")?.to_vec();
        inner.finish("the certification data of a quote")?;
        Ok(SignatureData {
            signature,
            attestation_key,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            pck_chain,
        })
    }
}

/// Type, length and content of certification data.
fn certification<'a>(r: &mut Reader<'a>, wanted: u16, field: &'static str) -> Result<&'a [u8], Error> {
    let found = r.u16_le(field)?;
    if found != wanted {
        return Err(Error::Invalid { field, why: format!("{found} was found, {wanted} is expected") });
    }
    let len = r.u32_le("quote.certification_len")?;
    // A length beyond the address space is beyond the input as well.
    r.take(usize::try_from(len).unwrap_or(usize::MAX), "quote.certification_data")
}

fn length(bytes: &[u8]) -> Result<[u8; 4], Error> {
    u32::try_from(bytes.len()).map(u32::to_le_bytes).map_err(|_| Error::TooLarge {
        what: "certification data",
        size: bytes.len(),
        limit: super::MAX_QUOTE_LEN,
    })
}
