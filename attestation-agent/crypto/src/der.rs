//! The few DER elements (X.690) needed to take an RSA key out of its wrapping or its container, and to tell kinds of public keys
//! apart.
//!
//! Only definite lengths up to 64 KiB, minimal encoding, one-byte tags. It is no ASN.1 library: the input
//! is what AWS-LC wrote, or will read next, and the reader refuses everything it does not know.

use crate::Error;

pub(crate) const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// Modulus and exponent, big-endian without leading zero bytes, of an RSA `SubjectPublicKeyInfo` (RFC 5280
/// section 4.1.2.7, RFC 8017 appendix A.1.1).
pub(crate) fn rsa_public_parts(spki: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let mut outer = Elements(spki).sequence()?;
    outer.sequence()?;
    let bits = outer.element(BIT_STRING)?;
    let Some((0, key)) = bits.split_first() else {
        return Err(Error::malformed("RSA public key", "bit string with unused bits"));
    };
    let mut key = Elements(key).sequence()?;
    let n = key.element(INTEGER)?;
    let e = key.element(INTEGER)?;
    Ok((unsigned(n).to_vec(), unsigned(e).to_vec()))
}

/// Algorithm of a `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7): content of the object identifier, and the parameters
/// as they are, with tag and length. Nothing may follow the key.
pub(crate) fn public_key_algorithm(spki: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let mut whole = Elements(spki);
    let mut info = whole.sequence()?;
    let mut algorithm = info.sequence()?;
    let identifier = algorithm.element(OBJECT_IDENTIFIER)?;
    info.element(BIT_STRING)?;
    if whole.0.is_empty() && info.0.is_empty() {
        Ok((identifier, algorithm.0))
    } else {
        Err(Error::malformed("public key", "more bytes after the key"))
    }
}

/// The `RSAPrivateKey` (RFC 8017 appendix A.1.2) inside a `PrivateKeyInfo` (RFC 5208 section 5).
pub(crate) fn pkcs1_of_pkcs8(pkcs8: &[u8]) -> Result<&[u8], Error> {
    let mut info = Elements(pkcs8).sequence()?;
    info.element(INTEGER)?;
    info.sequence()?;
    info.element(OCTET_STRING)
}

/// That `bytes` are one sequence and nothing more: libraries read the first element and pass over what follows.
pub(crate) fn one_sequence(bytes: &[u8]) -> Result<(), Error> {
    let mut whole = Elements(bytes);
    whole.sequence()?;
    if whole.0.is_empty() { Ok(()) } else { Err(Error::malformed("DER", "more bytes after the key")) }
}

fn unsigned(integer: &[u8]) -> &[u8] {
    match integer {
        [0, rest @ ..] => rest,
        other => other,
    }
}

/// Elements not yet read.
pub(crate) struct Elements<'a>(pub(crate) &'a [u8]);

impl<'a> Elements<'a> {
    pub(crate) fn sequence(&mut self) -> Result<Self, Error> {
        self.element(SEQUENCE).map(Elements)
    }

    pub(crate) fn element(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        let (found, rest) = self.0.split_first().ok_or_else(truncated)?;
        if *found != tag {
            return Err(Error::malformed("DER", format!("tag {found:#04x}, expected {tag:#04x}")));
        }
        let (length, rest) = length(rest)?;
        let (content, rest) = rest.split_at_checked(length).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(content)
    }

    /// Whether the next element has that tag.
    pub(crate) fn is_next(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// An integer that is not negative and below 2^31.
    pub(crate) fn number(&mut self) -> Result<u32, Error> {
        let bytes = unsigned(self.element(INTEGER)?);
        if bytes.len() > 4 {
            return Err(Error::malformed("DER", "a number is too large"));
        }
        let number = bytes.iter().fold(0, |number: u32, byte| (number << 8) | u32::from(*byte));
        i32::try_from(number).map(|_| number).map_err(|_| Error::malformed("DER", "a number is too large"))
    }
}

fn length(input: &[u8]) -> Result<(usize, &[u8]), Error> {
    match input {
        [short, rest @ ..] if *short < 0x80 => Ok((usize::from(*short), rest)),
        [0x81, one, rest @ ..] if *one >= 0x80 => Ok((usize::from(*one), rest)),
        [0x82, high, low, rest @ ..] if *high > 0 => {
            Ok((usize::from(u16::from_be_bytes([*high, *low])), rest))
        }
        [] | [0x81] | [0x82] | [0x82, _] => Err(truncated()),
        _ => Err(Error::malformed("DER", "length is not minimal or too long")),
    }
}

fn truncated() -> Error {
    Error::malformed("DER", "ends too early")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{length, pkcs1_of_pkcs8, public_key_algorithm, rsa_public_parts};

    #[test]
    fn lengths() {
        assert_eq!(length(&[5, 1]).unwrap(), (5, &[1][..]));
        assert_eq!(length(&[0x81, 0x80]).unwrap(), (0x80, &[][..]));
        assert_eq!(length(&[0x82, 1, 0, 9]).unwrap(), (256, &[9][..]));
        for bad in [&[][..], &[0x80], &[0x81], &[0x81, 0x7f], &[0x82, 0, 0xff], &[0x82, 1], &[0x83, 1, 0, 0]]
        {
            assert!(length(bad).is_err(), "{bad:02x?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = rsa_public_parts(&bytes);
            let _ = pkcs1_of_pkcs8(&bytes);
            let _ = public_key_algorithm(&bytes);
        }
    }
}
