//! The emulated manufacturer of GPUs: root, authorities, and a key with its certificate per GPU.
//!
//! Names, key types and order are those of the chains that H100 GPUs have; the organisation in each name tells that it is
//! a test's. The keys are made at start and live in memory only.

use std::fmt;

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    KeyPair,
};
use der::asn1::{Any, ObjectIdentifier, OctetString};
use der::{Decode, Encode, Sequence};
use x509_cert::ext::Extensions;
use x509_cert::ext::pkix::{KeyUsage, KeyUsages};
use x509_cert::spki::AlgorithmIdentifierOwned;

use crate::Error;
use crate::certificate::{Draft, KEY_USAGE, Signer, authority_extensions, encoding, extension};
use crate::clock::{DAY, now};
use crate::machine::{Gpu, GpuFault};
use crate::pem;

const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const COMPOSITE_DEVICE_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

const ROOT: &str = "NVIDIA Device Identity CA";
const AUTHORITIES: [&str; 3] =
    ["NVIDIA GH100 Identity", "NVIDIA GH100 Provisioner ICA 1", "GH100 A01 GSP BROM"];
const DEVICE: &str = "GH100 A01 GSP FMC LF";
/// How long the certificates have been valid, and are.
const AGE: u64 = 30 * DAY;
const VALIDITY: u64 = 100 * 365 * DAY;

/// A P-384 key that signs certificates.
struct Authority(EcdsaKeyPair);

impl Signer for Authority {
    fn algorithm(&self) -> der::Result<AlgorithmIdentifierOwned> {
        Ok(AlgorithmIdentifierOwned { oid: ECDSA_WITH_SHA384, parameters: None })
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Crypto { step: "signing a certificate" };
        Ok(self.0.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec())
    }
}

/// Root and authorities of emulated GPUs.
pub struct GpuChain {
    /// Root first.
    certificates: Vec<Vec<u8>>,
    /// The last of the authorities, which certifies GPUs.
    issuer: Authority,
}

impl fmt::Debug for GpuChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuChain").finish_non_exhaustive()
    }
}

/// The key of one GPU.
pub struct GpuKey(EcdsaKeyPair);

impl fmt::Debug for GpuKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuKey").finish_non_exhaustive()
    }
}

impl GpuKey {
    /// A new key.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn generate() -> Result<Self, Error> {
        key(&ECDSA_P384_SHA384_FIXED_SIGNING).map(Self)
    }

    /// ECDSA P-384 with SHA-384: r and s, 48 bytes each, big endian.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |_| Error::Crypto { step: "signing a GPU report" };
        Ok(self.0.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec())
    }
}

impl GpuChain {
    /// Makes keys and certificates of root and authorities.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn generate() -> Result<Self, Error> {
        let mut issuer = (ROOT, Authority(key(&ECDSA_P384_SHA384_ASN1_SIGNING)?));
        let own = public_key(&issuer.1.0)?;
        let mut certificates =
            vec![draft(ROOT, ROOT, &own, validity(), authority_extensions(4)?).sign(&issuer.1)?];
        for (below, name) in (0..3).rev().zip(AUTHORITIES) {
            let next = Authority(key(&ECDSA_P384_SHA384_ASN1_SIGNING)?);
            let holder = public_key(&next.0)?;
            let draft = draft(issuer.0, name, &holder, validity(), authority_extensions(below)?);
            certificates.push(draft.sign(&issuer.1)?);
            issuer = (name, next);
        }
        Ok(Self { certificates, issuer: issuer.1 })
    }

    /// The root as PEM.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn roots_pem(&self) -> Result<String, Error> {
        pem::certificates(&self.certificates.iter().take(1).map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The chain of `gpu` with `key`, PEM, leaf first, with the faults that concern it.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn pem(&self, gpu: &Gpu, key: &GpuKey) -> Result<String, Error> {
        let holder = public_key(&key.0)?;
        let (begin, end) = validity();
        let end = if gpu.fault == GpuFault::Expired { begin + DAY } else { end };
        let [_, _, issuer] = AUTHORITIES;
        let extensions = device_extensions(&holder, &fwid(gpu))?;
        let leaf = draft(issuer, DEVICE, &holder, (begin, end), extensions).sign(&self.issuer)?;
        let chain: Vec<&[u8]> = std::iter::once(leaf.as_slice())
            .chain(self.certificates.iter().rev().map(Vec::as_slice))
            .collect();
        pem::certificates(&chain)
    }
}

/// The firmware identity of a GPU: of emulated firmware, a digest of its version.
pub(super) fn fwid(gpu: &Gpu) -> Vec<u8> {
    digest(&SHA384, gpu.vbios_version.as_bytes()).as_ref().to_vec()
}

fn draft<'a>(
    issuer: &'a str,
    subject: &'a str,
    public_key: &'a [u8],
    validity: (u64, u64),
    extensions: Extensions,
) -> Draft<'a> {
    Draft { not: "NVIDIA", issuer, subject, public_key, serial: None, validity, extensions }
}

fn validity() -> (u64, u64) {
    let begin = now().saturating_sub(AGE);
    (begin, begin + VALIDITY)
}

/// Composite device id of TCG DICE: version, key, firmware.
#[derive(Sequence)]
struct CompositeDeviceId {
    version: u8,
    key: Any,
    fwid: Fwid,
}

#[derive(Sequence)]
struct Fwid {
    hash: ObjectIdentifier,
    digest: OctetString,
}

fn device_extensions(public_key: &[u8], fwid: &[u8]) -> Result<Extensions, Error> {
    let build = || -> der::Result<Extensions> {
        let id = CompositeDeviceId {
            version: 1,
            key: Any::from_der(public_key)?,
            fwid: Fwid { hash: SHA_384, digest: OctetString::new(fwid)? },
        };
        let usage = KeyUsage(KeyUsages::DigitalSignature.into());
        Ok(vec![
            extension(KEY_USAGE, true, usage.to_der()?)?,
            extension(COMPOSITE_DEVICE_ID, false, id.to_der()?)?,
        ])
    };
    build().map_err(encoding("the extensions of a GPU"))
}

fn key(algorithm: &'static EcdsaSigningAlgorithm) -> Result<EcdsaKeyPair, Error> {
    EcdsaKeyPair::generate(algorithm).map_err(|_| Error::Crypto { step: "making a P-384 key" })
}

fn public_key(key: &EcdsaKeyPair) -> Result<Vec<u8>, Error> {
    let der = key.public_key().as_der().map_err(|_| Error::Crypto { step: "encoding a P-384 key" })?;
    Ok(der.as_ref().to_vec())
}
