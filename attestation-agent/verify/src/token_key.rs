//! The key that signed an attestation token, and who vouches for it.
//!
//! An attestation service shows its key in the header of each token as a JWK (RFC 7517), with the certificate chain of
//! the key as `x5c` (section 4.7: standard base64 of DER, leaf first). The key counts when the leaf certifies this very
//! key and a chain leads from the leaf to a root that the relying party was given; the order of the certificates behind
//! the leaf is no matter. Keys are RSA (`RS256`, `RS384`), P-256 (`ES256`) and P-384 (`ES384`), RFC 7518.
//!
//! NOT here: `x5u` (nothing is fetched), revocation, names and extended key usages, whose meaning no specification of
//! tokens settles, and the claims: a token with a good signature may say anything.

mod chain;
mod signed;

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

pub use self::signed::SignedToken;
use crate::Rejection;
use crate::certificate::{Cert, bits, read_pem};

/// Longest JWK that is read, in bytes.
const MAX_LEN: usize = 128 * 1024;

/// Most certificates in `x5c`.
const MAX_CERTS: usize = 8;

/// Most roots, and the longest text of them in bytes.
const MAX_ROOTS: usize = 64;
const MAX_ROOTS_LEN: usize = 256 * 1024;

/// Fewest and most bits of an RSA key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How a token is signed (RFC 7518, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    Rs384,
    /// ECDSA P-256 with SHA-256, 64 bytes.
    Es256,
    /// ECDSA P-384 with SHA-384, 96 bytes.
    Es384,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        })
    }
}

/// The roots that a relying party trusts to vouch for token signers.
#[derive(Clone, Debug)]
pub struct SignerRoots(Vec<Cert>);

impl SignerRoots {
    /// Reads one or more certificates (PEM, 64 at most). An authority here vouches for what it issued, whether it is
    /// self-signed or not; a certificate of a signer here is trusted as it is.
    ///
    /// # Errors
    /// [`InvalidSignerRoots`] when one cannot be read, or there are none or too many.
    pub fn from_pem(pem: &str) -> Result<Self, InvalidSignerRoots> {
        let invalid = |why| InvalidSignerRoots { why };
        let roots = read_pem(pem, MAX_ROOTS_LEN).map_err(invalid)?;
        match roots.len() {
            0 => Err(invalid("there is no certificate".to_owned())),
            1..=MAX_ROOTS => Ok(Self(roots)),
            many => Err(invalid(format!("{many} certificates are more than {MAX_ROOTS}"))),
        }
    }
}

/// Roots of token signers that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the roots of token signers are unusable: {why}")]
pub struct InvalidSignerRoots {
    why: String,
}

impl InvalidSignerRoots {
    /// Stable name for logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "SIGNER_ROOTS_INVALID"
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        "pass the certificates (PEM, nothing else) under which the attestation service's token key was certified".to_owned()
    }
}

/// A JWK with what it says about its certificates; nothing of it has been verified.
#[derive(Clone, Debug)]
pub struct TokenKey {
    key: PublicKey,
    algorithm: Option<Algorithm>,
    x5c: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PublicKey {
    /// Big-endian, without leading zeros.
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    /// Uncompressed point, 65 bytes.
    P256(Vec<u8>),
    /// Uncompressed point, 97 bytes.
    P384(Vec<u8>),
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    alg: Option<Algorithm>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    x5c: Option<Vec<String>>,
}

impl TokenKey {
    /// Reads a JWK. Members that are not needed are passed over.
    ///
    /// # Errors
    /// [`Rejection::Token`] with the check `token.key`.
    pub fn from_json(jwk: &[u8]) -> Result<Self, Rejection> {
        if jwk.len() > MAX_LEN {
            return Err(refused(
                "token.key",
                format!("its key has {} bytes, the limit is {MAX_LEN}", jwk.len()),
            ));
        }
        let jwk: Jwk = serde_json::from_slice(jwk)
            .map_err(|_| refused("token.key", "its key is not a JWK for RS256, RS384, ES256 or ES384"))?;
        let key = PublicKey::read(&jwk).map_err(|why| refused("token.key", why))?;
        Ok(Self { key, algorithm: jwk.alg, x5c: jwk.x5c })
    }

    /// Checks that `x5c` certifies this key and leads to one of `roots`, with every certificate valid at `now` (seconds
    /// since 1970). Gives the common names on the way, from the leaf to the root.
    ///
    /// # Errors
    /// [`Rejection::Token`] with the check `token.x5c`, `token.leaf_key`, `token.chain` or `token.validity`.
    pub fn verify_chain(&self, roots: &SignerRoots, now: u64) -> Result<Vec<String>, Rejection> {
        let certs = self.certificates().map_err(|why| refused("token.x5c", why))?;
        let Some((leaf, others)) = certs.split_first() else {
            return Err(refused("token.x5c", "its key has an empty list of certificates (x5c)"));
        };
        if !self.key.is_of(leaf) {
            let why = format!(
                "the certificate {:?} is for another key than the one it comes with",
                leaf.common_name()
            );
            return Err(refused("token.leaf_key", why));
        }
        if !leaf.may_sign_data() {
            let why = format!(
                "the key of {:?} may not sign: its key usage lacks digitalSignature",
                leaf.common_name()
            );
            return Err(refused("token.leaf_key", why));
        }
        chain::find(leaf, others, &roots.0, now)
    }

    /// Checks a signature over `message` by this key.
    ///
    /// # Errors
    /// [`Rejection::Token`] with the check `token.algorithm` when `algorithm` is not one of this key, else
    /// `token.signature`.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> Result<(), Rejection> {
        let misfit =
            || refused("token.algorithm", format!("it is signed with {algorithm}, its key is for another"));
        if self.algorithm.is_some_and(|own| own != algorithm) {
            return Err(misfit());
        }
        let verified = match (&self.key, algorithm) {
            (PublicKey::Rsa { modulus, exponent }, Algorithm::Rs256 | Algorithm::Rs384) => {
                let parameters = match algorithm {
                    Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
                    _ => &RSA_PKCS1_2048_8192_SHA256,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature)
            }
            (PublicKey::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (PublicKey::P384(point), Algorithm::Es384) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            _ => return Err(misfit()),
        };
        verified.map_err(|_| refused("token.signature", "its signature is not one by the key in its header"))
    }

    /// The certificates, leaf first. The error is a sentence.
    fn certificates(&self) -> Result<Vec<Cert>, String> {
        let x5c = self.x5c.as_ref().ok_or_else(|| "its key comes without certificates (x5c)".to_owned())?;
        if x5c.len() > MAX_CERTS {
            return Err(format!(
                "its key comes with {} certificates (x5c), the limit is {MAX_CERTS}",
                x5c.len()
            ));
        }
        (1..)
            .zip(x5c)
            .map(|(number, text)| {
                let unusable =
                    |why: &str| format!("certificate {number} of {} in x5c is unusable: {why}", x5c.len());
                let der = BASE64_STANDARD.decode(text).map_err(|_| unusable("it is not standard base64"))?;
                // PEM inside the base64 is not what the specification has.
                if der.first() == Some(&b'-') {
                    return Err(unusable("it is not DER"));
                }
                Cert::read(&der).map_err(|why| unusable(&why))
            })
            .collect()
    }
}

impl PublicKey {
    /// Reads the members of the key's kind. The error is a sentence.
    fn read(jwk: &Jwk) -> Result<Self, String> {
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let (modulus, exponent) = (number("n", jwk.n.as_deref())?, number("e", jwk.e.as_deref())?);
                match bits(&modulus) {
                    Some(bits) if RSA_BITS.contains(&bits) => Ok(Self::Rsa { modulus, exponent }),
                    bits => Err(format!(
                        "its RSA key has {} bits, {} to {} are accepted",
                        bits.unwrap_or_default(),
                        RSA_BITS.start(),
                        RSA_BITS.end()
                    )),
                }
            }
            ("EC", Some("P-256")) => point(jwk, 32).map(Self::P256),
            ("EC", Some("P-384")) => point(jwk, 48).map(Self::P384),
            _ => Err("its key is neither RSA nor on the curve P-256 or P-384".to_owned()),
        }
    }

    /// Whether the certificate is for this key.
    fn is_of(&self, cert: &Cert) -> bool {
        match self {
            Self::Rsa { modulus, exponent } => {
                cert.rsa_numbers() == Some((modulus.as_slice(), exponent.as_slice()))
            }
            Self::P256(point) => cert.p256_point() == Some(point.as_slice()),
            Self::P384(point) => cert.p384_point() == Some(point.as_slice()),
        }
    }
}

/// The uncompressed point of two coordinates, each of exactly `len` bytes (RFC 7518, section 6.2.1).
fn point(jwk: &Jwk, len: usize) -> Result<Vec<u8>, String> {
    let (x, y) = (bytes("x", jwk.x.as_deref())?, bytes("y", jwk.y.as_deref())?);
    if x.len() != len || y.len() != len {
        return Err(format!("a coordinate of its key has not {len} bytes"));
    }
    Ok([&[4][..], &x, &y].concat())
}

/// An unsigned number without the leading zeros that some writers put there.
fn number(member: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let mut bytes = bytes(member, text)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Ok(bytes)
}

fn bytes(member: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("its key has no {member}"))?;
    BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("{member} of its key is not base64url"))
}

fn refused(check: &'static str, why: impl Into<String>) -> Rejection {
    Rejection::Token { check, why: why.into() }
}
