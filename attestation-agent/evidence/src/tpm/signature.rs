//! A TPM's signature with the names of its algorithms.
//!
//! TPM 2.0 Library, part 2: TPMT_SIGNATURE for RSASSA, RSAPSS and ECDSA. HMAC and the other elliptic curve schemes are
//! refused: no attestation key here uses them.

use super::{ALG_ECDSA, ALG_RSAPSS, ALG_RSASSA, algorithm_name, put_sized, sized};
use crate::Error;
use crate::read::Reader;

/// Longest RSA signature: a key of 4096 bits.
const MAX_RSA_LEN: usize = 512;

/// Longest coordinate of an elliptic curve signature: P-521.
const MAX_ECC_LEN: usize = 66;

/// TPMT_SIGNATURE. `hash` is a TPM_ALG_ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// PKCS #1 version 1.5.
    RsaSsa {
        /// Hash of the scheme.
        hash: u16,
        /// The signature, as long as the modulus.
        bytes: Vec<u8>,
    },
    /// PKCS #1 PSS.
    RsaPss {
        /// Hash of the scheme.
        hash: u16,
        /// The signature, as long as the modulus.
        bytes: Vec<u8>,
    },
    /// ECDSA.
    Ecdsa {
        /// Hash of the scheme.
        hash: u16,
        /// Big endian; TPMs differ in whether they leave leading zeros out.
        r: Vec<u8>,
        /// As `r`.
        s: Vec<u8>,
    },
}

impl Signature {
    /// Reads a signature; nothing may follow it.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Trailing`]; [`Error::Invalid`] for another scheme or longer numbers than any
    /// key gives.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let scheme = r.u16_be("tpm.signature.scheme")?;
        if ![ALG_RSASSA, ALG_RSAPSS, ALG_ECDSA].contains(&scheme) {
            return Err(Error::Invalid {
                field: "tpm.signature.scheme",
                why: format!("{} is not rsassa, rsapss or ecdsa", algorithm_name(scheme)),
            });
        }
        let hash = r.u16_be("tpm.signature.hash")?;
        let signature = match scheme {
            ALG_RSASSA => {
                Self::RsaSsa { hash, bytes: sized(&mut r, MAX_RSA_LEN, "tpm.signature.rsa")?.to_vec() }
            }
            ALG_RSAPSS => {
                Self::RsaPss { hash, bytes: sized(&mut r, MAX_RSA_LEN, "tpm.signature.rsa")?.to_vec() }
            }
            _ => Self::Ecdsa {
                hash,
                r: sized(&mut r, MAX_ECC_LEN, "tpm.signature.r")?.to_vec(),
                s: sized(&mut r, MAX_ECC_LEN, "tpm.signature.s")?.to_vec(),
            },
        };
        r.finish("a TPM signature")?;
        Ok(signature)
    }

    /// The bytes that [`Signature::parse`] reads.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for numbers that have no encoding.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.scheme().to_be_bytes());
        out.extend_from_slice(&self.hash().to_be_bytes());
        match self {
            Self::RsaSsa { bytes, .. } | Self::RsaPss { bytes, .. } => {
                put_sized(&mut out, bytes, "an RSA signature")?;
            }
            Self::Ecdsa { r, s, .. } => {
                put_sized(&mut out, r, "an ECDSA signature")?;
                put_sized(&mut out, s, "an ECDSA signature")?;
            }
        }
        Ok(out)
    }

    /// The scheme, a TPM_ALG_ID.
    #[must_use]
    pub const fn scheme(&self) -> u16 {
        match self {
            Self::RsaSsa { .. } => ALG_RSASSA,
            Self::RsaPss { .. } => ALG_RSAPSS,
            Self::Ecdsa { .. } => ALG_ECDSA,
        }
    }

    /// The hash of the scheme, a TPM_ALG_ID.
    #[must_use]
    pub const fn hash(&self) -> u16 {
        match self {
            Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } | Self::Ecdsa { hash, .. } => *hash,
        }
    }
}
