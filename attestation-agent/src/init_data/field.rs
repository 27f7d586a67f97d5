//! Asking a platform about an init-data digest, without changing anything on it.
//!
//! Most platforms only compare when they bind. Where a PCR is the field, binding extends it if nobody has, so here its
//! value is read instead. Not here: what each field must hold ([`cc_evidence::initdata::Field`]).

use cc_evidence::initdata::Field;
use cc_platform::{InitDataBinding, Platform, Tee};

use crate::error::AgentError;

/// Finds out whether the field of `tee` can hold `digest`, and logs it if only a part of the digest.
///
/// # Errors
/// [`AgentError::InitDataAlgorithm`], which names the algorithm to use.
pub(crate) fn check_algorithm(tee: Tee, digest: &[u8]) -> Result<(), AgentError> {
    let Some(field) = Field::of(tee) else { return Ok(()) };
    match field.expected(digest) {
        // The guest cannot ask for this field, so it is the relying party's to refuse.
        Err(why) if field == Field::CcaPersonalization => {
            tracing::warn!(%why, hint = why.hint(), "no relying party will accept this init-data");
        }
        expected => drop(expected?),
    }
    if let Some(remark) = field.remark(digest.len()) {
        tracing::warn!("init-data: {remark}");
    }
    Ok(())
}

/// Whether the hardware under `platform` holds `digest`; `None` while it holds nothing yet.
///
/// # Errors
/// As [`Platform::bind_init_data`].
pub(crate) fn held(
    platform: &dyn Platform,
    digest: &[u8],
) -> Result<Option<InitDataBinding>, cc_platform::Error> {
    match Field::of(platform.tee()) {
        Some(Field::Pcr8) => pcr_8(platform, digest),
        _ => platform.bind_init_data(digest).map(Some),
    }
}

/// Compares PCR 8 with what one extension with `digest` leaves in it; `None` while it is zero.
fn pcr_8(platform: &dyn Platform, digest: &[u8]) -> Result<Option<InitDataBinding>, cc_platform::Error> {
    const PCR: u32 = 8;
    let field = Field::Pcr8;
    let registers = platform.registers().filter(|registers| registers.hash() == field.algorithm());
    let (Some(registers), Ok(expected)) = (registers, field.expected(digest)) else {
        return Ok(Some(InitDataBinding::Unsupported));
    };
    let found = registers.read(PCR)?;
    if found.iter().all(|byte| *byte == 0) {
        Ok(None)
    } else if found == expected {
        // A TPM that no TEE vouches for may be the host's program.
        let is_endorsed = platform.tee() != Tee::Tpm;
        Ok(Some(if is_endorsed { InitDataBinding::Bound } else { InitDataBinding::Claimed }))
    } else {
        Err(cc_platform::Error::InitDataMismatch {
            expected: hex::encode(expected),
            found: hex::encode(found),
        })
    }
}

#[cfg(test)]
mod tests {
    use cc_platform::{HashAlgorithm, Registers, ReportData};

    use super::*;

    /// A vTPM of which only PCR 8 matters.
    #[derive(Debug)]
    struct Vtpm(Tee, Vec<u8>);

    impl Platform for Vtpm {
        fn tee(&self) -> Tee {
            self.0
        }

        fn evidence(&self, _data: &ReportData) -> Result<String, cc_platform::Error> {
            Ok("{}".to_owned())
        }

        fn bind_init_data(&self, _digest: &[u8]) -> Result<InitDataBinding, cc_platform::Error> {
            panic!("asking must not extend")
        }

        fn registers(&self) -> Option<&dyn Registers> {
            Some(self)
        }
    }

    impl Registers for Vtpm {
        fn hash(&self) -> HashAlgorithm {
            HashAlgorithm::Sha256
        }

        fn enabled(&self) -> Result<(), cc_platform::Error> {
            Ok(())
        }

        fn register_of(&self, pcr: u32) -> Result<u32, cc_platform::Error> {
            Ok(pcr)
        }

        fn read(&self, pcr: u32) -> Result<Vec<u8>, cc_platform::Error> {
            assert_eq!(pcr, 8);
            Ok(self.1.clone())
        }

        fn extend(&self, _pcr: u32, _digest: &[u8]) -> Result<(), cc_platform::Error> {
            panic!("asking must not extend")
        }
    }

    #[test]
    fn pcr_8_is_only_read() {
        let extended = Field::Pcr8.expected(&[7; 32]).unwrap();
        let vtpm = |tee: Tee, value: &[u8]| Vtpm(tee, value.to_vec());
        let asked = |value: &[u8], digest: &[u8]| held(&vtpm(Tee::AzSnpVtpm, value), digest);
        assert_eq!(asked(&extended, &[7; 32]).unwrap(), Some(InitDataBinding::Bound));
        let host_s = held(&vtpm(Tee::Tpm, &extended), &[7; 32]).unwrap();
        assert_eq!(host_s, Some(InitDataBinding::Claimed), "no TEE vouches for it");
        assert_eq!(asked(&[0; 32], &[7; 32]).unwrap(), None, "not extended yet");
        assert_eq!(asked(&extended, &[8; 32]).unwrap_err().code(), "INIT_DATA_MISMATCH");
        assert_eq!(asked(&extended, &[7; 48]).unwrap(), Some(InitDataBinding::Unsupported));
    }

    #[test]
    fn a_digest_that_the_field_cannot_hold_is_refused_with_the_algorithm_to_use() {
        for tee in [Tee::Tpm, Tee::AzSnpVtpm, Tee::AzTdxVtpm] {
            assert!(check_algorithm(tee, &[7; 32]).is_ok());
            for length in [0, 48, 64] {
                let e = check_algorithm(tee, &vec![7; length]).unwrap_err();
                assert_eq!(e.code(), "INIT_DATA_ALGORITHM");
                assert!(e.hint().contains("sha256"), "{}", e.hint());
            }
        }
        for tee in [Tee::Snp, Tee::Tdx, Tee::Cca, Tee::Sample] {
            assert!(check_algorithm(tee, &[7; 64]).is_ok(), "cut, or not this machine's to judge");
        }
        assert!(check_algorithm(Tee::Snp, &[]).is_err());
    }
}
