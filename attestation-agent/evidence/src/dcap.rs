//! What all quotes of Intel's data center attestation share: header, enclave report, signature data.
//!
//! Layouts of the Intel SGX DCAP and TDX DCAP quoting library references (quote versions 3, 4 and 5).
//! The quotes themselves are [`crate::tdx::Quote`] and [`crate::sgx::Quote`]. It does NOT verify
//! anything: which key signed what is the verifier's work.

mod enclave;
mod signature;

pub use enclave::{ENCLAVE_REPORT_LEN, EnclaveFields, EnclaveReport};
pub use signature::{SignatureData, qe_report_data};

pub(crate) use signature::Wrapping;

use crate::Error;
use crate::read::Reader;

/// Length of a quote header in bytes.
pub const HEADER_LEN: usize = 48;

/// Longest quote that is read, in bytes: the largest buffer that a kernel hands to the host for one.
pub const MAX_QUOTE_LEN: usize = 128 * 1024;

/// Attestation key type 2: ECDSA with P-256.
pub const KEY_TYPE_ECDSA_P256: u16 = 2;

/// TEE type of an SGX enclave.
pub const TEE_TYPE_SGX: u32 = 0;

/// TEE type of a trust domain.
pub const TEE_TYPE_TDX: u32 = 0x81;

/// Intel as the vendor of the quoting enclave.
pub const INTEL_VENDOR_ID: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// The first 48 bytes of a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Quote version: 3 for SGX, 4 or 5 for TDX.
    pub version: u16,
    /// Type of the attestation key; [`KEY_TYPE_ECDSA_P256`] is the only one in use.
    pub key_type: u16,
    /// [`TEE_TYPE_SGX`] or [`TEE_TYPE_TDX`].
    pub tee_type: u32,
    /// Reserved; version 3 has the security versions of QE and PCE here.
    pub reserved: [u8; 4],
    /// Who made the quoting enclave, see [`INTEL_VENDOR_ID`].
    pub vendor_id: [u8; 16],
    /// Data of the quoting enclave; its first 16 bytes identify the platform to it.
    pub user_data: [u8; 20],
}

impl Header {
    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [
            self.version.to_le_bytes().as_slice(),
            &self.key_type.to_le_bytes(),
            &self.tee_type.to_le_bytes(),
            &self.reserved,
            &self.vendor_id,
            &self.user_data,
        ]
        .concat()
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Header {
            version: r.u16_le("quote.version")?,
            key_type: r.u16_le("quote.key_type")?,
            tee_type: r.u32_le("quote.tee_type")?,
            reserved: *r.array("quote.reserved")?,
            vendor_id: *r.array("quote.vendor_id")?,
            user_data: *r.array("quote.user_data")?,
        })
    }

    /// Refuses another TEE or another kind of key.
    pub(crate) fn check(&self, tee_type: u32) -> Result<(), Error> {
        if self.tee_type != tee_type {
            return Err(Error::Invalid {
                field: "quote.tee_type",
                why: format!("{:#x} was found, {tee_type:#x} is expected", self.tee_type),
            });
        }
        if self.key_type != KEY_TYPE_ECDSA_P256 {
            return Err(Error::Invalid {
                field: "quote.key_type",
                why: format!("{} was found, 2 (ECDSA with P-256) is expected", self.key_type),
            });
        }
        Ok(())
    }
}

/// Refuses input that no kernel can have produced, before anything is read from it.
pub(crate) const fn check_len(bytes: &[u8]) -> Result<(), Error> {
    if bytes.len() > MAX_QUOTE_LEN {
        return Err(Error::TooLarge { what: "a quote", size: bytes.len(), limit: MAX_QUOTE_LEN });
    }
    Ok(())
}
