//! The caller's 0 to 64 bytes that hardware signs into a report.
//!
//! It is NOT a digest by itself: the handshake's digests come from [`crate::binding`], and each
//! platform decides whether it sends these bytes as they are or padded.

use crate::Error;

/// At most 64 bytes of report data, with the length that the caller gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ReportData {
    bytes: [u8; ReportData::MAX_LEN],
    len: usize,
}

impl ReportData {
    /// Size of the field in SNP, TDX, SGX and CCA evidence, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Takes 0 to 64 bytes. More is an error: cutting would bind something else than was asked.
    ///
    /// # Errors
    /// [`Error::ReportDataTooLong`] above 64 bytes.
    pub fn new(data: &[u8]) -> Result<Self, Error> {
        let mut bytes = [0; Self::MAX_LEN];
        bytes
            .get_mut(..data.len())
            .ok_or(Error::ReportDataTooLong { size: data.len() })?
            .copy_from_slice(data);
        Ok(ReportData { bytes, len: data.len() })
    }

    /// The bytes as given, without padding.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// The bytes followed by zeros, 64 in all.
    #[must_use]
    pub const fn padded(&self) -> [u8; Self::MAX_LEN] {
        self.bytes
    }
}

impl std::fmt::Debug for ReportData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReportData({})", hex::encode(self.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_length_and_pads_with_zeros() {
        for len in 0..=64 {
            let data: Vec<u8> = (1..=len).collect();
            let rd = ReportData::new(&data).unwrap();
            assert_eq!(rd.as_bytes(), data);
            assert_eq!(rd.padded()[..data.len()], data[..]);
            assert!(rd.padded()[data.len()..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn refuses_more_than_a_report_holds() {
        assert_eq!(ReportData::new(&[0; 65]), Err(Error::ReportDataTooLong { size: 65 }));
    }
}
