//! What a TPM says and signs when it is asked for a quote.
//!
//! TPM 2.0 Library, part 2: TPMS_ATTEST with TPMS_QUOTE_INFO. Other things a TPM attests (a key's certificate, a
//! clock) begin alike and are refused.

use super::pcr::{PcrSelection, read_selections, write_selections};
use super::{put_sized, sized};
use crate::Error;
use crate::read::Reader;

/// TPM_GENERATED_VALUE: a restricted key signs bytes that begin so only if the TPM made them itself.
pub const GENERATED: u32 = 0xFF54_4347;

/// TPM_ST_ATTEST_QUOTE.
pub const QUOTE: u16 = 0x8018;

/// Longest name of a key: an algorithm and a digest of 64 bytes.
const MAX_NAME_LEN: usize = 66;

/// Longest nonce: the size of a TPM2B_DATA.
const MAX_EXTRA_LEN: usize = 66;

/// Longest PCR digest.
const MAX_DIGEST_LEN: usize = 64;

/// A quote, TPMS_ATTEST of the type TPM_ST_ATTEST_QUOTE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// Name of the signing key and its parents, up to 66 bytes.
    pub qualified_signer: Vec<u8>,
    /// The caller's nonce, up to 66 bytes.
    pub extra_data: Vec<u8>,
    /// The TPM's clock and counters. A key outside of the endorsement and platform hierarchies gets the counters and
    /// the firmware version obfuscated, the same way each time.
    pub clock: ClockInfo,
    /// The vendor's number of the TPM's firmware.
    pub firmware_version: u64,
    /// The PCRs that [`Attest::pcr_digest`] covers.
    pub selection: Vec<PcrSelection>,
    /// Digest over the selected values, see [`super::digest_of_values`].
    pub pcr_digest: Vec<u8>,
}

/// TPMS_CLOCK_INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM was powered.
    pub clock: u64,
    /// How often the TPM was reset: a reboot of the machine adds one.
    pub reset_count: u32,
    /// How often it was resumed or restarted since the last reset.
    pub restart_count: u32,
    /// False if the clock may have been at a higher value before an unclean stop.
    pub safe: bool,
}

impl Attest {
    /// Reads a quote; nothing may follow it.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Trailing`]; [`Error::Invalid`] when it is not made by a TPM (magic), is no
    /// quote (type), or a part is longer than TPM 2.0 knows.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let magic = r.u32_be("tpm.attest.magic")?;
        if magic != GENERATED {
            return Err(Error::Invalid {
                field: "tpm.attest.magic",
                why: format!("{magic:#010x}, a TPM writes {GENERATED:#010x}"),
            });
        }
        let kind = r.u16_be("tpm.attest.type")?;
        if kind != QUOTE {
            return Err(Error::Invalid {
                field: "tpm.attest.type",
                why: format!("{kind:#06x}, a quote has {QUOTE:#06x}"),
            });
        }
        let attest = Attest {
            qualified_signer: sized(&mut r, MAX_NAME_LEN, "tpm.attest.qualified_signer")?.to_vec(),
            extra_data: sized(&mut r, MAX_EXTRA_LEN, "tpm.attest.extra_data")?.to_vec(),
            clock: ClockInfo {
                clock: r.u64_be("tpm.attest.clock")?,
                reset_count: r.u32_be("tpm.attest.reset_count")?,
                restart_count: r.u32_be("tpm.attest.restart_count")?,
                safe: yes_no(r.u8("tpm.attest.safe")?)?,
            },
            firmware_version: r.u64_be("tpm.attest.firmware_version")?,
            selection: read_selections(&mut r)?,
            pcr_digest: sized(&mut r, MAX_DIGEST_LEN, "tpm.attest.pcr_digest")?.to_vec(),
        };
        r.finish("a TPM quote")?;
        Ok(attest)
    }

    /// The bytes that [`Attest::parse`] reads.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for parts that have no encoding.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        out.extend_from_slice(&GENERATED.to_be_bytes());
        out.extend_from_slice(&QUOTE.to_be_bytes());
        put_sized(&mut out, &self.qualified_signer, "the signer's name")?;
        put_sized(&mut out, &self.extra_data, "the quote's extra data")?;
        out.extend_from_slice(&self.clock.clock.to_be_bytes());
        out.extend_from_slice(&self.clock.reset_count.to_be_bytes());
        out.extend_from_slice(&self.clock.restart_count.to_be_bytes());
        out.push(u8::from(self.clock.safe));
        out.extend_from_slice(&self.firmware_version.to_be_bytes());
        write_selections(&mut out, &self.selection)?;
        put_sized(&mut out, &self.pcr_digest, "the PCR digest")?;
        Ok(out)
    }
}

fn yes_no(byte: u8) -> Result<bool, Error> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::Invalid {
            field: "tpm.attest.safe",
            why: format!("{other} is neither 0 (no) nor 1 (yes)"),
        }),
    }
}
