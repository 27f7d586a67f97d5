//! Names of trusted execution environments as they travel on the wire.
//!
//! They appear in the `tee` member of the KBS handshake, as keys of additional evidence and in the
//! agent's `GetTeeType`. A name says nothing about whether this build can attest that TEE.
//! Source: the KBS attestation protocol of Trustee and the crate `kbs-types`.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::error::shorten;

/// A kind of attestable environment or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tee {
    /// AMD SEV-SNP behind an Azure vTPM.
    AzSnpVtpm,
    /// Intel TDX behind an Azure vTPM.
    AzTdxVtpm,
    /// NVIDIA GPU or switch (device).
    Nvidia,
    /// Intel SGX enclave.
    Sgx,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// Arm CCA realm.
    Cca,
    /// Hygon CSV.
    Csv,
    /// IBM Secure Execution.
    Se,
    /// Hygon DCU (device).
    HygonDcu,
    /// NVIDIA DPU (device).
    NvidiaDpu,
    /// A TPM without a confidential machine around it.
    Tpm,
    /// No TEE at all: evidence that anyone can write, for development only.
    Sample,
    /// The device counterpart of [`Tee::Sample`].
    SampleDevice,
}

impl Tee {
    /// Every value, in the order of declaration.
    pub const ALL: [Tee; 14] = [
        Tee::AzSnpVtpm,
        Tee::AzTdxVtpm,
        Tee::Nvidia,
        Tee::Sgx,
        Tee::Snp,
        Tee::Tdx,
        Tee::Cca,
        Tee::Csv,
        Tee::Se,
        Tee::HygonDcu,
        Tee::NvidiaDpu,
        Tee::Tpm,
        Tee::Sample,
        Tee::SampleDevice,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Tee::AzSnpVtpm => "az-snp-vtpm",
            Tee::AzTdxVtpm => "az-tdx-vtpm",
            Tee::Nvidia => "nvidia",
            Tee::Sgx => "sgx",
            Tee::Snp => "snp",
            Tee::Tdx => "tdx",
            Tee::Cca => "cca",
            Tee::Csv => "csv",
            Tee::Se => "se",
            Tee::HygonDcu => "hygondcu",
            Tee::NvidiaDpu => "nvidia-dpu",
            Tee::Tpm => "tpm",
            Tee::Sample => "sample",
            Tee::SampleDevice => "sampledevice",
        }
    }
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tee {
    type Err = Error;

    /// Reads a wire name exactly as written; `nvidiadpu` is accepted as an older spelling.
    fn from_str(name: &str) -> Result<Self, Error> {
        if name == "nvidiadpu" {
            return Ok(Tee::NvidiaDpu);
        }
        Tee::ALL
            .into_iter()
            .find(|tee| tee.as_str() == name)
            .ok_or_else(|| Error::UnknownTee { name: shorten(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_round_trip() {
        let names: Vec<_> = Tee::ALL.iter().map(|tee| tee.as_str()).collect();
        assert_eq!(
            names.join(" "),
            "az-snp-vtpm az-tdx-vtpm nvidia sgx snp tdx cca csv se hygondcu nvidia-dpu tpm \
             sample sampledevice"
        );
        for tee in Tee::ALL {
            assert_eq!(tee.as_str().parse(), Ok(tee));
        }
        assert_eq!("nvidiadpu".parse(), Ok(Tee::NvidiaDpu));
    }

    #[test]
    fn other_spellings_are_refused() {
        for name in ["", "SNP", "snp ", "Nvidia", "sample-device"] {
            assert_eq!(name.parse::<Tee>().map_err(|e| e.code()), Err("TEE_UNKNOWN"), "{name:?}");
        }
        let long = "x".repeat(10_000);
        assert!(long.parse::<Tee>().unwrap_err().to_string().len() < 100);
    }
}
