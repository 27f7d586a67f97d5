//! The public half of a key in a TPM.
//!
//! TPM 2.0 Library, part 2: TPMT_PUBLIC for RSA and elliptic curve keys; RFC 5280 and RFC 8017 for the form that the
//! rest of the world reads. Keyed hashes and symmetric objects are refused.

use super::{ALG_ECC, ALG_NULL, ALG_RSA, algorithm_name, put_sized, sized};
use crate::read::Reader;
use crate::{Error, HashAlgorithm};

/// TPMA_OBJECT.restricted: the key signs only what the TPM made or hashed itself. Without it a quote proves nothing,
/// as the holder of the key may sign any bytes.
pub const ATTRIBUTE_RESTRICTED: u32 = 1 << 16;

/// TPMA_OBJECT.sign.
pub const ATTRIBUTE_SIGN: u32 = 1 << 18;

/// The exponent that a TPM writes as zero.
pub const RSA_DEFAULT_EXPONENT: u32 = 65_537;

/// Longest modulus: 4096 bits.
const MAX_MODULUS_LEN: usize = 512;

/// TPMT_PUBLIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Public {
    /// Algorithm of the key's name, a TPM_ALG_ID.
    pub name_hash: u16,
    /// TPMA_OBJECT.
    pub attributes: u32,
    /// Digest of the policy that the key asks for, up to 64 bytes; empty without one.
    pub policy: Vec<u8>,
    /// The key.
    pub key: KeyKind,
}

/// The key in a [`Public`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA.
    Rsa(RsaKey),
    /// Elliptic curve.
    Ecc(EccKey),
}

/// TPMS_RSA_PARMS and the modulus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsaKey {
    /// Symmetric algorithm with key bits and mode, of keys that are parents.
    pub symmetric: Option<(u16, u16, u16)>,
    /// Scheme and hash (TPM_ALG_ID each; RSAES has no hash), or none: the user chooses.
    pub scheme: Option<(u16, Option<u16>)>,
    /// Size of the modulus.
    pub bits: u16,
    /// The exponent; zero stands for [`RSA_DEFAULT_EXPONENT`].
    pub exponent: u32,
    /// The modulus, big endian.
    pub modulus: Vec<u8>,
}

/// TPMS_ECC_PARMS and the point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EccKey {
    /// Symmetric algorithm with key bits and mode, of keys that are parents.
    pub symmetric: Option<(u16, u16, u16)>,
    /// Scheme, hash, and the counter that ECDAA alone has.
    pub scheme: Option<(u16, u16, Option<u16>)>,
    /// TPM_ECC_CURVE: 3 P-256, 4 P-384, 5 P-521, 0x20 SM2.
    pub curve: u16,
    /// Key derivation scheme and hash.
    pub kdf: Option<(u16, u16)>,
    /// The point, big endian.
    pub x: Vec<u8>,
    /// As `x`.
    pub y: Vec<u8>,
}

impl Public {
    /// Reads a public area; nothing may follow it.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Trailing`]; [`Error::Invalid`] for other kinds of objects, and for a modulus that
    /// is not as long as it says.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let kind = r.u16_be("tpm.public.type")?;
        let name_hash = r.u16_be("tpm.public.name_hash")?;
        let attributes = r.u32_be("tpm.public.attributes")?;
        let policy = sized(&mut r, 64, "tpm.public.policy")?.to_vec();
        let key = match kind {
            ALG_RSA => KeyKind::Rsa(RsaKey::read(&mut r)?),
            ALG_ECC => KeyKind::Ecc(EccKey::read(&mut r)?),
            other => {
                return Err(Error::Invalid {
                    field: "tpm.public.type",
                    why: format!("{} is not rsa or ecc", algorithm_name(other)),
                });
            }
        };
        r.finish("a TPM public area")?;
        Ok(Self { name_hash, attributes, policy, key })
    }

    /// The bytes that [`Public::parse`] reads.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for parts that have no encoding.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let kind = match &self.key {
            KeyKind::Rsa(_) => ALG_RSA,
            KeyKind::Ecc(_) => ALG_ECC,
        };
        put_u16s(&mut out, &[kind, self.name_hash]);
        out.extend_from_slice(&self.attributes.to_be_bytes());
        put_sized(&mut out, &self.policy, "a policy digest")?;
        match &self.key {
            KeyKind::Rsa(key) => key.write(&mut out)?,
            KeyKind::Ecc(key) => key.write(&mut out)?,
        }
        Ok(out)
    }

    /// The key's name: algorithm and digest of the public area; none for an algorithm that is not known here.
    #[must_use]
    pub fn name(&self) -> Option<Vec<u8>> {
        let hash = HashAlgorithm::from_tcg_id(self.name_hash)?;
        let digest = hash.digest(&self.to_bytes().ok()?);
        Some([self.name_hash.to_be_bytes().as_slice(), &digest].concat())
    }

    /// The RSA key as DER of a `SubjectPublicKeyInfo` (RFC 5280, algorithm rsaEncryption); none for another kind.
    #[must_use]
    pub fn rsa_spki_der(&self) -> Option<Vec<u8>> {
        match &self.key {
            KeyKind::Rsa(key) => Some(key.spki_der()),
            KeyKind::Ecc(_) => None,
        }
    }

    /// Whether the key signs, and nothing but what its TPM made: what an attestation key has to be.
    #[must_use]
    pub const fn is_restricted_signer(&self) -> bool {
        self.attributes & ATTRIBUTE_RESTRICTED != 0 && self.attributes & ATTRIBUTE_SIGN != 0
    }
}

impl RsaKey {
    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let symmetric = read_symmetric(r)?;
        let scheme = match r.u16_be("tpm.public.scheme")? {
            ALG_NULL => None,
            // RSAES, the one scheme without a hash.
            0x0015 => Some((0x0015, None)),
            scheme => Some((scheme, Some(r.u16_be("tpm.public.scheme_hash")?))),
        };
        let bits = r.u16_be("tpm.public.bits")?;
        let exponent = r.u32_be("tpm.public.exponent")?;
        let modulus = sized(r, MAX_MODULUS_LEN, "tpm.public.modulus")?.to_vec();
        let whole =
            usize::from(bits) == modulus.len() * 8 && modulus.first().is_some_and(|byte| byte & 0x80 != 0);
        if !whole {
            return Err(Error::Invalid {
                field: "tpm.public.modulus",
                why: format!("{} bytes that are not a number of {bits} bits", modulus.len()),
            });
        }
        Ok(Self { symmetric, scheme, bits, exponent, modulus })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        write_symmetric(out, self.symmetric);
        match self.scheme {
            None => put_u16s(out, &[ALG_NULL]),
            Some((scheme, None)) => put_u16s(out, &[scheme]),
            Some((scheme, Some(hash))) => put_u16s(out, &[scheme, hash]),
        }
        put_u16s(out, &[self.bits]);
        out.extend_from_slice(&self.exponent.to_be_bytes());
        put_sized(out, &self.modulus, "an RSA modulus")
    }

    /// The public exponent.
    #[must_use]
    pub const fn public_exponent(&self) -> u32 {
        if self.exponent == 0 { RSA_DEFAULT_EXPONENT } else { self.exponent }
    }

    fn spki_der(&self) -> Vec<u8> {
        /// SEQUENCE of the object identifier 1.2.840.113549.1.1.1 (rsaEncryption) and NULL.
        const ALGORITHM: [u8; 15] =
            [0x30, 0x0D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01, 0x05, 0x00];
        let numbers =
            [der_unsigned(&self.modulus), der_unsigned(&self.public_exponent().to_be_bytes())].concat();
        let key = der(0x30, &numbers);
        let bit_string = der(0x03, &[&[0], key.as_slice()].concat());
        der(0x30, &[ALGORITHM.as_slice(), &bit_string].concat())
    }
}

impl EccKey {
    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let symmetric = read_symmetric(r)?;
        let scheme = match r.u16_be("tpm.public.scheme")? {
            ALG_NULL => None,
            scheme => {
                let hash = r.u16_be("tpm.public.scheme_hash")?;
                // ECDAA alone has a counter.
                let count = if scheme == 0x001A { Some(r.u16_be("tpm.public.scheme_count")?) } else { None };
                Some((scheme, hash, count))
            }
        };
        let curve = r.u16_be("tpm.public.curve")?;
        let kdf = match r.u16_be("tpm.public.kdf")? {
            ALG_NULL => None,
            kdf => Some((kdf, r.u16_be("tpm.public.kdf_hash")?)),
        };
        let x = sized(r, 66, "tpm.public.x")?.to_vec();
        let y = sized(r, 66, "tpm.public.y")?.to_vec();
        Ok(Self { symmetric, scheme, curve, kdf, x, y })
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        write_symmetric(out, self.symmetric);
        match self.scheme {
            None => put_u16s(out, &[ALG_NULL]),
            Some((scheme, hash, count)) => {
                put_u16s(out, &[scheme, hash]);
                put_u16s(out, count.as_slice());
            }
        }
        put_u16s(out, &[self.curve]);
        match self.kdf {
            None => put_u16s(out, &[ALG_NULL]),
            Some((kdf, hash)) => put_u16s(out, &[kdf, hash]),
        }
        put_sized(out, &self.x, "a coordinate")?;
        put_sized(out, &self.y, "a coordinate")
    }
}

fn read_symmetric(r: &mut Reader<'_>) -> Result<Option<(u16, u16, u16)>, Error> {
    match r.u16_be("tpm.public.symmetric")? {
        ALG_NULL => Ok(None),
        algorithm => Ok(Some((
            algorithm,
            r.u16_be("tpm.public.symmetric_bits")?,
            r.u16_be("tpm.public.symmetric_mode")?,
        ))),
    }
}

fn write_symmetric(out: &mut Vec<u8>, symmetric: Option<(u16, u16, u16)>) {
    match symmetric {
        None => put_u16s(out, &[ALG_NULL]),
        Some((algorithm, bits, mode)) => put_u16s(out, &[algorithm, bits, mode]),
    }
}

fn put_u16s(out: &mut Vec<u8>, numbers: &[u16]) {
    out.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
}

/// A DER element of less than 64 KiB, which every key here is.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let mut out = vec![tag];
    match (high, low) {
        (0, 0..=0x7F) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    out
}

/// A DER INTEGER: without leading zeros, but for the one that keeps the number positive.
fn der_unsigned(number: &[u8]) -> Vec<u8> {
    let first = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    let digits = number.get(first..).unwrap_or_default();
    match digits.first() {
        Some(byte) if byte & 0x80 == 0 => der(0x02, digits),
        _ => der(0x02, &[&[0], digits].concat()),
    }
}
