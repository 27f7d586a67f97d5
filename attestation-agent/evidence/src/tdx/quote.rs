//! The TDX quote, versions 4 and 5: what the quoting enclave signs about a trust domain.
//!
//! Intel TDX DCAP quoting library reference, appendix A. The attestation key signs header and body, in
//! version 5 with type and size of the body between them. Hosts hand out whole buffers, so bytes may follow
//! the signature data; they are counted, NOT read, and nothing covers them.

use super::TdBody;
use crate::Error;
use crate::dcap::{
    HEADER_LEN, Header, INTEL_VENDOR_ID, KEY_TYPE_ECDSA_P256, SignatureData, TEE_TYPE_TDX, Wrapping,
    check_len,
};
use crate::read::Reader;

/// Type of a version 5 body: TDX 1.0.
const BODY_TDX_1_0: u16 = 2;

/// Type of a version 5 body: TDX 1.5.
const BODY_TDX_1_5: u16 = 3;

/// A quote: its parts and the bytes it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The header.
    pub header: Header,
    /// What it says about the domain.
    pub body: TdBody,
    /// Signatures and certificates.
    pub signature: SignatureData,
    /// Number of bytes that followed the signature data.
    pub trailing: usize,
    signed: Vec<u8>,
}

impl Quote {
    /// Reads a quote of at most [`crate::dcap::MAX_QUOTE_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Truncated`], [`Error::Trailing`] inside the signature data, and
    /// [`Error::Invalid`] for another version, TEE, key type, body or kind of certification data.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        check_len(bytes)?;
        let mut r = Reader::new(bytes);
        let header = Header::read(&mut r)?;
        let with_tdx15 = match header.version {
            4 => false,
            5 => {
                let body = (r.u16_le("quote.body_type")?, r.u32_le("quote.body_size")?);
                read_body_type(body)?
            }
            found => {
                return Err(Error::Invalid {
                    field: "quote.version",
                    why: format!("{found} was found, 4 or 5 is expected of a TDX quote"),
                });
            }
        };
        header.check(TEE_TYPE_TDX)?;
        let body = TdBody::read(&mut r, with_tdx15)?;
        let signed = bytes.get(..bytes.len() - r.left()).unwrap_or_default().to_vec();
        let len = usize::try_from(r.u32_le("quote.signature_len")?).unwrap_or(usize::MAX);
        let signature = SignatureData::parse(r.take(len, "quote.signature_data")?, Wrapping::QeReport)?;
        Ok(Quote { header, body, signature, trailing: r.left(), signed })
    }

    /// The bytes that the attestation key signs.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

/// Whether the body is one of TDX 1.5.
fn read_body_type((kind, size): (u16, u32)) -> Result<bool, Error> {
    let (with_tdx15, expected) = match kind {
        BODY_TDX_1_0 => (false, TdBody::LEN_1_0),
        BODY_TDX_1_5 => (true, TdBody::LEN_1_5),
        found => {
            return Err(Error::Invalid {
                field: "quote.body_type",
                why: format!("{found} was found, 2 (TDX 1.0) or 3 (TDX 1.5) is expected"),
            });
        }
    };
    if usize::try_from(size) != Ok(expected) {
        return Err(Error::Invalid {
            field: "quote.body_size",
            why: format!("{size} was found, a body of type {kind} has {expected} bytes"),
        });
    }
    Ok(with_tdx15)
}

/// The signed part of a new quote: the first step of making one, for whoever holds an attestation key.
///
/// A body of TDX 1.5 makes it version 5, any other version 4. `user_data` goes into the header.
#[must_use]
pub fn to_be_signed(user_data: [u8; 20], body: &TdBody) -> Vec<u8> {
    let version = if body.tdx15.is_some() { 5 } else { 4 };
    let header = Header {
        version,
        key_type: KEY_TYPE_ECDSA_P256,
        tee_type: TEE_TYPE_TDX,
        reserved: [0; 4],
        vendor_id: INTEL_VENDOR_ID,
        user_data,
    };
    let mut bytes = Vec::with_capacity(HEADER_LEN + TdBody::LEN_1_5 + 6);
    bytes.extend(header.encode());
    if body.tdx15.is_some() {
        bytes.extend(BODY_TDX_1_5.to_le_bytes());
        // 648, the length of that body.
        bytes.extend(648_u32.to_le_bytes());
    }
    bytes.extend(body.encode());
    bytes
}

/// The complete quote from its signed part and the signature data: the last step of making one.
///
/// It does not check that the parts belong together: a forged one can be made as well.
///
/// # Errors
/// [`Error::TooLarge`] when a part is longer than its length field can say.
pub fn assemble(signed: &[u8], signature: &SignatureData) -> Result<Vec<u8>, Error> {
    let signature = signature.encode()?;
    let len = u32::try_from(signature.len()).map_err(|_| Error::TooLarge {
        what: "the signature data of a quote",
        size: signature.len(),
        limit: crate::dcap::MAX_QUOTE_LEN,
    })?;
    Ok([signed, &len.to_le_bytes(), &signature].concat())
}

#[cfg(test)]
mod tests;
