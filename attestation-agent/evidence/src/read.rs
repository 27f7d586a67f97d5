//! A cursor over untrusted bytes, used by every binary format of this crate.
//!
//! Each read takes the name of the field, so that a failure says what was missing. It allocates
//! nothing, never indexes and never panics. It is NOT a decoder: it knows integers and lengths only.

use crate::Error;

/// Reads fields one after the other from a borrowed slice.
///
/// ```
/// use cc_evidence::read::Reader;
/// let mut r = Reader::new(&[2, 0, 0, 0, 9]);
/// assert_eq!(r.u32_le("demo.version")?, 2);
/// assert_eq!(r.u8("demo.kind")?, 9);
/// r.finish("demo")?;
/// # Ok::<(), cc_evidence::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// Number of bytes not yet read.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// Takes the next `n` bytes.
    ///
    /// # Errors
    /// [`Error::Truncated`] with `field` when fewer are left; nothing is consumed then.
    pub fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Error> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.truncated(field, n))?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Error::Truncated`] with `field` when fewer are left; nothing is consumed then.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.truncated(field, N))?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes one byte.
    ///
    /// # Errors
    /// [`Error::Truncated`] at the end.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Error> {
        self.array::<1>(field).map(|[byte]| *byte)
    }

    /// Takes two bytes as a little-endian number.
    ///
    /// # Errors
    /// [`Error::Truncated`] when fewer are left.
    pub fn u16_le(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// Takes four bytes as a little-endian number.
    ///
    /// # Errors
    /// [`Error::Truncated`] when fewer are left.
    pub fn u32_le(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Takes eight bytes as a little-endian number.
    ///
    /// # Errors
    /// [`Error::Truncated`] when fewer are left.
    pub fn u64_le(&mut self, field: &'static str) -> Result<u64, Error> {
        self.array(field).map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Takes two bytes as a big-endian number.
    ///
    /// # Errors
    /// [`Error::Truncated`] when fewer are left.
    pub fn u16_be(&mut self, field: &'static str) -> Result<u16, Error> {
        self.array(field).map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Takes four bytes as a big-endian number.
    ///
    /// # Errors
    /// [`Error::Truncated`] when fewer are left.
    pub fn u32_be(&mut self, field: &'static str) -> Result<u32, Error> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Takes eight bytes as a big-endian number.
    ///
    /// # Errors
    /// [`Error::Truncated`] when fewer are left.
    pub fn u64_be(&mut self, field: &'static str) -> Result<u64, Error> {
        self.array(field).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Ends the reading: surplus bytes are an error, always.
    ///
    /// # Errors
    /// [`Error::Trailing`] with `what` when bytes are left.
    pub const fn finish(self, what: &'static str) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(Error::Trailing { what, extra }),
        }
    }

    fn truncated(&self, field: &'static str, need: usize) -> Error {
        Error::Truncated { field, need, left: self.rest.len() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_little_endian() {
        let mut r = Reader::new(&[1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0x80]);
        assert_eq!(r.u8("a"), Ok(1));
        assert_eq!(r.u16_le("b"), Ok(2));
        assert_eq!(r.u32_le("c"), Ok(3));
        assert_eq!(r.u64_le("d"), Ok(0x8000_0000_0000_0004));
        assert_eq!(r.finish("demo"), Ok(()));
    }

    #[test]
    fn tpm_integers_are_big_endian() {
        let mut r = Reader::new(&[0, 2, 0, 0, 0, 3, 0x80, 0, 0, 0, 0, 0, 0, 4]);
        assert_eq!(r.u16_be("b"), Ok(2));
        assert_eq!(r.u32_be("c"), Ok(3));
        assert_eq!(r.u64_be("d"), Ok(0x8000_0000_0000_0004));
        assert_eq!(r.finish("demo"), Ok(()));
    }

    #[test]
    fn failures_name_the_field_and_consume_nothing() {
        let mut r = Reader::new(&[1, 2, 3]);
        assert_eq!(r.u32_le("x.len"), Err(Error::Truncated { field: "x.len", need: 4, left: 3 }));
        assert_eq!(r.take(usize::MAX, "x.blob").map_err(|e| e.code()), Err("EVIDENCE_TRUNCATED"));
        assert_eq!(r.left(), 3);
        assert_eq!(r.finish("x"), Err(Error::Trailing { what: "x", extra: 3 }));
    }

    proptest! {
        #[test]
        fn takes_cover_the_input_exactly(bytes: Vec<u8>, cut in 0usize..64) {
            let mut r = Reader::new(&bytes);
            let mut seen = Vec::new();
            while let Ok(part) = r.take(cut.max(1), "part") {
                seen.extend_from_slice(part);
            }
            let rest = r.left();
            seen.extend_from_slice(r.take(rest, "rest").unwrap());
            prop_assert_eq!(seen, bytes);
        }
    }
}
