//! Who made the emulated machine: the one place where AMD and Intel are told apart by their keys.

use crate::machine::{Machine, Tee};
use crate::{Error, IntelChain, TestChain};

/// The keys behind a machine, fixed while the emulator runs.
#[derive(Debug)]
pub enum Manufacturer {
    /// For SEV-SNP.
    Amd(TestChain),
    /// For TDX.
    Intel(IntelChain),
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
        }
    }

    /// The kind of TEE that the keys are for.
    pub fn tee(&self) -> Tee {
        match self {
            Self::Amd(_) => Tee::Snp,
            Self::Intel(_) => Tee::Tdx,
        }
    }

    /// The certificates that a relying party has to trust, PEM: of AMD intermediate and root, of Intel the root.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn roots_pem(&self) -> Result<String, Error> {
        match self {
            Self::Amd(chain) => chain.roots_pem(),
            Self::Intel(chain) => chain.roots_pem(),
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
