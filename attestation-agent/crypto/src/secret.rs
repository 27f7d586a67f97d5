//! The one container for plaintext and private keys.
//!
//! It wipes its memory when dropped and has no text form, no clone and no serde. It does not lock memory or
//! hide it from a debugger: the process as a whole is kept undumpable by the daemons.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Secret bytes: wiped on drop, read only through [`Secret::expose`].
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over `bytes`; their memory, spare capacity included, is wiped when this value is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Every read of a secret in the code base goes through this name.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Moves the bytes out without a copy, for a transport buffer that must own them. From here on wiping is
    /// the business of the new owner (the daemons install an allocator that wipes what it frees).
    #[must_use]
    pub fn into_exposed(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }

    /// Whether the bytes equal `other`, in time that depends on the lengths only.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn text_form_tells_the_length_only() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(7 bytes)");
        assert_eq!(format!("{secret:#?}"), "Secret(7 bytes)");
    }

    #[test]
    fn comparison_and_moving_out() {
        let secret = Secret::new(b"abc".to_vec());
        assert!(secret.matches(b"abc"));
        assert!(!secret.matches(b"abd"));
        assert!(!secret.matches(b"abcd"));
        assert_eq!((secret.len(), secret.is_empty()), (3, false));
        assert_eq!(secret.into_exposed(), b"abc");
    }
}
