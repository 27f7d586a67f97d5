//! Verification of Arm CCA evidence.
//!
//! The checks of DEN0137 and draft-ffm-rats-cca-token: the platform's token is signed by a platform key (CPAK) that the
//! relying party was given, the key in the realm's token is the one whose hash the platform's token carries, and that key
//! signed the realm's token. There is no manufacturer's root: whoever runs the relying party says which platforms he
//! knows. Claim names are those of Trustee's CCA verifier. Whether a platform may be debugged, and which firmware it runs,
//! are claims for the appraisal and NOT reasons to refuse.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    UnparsedPublicKey,
};
use cc_evidence::Tee;
use cc_evidence::cca::{Algorithm, CcaEvidence, Curve, EcKey, HashName, Sign1, Token};
use cc_evidence::initdata::fit;

use crate::Rejection;

mod claims;
mod keys;

pub use claims::{CcaClaims, ComponentClaims, PlatformTokenClaims, RealmTokenClaims};
pub use keys::{InvalidKeys, PlatformKey, PlatformKeys};

/// What the evidence has to match.
#[derive(Clone, Copy, Debug)]
pub struct Expectation<'a> {
    /// Digest that the session binds, 1 to 64 bytes; shorter than the field means padded with zeros.
    pub report_data: &'a [u8],
    /// Digest of the init-data document, which must be all 64 bytes of the realm's personalization value; `None` when
    /// the guest sent none.
    pub init_data_digest: Option<&'a [u8]>,
}

/// Runs all checks and gives the claims, or the first check that fails.
///
/// # Errors
/// A [`Rejection`] that names the check.
pub fn verify(
    evidence: &CcaEvidence,
    keys: &PlatformKeys,
    x: &Expectation<'_>,
) -> Result<CcaClaims, Rejection> {
    if x.report_data.is_empty() {
        return Err(Rejection::NothingExpected { tee: Tee::Cca, what: "report data" });
    }
    if x.init_data_digest.is_some_and(<[u8]>::is_empty) {
        return Err(Rejection::NothingExpected { tee: Tee::Cca, what: "init-data digest" });
    }
    let token = Token::parse(&evidence.token)
        .map_err(|error| Rejection::Format { tee: Tee::Cca, why: error.to_string() })?;
    verify_platform(&token, keys)?;
    verify_realm(&token)?;
    check_bindings(&token, x)?;
    Ok(CcaClaims::of(&token))
}

/// Verifies that one of `keys` signed the platform's token; gives that key.
///
/// # Errors
/// [`Rejection::CcaPlatform`].
pub fn verify_platform<'k>(token: &Token, keys: &'k PlatformKeys) -> Result<&'k PlatformKey, Rejection> {
    let claims = &token.platform.claims;
    keys.of(&claims.implementation_id, &claims.instance_id)
        .find(|key| is_signed(&token.platform.envelope, &key.key))
        .ok_or_else(|| Rejection::CcaPlatform { instance_id: hex::encode(claims.instance_id) })
}

/// Verifies that the platform vouches for the realm's key, and that this key signed the realm's token. What the platform
/// is worth stays open.
///
/// # Errors
/// [`Rejection::CcaRealmKey`], [`Rejection::CcaRealm`].
pub fn verify_realm(token: &Token) -> Result<(), Rejection> {
    let realm = &token.realm.claims;
    let algorithm = match realm.public_key_hash {
        HashName::Sha256 => &digest::SHA256,
        HashName::Sha384 => &digest::SHA384,
        HashName::Sha512 => &digest::SHA512,
    };
    let expected = digest::digest(algorithm, &realm.public_key_bytes);
    if expected.as_ref() != token.platform.claims.challenge {
        return Err(Rejection::CcaRealmKey);
    }
    if is_signed(&token.realm.envelope, &realm.public_key) { Ok(()) } else { Err(Rejection::CcaRealm) }
}

/// Whether `key` signed, with the algorithm that is the one of its curve.
fn is_signed(envelope: &Sign1, key: &EcKey) -> bool {
    let algorithm: &EcdsaVerificationAlgorithm = match (envelope.algorithm, key.curve) {
        (Algorithm::Es256, Curve::P256) => &ECDSA_P256_SHA256_FIXED,
        (Algorithm::Es384, Curve::P384) => &ECDSA_P384_SHA384_FIXED,
        (Algorithm::Es512, Curve::P521) => &ECDSA_P521_SHA512_FIXED,
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, &key.point).verify(&envelope.signed(), &envelope.signature).is_ok()
}

fn check_bindings(token: &Token, x: &Expectation<'_>) -> Result<(), Rejection> {
    let realm = &token.realm.claims;
    let expected = fit(x.report_data, realm.challenge.len());
    if x.report_data.len() > expected.len() || verify_slices_are_equal(&expected, &realm.challenge).is_err() {
        return Err(Rejection::ReportData {
            tee: Tee::Cca,
            expected: hex::encode(expected),
            found: hex::encode(realm.challenge),
        });
    }
    match x.init_data_digest {
        Some(digest) if digest != realm.personalization => Err(Rejection::CcaPersonalization {
            expected: hex::encode(digest),
            found: hex::encode(realm.personalization),
        }),
        _ => Ok(()),
    }
}
