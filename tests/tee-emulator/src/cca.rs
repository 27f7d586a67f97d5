//! The emulated Arm CCA platform: its key, a realm's key, and the tokens signed by them.
//!
//! Written from the tables of DEN0137 and RFC 9052, and not with the reader of `cc-evidence`, so that writer and reader
//! check each other. The keys are made at start and live in memory only.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

use crate::machine::{Fault, Machine};
use crate::{Error, pem};

use cc_vectors::cbor::{array, bytes, map, number, tagged, text};

/// Protected header: the algorithm is ES384.
const ES384: [u8; 4] = [0xA1, 0x01, 0x38, 0x22];
/// Offset from the end of the platform's claims, for the fault [`Fault::FlipBit`].
const FLIPPED: usize = 400;

/// The keys of an emulated platform.
pub struct ArmPlatform {
    platform: EcdsaKeyPair,
    /// Of a platform that nobody was told of.
    stranger: EcdsaKeyPair,
    realm: EcdsaKeyPair,
    other_realm: EcdsaKeyPair,
}

impl fmt::Debug for ArmPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArmPlatform").finish_non_exhaustive()
    }
}

impl ArmPlatform {
    /// Makes the keys.
    ///
    /// # Errors
    /// [`Error::Crypto`].
    pub fn generate() -> Result<Self, Error> {
        let key = || {
            EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING)
                .map_err(|_| Error::Crypto { step: "making a P-384 key" })
        };
        Ok(Self { platform: key()?, stranger: key()?, realm: key()?, other_realm: key()? })
    }

    /// The platform's public attestation key (CPAK) as PEM.
    ///
    /// # Errors
    /// [`Error::Crypto`] and [`Error::Encoding`].
    pub fn key_pem(&self) -> Result<String, Error> {
        let der = self.platform.public_key().as_der();
        pem::public_key(der.map_err(|_| Error::Crypto { step: "encoding a P-384 key" })?.as_ref())
    }
}

/// A token of `machine` over `challenge`, with the faults that concern its content.
pub(crate) fn token(keys: &ArmPlatform, machine: &Machine, challenge: &[u8; 64]) -> Result<Vec<u8>, Error> {
    let mut challenge = *challenge;
    if machine.fault == Fault::WrongReportData {
        challenge.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    }
    let vouched = if machine.fault == Fault::ForeignRealm { &keys.other_realm } else { &keys.realm };
    let signer = if machine.fault == Fault::UnknownPlatform { &keys.stranger } else { &keys.platform };
    let platform = platform_claims(machine, digest(&SHA256, vouched.public_key().as_ref()).as_ref(), keys);
    let realm = realm_claims(machine, &challenge, keys.realm.public_key().as_ref());
    let platform = sign(&platform, signer)?;
    let mut realm = sign(&realm, &keys.realm)?;
    if machine.fault == Fault::FlipBit {
        // In the realm's initial measurement or a register.
        let at = realm.len().saturating_sub(FLIPPED);
        realm.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
    }
    Ok(tagged(399, &map(&[(44234, bytes(&platform)), (44241, bytes(&realm))])))
}

fn platform_claims(machine: &Machine, challenge: &[u8], keys: &ArmPlatform) -> Vec<u8> {
    let component = |name: &str, measurement: &[u8]| {
        map(&[(1, text(name)), (2, bytes(measurement)), (5, bytes(&[0x5E; 32])), (6, text("sha-256"))])
    };
    // 1, and the hash of the platform's key.
    let instance = [&[1], digest(&SHA256, keys.platform.public_key().as_ref()).as_ref()].concat();
    map(&[
        (10, bytes(challenge)),
        (265, text("tag:arm.com,2023:cca_platform#1.0.0")),
        (2396, bytes(&machine.realm.implementation_id.0)),
        (256, bytes(&instance)),
        (2401, bytes(&[0xCF; 4])),
        (2395, number(machine.realm.lifecycle.into())),
        (2399, array(&[component("BL1", &[0xB1; 32]), component("RMM", &machine.realm.rmm.0)])),
        (2402, text("sha-256")),
    ])
}

fn realm_claims(machine: &Machine, challenge: &[u8], public_key: &[u8]) -> Vec<u8> {
    let zero = bytes(&[0; 64]);
    map(&[
        (10, bytes(challenge)),
        (44235, bytes(&machine.realm.personalization.0)),
        (44236, text("sha-512")),
        (44240, text("sha-256")),
        (44237, bytes(public_key)),
        (44238, bytes(&machine.realm.initial_measurement.0)),
        (44239, array(&[bytes(&machine.realm.rem0.0), zero.clone(), zero.clone(), zero])),
    ])
}

/// COSE_Sign1 over `payload`.
fn sign(payload: &[u8], key: &EcdsaKeyPair) -> Result<Vec<u8>, Error> {
    let to_be_signed = array(&[text("Signature1"), bytes(&ES384), bytes(&[]), bytes(payload)]);
    let signature = key
        .sign(&SystemRandom::new(), &to_be_signed)
        .map_err(|_| Error::Crypto { step: "signing a CCA token" })?;
    Ok(tagged(18, &array(&[bytes(&ES384), map(&[]), bytes(payload), bytes(signature.as_ref())])))
}
