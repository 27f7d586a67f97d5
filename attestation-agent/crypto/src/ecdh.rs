//! `ECDH-ES+A256KW`: key agreement on a NIST curve, Concat KDF, AES key wrap.
//!
//! RFC 7518 section 4.6 with empty `apu` and `apv`, NIST SP 800-56A section 5.8.1 (one round of SHA-256),
//! RFC 3394. It knows curve points and keys, not JSON.

use aws_lc_rs::agreement::{self, ParsedPublicKey, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::kdf::{SskdfDigestAlgorithmId, get_sskdf_digest_algorithm, sskdf_digest};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrap};
use zeroize::Zeroizing;

use crate::Error;

/// Name of the key algorithm, an input of its own KDF.
pub(crate) const ALG: &str = "ECDH-ES+A256KW";
/// Length of a 32-byte key wrapped by RFC 3394.
pub(crate) const WRAPPED_LEN: usize = 40;

/// A 256-bit key, wiped on drop.
pub(crate) type Key = Zeroizing<[u8; 32]>;

/// The curves of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P521,
}

impl Curve {
    /// The curve called `name` in a JWK.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::P256, Self::P521].into_iter().find(|c| c.name() == name)
    }

    /// Its name in a JWK (RFC 7518 section 6.2.1.1).
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P521 => "P-521",
        }
    }

    /// Length of a coordinate in bytes.
    pub(crate) fn coordinate_len(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P521 => 66,
        }
    }

    pub(crate) fn agreement(self) -> &'static agreement::Algorithm {
        match self {
            Self::P256 => &agreement::ECDH_P256,
            Self::P521 => &agreement::ECDH_P521,
        }
    }
}

/// A point that lies on its curve.
#[derive(Clone)]
pub(crate) struct Point {
    pub(crate) curve: Curve,
    key: ParsedPublicKey,
}

impl Point {
    /// The point with coordinates `x` and `y`, big-endian, each exactly the curve's coordinate length.
    pub(crate) fn new(curve: Curve, x: &[u8], y: &[u8]) -> Result<Self, Error> {
        let n = curve.coordinate_len();
        if x.len() != n || y.len() != n {
            return Err(Error::malformed(
                "EC public key",
                format!("coordinates of {} and {} bytes, {} has {n}", x.len(), y.len(), curve.name()),
            ));
        }
        let sec1 = [&[4], x, y].concat();
        let key = ParsedPublicKey::try_from(UnparsedPublicKey::new(curve.agreement(), sec1))
            .map_err(|_| Error::malformed("EC public key", format!("no point on {}", curve.name())))?;
        Ok(Self { curve, key })
    }

    /// The point of `private`'s public half.
    pub(crate) fn of(curve: Curve, private: &PrivateKey) -> Result<Self, Error> {
        let public =
            private.compute_public_key().map_err(|_| Error::Library { doing: "deriving a public key" })?;
        let (x, y) = halves(public.as_ref()).ok_or(Error::Library { doing: "writing a public key" })?;
        Self::new(curve, x, y)
    }

    /// The coordinates, big-endian, left-padded.
    pub(crate) fn coordinates(&self) -> Result<(&[u8], &[u8]), Error> {
        halves(self.key.as_ref()).ok_or(Error::Library { doing: "reading a public key" })
    }
}

/// X and Y of an uncompressed SEC 1 point.
fn halves(sec1: &[u8]) -> Option<(&[u8], &[u8])> {
    let (tag, xy) = sec1.split_first()?;
    (*tag == 4).then(|| xy.split_at(xy.len() / 2))
}

/// The key-encryption key that `private` and the other side's `public` agree on.
pub(crate) fn agree(private: &PrivateKey, public: &Point) -> Result<Key, Error> {
    agreement::agree(private, public.key.clone(), Error::CannotOpen, key_encryption_key)
}

/// Wraps a content key for the holder of `kek`.
pub(crate) fn wrap(kek: &Key, content_key: &Key) -> Result<[u8; WRAPPED_LEN], Error> {
    let failed = Error::Library { doing: "wrapping a key" };
    let mut out = [0; WRAPPED_LEN];
    let kek = AesKek::new(&AES_256, kek.as_slice()).map_err(|_| failed.clone())?;
    kek.wrap(content_key.as_slice(), &mut out).map_err(|_| failed)?;
    Ok(out)
}

/// Unwraps a content key; RFC 3394's integrity check tells a wrong `kek` or an altered `wrapped`.
pub(crate) fn unwrap(kek: &Key, wrapped: &[u8; WRAPPED_LEN]) -> Result<Key, Error> {
    let mut out = Zeroizing::new([0; 32]);
    let kek =
        AesKek::new(&AES_256, kek.as_slice()).map_err(|_| Error::Library { doing: "unwrapping a key" })?;
    kek.unwrap(wrapped, out.as_mut_slice()).map_err(|_| Error::CannotOpen)?;
    Ok(out)
}

/// Concat KDF: SHA-256 over `00000001 ‖ z ‖ OtherInfo`, where OtherInfo holds the algorithm name, two empty
/// party names and the key length in bits.
fn key_encryption_key(z: &[u8]) -> Result<Key, Error> {
    let failed = || Error::Library { doing: "deriving a key" };
    let sha256 = get_sskdf_digest_algorithm(SskdfDigestAlgorithmId::Sha256).ok_or_else(failed)?;
    let mut key = Zeroizing::new([0; 32]);
    sskdf_digest(sha256, z, &other_info(), key.as_mut_slice()).map_err(|_| failed())?;
    Ok(key)
}

fn other_info() -> Vec<u8> {
    const NAME_LEN: u32 = 14;
    const { assert!(ALG.len() == NAME_LEN as usize) };
    [
        &NAME_LEN.to_be_bytes()[..],
        ALG.as_bytes(),
        &0u32.to_be_bytes(),   // PartyUInfo
        &0u32.to_be_bytes(),   // PartyVInfo
        &256u32.to_be_bytes(), // SuppPubInfo: bits of the key
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::{Curve, Key, Point, key_encryption_key, other_info, unwrap, wrap};

    #[test]
    fn concat_kdf_vector() {
        assert_eq!(hex::encode(other_info()), "0000000e454344482d45532b413235364b57000000000000000000000100");
        assert_eq!(
            hex::encode(key_encryption_key(&[1; 32]).unwrap().as_slice()),
            "9ef57177b3ca41231c4fb70924571c4ee531046d10592852f4fc8446b5861f73"
        );
    }

    #[test]
    fn key_wrap_vector_of_rfc_3394_section_4_6() {
        let key = |hex: &str| Key::new(hex::decode(hex).unwrap().try_into().unwrap());
        let kek = key("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        let data = key("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f");
        let wrapped = wrap(&kek, &data).unwrap();
        assert_eq!(
            hex::encode(wrapped),
            "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
        );
        assert_eq!(unwrap(&kek, &wrapped).unwrap().as_slice(), data.as_slice());
        for i in 0..wrapped.len() {
            let mut bad = wrapped;
            bad[i] ^= 1;
            assert!(unwrap(&kek, &bad).is_err());
        }
    }

    #[test]
    fn points_off_the_curve_are_refused() {
        for curve in [Curve::P256, Curve::P521] {
            let n = curve.coordinate_len();
            assert!(Point::new(curve, &vec![1; n], &vec![1; n]).is_err());
            assert!(Point::new(curve, &vec![0; n], &vec![0; n]).is_err());
            assert!(Point::new(curve, &vec![0xff; n], &vec![0xff; n]).is_err());
            assert!(Point::new(curve, &vec![1; n - 1], &vec![1; n + 1]).is_err());
            assert!(Point::new(curve, &[], &[]).is_err());
        }
    }
}
