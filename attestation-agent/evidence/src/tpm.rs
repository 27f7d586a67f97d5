//! TPM 2.0 quotes: the structures a TPM signs and signs with, and the evidence that carries them.
//!
//! Trusted Computing Group, "TPM 2.0 Library", part 2 (Structures): TPMS_ATTEST, TPMT_SIGNATURE, TPMT_PUBLIC and what
//! they hold, all big endian. Every parser reads its structure whole, refuses what follows it, and has a writer that
//! gives back the same bytes. Nothing is verified here: a quote that parses may be forged. Commands and responses
//! are NOT here, they belong to whoever holds the device.

mod attest;
mod json;
mod pcr;
mod public;
mod signature;

pub use attest::{Attest, ClockInfo, GENERATED, QUOTE};
pub use json::{MAX_JSON_LEN, PCR_COUNT, TpmEvidence};
pub use pcr::{PCRS, PcrSelection, digest_of_values, read_selections, write_selections};
pub use public::{
    ATTRIBUTE_RESTRICTED, ATTRIBUTE_SIGN, EccKey, KeyKind, Public, RSA_DEFAULT_EXPONENT, RsaKey,
};
pub use signature::Signature;

use crate::Error;
use crate::read::Reader;

/// TPM_ALG_NULL: no algorithm.
pub const ALG_NULL: u16 = 0x0010;
/// TPM_ALG_RSA.
pub const ALG_RSA: u16 = 0x0001;
/// TPM_ALG_ECC.
pub const ALG_ECC: u16 = 0x0023;
/// TPM_ALG_RSASSA: PKCS #1 version 1.5 signatures.
pub const ALG_RSASSA: u16 = 0x0014;
/// TPM_ALG_RSAPSS.
pub const ALG_RSAPSS: u16 = 0x0016;
/// TPM_ALG_ECDSA.
pub const ALG_ECDSA: u16 = 0x0018;
/// TPM_ALG_SHA1. Named in logs and selections; no digest of it is ever relied on.
pub const ALG_SHA1: u16 = 0x0004;

/// Takes a TPM2B: a length of two bytes and as many bytes, `limit` at most.
fn sized<'a>(r: &mut Reader<'a>, limit: usize, field: &'static str) -> Result<&'a [u8], Error> {
    let len = usize::from(r.u16_be(field)?);
    if len > limit {
        return Err(Error::Invalid { field, why: format!("{len} bytes, at most {limit} are defined") });
    }
    r.take(len, field)
}

/// Writes a TPM2B.
fn put_sized(out: &mut Vec<u8>, bytes: &[u8], what: &'static str) -> Result<(), Error> {
    let len = u16::try_from(bytes.len()).map_err(|_| Error::TooLarge {
        what,
        size: bytes.len(),
        limit: usize::from(u16::MAX),
    })?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Name of an algorithm identifier for people.
#[must_use]
pub fn algorithm_name(id: u16) -> String {
    let name = match id {
        ALG_RSA => "rsa",
        ALG_SHA1 => "sha1",
        0x000B => "sha256",
        0x000C => "sha384",
        0x000D => "sha512",
        ALG_NULL => "null",
        0x0012 => "sm3",
        ALG_RSASSA => "rsassa",
        ALG_RSAPSS => "rsapss",
        ALG_ECDSA => "ecdsa",
        ALG_ECC => "ecc",
        0x0027 => "sha3-256",
        0x0028 => "sha3-384",
        0x0029 => "sha3-512",
        _ => return format!("{id:#06x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests;
