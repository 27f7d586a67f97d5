//! Content digests: `sha256:` and 64 digits, and the two longer ones of the family.
//!
//! Strict: lower case, the exact length, nothing around it (OCI image specification, descriptor.md, "Digests"). Other
//! registered algorithms are refused by name.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::Error;

/// Hash function of a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in a digest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of its value in bytes.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Starts a hash.
    #[must_use]
    pub fn hasher(self) -> Hasher {
        match self {
            Self::Sha256 => Hasher(State::Sha256(sha2::Sha256::new())),
            Self::Sha384 => Hasher(State::Sha384(sha2::Sha384::new())),
            Self::Sha512 => Hasher(State::Sha512(sha2::Sha512::new())),
        }
    }
}

/// Algorithm and value. Text form: `sha256:` and lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zero beyond the algorithm's length.
    value: [u8; 64],
}

impl Digest {
    /// Digest of `bytes`.
    #[must_use]
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = algorithm.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Its hash function.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its value in lower-case hexadecimal, as file names of an image layout have it.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.value.get(..self.algorithm.length()).unwrap_or_default())
    }

    fn new(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut value = [0; 64];
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self { algorithm, value }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused = |why| Error::Reference { text: text.chars().take(160).collect(), why };
        let (name, value) =
            text.split_once(':').ok_or_else(|| refused("a digest is algorithm:hexadecimal"))?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|a| a.as_str() == name)
            .ok_or_else(|| refused("the digest is none of sha256, sha384 and sha512"))?;
        if value.len() != 2 * algorithm.length()
            || !value.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(refused(
                "the digest's value is not lower-case hexadecimal of the algorithm's length",
            ));
        }
        let bytes = hex::decode(value).map_err(|_| refused("the digest's value is not hexadecimal"))?;
        Ok(Self::new(algorithm, &bytes))
    }
}

/// A digest being computed.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha384(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of all bytes taken.
    #[must_use]
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::new(Algorithm::Sha256, &state.finalize()),
            State::Sha384(state) => Digest::new(Algorithm::Sha384, &state.finalize()),
            State::Sha512(state) => Digest::new(Algorithm::Sha512, &state.finalize()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), empty);
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, b"abc");
            assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
    }

    #[test]
    fn only_the_exact_form_is_taken() {
        let hex = "ab".repeat(32);
        for bad in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{hex}00"),
            format!("sha256:{}", &hex[2..]),
            format!("sha512:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256+b64:{hex}"),
            format!("sha256: {}", &hex[1..]),
            format!("md5:{}", "ab".repeat(16)),
        ] {
            assert_eq!(bad.parse::<Digest>().unwrap_err().code(), "IMAGE_REFERENCE_INVALID", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same(text in "(sha256|sha384|sha512):[0-9a-f]{60,130}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn pieces_hash_like_the_whole(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..300) {
            let (a, b) = bytes.split_at(at.min(bytes.len()));
            for algorithm in Algorithm::ALL {
                let mut hasher = algorithm.hasher();
                hasher.update(a);
                hasher.update(b);
                prop_assert_eq!(hasher.finish(), Digest::of(algorithm, &bytes));
            }
        }
    }
}
