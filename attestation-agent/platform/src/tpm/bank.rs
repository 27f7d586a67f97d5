//! The SHA-256 bank of a TPM as measurement registers, and init-data in one of them.

use cc_evidence::HashAlgorithm;
use cc_evidence::initdata::{Field, INIT_DATA_PCR};
use cc_evidence::tpm::PCRS;

use super::{Device, TpmError, pcr};
use crate::{Error, Registers};

/// The bank that is quoted.
pub(crate) const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// The PCR for events where none is configured. It has to be one that software may extend and nothing but a reboot
/// resets, that nobody else extends while the machine runs, and that reference values seldom name. Of those that
/// software may extend (TCG PC Client Platform TPM Profile, 0 to 16 and 23; what Linux programs use them for is in the
/// UAPI Group's Linux TPM PCR Registry):
///
/// * 0 to 7 are the firmware's, 8 and 9 the boot loader's (8 is also that of the init-data), 10 is IMA's, which extends it all the
///   time, 14 is shim's;
/// * 11 is the kernel image's and the boot phases', 12 the kernel command line's and credentials', both named in reference values
///   of images whose boot is measured by systemd-stub; 15 is the machine's identity, extended by systemd as volumes are
///   opened;
/// * 16 and 23 are reset by any program that may talk to the TPM (locality 0 is enough), with which every event is gone;
/// * 13 is for system extension images, measured by systemd-stub before the kernel starts, and zero on a machine without any.
const EVENT_PCR: u32 = 13;

/// A TPM whose SHA-256 bank is measured into.
#[derive(Debug)]
pub(crate) struct Bank(pub(crate) Device);

impl Bank {
    /// Ties the init-data's `digest` to PCR 8, the one place for it: zero is extended, the value that gives is accepted,
    /// anything else was put there by somebody else. What that proves depends on whose TPM it is.
    ///
    /// # Errors
    /// [`Error::EmptyDigest`], [`TpmError::InitDataDigest`], [`TpmError::InitDataPcr`], and those of the device.
    pub(crate) fn bind_init_data(&self, digest: &[u8]) -> Result<(), Error> {
        if digest.is_empty() {
            return Err(Error::EmptyDigest);
        }
        let expected =
            Field::Pcr8.expected(digest).map_err(|_| TpmError::InitDataDigest { len: digest.len() })?;
        let zero = vec![0; BANK.digest_len()];
        let pcr = INIT_DATA_PCR.into();
        self.0.run(|link| {
            let mut held = pcr::values(link, BANK, &[pcr])?.concat();
            if held == zero {
                pcr::extend(link, pcr, BANK, digest)?;
                tracing::info!("extended PCR 8 with the digest of the init-data");
                held = pcr::values(link, BANK, &[pcr])?.concat();
            }
            if held == expected {
                return Ok(());
            }
            Err(TpmError::InitDataPcr { expected: hex::encode(&expected), found: hex::encode(held) })
        })
    }
}

impl Registers for Bank {
    fn hash(&self) -> HashAlgorithm {
        BANK
    }

    fn default_pcr(&self) -> u32 {
        EVENT_PCR
    }

    fn objection(&self, pcr: u32) -> Option<&'static str> {
        match pcr {
            16 | 23 => Some("any program that may use the TPM can reset it, and the events with it"),
            17..=22 => Some(
                "a TPM lets only the processor's measured launch extend it, so every event will be refused",
            ),
            _ => None,
        }
    }

    /// Software may extend any PCR of a TPM that it may talk to, if the bank is there.
    fn enabled(&self) -> Result<(), Error> {
        match self.0.pcr_values(BANK, &[0]) {
            Err(Error::Tpm(error @ TpmError::NoBank { .. })) => {
                Err(Error::RegistersUnsupported { why: error.to_string() })
            }
            other => other.map(drop),
        }
    }

    fn register_of(&self, pcr: u32) -> Result<u32, Error> {
        if pcr < PCRS { Ok(pcr) } else { Err(Error::NoSuchRegister { pcr }) }
    }

    fn read(&self, pcr: u32) -> Result<Vec<u8>, Error> {
        self.0.pcr_values(BANK, &[self.register_of(pcr)?]).map(|values| values.concat())
    }

    fn extend(&self, pcr: u32, digest: &[u8]) -> Result<(), Error> {
        let pcr = self.register_of(pcr)?;
        if digest.len() != BANK.digest_len() {
            return Err(Error::DigestLength { expected: BANK.digest_len(), found: digest.len() });
        }
        self.0.pcr_extend(pcr, BANK, digest)
    }
}
