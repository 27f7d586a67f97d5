//! The emulated manufacturer: root (ARK), intermediate (ASK) and the keys of one chip (VCEK).
//!
//! Names, key types and signature algorithms are those of AMD publication 57230, so that a verifier runs its
//! production code with nothing but other roots. The keys are made at start and live in memory only.

use std::fmt;

use crate::Error;
use crate::certificate::amd::Leaf;
use crate::certificate::{Draft, authority_extensions};
use crate::clock::{DAY, now};
use crate::machine::{Fault, Machine, Product};
use crate::pem;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaKeyPair};

/// Length of validity of authorities and chips, as AMD has it.
const AUTHORITY_VALIDITY: u64 = 25 * 365 * DAY;
const CHIP_VALIDITY: u64 = 7 * 365 * DAY;
/// How long they have been valid. A chip's certificate that ended yesterday began after its authority's.
const AUTHORITY_AGE: u64 = 30 * DAY;
const CHIP_AGE: u64 = 2 * DAY;

/// Keys and certificates of an emulated manufacturer for one product, and the key of its one chip.
pub struct TestChain {
    product: Product,
    ark: Vec<u8>,
    ask: Vec<u8>,
    ask_key: RsaKeyPair,
    vcek_key: EcdsaKeyPair,
}

impl fmt::Debug for TestChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestChain").field("product", &self.product).finish_non_exhaustive()
    }
}

impl TestChain {
    /// Makes all keys and the two authorities' certificates. Takes a second or so: two RSA keys of 4096 bits.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn generate(product: Product) -> Result<Self, Error> {
        // Side by side, because finding the primes is what takes time.
        let (ask_key, ark_key) = std::thread::scope(|scope| {
            let ark = scope.spawn(rsa_key);
            (rsa_key(), ark.join())
        });
        let ask_key = ask_key?;
        let ark_key = ark_key.map_err(|_| Error::Crypto { step: "making an RSA key" })??;
        let vcek_key = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)
            .map_err(|_| Error::Crypto { step: "making a P-384 key" })?;
        let (ark_name, ask_name) = (format!("ARK-{}", product.name()), format!("SEV-{}", product.name()));
        let begin = now().saturating_sub(AUTHORITY_AGE);
        let validity = (begin, begin + AUTHORITY_VALIDITY);
        let ark = Draft {
            not: "AMD",
            issuer: &ark_name,
            subject: &ark_name,
            public_key: &rsa_public_key(&ark_key)?,
            serial: None,
            validity,
            extensions: authority_extensions(1)?,
        }
        .sign(&ark_key)?;
        let ask = Draft {
            not: "AMD",
            issuer: &ark_name,
            subject: &ask_name,
            public_key: &rsa_public_key(&ask_key)?,
            serial: None,
            validity,
            extensions: authority_extensions(0)?,
        }
        .sign(&ark_key)?;
        Ok(Self { product, ark, ask, ask_key, vcek_key })
    }

    /// The product that the roots are for.
    pub fn product(&self) -> Product {
        self.product
    }

    /// The root's certificate, DER.
    pub fn ark_der(&self) -> &[u8] {
        &self.ark
    }

    /// The intermediate's certificate, DER.
    pub fn ask_der(&self) -> &[u8] {
        &self.ask
    }

    /// Intermediate, then root, as PEM: the order of AMD's own chain files.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn roots_pem(&self) -> Result<String, Error> {
        pem::certificates(&[&self.ask, &self.ark])
    }

    /// The certificate (DER) of the chip key for the chip and the security versions of `machine`; with the
    /// faults that concern it.
    ///
    /// # Errors
    /// [`Error::ProductChanged`] if the machine is of another product; [`Error::Crypto`] and [`Error::Encoding`].
    pub fn vcek_der(&self, machine: &Machine) -> Result<Vec<u8>, Error> {
        if machine.product != self.product {
            return Err(Error::ProductChanged { made: self.product, now: machine.product });
        }
        let tcb = machine.tcb;
        let microcode = tcb.microcode.wrapping_add(u8::from(machine.fault == Fault::WrongTcbExtension));
        let mut versions = vec![(1, tcb.bootloader), (2, tcb.tee), (3, tcb.snp)];
        versions.extend((4..=7).map(|spare| (spare, 0)));
        versions.push((8, microcode));
        let turin = machine.product == Product::Turin;
        if turin {
            versions.push((9, tcb.fmc));
        }
        let mut hardware_id = machine.hardware_id().to_vec();
        if machine.fault == Fault::WrongChipId {
            hardware_id.iter_mut().take(1).for_each(|byte| *byte ^= 1);
        }
        let leaf = Leaf {
            // The stepping is part of the name on Milan alone.
            product: if machine.product == Product::Milan { "Milan-B0" } else { machine.product.name() },
            versions: &versions,
            hardware_id: &hardware_id,
            structure: u8::from(turin),
        };
        let begin = now().saturating_sub(CHIP_AGE);
        let end = if machine.fault == Fault::ExpiredVcek { begin + DAY } else { begin + CHIP_VALIDITY };
        let public_key = self
            .vcek_key
            .public_key()
            .as_der()
            .map_err(|_| Error::Crypto { step: "encoding the chip's public key" })?;
        Draft {
            not: "AMD",
            issuer: &format!("SEV-{}", self.product.name()),
            subject: "SEV-VCEK",
            public_key: public_key.as_ref(),
            serial: None,
            validity: (begin, end),
            extensions: leaf.extensions()?,
        }
        .sign(&self.ask_key)
    }

    /// ECDSA P-384 with SHA-384 by the chip key over `message`: r and s, 48 bytes each, big endian.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn sign(&self, message: &[u8]) -> Result<[u8; 96], Error> {
        let failed = || Error::Crypto { step: "signing a report" };
        let signature = self.vcek_key.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
        signature.as_ref().try_into().map_err(|_| failed())
    }
}

fn rsa_key() -> Result<RsaKeyPair, Error> {
    RsaKeyPair::generate(KeySize::Rsa4096).map_err(|_| Error::Crypto { step: "making an RSA key" })
}

fn rsa_public_key(key: &RsaKeyPair) -> Result<Vec<u8>, Error> {
    let der = key.public_key().as_der().map_err(|_| Error::Crypto { step: "encoding an RSA key" })?;
    Ok(der.as_ref().to_vec())
}
