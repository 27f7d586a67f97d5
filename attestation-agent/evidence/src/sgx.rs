//! The SGX quote of version 3, as Occlum and Gramine produce it.
//!
//! Intel SGX DCAP quoting library reference, appendix A. Parsed for inspection and for comparison with
//! recorded quotes; the guests of this project are virtual machines and NO platform here makes one.

use crate::Error;
use crate::dcap::{ENCLAVE_REPORT_LEN, EnclaveReport, HEADER_LEN, Header, SignatureData, TEE_TYPE_SGX};
use crate::dcap::{Wrapping, check_len};
use crate::read::Reader;

/// Length of the part that the attestation key signs.
const SIGNED_LEN: usize = HEADER_LEN + ENCLAVE_REPORT_LEN;

/// A quote of version 3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The header.
    pub header: Header,
    /// The enclave that is quoted.
    pub body: EnclaveReport,
    /// Signatures and certificates.
    pub signature: SignatureData,
    /// Number of bytes that followed the signature data; nothing covers them.
    pub trailing: usize,
    signed: [u8; SIGNED_LEN],
}

impl Quote {
    /// Reads a quote of at most [`crate::dcap::MAX_QUOTE_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Truncated`], [`Error::Trailing`] inside the signature data, and
    /// [`Error::Invalid`] for another version, TEE, key type or kind of certification data.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        check_len(bytes)?;
        let signed = *Reader::new(bytes).array("quote.signed")?;
        let mut r = Reader::new(bytes);
        let header = Header::read(&mut r)?;
        if header.version != 3 {
            return Err(Error::Invalid {
                field: "quote.version",
                why: format!("{} was found, 3 is expected of an SGX quote", header.version),
            });
        }
        header.check(TEE_TYPE_SGX)?;
        let body = EnclaveReport::read(&mut r)?;
        let len = usize::try_from(r.u32_le("quote.signature_len")?).unwrap_or(usize::MAX);
        let signature = SignatureData::parse(r.take(len, "quote.signature_data")?, Wrapping::Bare)?;
        Ok(Quote { header, body, signature, trailing: r.left(), signed })
    }

    /// The bytes that the attestation key signs: header and enclave report.
    #[must_use]
    pub const fn signed(&self) -> &[u8] {
        &self.signed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn random_bytes_are_refused_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..1200)) {
            let start = [3, 0, 2, 0, 0, 0, 0, 0];
            for (target, byte) in bytes.iter_mut().zip(start) {
                *target = byte;
            }
            let _ = Quote::parse(&bytes);
        }
    }
}
