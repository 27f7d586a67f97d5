//! The private key in a PKCS#12 container (RFC 7292), for a service that gives its clients their keys that way.
//!
//! Read strictly, as DER, with the password's integrity check before anything else: containers of openssl(1), Java and the like,
//! whose key is a `pkcs8ShroudedKeyBag` beside the certificates. Encryptions: PBES2 with PBKDF2 and AES-CBC (RFC 8018), and
//! `pbeWithSHAAnd3-KeyTripleDES-CBC` of RFC 7292 appendix C, which older programs write. Certificates are not looked at. Not here:
//! writing containers, keys inside encrypted content (RFC 7292 section 5.1 allows them; nobody writes them so).

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, pbkdf2};
use des::TdesEde3;
use des::cipher::generic_array::GenericArray;
use des::cipher::{BlockDecrypt, KeyInit};
use zeroize::Zeroizing;

use crate::der::{Elements, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, one_sequence};
use crate::{Error, Secret};

const WHAT: &str = "PKCS#12 container";
/// Longest container read, in bytes.
const MAX_LEN: usize = 64 * 1024;
/// Longest password, in bytes.
const MAX_PASSWORD_LEN: usize = 1024;
/// Most rounds of a derivation, half a second of work; openssl(1) writes 2048, Java 10,000.
const MAX_ROUNDS: u32 = 1_000_000;
/// `[0] EXPLICIT`.
const CONTENT: u8 = 0xA0;
/// Blocks of Triple DES, in bytes.
const DES_BLOCK: usize = 8;

// Contents of object identifiers.
const DATA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x07, 0x01];
const SHROUDED_KEY_BAG: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x0C, 0x0A, 0x01, 0x02];
const PBE_SHA1_3DES: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x0C, 0x01, 0x03];
const PBES2: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x05, 0x0D];
const PBKDF2: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x05, 0x0C];

/// What a derived key is for (RFC 7292 appendix B.3).
#[derive(Clone, Copy)]
enum Purpose {
    Key = 1,
    Vector = 2,
    Mac = 3,
}

/// The private key in `container`, as PKCS#8.
pub(crate) fn private_key(container: &[u8], password: &Secret) -> Result<Secret, Error> {
    if container.len() > MAX_LEN {
        return Err(Error::TooLarge { what: WHAT, found: container.len(), limit: MAX_LEN });
    }
    let malformed = |why: &str| Error::malformed(WHAT, why);
    let text = std::str::from_utf8(password.expose()).map_err(|_| malformed("its password is no text"))?;
    if text.len() > MAX_PASSWORD_LEN || text.contains('\0') {
        return Err(malformed("its password is longer than 1024 bytes, or has a zero byte"));
    }
    one_sequence(container)?;
    let mut pfx = Elements(container).sequence()?;
    if pfx.number()? != 3 {
        return Err(malformed("its version is not 3"));
    }
    let safe = content(&mut pfx)?.ok_or_else(|| malformed("it is signed instead of bound to a password"))?;
    check_mac(&mut pfx, safe, text)?;
    let mut parts = Elements(safe).sequence()?;
    while !parts.0.is_empty() {
        // Encrypted parts hold certificates.
        let Some(bags) = content(&mut parts)? else { continue };
        let mut bags = Elements(bags).sequence()?;
        while !bags.0.is_empty() {
            let mut bag = bags.sequence()?;
            if bag.element(OBJECT_IDENTIFIER)? == SHROUDED_KEY_BAG {
                return unwrap(bag.element(CONTENT)?, text);
            }
        }
    }
    Err(malformed("it has no encrypted private key"))
}

/// The bytes of the next `ContentInfo` (RFC 5652 section 3) of type `data`; none for another type.
fn content<'a>(elements: &mut Elements<'a>) -> Result<Option<&'a [u8]>, Error> {
    let mut info = elements.sequence()?;
    if info.element(OBJECT_IDENTIFIER)? != DATA {
        return Ok(None);
    }
    Elements(info.element(CONTENT)?).element(OCTET_STRING).map(Some)
}

/// Compares the tag behind the content with that of `safe`.
fn check_mac(pfx: &mut Elements<'_>, safe: &[u8], password: &str) -> Result<(), Error> {
    let mut mac = pfx.sequence()?;
    let mut info = mac.sequence()?;
    let name = info.sequence()?.element(OBJECT_IDENTIFIER)?;
    let tag = info.element(OCTET_STRING)?;
    let salt = mac.element(OCTET_STRING)?;
    let rounds = if mac.is_next(INTEGER) { rounds(&mut mac)? } else { NonZeroU32::MIN };
    let (hash, algorithm) = match name {
        [0x2B, 0x0E, 0x03, 0x02, 0x1A] => (&SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01] => (&SHA256, hmac::HMAC_SHA256),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02] => (&SHA384, hmac::HMAC_SHA384),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03] => (&SHA512, hmac::HMAC_SHA512),
        _ => return Err(Error::malformed(WHAT, "the algorithm of its integrity check is unknown")),
    };
    let key = derive(hash, Purpose::Mac, password, salt, rounds, hash.output_len());
    hmac::verify(&hmac::Key::new(algorithm, &key), safe, tag)
        .map_err(|_| Error::malformed(WHAT, "the password is another, or it was altered"))
}

/// Decrypts an `EncryptedPrivateKeyInfo` (RFC 5958 section 3).
fn unwrap(info: &[u8], password: &str) -> Result<Secret, Error> {
    let mut info = Elements(info).sequence()?;
    let mut algorithm = info.sequence()?;
    let mut bytes = Zeroizing::new(info.element(OCTET_STRING)?.to_vec());
    let len = match algorithm.element(OBJECT_IDENTIFIER)? {
        PBE_SHA1_3DES => unwrap_3des(algorithm.sequence()?, password, &mut bytes)?,
        PBES2 => unwrap_pbes2(algorithm.sequence()?, password, &mut bytes)?,
        _ => {
            return Err(Error::malformed(
                WHAT,
                "the encryption of its key is neither PBES2 nor SHA-1 with 3DES",
            ));
        }
    };
    bytes.truncate(len);
    Ok(Secret::from(bytes))
}

/// Decrypts `bytes` in place; how many of them are the plaintext.
fn unwrap_3des(mut parameters: Elements<'_>, password: &str, bytes: &mut [u8]) -> Result<usize, Error> {
    let salt = parameters.element(OCTET_STRING)?;
    let rounds = rounds(&mut parameters)?;
    let hash = &SHA1_FOR_LEGACY_USE_ONLY;
    let key = derive(hash, Purpose::Key, password, salt, rounds, 24);
    let mut previous = derive(hash, Purpose::Vector, password, salt, rounds, DES_BLOCK);
    let cipher = TdesEde3::new_from_slice(&key).map_err(|_| DERIVING)?;
    if bytes.is_empty() || !bytes.len().is_multiple_of(DES_BLOCK) {
        return Err(undecryptable());
    }
    for block in bytes.chunks_exact_mut(DES_BLOCK) {
        let ciphertext = block.to_vec();
        cipher.decrypt_block(GenericArray::from_mut_slice(block));
        block.iter_mut().zip(previous.iter()).for_each(|(byte, mask)| *byte ^= mask);
        previous = Zeroizing::new(ciphertext);
    }
    // Padding of RFC 8018 section 6.1.1. The container is authenticated, so that it tells nobody anything.
    let padding = bytes.last().copied().unwrap_or_default();
    let len = bytes.len().checked_sub(usize::from(padding)).ok_or_else(undecryptable)?;
    let good = (1..=DES_BLOCK).contains(&usize::from(padding));
    if good && bytes.iter().skip(len).all(|byte| *byte == padding) { Ok(len) } else { Err(undecryptable()) }
}

/// As [`unwrap_3des`].
fn unwrap_pbes2(mut parameters: Elements<'_>, password: &str, bytes: &mut [u8]) -> Result<usize, Error> {
    let unknown = |why: &str| Error::malformed(WHAT, why);
    let mut derivation = parameters.sequence()?;
    if derivation.element(OBJECT_IDENTIFIER)? != PBKDF2 {
        return Err(unknown("its key is derived by something else than PBKDF2"));
    }
    let mut derivation = derivation.sequence()?;
    let salt = derivation.element(OCTET_STRING)?;
    let rounds = rounds(&mut derivation)?;
    let announced = if derivation.is_next(INTEGER) { Some(derivation.number()?) } else { None };
    let function = match derivation.0.is_empty() {
        true => pbkdf2::PBKDF2_HMAC_SHA1,
        false => match derivation.sequence()?.element(OBJECT_IDENTIFIER)? {
            [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x02, 0x07] => pbkdf2::PBKDF2_HMAC_SHA1,
            [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x02, 0x09] => pbkdf2::PBKDF2_HMAC_SHA256,
            [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x02, 0x0A] => pbkdf2::PBKDF2_HMAC_SHA384,
            [0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x02, 0x0B] => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return Err(unknown("the hash of its derivation is unknown")),
        },
    };
    let mut encryption = parameters.sequence()?;
    let (algorithm, key_len) = match encryption.element(OBJECT_IDENTIFIER)? {
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x02] => (&AES_128, 16),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x16] => (&AES_192, 24),
        [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2A] => (&AES_256, 32),
        _ => return Err(unknown("the cipher of its key is not AES-CBC")),
    };
    let vector: [u8; 16] = encryption
        .element(OCTET_STRING)?
        .try_into()
        .map_err(|_| unknown("the initialization vector is not 16 bytes long"))?;
    if announced.is_some_and(|len| usize::try_from(len) != Ok(key_len)) {
        return Err(unknown("the length of its derived key is not that of the cipher's"));
    }
    let mut key = Zeroizing::new(vec![0; key_len]);
    pbkdf2::derive(function, rounds, salt, password.as_bytes(), &mut key);
    let key = UnboundCipherKey::new(algorithm, &key).map_err(|_| DERIVING)?;
    let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).map_err(|_| DERIVING)?;
    let context = DecryptionContext::Iv128(FixedLength::from(vector));
    key.decrypt(bytes, context).map(|plaintext| plaintext.len()).map_err(|_| undecryptable())
}

const DERIVING: Error = Error::Library { doing: "deriving a key" };

fn undecryptable() -> Error {
    Error::malformed(WHAT, "its key does not decrypt")
}

fn rounds(elements: &mut Elements<'_>) -> Result<NonZeroU32, Error> {
    NonZeroU32::new(elements.number()?)
        .filter(|rounds| rounds.get() <= MAX_ROUNDS)
        .ok_or_else(|| Error::malformed(WHAT, "it asks for no rounds of derivation, or for over a million"))
}

/// `len` bytes for `purpose` out of the password as UTF-16 with a zero behind it (RFC 7292 appendix B).
fn derive(
    hash: &'static digest::Algorithm,
    purpose: Purpose,
    password: &str,
    salt: &[u8],
    rounds: NonZeroU32,
    len: usize,
) -> Zeroizing<Vec<u8>> {
    let block = hash.block_len();
    let mut wide = Zeroizing::new(Vec::with_capacity(password.len() * 2 + 2));
    wide.extend(password.encode_utf16().chain([0]).flat_map(u16::to_be_bytes));
    let filled = |bytes: &[u8]| {
        let len = bytes.len().div_ceil(block) * block;
        Zeroizing::new(bytes.iter().copied().cycle().take(len).collect::<Vec<u8>>())
    };
    let (salt, password) = (filled(salt), filled(&wide));
    let mut input = Zeroizing::new([salt.as_slice(), password.as_slice()].concat());
    let mut out = Zeroizing::new(Vec::with_capacity(len + hash.output_len()));
    while out.len() < len {
        let mut context = digest::Context::new(hash);
        context.update(&vec![purpose as u8; block]);
        context.update(&input);
        let mut found = context.finish();
        for _ in 1..rounds.get() {
            found = digest::digest(hash, found.as_ref());
        }
        let found = found.as_ref();
        out.extend_from_slice(found);
        let addend: Zeroizing<Vec<u8>> = Zeroizing::new(found.iter().copied().cycle().take(block).collect());
        for part in input.chunks_exact_mut(block) {
            // part + addend + 1, modulo 2^(8 * block).
            let mut carry = 1;
            for (byte, more) in part.iter_mut().zip(addend.iter()).rev() {
                let sum = u16::from(*byte) + u16::from(*more) + carry;
                let [high, low] = sum.to_be_bytes();
                *byte = low;
                carry = u16::from(high);
            }
        }
    }
    out.truncate(len);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A fixed bound on what a damaged container may cost.
    #[test]
    fn rounds_are_bounded() {
        for (der, good) in [
            (&[2, 1, 0][..], false),
            (&[2, 1, 1], true),
            (&[2, 3, 0x0F, 0x42, 0x40], true),
            (&[2, 3, 0x0F, 0x42, 0x41], false),
            (&[2, 5, 1, 0, 0, 0, 0], false),
        ] {
            assert_eq!(rounds(&mut Elements(der)).is_ok(), good, "{der:02x?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let password = Secret::new(b"x".to_vec());
            prop_assert!(private_key(&bytes, &password).is_err());
            let _ = unwrap(&bytes, "x");
            let _ = check_mac(&mut Elements(&bytes), b"", "x");
        }
    }
}
