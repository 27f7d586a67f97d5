//! Where hardware holds the digest of an init-data document, and what it holds there.
//!
//! The rules are those of Trustee's verifiers and of the launchers of Kata Containers: registers take the digest cut or
//! padded to their length, realms take 64 bytes or nothing, and PCR 8 is extended once from zero. Not here: reading any
//! of these places.

use crate::{Error, HashAlgorithm, Tee};

use super::fit;

/// The PCR that stands for the init-data, [`Field::Pcr8`].
pub const INIT_DATA_PCR: u8 = 8;

/// A place that the launcher of a machine sets and that evidence carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `HOST_DATA` of an AMD SEV-SNP report (AMD publication 56860), 32 bytes.
    SnpHostData,
    /// `MRCONFIGID` of an Intel TDX report (Intel TDX module ABI), 48 bytes.
    TdxMrConfigId,
    /// `CONFIGID` of an Intel SGX report, 64 bytes.
    SgxConfigId,
    /// The realm personalization value of Arm CCA (Arm DEN0137), 64 bytes, compared as a whole.
    CcaPersonalization,
    /// PCR 8 of the SHA-256 bank (TCG TPM 2.0 Library), extended once from zero with a digest of 32 bytes.
    Pcr8,
}

impl Field {
    /// Every field, in the order in which they are shown.
    pub const ALL: [Self; 5] =
        [Self::SnpHostData, Self::TdxMrConfigId, Self::SgxConfigId, Self::CcaPersonalization, Self::Pcr8];

    /// The field of a platform; none where nothing on it vouches for init-data.
    #[must_use]
    pub const fn of(tee: Tee) -> Option<Self> {
        match tee {
            Tee::Snp => Some(Self::SnpHostData),
            Tee::Tdx => Some(Self::TdxMrConfigId),
            Tee::Sgx => Some(Self::SgxConfigId),
            Tee::Cca => Some(Self::CcaPersonalization),
            Tee::AzSnpVtpm | Tee::AzTdxVtpm | Tee::Tpm => Some(Self::Pcr8),
            _ => None,
        }
    }

    /// The name for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SnpHostData => "SNP host data",
            Self::TdxMrConfigId => "TDX MRCONFIGID",
            Self::SgxConfigId => "SGX CONFIGID",
            Self::CcaPersonalization => "CCA personalization",
            Self::Pcr8 => "PCR 8 (SHA-256)",
        }
    }

    /// The name for programs.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::SnpHostData => "snp_host_data",
            Self::TdxMrConfigId => "tdx_mrconfigid",
            Self::SgxConfigId => "sgx_configid",
            Self::CcaPersonalization => "cca_realm_personalization_value",
            Self::Pcr8 => "pcr8_after_extend_from_zero",
        }
    }

    /// Length of the field in bytes.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::SnpHostData | Self::Pcr8 => 32,
            Self::TdxMrConfigId => 48,
            Self::SgxConfigId | Self::CcaPersonalization => 64,
        }
    }

    /// What the field holds on a machine that was launched with the document of this `digest`.
    ///
    /// # Errors
    /// [`Error::InitDataAlgorithm`] if no value of the field stands for a digest of this length. An empty digest has
    /// none anywhere: padded, it would match a machine that was launched without init-data.
    pub fn expected(self, digest: &[u8]) -> Result<Vec<u8>, Error> {
        let whole_only = matches!(self, Self::CcaPersonalization | Self::Pcr8);
        if digest.is_empty() || (whole_only && digest.len() != self.size()) {
            return Err(Error::InitDataAlgorithm {
                field: self.as_str(),
                size: digest.len(),
                need: self.size(),
                algorithm: self.algorithm().as_str(),
            });
        }
        Ok(match self {
            Self::Pcr8 => HashAlgorithm::Sha256.digest(&[[0; 32].as_slice(), digest].concat()),
            _ => fit(digest, self.size()),
        })
    }

    /// What an operator should know about a digest of `size` bytes in this field although it can be checked: that the
    /// end of it is not. Padding loses nothing and needs no word.
    #[must_use]
    pub fn remark(self, size: usize) -> Option<String> {
        let field = self.size();
        (size > field).then(|| {
            format!(
                "{} holds {field} bytes, so only the first {field} of the {size} bytes of the digest are bound; {} is \
                 bound whole",
                self.as_str(),
                self.algorithm().as_str(),
            )
        })
    }

    /// The SHA-2 algorithm whose digest fills the field.
    #[must_use]
    pub const fn algorithm(self) -> HashAlgorithm {
        match self {
            Self::SnpHostData | Self::Pcr8 => HashAlgorithm::Sha256,
            Self::TdxMrConfigId => HashAlgorithm::Sha384,
            Self::SgxConfigId | Self::CcaPersonalization => HashAlgorithm::Sha512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_cut_and_pad() {
        for (field, size) in [(Field::SnpHostData, 32), (Field::TdxMrConfigId, 48), (Field::SgxConfigId, 64)]
        {
            for length in [32, 48, 64] {
                let value = field.expected(&vec![7; length]).unwrap();
                assert_eq!(value.len(), size);
                assert_eq!(value.iter().filter(|byte| **byte == 7).count(), length.min(size));
                assert_eq!(field.remark(length).is_some(), length > size, "{field:?} {length}");
            }
            assert!(field.expected(&[]).is_err(), "{field:?}: zeros are no digest");
        }
    }

    #[test]
    fn realms_and_pcrs_take_one_length_and_name_the_algorithm() {
        for (field, length, algorithm) in
            [(Field::CcaPersonalization, 64, "sha512"), (Field::Pcr8, 32, "sha256")]
        {
            assert_eq!(field.expected(&vec![7; length]).unwrap().len(), length);
            for other in [0, 31, 32, 48, 64].into_iter().filter(|other| *other != length) {
                let error = field.expected(&vec![7; other]).unwrap_err();
                assert_eq!(error.code(), "INIT_DATA_ALGORITHM");
                assert!(error.hint().contains(algorithm), "{}", error.hint());
            }
        }
        assert_eq!(
            hex::encode(Field::Pcr8.expected(&[0; 32]).unwrap()),
            "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b",
            "SHA-256 of 64 zero bytes"
        );
    }

    #[test]
    fn the_remark_names_what_is_lost_and_what_to_use() {
        let remark = Field::SnpHostData.remark(64).unwrap();
        assert!(remark.contains("first 32 of the 64") && remark.contains("sha256"), "{remark}");
    }

    #[test]
    fn every_platform_has_its_field() {
        assert_eq!(Field::of(Tee::Snp), Some(Field::SnpHostData));
        assert_eq!(Field::of(Tee::Tdx), Some(Field::TdxMrConfigId));
        for tee in [Tee::Tpm, Tee::AzSnpVtpm, Tee::AzTdxVtpm] {
            assert_eq!(Field::of(tee), Some(Field::Pcr8));
        }
        assert_eq!(Field::of(Tee::Sample), None);
        for field in Field::ALL {
            assert_eq!(field.algorithm().digest_len(), field.size(), "{field:?}");
        }
    }
}
