//! The hash algorithms that a KBS may select and that an init-data document may name.
//!
//! SHA-2 as in FIPS 180-4, SM3 as in GB/T 32905. No keyed hashing and no streaming here.

use std::fmt;
use std::str::FromStr;

use sha2::Digest;

use crate::Error;
use crate::error::shorten;

/// A hash algorithm of the attestation protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HashAlgorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes: the default of the protocol.
    #[default]
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
    /// SM3, 32 bytes.
    Sm3,
}

impl HashAlgorithm {
    /// Every algorithm, in the order in which the handshake offers them.
    pub const ALL: [HashAlgorithm; 4] =
        [HashAlgorithm::Sha256, HashAlgorithm::Sha384, HashAlgorithm::Sha512, HashAlgorithm::Sm3];

    /// The name on the wire and in init-data documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            HashAlgorithm::Sha256 => "sha256",
            HashAlgorithm::Sha384 => "sha384",
            HashAlgorithm::Sha512 => "sha512",
            HashAlgorithm::Sm3 => "sm3",
        }
    }

    /// Length of a digest in bytes.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            HashAlgorithm::Sha256 | HashAlgorithm::Sm3 => 32,
            HashAlgorithm::Sha384 => 48,
            HashAlgorithm::Sha512 => 64,
        }
    }

    /// The identifier in event logs and TPM structures (TPM 2.0 Library, part 2, table of TPM_ALG_ID).
    #[must_use]
    pub const fn tcg_id(self) -> u16 {
        match self {
            HashAlgorithm::Sha256 => 0x000B,
            HashAlgorithm::Sha384 => 0x000C,
            HashAlgorithm::Sha512 => 0x000D,
            HashAlgorithm::Sm3 => 0x0012,
        }
    }

    /// The algorithm with this identifier; `None` for one that is not known here.
    #[must_use]
    pub fn from_tcg_id(id: u16) -> Option<Self> {
        HashAlgorithm::ALL.into_iter().find(|hash| hash.tcg_id() == id)
    }

    /// The digest of `data`, [`HashAlgorithm::digest_len`] bytes.
    #[must_use]
    pub fn digest(self, data: &[u8]) -> Vec<u8> {
        match self {
            HashAlgorithm::Sha256 => sha2::Sha256::digest(data).to_vec(),
            HashAlgorithm::Sha384 => sha2::Sha384::digest(data).to_vec(),
            HashAlgorithm::Sha512 => sha2::Sha512::digest(data).to_vec(),
            HashAlgorithm::Sm3 => sm3::Sm3::digest(data).to_vec(),
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for HashAlgorithm {
    type Err = Error;

    /// Compares without regard to ASCII case, as the handshake's server side may answer in either.
    fn from_str(name: &str) -> Result<Self, Error> {
        HashAlgorithm::ALL
            .into_iter()
            .find(|hash| hash.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::UnknownHash { name: shorten(name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_abc() {
        let expected = [
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed\
             8086072ba1e7cc2358baeca134c825a7",
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
        ];
        for (hash, expected) in HashAlgorithm::ALL.into_iter().zip(expected) {
            let digest = hash.digest(b"abc");
            assert_eq!(hex::encode(&digest), expected, "{hash}");
            assert_eq!(digest.len(), hash.digest_len());
        }
    }

    #[test]
    fn names_ignore_case_and_nothing_else() {
        assert_eq!("SHA384".parse(), Ok(HashAlgorithm::Sha384));
        assert_eq!("Sm3".parse(), Ok(HashAlgorithm::Sm3));
        for name in ["", "sha-256", "sha1", "sha256 ", "md5"] {
            assert_eq!(name.parse::<HashAlgorithm>().map_err(|e| e.code()), Err("HASH_UNKNOWN"), "{name:?}");
        }
    }
}
