//! Who made the emulated machine: the one place where manufacturers are told apart by their keys.

use crate::machine::{Machine, Tee};
use crate::{ArmPlatform, Error, IntelChain, TestChain};

/// The keys behind a machine, fixed while the emulator runs.
#[derive(Debug)]
pub enum Manufacturer {
    /// For SEV-SNP.
    Amd(TestChain),
    /// For TDX.
    Intel(IntelChain),
    /// For CCA.
    Arm(ArmPlatform),
}

impl Manufacturer {
    /// Makes the keys for `machine`.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn of(machine: &Machine) -> Result<Self, Error> {
        match machine.tee {
            Tee::Snp => TestChain::generate(machine.product).map(Self::Amd),
            Tee::Tdx => IntelChain::generate().map(Self::Intel),
            Tee::Cca => ArmPlatform::generate().map(Self::Arm),
        }
    }

    /// The kind of TEE that the keys are for.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Amd(_) => Tee::Snp,
            Self::Intel(_) => Tee::Tdx,
            Self::Arm(_) => Tee::Cca,
        }
    }

    /// What a relying party has to trust, PEM: of AMD the certificates of intermediate and root, of Intel that of the root,
    /// of Arm the platform's public key.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn roots_pem(&self) -> Result<String, Error> {
        match self {
            Self::Amd(chain) => chain.roots_pem(),
            Self::Intel(chain) => chain.roots_pem(),
            Self::Arm(platform) => platform.key_pem(),
        }
    }

    /// Fails unless the keys are for `machine`.
    ///
    /// # Errors
    /// [`Error::TeeChanged`], [`Error::ProductChanged`].
    pub fn check(&self, machine: &Machine) -> Result<(), Error> {
        match self {
            _ if self.tee() != machine.tee => Err(Error::TeeChanged { made: self.tee(), now: machine.tee }),
            Self::Amd(chain) if chain.product() != machine.product => {
                Err(Error::ProductChanged { made: chain.product(), now: machine.product })
            }
            _ => Ok(()),
        }
    }
}
