//! The emulated manufacturer of a TDX machine: root, authority of platforms, signer of collateral, and the keys of
//! one platform.
//!
//! Names and key types are those of the SGX PCK certificate profile, so that a verifier runs its production code with
//! nothing but another root; the organisation in each name tells that it is a test's. The keys are made at start and
//! live in memory only.

use std::fmt;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};

use super::platform;
use crate::Error;
use crate::certificate::intel::{Pck, signer_extensions};
use crate::certificate::revocation::ListDraft;
use crate::certificate::{Draft, authority_extensions};
use crate::clock::{DAY, now};
use crate::machine::{Fault, Machine};
use crate::pem;

const ROOT: &str = "Intel SGX Root CA";
const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
/// Length of validity of the authorities, and of what they sign.
const AUTHORITY_VALIDITY: u64 = 15 * 365 * DAY;
const SIGNER_VALIDITY: u64 = 7 * 365 * DAY;
/// How long they have been valid.
const AUTHORITY_AGE: u64 = 30 * DAY;
const SIGNER_AGE: u64 = 2 * DAY;
/// Length of validity of revocation lists, as of all collateral.
const LIST_VALIDITY: u64 = 30 * DAY;
/// Serial number of the one platform certificate that is revoked.
const REVOKED: [u8; 16] = [0x66; 16];

/// Keys and certificates of an emulated manufacturer, and the keys of its one platform.
pub struct IntelChain {
    root: Vec<u8>,
    platform_ca: Vec<u8>,
    platform_ca_key: EcdsaKeyPair,
    /// Revocation lists of root and platform authority.
    lists: [Vec<u8>; 2],
    tcb_signer: Vec<u8>,
    tcb_key: EcdsaKeyPair,
    pck_key: EcdsaKeyPair,
    attestation_key: EcdsaKeyPair,
}

impl fmt::Debug for IntelChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntelChain").finish_non_exhaustive()
    }
}

impl IntelChain {
    /// Makes all keys, and the certificates that do not depend on the machine.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn generate() -> Result<Self, Error> {
        let root_key = key(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let platform_ca_key = key(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let tcb_key = key(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let begin = now().saturating_sub(AUTHORITY_AGE);
        let issue = |subject, holder: &EcdsaKeyPair, length, extensions| {
            Draft {
                not: "Intel",
                issuer: ROOT,
                subject,
                public_key: &public_key(holder)?,
                serial: None,
                validity: (begin, begin + length),
                extensions,
            }
            .sign(&root_key)
        };
        let issued = now().saturating_sub(SIGNER_AGE);
        let list = |issuer, revoked, key: &EcdsaKeyPair| {
            ListDraft { not: "Intel", issuer, dates: (issued, issued + LIST_VALIDITY), revoked }.sign(key)
        };
        Ok(Self {
            lists: [list(ROOT, &[], &root_key)?, list(PLATFORM_CA, &[REVOKED], &platform_ca_key)?],
            root: issue(ROOT, &root_key, AUTHORITY_VALIDITY, authority_extensions(1)?)?,
            platform_ca: issue(PLATFORM_CA, &platform_ca_key, AUTHORITY_VALIDITY, authority_extensions(0)?)?,
            tcb_signer: issue("Intel SGX TCB Signing", &tcb_key, SIGNER_VALIDITY, signer_extensions()?)?,
            platform_ca_key,
            tcb_key,
            pck_key: key(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            attestation_key: key(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
        })
    }

    /// The root's certificate, DER.
    pub fn root_der(&self) -> &[u8] {
        &self.root
    }

    /// The root as PEM.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn roots_pem(&self) -> Result<String, Error> {
        pem::certificates(&[&self.root])
    }

    /// The signer of collateral, then the root, as PEM: the order of Intel's issuer chains.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn signing_chain_pem(&self) -> Result<String, Error> {
        pem::certificates(&[&self.tcb_signer, &self.root])
    }

    /// Revocation lists (DER) of the root and of the authority for platforms, in this order.
    pub fn revocation_lists(&self) -> &[Vec<u8>; 2] {
        &self.lists
    }

    /// The chain in a quote of `machine`, PEM: certificate of the platform's key, its authority, the root. With the
    /// faults that concern them.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn pck_chain_pem(&self, machine: &Machine) -> Result<String, Error> {
        let [up_to_date, out_of_date, revoked] = platform::PCE_SVN;
        let pck = Pck {
            ppid: &[0x9D; 16],
            components: &platform::COMPONENTS,
            pce_svn: match machine.fault {
                Fault::OutOfDateTcb => out_of_date,
                Fault::RevokedTcb => revoked,
                _ => up_to_date,
            },
            pce_id: &platform::PCE_ID,
            fmspc: &platform::FMSPC,
            instance: &[0xA1; 16],
        };
        let begin = now().saturating_sub(SIGNER_AGE);
        let end = if machine.fault == Fault::ExpiredPck { begin + DAY } else { begin + SIGNER_VALIDITY };
        let leaf = Draft {
            not: "Intel",
            issuer: PLATFORM_CA,
            subject: "Intel SGX PCK Certificate",
            public_key: &public_key(&self.pck_key)?,
            serial: (machine.fault == Fault::RevokedPck).then_some(REVOKED),
            validity: (begin, end),
            extensions: pck.extensions()?,
        }
        .sign(&self.platform_ca_key)?;
        pem::certificates(&[&leaf, &self.platform_ca, &self.root])
    }

    /// The public attestation key: x and y, 32 bytes each, big endian.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn attestation_public_key(&self) -> Result<[u8; 64], Error> {
        let failed = || Error::Crypto { step: "reading the attestation key" };
        // An uncompressed point begins with a byte of its own.
        let point = self.attestation_key.public_key().as_ref();
        point.get(1..).and_then(|point| point.try_into().ok()).ok_or_else(failed)
    }

    /// ECDSA P-256 with SHA-256 by the attestation key: r and s, 32 bytes each, big endian.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn sign_quote(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        sign(&self.attestation_key, message, "signing a quote")
    }

    /// The same by the platform's certified key, over the report of the quoting enclave.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn sign_enclave_report(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        sign(&self.pck_key, message, "signing a report of the quoting enclave")
    }

    /// The same by the signer of collateral.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn sign_collateral(&self, message: &[u8]) -> Result<[u8; 64], Error> {
        sign(&self.tcb_key, message, "signing collateral")
    }
}

fn key(algorithm: &'static EcdsaSigningAlgorithm) -> Result<EcdsaKeyPair, Error> {
    EcdsaKeyPair::generate(algorithm).map_err(|_| Error::Crypto { step: "making a P-256 key" })
}

fn public_key(key: &EcdsaKeyPair) -> Result<Vec<u8>, Error> {
    let der = key.public_key().as_der().map_err(|_| Error::Crypto { step: "encoding a P-256 key" })?;
    Ok(der.as_ref().to_vec())
}

fn sign(key: &EcdsaKeyPair, message: &[u8], step: &'static str) -> Result<[u8; 64], Error> {
    let failed = || Error::Crypto { step };
    let signature = key.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
    signature.as_ref().try_into().map_err(|_| failed())
}
