//! One report: request, response, signature.
//!
//! All integers are little endian. Implements DMTF DSP0274 1.1: the request with a signature and all measurements asked
//! for, measurement blocks in the DMTF form. Bytes after the signature occur in reports of real devices; they are
//! counted and otherwise ignored, nothing covers them.

use std::fmt;
use std::ops::Deref;

use super::Opaque;
use crate::Error;
use crate::read::Reader;

/// Bytes of the requester's and of the responder's nonce.
pub const NONCE_LEN: usize = 32;

/// Bytes of the signature: r and s of ECDSA P-384, 48 bytes each, big endian.
pub const SIGNATURE_LEN: usize = 96;

/// Longest report that is read, in bytes: the buffer that NVML has for one.
pub const MAX_REPORT_LEN: usize = 8192;

/// SPDM 1.1.
const VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xE0;
const MEASUREMENTS: u8 = 0x60;
/// Request attribute: a signature is wanted.
const WITH_SIGNATURE: u8 = 1;
/// Operation: all measurements.
const ALL_MEASUREMENTS: u8 = 0xFF;
/// Measurement specification: DMTF.
const DMTF: u8 = 1;
/// Type and length before the value of a DMTF measurement.
const DMTF_HEADER: usize = 3;

/// A report: its fields, and the bytes that they were read from.
///
/// Dereferences to [`Unsigned`], read-only, so that fields and signed bytes cannot drift apart.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    fields: Unsigned,
    signature: [u8; SIGNATURE_LEN],
    trailing: usize,
    raw: Vec<u8>,
    signed_len: usize,
}

/// The signed part of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsigned {
    /// The requester's nonce: the caller's data.
    pub nonce: [u8; NONCE_LEN],
    /// Slot of the certificate chain that was asked for.
    pub slot: u8,
    /// First parameter of the response.
    pub param1: u8,
    /// Second parameter of the response: the slot that signed, in its low bits.
    pub param2: u8,
    /// The measurements, in the order of the response; every index occurs once.
    pub measurements: Vec<Measurement>,
    /// The device's own nonce.
    pub responder_nonce: [u8; NONCE_LEN],
    /// NVIDIA's records.
    pub opaque: Opaque,
}

/// One measurement block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Number of the measurement, 1 to 254.
    pub index: u8,
    /// Type of the value by DMTF: 1 is mutable firmware; the highest bit tells a raw value from a digest.
    pub kind: u8,
    /// The value, on Hopper a SHA-384 digest.
    pub value: Vec<u8>,
}

impl Report {
    /// Reads a report of at most [`MAX_REPORT_LEN`] bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Truncated`] naming the field where the bytes end; [`Error::Trailing`] when a length
    /// leaves bytes over inside; [`Error::Invalid`] for another version, another message, or a repeated number.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_REPORT_LEN {
            return Err(Error::TooLarge { what: "a GPU report", size: bytes.len(), limit: MAX_REPORT_LEN });
        }
        let mut r = Reader::new(bytes);
        let (nonce, slot) = request(&mut r)?;
        let mut fields = response(&mut r)?;
        (fields.nonce, fields.slot) = (nonce, slot);
        let signed_len = bytes.len() - r.left();
        let signature = *r.array("nvidia.signature")?;
        Ok(Self { fields, signature, trailing: r.left(), raw: bytes.to_vec(), signed_len })
    }

    /// The report as it was given.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The bytes that the signature covers: request and response up to the signature.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.raw.get(..self.signed_len).unwrap_or_default()
    }

    /// ECDSA P-384 with SHA-384 over [`Report::signed`]: r and s, 48 bytes each, big endian.
    #[must_use]
    pub const fn signature(&self) -> &[u8; SIGNATURE_LEN] {
        &self.signature
    }

    /// Number of bytes after the signature.
    #[must_use]
    pub const fn trailing(&self) -> usize {
        self.trailing
    }

    /// The fields alone.
    #[must_use]
    pub const fn fields(&self) -> &Unsigned {
        &self.fields
    }
}

impl Deref for Report {
    type Target = Unsigned;

    fn deref(&self) -> &Unsigned {
        &self.fields
    }
}

impl fmt::Debug for Report {
    /// The fields; the raw bytes would only repeat them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").field("fields", &self.fields).field("trailing", &self.trailing).finish()
    }
}

impl Unsigned {
    /// The measurement with this number.
    #[must_use]
    pub fn measurement(&self, index: u8) -> Option<&[u8]> {
        self.measurements.iter().find(|m| m.index == index).map(|m| m.value.as_slice())
    }

    /// The bytes that a device signs: with the signature appended they are a report.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when there are more measurements or longer values than the length fields can say.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut record = Vec::new();
        for measurement in &self.measurements {
            let too_large = || Error::TooLarge {
                what: "a measurement",
                size: measurement.value.len(),
                limit: usize::from(u16::MAX) - DMTF_HEADER,
            };
            let inner = u16::try_from(measurement.value.len()).map_err(|_| too_large())?;
            let outer = u16::try_from(measurement.value.len() + DMTF_HEADER).map_err(|_| too_large())?;
            record.extend([measurement.index, DMTF]);
            record.extend(outer.to_le_bytes());
            record.push(measurement.kind);
            record.extend(inner.to_le_bytes());
            record.extend(&measurement.value);
        }
        let blocks = u8::try_from(self.measurements.len()).map_err(|_| Error::TooLarge {
            what: "the number of measurements",
            size: self.measurements.len(),
            limit: usize::from(u8::MAX),
        })?;
        let record_len = match u32::try_from(record.len()).map(u32::to_le_bytes) {
            Ok([a, b, c, 0]) => [a, b, c],
            _ => {
                let size = record.len();
                return Err(Error::TooLarge { what: "the measurement record", size, limit: 0xFF_FFFF });
            }
        };
        let opaque = self.opaque.encode()?;
        let opaque_len = u16::try_from(opaque.len()).map_err(|_| Error::TooLarge {
            what: "the opaque data",
            size: opaque.len(),
            limit: usize::from(u16::MAX),
        })?;
        Ok([
            [VERSION, GET_MEASUREMENTS, WITH_SIGNATURE, ALL_MEASUREMENTS].as_slice(),
            &self.nonce,
            &[self.slot],
            &[VERSION, MEASUREMENTS, self.param1, self.param2, blocks],
            &record_len,
            &record,
            &self.responder_nonce,
            &opaque_len.to_le_bytes(),
            &opaque,
        ]
        .concat())
    }
}

/// GET_MEASUREMENTS: header, nonce, slot.
fn request(r: &mut Reader<'_>) -> Result<([u8; NONCE_LEN], u8), Error> {
    expect(r.u8("nvidia.request.version")?, VERSION, "nvidia.request.version")?;
    expect(r.u8("nvidia.request.code")?, GET_MEASUREMENTS, "nvidia.request.code")?;
    expect(r.u8("nvidia.request.param1")?, WITH_SIGNATURE, "nvidia.request.param1")?;
    expect(r.u8("nvidia.request.param2")?, ALL_MEASUREMENTS, "nvidia.request.param2")?;
    Ok((*r.array("nvidia.request.nonce")?, r.u8("nvidia.request.slot")?))
}

/// MEASUREMENTS up to the signature; nonce and slot are the request's and stay zero.
fn response(r: &mut Reader<'_>) -> Result<Unsigned, Error> {
    expect(r.u8("nvidia.response.version")?, VERSION, "nvidia.response.version")?;
    expect(r.u8("nvidia.response.code")?, MEASUREMENTS, "nvidia.response.code")?;
    let param1 = r.u8("nvidia.response.param1")?;
    let param2 = r.u8("nvidia.response.param2")?;
    let blocks = r.u8("nvidia.response.number_of_blocks")?;
    let [a, b, c] = *r.array("nvidia.response.record_len")?;
    let record_len = usize::from(a) | usize::from(b) << 8 | usize::from(c) << 16;
    let mut record = Reader::new(r.take(record_len, "nvidia.response.record")?);
    let mut measurements: Vec<Measurement> = Vec::with_capacity(usize::from(blocks));
    for _ in 0..blocks {
        let measurement = block(&mut record)?;
        if measurements.iter().any(|known| known.index == measurement.index) {
            return Err(Error::Invalid {
                field: "nvidia.measurement.index",
                why: format!("number {} occurs twice", measurement.index),
            });
        }
        measurements.push(measurement);
    }
    record.finish("the measurement record")?;
    let responder_nonce = *r.array("nvidia.response.nonce")?;
    let opaque_len = r.u16_le("nvidia.response.opaque_len")?;
    let opaque = Opaque::parse(r.take(usize::from(opaque_len), "nvidia.response.opaque")?)?;
    Ok(Unsigned { nonce: [0; NONCE_LEN], slot: 0, param1, param2, measurements, responder_nonce, opaque })
}

fn block(r: &mut Reader<'_>) -> Result<Measurement, Error> {
    let index = r.u8("nvidia.measurement.index")?;
    // 0 asks for the number of measurements and 255 for all: neither is the number of one.
    if matches!(index, 0 | u8::MAX) {
        return Err(Error::Invalid {
            field: "nvidia.measurement.index",
            why: format!("{index} is no number of a measurement"),
        });
    }
    expect(r.u8("nvidia.measurement.specification")?, DMTF, "nvidia.measurement.specification")?;
    let outer = r.u16_le("nvidia.measurement.size")?;
    let mut inner = Reader::new(r.take(usize::from(outer), "nvidia.measurement")?);
    let kind = inner.u8("nvidia.measurement.type")?;
    let len = inner.u16_le("nvidia.measurement.value_size")?;
    let value = inner.take(usize::from(len), "nvidia.measurement.value")?.to_vec();
    inner.finish("a measurement")?;
    Ok(Measurement { index, kind, value })
}

fn expect(found: u8, wanted: u8, field: &'static str) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Invalid { field, why: format!("{found:#04x} was found, {wanted:#04x} is expected") })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::opaque::tests::opaque;
    use super::*;

    prop_compose! {
        pub(crate) fn unsigned()(
            nonce: [u8; NONCE_LEN], slot: u8, param1: u8, param2: u8, responder_nonce: [u8; NONCE_LEN],
            values in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..70),
            opaque in opaque(),
        ) -> Unsigned {
            let measurements = (1..=254).zip(values).map(|(index, (kind, value))| Measurement { index, kind, value });
            Unsigned { nonce, slot, param1, param2, measurements: measurements.collect(), responder_nonce, opaque }
        }
    }

    fn small() -> Vec<u8> {
        let fields = Unsigned {
            nonce: [7; NONCE_LEN],
            slot: 0,
            param1: 0,
            param2: 0,
            measurements: vec![
                Measurement { index: 1, kind: 1, value: vec![0xAA; 48] },
                Measurement { index: 2, kind: 1, value: vec![0xBB; 48] },
            ],
            responder_nonce: [8; NONCE_LEN],
            opaque: Opaque::parse(&[3, 0, 2, 0, b'1', 0]).unwrap(),
        };
        [fields.encode().unwrap(), vec![9; SIGNATURE_LEN]].concat()
    }

    #[test]
    fn fields_are_where_the_specification_has_them() {
        let bytes = small();
        let report = Report::parse(&bytes).unwrap();
        assert_eq!(bytes[..4], [0x11, 0xE0, 1, 0xFF]);
        assert_eq!(report.nonce, [7; 32]);
        assert_eq!(bytes[37..45], [0x11, 0x60, 0, 0, 2, 110, 0, 0]);
        assert_eq!(bytes[45..52], [1, 1, 51, 0, 1, 48, 0]);
        assert_eq!(report.measurement(2), Some([0xBB; 48].as_slice()));
        assert_eq!((report.measurement(3), report.trailing()), (None, 0));
        assert_eq!(report.signature(), &[9; 96]);
        assert_eq!([report.signed(), report.signature()].concat(), bytes);
    }

    #[test]
    fn every_truncation_is_refused_and_a_trailer_is_counted() {
        let bytes = small();
        for len in 0..bytes.len() {
            assert_eq!(Report::parse(&bytes[..len]).unwrap_err().code(), "EVIDENCE_TRUNCATED", "{len}");
        }
        let longer = [bytes.as_slice(), &[0, 0]].concat();
        let report = Report::parse(&longer).unwrap();
        assert_eq!(
            (report.trailing(), report.raw().len(), report.signed().len()),
            (2, longer.len(), bytes.len() - 96)
        );
        assert_eq!(Report::parse(&vec![0x11; MAX_REPORT_LEN + 1]).unwrap_err().code(), "EVIDENCE_TOO_LARGE");
    }

    #[test]
    fn other_messages_and_ambiguous_lengths_are_refused() {
        let cases = [
            (0, 0x12, "nvidia.request.version"),
            (1, 0xE1, "nvidia.request.code"),
            (2, 0, "nvidia.request.param1"),
            (3, 1, "nvidia.request.param2"),
            (37, 0x10, "nvidia.response.version"),
            (38, 0x7F, "nvidia.response.code"),
            (41, 1, "the measurement record"),
            (41, 3, "nvidia.measurement.index"),
            (42, 109, "nvidia.measurement"),
            (45, 0, "nvidia.measurement.index"),
            (45, 255, "nvidia.measurement.index"),
            (45, 2, "nvidia.measurement.index"),
            (46, 2, "nvidia.measurement.specification"),
            (47, 50, "nvidia.measurement.value"),
            (50, 47, "a measurement"),
        ];
        for (at, byte, field) in cases {
            let mut bytes = small();
            bytes[at] = byte;
            let error = Report::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(field), "byte {at}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(fields in unsigned(), signature: [u8; 96], trailing in 0usize..3) {
            let bytes = [fields.encode().unwrap(), signature.to_vec(), vec![0; trailing]].concat();
            let report = Report::parse(&bytes).unwrap();
            prop_assert_eq!(report.fields(), &fields);
            prop_assert_eq!(report.signature(), &signature);
            prop_assert_eq!((report.trailing(), report.raw()), (trailing, bytes.as_slice()));
        }

        #[test]
        fn random_bytes_never_panic(start in prop::bool::ANY, rest in prop::collection::vec(any::<u8>(), 0..400)) {
            let begin = if start { small()[..45].to_vec() } else { Vec::new() };
            let _ = Report::parse(&[begin, rest].concat());
        }

        #[test]
        fn a_changed_byte_is_refused_or_seen(at in 0usize..300, flip in 1u8..) {
            let bytes = small();
            let mut changed = bytes.clone();
            let at = at % changed.len();
            changed[at] ^= flip;
            if let Ok(report) = Report::parse(&changed) {
                // Every byte that is not refused is in a field: what was read writes the changed report.
                let behind = &changed[changed.len() - report.trailing()..];
                let written = [&report.fields().encode().unwrap(), report.signature().as_slice(), behind].concat();
                prop_assert_eq!(&written, &changed);
                let original = Report::parse(&bytes).unwrap();
                prop_assert!(report.fields() != original.fields() || report.signature() != original.signature());
            }
        }
    }
}
