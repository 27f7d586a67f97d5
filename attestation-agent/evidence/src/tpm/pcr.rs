//! Which PCRs a quote covers, and the digest over their values.
//!
//! TPM 2.0 Library, part 2: TPMS_PCR_SELECTION and TPML_PCR_SELECTION; part 1, section "Attesting to PCR".

use crate::read::Reader;
use crate::{Error, HashAlgorithm};

/// Number of PCRs of a PC Client TPM, in each bank.
pub const PCRS: u32 = 24;

/// Most banks in one list: TPM 2.0 names sixteen hash algorithms at most.
const MAX_BANKS: u32 = 16;

/// Fewest and most bytes of a bitmap: 24 PCRs are the least of a PC, 32 the most that the format is used with.
const BITMAP_LEN: std::ops::RangeInclusive<usize> = 3..=4;

/// The PCRs of one bank (TPMS_PCR_SELECTION).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PcrSelection {
    /// Algorithm of the bank, a TPM_ALG_ID.
    pub hash: u16,
    /// One bit for each PCR, PCR 0 in bit 0 of the first byte; 3 or 4 bytes.
    pub bitmap: Vec<u8>,
}

impl PcrSelection {
    /// Selects `pcrs` of the bank of `hash`, in a bitmap of three bytes; numbers above 23 are an error.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn new(hash: HashAlgorithm, pcrs: &[u32]) -> Result<Self, Error> {
        let mut bitmap = [0; 3];
        for pcr in pcrs {
            let index = usize::try_from(pcr / 8).unwrap_or(usize::MAX);
            let byte = bitmap.get_mut(index).ok_or_else(|| Error::Invalid {
                field: "tpm.pcr_selection",
                why: format!("there is no PCR {pcr}, the last one is 23"),
            })?;
            *byte |= 1 << (pcr % 8);
        }
        Ok(Self { hash: hash.tcg_id(), bitmap: bitmap.to_vec() })
    }

    /// The selected PCRs, rising.
    #[must_use]
    pub fn pcrs(&self) -> Vec<u32> {
        let bytes = (0u32..).step_by(8).zip(&self.bitmap);
        bytes
            .flat_map(|(first, byte)| {
                (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| first + bit)
            })
            .collect()
    }
}

/// Takes a TPML_PCR_SELECTION.
///
/// # Errors
/// [`Error::Truncated`]; [`Error::Invalid`] for more than 16 banks, or a bitmap that is not 3 or 4 bytes long.
pub fn read_selections(r: &mut Reader<'_>) -> Result<Vec<PcrSelection>, Error> {
    let count = r.u32_be("tpm.pcr_selection.count")?;
    if count > MAX_BANKS {
        return Err(Error::Invalid {
            field: "tpm.pcr_selection.count",
            why: format!("{count} banks, at most {MAX_BANKS} are read"),
        });
    }
    (0..count)
        .map(|_| {
            let hash = r.u16_be("tpm.pcr_selection.hash")?;
            let len = usize::from(r.u8("tpm.pcr_selection.size")?);
            if !BITMAP_LEN.contains(&len) {
                return Err(Error::Invalid {
                    field: "tpm.pcr_selection.size",
                    why: format!("a bitmap of {len} bytes; 3 or 4 are expected"),
                });
            }
            Ok(PcrSelection { hash, bitmap: r.take(len, "tpm.pcr_selection.bitmap")?.to_vec() })
        })
        .collect()
}

/// Writes a TPML_PCR_SELECTION.
///
/// # Errors
/// [`Error::TooLarge`] for more than 16 banks or a bitmap of more than 4 bytes.
pub fn write_selections(out: &mut Vec<u8>, banks: &[PcrSelection]) -> Result<(), Error> {
    let count = u32::try_from(banks.len())
        .ok()
        .filter(|count| *count <= MAX_BANKS)
        .ok_or(Error::TooLarge { what: "the number of PCR banks", size: banks.len(), limit: 16 })?;
    out.extend_from_slice(&count.to_be_bytes());
    for bank in banks {
        let len = u8::try_from(bank.bitmap.len()).ok().filter(|len| *len <= 4).ok_or(Error::TooLarge {
            what: "a PCR bitmap",
            size: bank.bitmap.len(),
            limit: 4,
        })?;
        out.extend_from_slice(&bank.hash.to_be_bytes());
        out.push(len);
        out.extend_from_slice(&bank.bitmap);
    }
    Ok(())
}

/// The digest that a quote holds for these PCR values: `hash` (that of the signature scheme) over the values joined
/// in rising order of the PCRs.
#[must_use]
pub fn digest_of_values(hash: HashAlgorithm, values: &[Vec<u8>]) -> Vec<u8> {
    hash.digest(&values.concat())
}
