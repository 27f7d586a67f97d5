//! Attestation keys: as evidence carries them, and as administrators register them.
//!
//! RFC 5280 (SubjectPublicKeyInfo), RFC 8017 appendix A.1.1 (RSAPublicKey), RFC 7468 (PEM).

use aws_lc_rs::digest;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode, Reader as _, SliceReader};

/// Sizes of the modulus that are accepted: no TPM makes longer ones.
const BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Longest text of a registered key, in bytes.
const MAX_TEXT_LEN: usize = 8 * 1024;

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// An RSA key that signs quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationKey {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    fingerprint: [u8; 32],
}

/// Why a key cannot be used, half a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnreadableKey(pub String);

impl AttestationKey {
    /// Reads DER of a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When it is something else, or an RSA key of fewer than 2048 or more than 4096 bits.
    pub fn from_spki(spki: &[u8]) -> Result<Self, UnreadableKey> {
        let broken =
            |e: der::Error| UnreadableKey(format!("it is no RSA key in DER of a SubjectPublicKeyInfo: {e}"));
        let (algorithm, key) = outer(spki).map_err(broken)?;
        if algorithm != RSA_ENCRYPTION {
            return Err(UnreadableKey(format!("its algorithm is {algorithm}, not RSA")));
        }
        let (modulus, exponent) = inner(key).map_err(broken)?;
        Self::new(modulus, exponent, spki)
    }

    /// Takes modulus and exponent, both big endian; leading zeros do not matter.
    ///
    /// # Errors
    /// As [`AttestationKey::from_spki`].
    pub fn from_parts(modulus: &[u8], exponent: &[u8]) -> Result<Self, UnreadableKey> {
        let strip = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        Self::new(&strip(modulus), &strip(exponent), &[])
    }

    fn new(modulus: &[u8], exponent: &[u8], spki: &[u8]) -> Result<Self, UnreadableKey> {
        let unused = modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let bits = (modulus.len() * 8).saturating_sub(unused);
        if !BITS.contains(&bits) {
            return Err(UnreadableKey(format!(
                "it has {bits} bits, {} to {} are accepted",
                BITS.start(),
                BITS.end()
            )));
        }
        if exponent.is_empty() {
            return Err(UnreadableKey("its exponent is zero".to_owned()));
        }
        Ok(Self { modulus: modulus.to_vec(), exponent: exponent.to_vec(), fingerprint: sha256(spki) })
    }

    /// SHA-256 of the SubjectPublicKeyInfo that the key was read from.
    #[must_use]
    pub const fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Size of the modulus.
    #[must_use]
    pub const fn bits(&self) -> usize {
        self.modulus.len() * 8
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        RsaPublicKeyComponents { n: &self.modulus, e: &self.exponent }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok()
    }
}

/// The fingerprint that an administrator's `text` stands for: PEM of a public key, standard base64 of its DER (as
/// evidence and Trustee's reference value `trusted_aks` have it), or the SHA-256 of that DER in hex (with or without
/// `sha256:`).
///
/// # Errors
/// When it is none of them.
pub fn registered_key(text: &str) -> Result<[u8; 32], UnreadableKey> {
    let text = text.trim();
    if text.len() > MAX_TEXT_LEN {
        return Err(UnreadableKey(format!("{} bytes are no key", text.len())));
    }
    let mut fingerprint = [0; 32];
    if hex::decode_to_slice(text.strip_prefix("sha256:").unwrap_or(text), &mut fingerprint).is_ok() {
        return Ok(fingerprint);
    }
    let der = if text.starts_with("-----BEGIN") {
        match der::pem::decode_vec(text.as_bytes()) {
            Ok(("PUBLIC KEY", der)) => der,
            Ok((label, _)) => {
                return Err(UnreadableKey(format!("it is PEM of a {label}, not of a PUBLIC KEY")));
            }
            Err(e) => return Err(UnreadableKey(format!("its PEM is broken: {e}"))),
        }
    } else {
        BASE64_STANDARD.decode(text).map_err(|_| {
            UnreadableKey("it is neither PEM nor base64 of a public key, nor a SHA-256 in hex".to_owned())
        })?
    };
    AttestationKey::from_spki(&der).map(|key| key.fingerprint)
}

/// Algorithm and key of a SubjectPublicKeyInfo.
fn outer(spki: &[u8]) -> der::Result<(ObjectIdentifier, &[u8])> {
    let mut reader = SliceReader::new(spki)?;
    let parts = reader.sequence(|spki| {
        let algorithm = spki.sequence(|algorithm| {
            let id = ObjectIdentifier::decode(algorithm)?;
            Option::<AnyRef<'_>>::decode(algorithm)?;
            Ok::<_, der::Error>(id)
        })?;
        let key = BitStringRef::decode(spki)?;
        Ok::<_, der::Error>((algorithm, key))
    })?;
    reader.finish()?;
    let (algorithm, key) = parts;
    key.as_bytes().map(|key| (algorithm, key)).ok_or_else(|| der::Tag::BitString.value_error().into())
}

/// Modulus and exponent of an RSAPublicKey.
fn inner(key: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(key)?;
    let parts = reader.sequence(|key| Ok::<_, der::Error>((UintRef::decode(key)?, UintRef::decode(key)?)))?;
    reader.finish()?;
    Ok((parts.0.as_bytes(), parts.1.as_bytes()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}
