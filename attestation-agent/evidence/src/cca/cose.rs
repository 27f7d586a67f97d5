//! COSE_Sign1, the envelope of both tokens (RFC 9052, section 4.2; algorithms of RFC 9053, section 2.1).
//!
//! Only what CCA uses: one signer, the tag, the algorithm in the protected header, a payload inside. Verifying is not
//! done here.

use crate::Error;
use crate::cbor::{Value, bytes_head};

use super::{invalid, member};

/// Tag of COSE_Sign1.
const TAG: u64 = 18;
/// Header parameters: algorithm, and what a reader must understand.
const ALGORITHM: i128 = 1;
const CRITICAL: i128 = 2;

/// Signature algorithms that platforms use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// ECDSA with SHA-256, P-256.
    Es256,
    /// ECDSA with SHA-384, P-384.
    Es384,
    /// ECDSA with SHA-512, P-521.
    Es512,
}

impl Algorithm {
    /// The name in the registry of COSE algorithms.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }
}

/// A signed payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign1 {
    /// The algorithm that the signed header names.
    pub algorithm: Algorithm,
    /// The signature: r and s of the curve's length, big endian.
    pub signature: Vec<u8>,
    protected: Vec<u8>,
    payload: Vec<u8>,
}

impl Sign1 {
    /// Reads the envelope.
    ///
    /// # Errors
    /// Of [`Value::parse`]; [`Error::Invalid`] for another structure, algorithm or header that must be understood.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let wrong = |why: &str| invalid("cose.sign1", why.to_owned());
        let document = Value::parse(bytes)?;
        let Value::Tag(TAG, content) = &document else {
            return Err(wrong("not tagged as a message with one signature (18)"));
        };
        let Some(
            [
                Value::Bytes(protected),
                unprotected @ Value::Map(_),
                Value::Bytes(payload),
                Value::Bytes(signature),
            ],
        ) = content.array()
        else {
            return Err(wrong("not of protected header, header, payload and signature"));
        };
        let header = Value::parse(protected)?;
        if [&header, unprotected].iter().any(|header| header.get(CRITICAL).is_some()) {
            return Err(wrong("a header must be understood that is not"));
        }
        if unprotected.get(ALGORITHM).is_some() {
            return Err(wrong("the algorithm is named outside of the signed header"));
        }
        let algorithm = match member(&header, ALGORITHM, "cose.algorithm", Value::integer)? {
            -7 => Algorithm::Es256,
            -35 => Algorithm::Es384,
            -36 => Algorithm::Es512,
            other => {
                return Err(invalid("cose.algorithm", format!("{other} is none of ES256, ES384, ES512")));
            }
        };
        Ok(Self {
            algorithm,
            signature: signature.to_vec(),
            protected: protected.to_vec(),
            payload: payload.to_vec(),
        })
    }

    /// The claims as they were signed.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The bytes that the signature is over: Sig_structure of RFC 9052, section 4.4, without external data.
    #[must_use]
    pub fn signed(&self) -> Vec<u8> {
        // An array of four: the context, the protected header, no external data, the payload.
        let mut bytes = vec![0x84, 0x6A];
        bytes.extend(b"Signature1");
        bytes.extend(bytes_head(self.protected.len()));
        bytes.extend(&self.protected);
        bytes.push(0x40);
        bytes.extend(bytes_head(self.payload.len()));
        bytes.extend(&self.payload);
        bytes
    }
}
