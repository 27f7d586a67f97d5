//! Hygon CSV evidence, first version: the report and the JSON around it.
//!
//! Layout of the attestation report of Hygon's guest interface as `csv-rs` and Trustee's verifier use it, little endian.
//! Most of the report is hidden under a number that stands in the report itself: each four bytes are combined with it by
//! exclusive or. Read for inspection and for comparison with recorded evidence alone: NO platform here makes it, and its
//! signature (SM2) is not verified anywhere in this project, so what it says is the sender's word.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::Error;
use crate::read::Reader;

/// Longest text that [`CsvEvidence::from_json`] reads, in bytes.
pub const MAX_JSON_LEN: usize = 256 * 1024;

/// Length of the buffer that the report stands in, in bytes.
pub const BUFFER_LEN: usize = 4096;

const WHAT: &str = "CSV evidence";

/// Length of the part before the signature; all of it but the number itself is hidden.
const HIDDEN_LEN: usize = 188;
/// Length of the certificate of the key that signed, and of a part of the signature.
const PEK_LEN: usize = 2084;
const SCALAR_LEN: usize = 72;
/// What follows in the buffer.
const REST_LEN: usize = BUFFER_LEN - (HIDDEN_LEN + 4 + 2 * SCALAR_LEN + PEK_LEN + 64 + 32 + 32);

/// A report of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Digest of the owner's public key.
    pub user_pubkey_digest: [u8; 32],
    /// Identifier of the machine, given by its owner.
    pub vm_id: [u8; 16],
    /// Version of the machine, given by its owner.
    pub vm_version: [u8; 16],
    /// The caller's data.
    pub report_data: [u8; 64],
    /// The caller's number used once.
    pub nonce: [u8; 16],
    /// Launch measurement, SM3.
    pub measurement: [u8; 32],
    /// Policy bits.
    pub policy: u32,
    /// Use of the key that signed; 0x1002 is the platform's (PEK).
    pub signer_usage: u32,
    /// Algorithm of the signature; 4 is SM2 with SM3.
    pub signature_algorithm: u32,
    /// The signature: r and s, little endian, 72 bytes each, of which 32 are used.
    pub signature: ([u8; SCALAR_LEN], [u8; SCALAR_LEN]),
    /// Serial number of the chip, text padded with zeros.
    pub serial_number: [u8; 64],
    /// Authentication code, which that machine alone can check.
    pub mac: [u8; 32],
}

impl Report {
    /// Reads the buffer of a report.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::Trailing`] for another length than [`BUFFER_LEN`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let hidden: &[u8; HIDDEN_LEN] = r.array("csv.hidden")?;
        let key = *r.array::<4>("csv.anonce")?;
        let mut shown = *hidden;
        shown.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        let signature = (*r.array("csv.signature_r")?, *r.array("csv.signature_s")?);
        r.take(PEK_LEN, "csv.pek")?;
        let serial_number = *r.array("csv.serial_number")?;
        r.take(32, "csv.reserved")?;
        let mac = *r.array("csv.mac")?;
        r.take(REST_LEN, "csv.rest")?;
        r.finish("a CSV report")?;

        let mut r = Reader::new(&shown);
        Ok(Self {
            user_pubkey_digest: *r.array("csv.user_pubkey_digest")?,
            vm_id: *r.array("csv.vm_id")?,
            vm_version: *r.array("csv.vm_version")?,
            report_data: *r.array("csv.report_data")?,
            nonce: *r.array("csv.nonce")?,
            measurement: *r.array("csv.measurement")?,
            policy: r.u32_le("csv.policy")?,
            signer_usage: r.u32_le("csv.signer_usage")?,
            signature_algorithm: r.u32_le("csv.signature_algorithm")?,
            signature,
            serial_number,
            mac,
        })
    }

    /// The serial number without its padding; none if it is no plain text.
    #[must_use]
    pub fn serial(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.serial_number).ok()?.trim_end_matches('\0');
        text.bytes().all(|byte| byte.is_ascii_graphic()).then_some(text)
    }
}

/// The report with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvEvidence {
    /// The report.
    pub report: Report,
    /// Serial number of the chip, beside the report.
    pub serial_number: Vec<u8>,
    /// The event log.
    pub cc_eventlog: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct EvidenceJson {
    attestation_report: ReportJson,
    serial_number: Vec<u8>,
    cc_eventlog: Option<String>,
}

#[derive(Deserialize)]
struct ReportJson {
    magic: [u8; 16],
    data: Vec<u8>,
}

impl CsvEvidence {
    /// Reads evidence of at most [`MAX_JSON_LEN`] bytes. Certificates in it are not looked at.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Json`] for another shape or a report of the second version; those of
    /// [`Report::parse`].
    pub fn from_json(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_JSON_LEN {
            return Err(Error::TooLarge { what: WHAT, size: text.len(), limit: MAX_JSON_LEN });
        }
        let json_error = |why: String| Error::Json { what: WHAT, why };
        let wire: EvidenceJson = serde_json::from_str(text).map_err(|e| json_error(e.to_string()))?;
        if wire.attestation_report.magic != [0; 16] {
            return Err(json_error("the report is not of the first version".to_owned()));
        }
        let log = wire.cc_eventlog.map(|log| BASE64_STANDARD.decode(log)).transpose();
        Ok(Self {
            report: Report::parse(&wire.attestation_report.data)?,
            serial_number: wire.serial_number,
            cc_eventlog: log.map_err(|e| json_error(format!("cc_eventlog is not base64: {e}")))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_hidden_is_shown() {
        let mut buffer = [0; BUFFER_LEN];
        let key = [0x26, 0xD7, 0xC7, 0x5D];
        buffer[..188].iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte = *key);
        buffer[188..192].copy_from_slice(&key);
        buffer[64] ^= 0xA5;
        buffer[176] ^= 0x45;
        buffer[2420..2423].copy_from_slice(b"KPA");
        let report = Report::parse(&buffer).unwrap();
        assert_eq!((report.report_data[0], report.report_data[1], report.policy), (0xA5, 0, 0x45));
        assert_eq!((report.measurement, report.serial()), ([0; 32], Some("KPA")));
        for length in [0, 100, 191, 2547, 4095] {
            assert!(Report::parse(&buffer[..length]).is_err(), "{length}");
        }
        assert!(Report::parse(&[0; BUFFER_LEN + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000), text: String) {
            let _ = Report::parse(&bytes);
            let _ = CsvEvidence::from_json(&text);
        }
    }
}
