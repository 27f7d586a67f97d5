//! The opaque data of a response: NVIDIA's records about the device, its firmware and its driver.
//!
//! Records of type, length and value; their numbers and names are those of NVIDIA's attestation SDK (`nvtrust`). A
//! device does not have them all, and a number without a name here is kept. What a value means for trust is NOT
//! judged here.

use crate::Error;
use crate::read::Reader;

/// Bytes of a firmware identity (FWID): a SHA-384 digest.
pub const FWID_LEN: usize = 48;

/// Most records that are read.
const MAX_RECORDS: usize = 256;

/// The records, in the order of the report; every number occurs once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opaque {
    records: Vec<OpaqueRecord>,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpaqueRecord {
    /// Number of its kind, see [`RecordKind`].
    pub number: u16,
    /// The value as it stands in the report.
    pub value: Vec<u8>,
}

/// Kinds of records that this project reads or names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordKind(u16);

/// Numbers and the names that Trustee's claims have for them.
const NAMES: [(u16, &str); 30] = [
    (1, "cert_issuer_name"),
    (2, "cert_authority_key_identifier"),
    (3, "driver_version"),
    (4, "gpu_info"),
    (5, "id_sku"),
    (6, "vbios_version"),
    (7, "manufacturer_id"),
    (8, "tamper_detection"),
    (9, "smc"),
    (10, "vpr"),
    (11, "nvdec0_status"),
    (12, "measurement_count"),
    (13, "cpr_info"),
    (14, "board_id"),
    (15, "chip_sku"),
    (16, "chip_sku_mod"),
    (17, "project"),
    (18, "project_sku"),
    (19, "project_sku_mod"),
    (20, "fwid"),
    (21, "protected_pcie_status"),
    (22, "switch_pdi"),
    (23, "floorswept_ports"),
    (24, "position_id"),
    (25, "lock_switch_status"),
    (32, "gpu_link_conn"),
    (33, "sys_enable_status"),
    (34, "opaque_data_version"),
    (35, "chip_info"),
    (36, "feature_flag"),
];

impl RecordKind {
    /// Version of the driver that talks to the device, text.
    pub const DRIVER_VERSION: Self = Self(3);
    /// Version of the video BIOS.
    pub const VBIOS_VERSION: Self = Self(6);
    /// Whether the video decoder runs: 0xAA on, 0x55 off.
    pub const NVDEC0_STATUS: Self = Self(11);
    /// How many values each measurement was made of, 32-bit numbers.
    pub const MEASUREMENT_COUNT: Self = Self(12);
    /// Firmware identity.
    pub const FWID: Self = Self(20);
    /// Device identifiers of the switches that a GPU is linked to.
    pub const SWITCH_PDI: Self = Self(22);
    /// Version of these records.
    pub const OPAQUE_DATA_VERSION: Self = Self(34);
    /// 0 single GPU, 1 several GPUs, 2 protected PCIe.
    pub const FEATURE_FLAG: Self = Self(36);
    /// Number that marks a record without meaning.
    const INVALID: Self = Self(255);

    /// The kind with this number.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The name in claims; `None` for numbers that nobody has named.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(number, _)| *number == self.0).map(|(_, name)| *name)
    }

    /// Whether the value is text that ends with NUL bytes.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self.0, 3 | 15..=18 | 35)
    }
}

impl Opaque {
    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// [`Error::Truncated`], [`Error::TooLarge`] for too many records, [`Error::Invalid`] for a number that occurs twice
    /// or that marks nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(bytes);
        let mut records: Vec<OpaqueRecord> = Vec::new();
        while r.left() > 0 {
            let number = r.u16_le("nvidia.opaque.type")?;
            let len = r.u16_le("nvidia.opaque.len")?;
            let value = r.take(usize::from(len), "nvidia.opaque.value")?.to_vec();
            if RecordKind(number) == RecordKind::INVALID || records.iter().any(|known| known.number == number)
            {
                let why = format!("record {number} is invalid by its number or occurs twice");
                return Err(Error::Invalid { field: "nvidia.opaque.type", why });
            }
            records.push(OpaqueRecord { number, value });
            if records.len() > MAX_RECORDS {
                let what = "the number of opaque records";
                return Err(Error::TooLarge { what, size: records.len(), limit: MAX_RECORDS });
            }
        }
        Ok(Self { records })
    }

    /// Takes `records` as they are.
    #[must_use]
    pub const fn new(records: Vec<OpaqueRecord>) -> Self {
        Self { records }
    }

    /// The records, in the order of the report.
    #[must_use]
    pub fn records(&self) -> &[OpaqueRecord] {
        &self.records
    }

    /// The value of the record of this kind.
    #[must_use]
    pub fn value(&self, kind: RecordKind) -> Option<&[u8]> {
        self.records.iter().find(|record| record.number == kind.0).map(|record| record.value.as_slice())
    }

    /// Version of the driver.
    #[must_use]
    pub fn driver_version(&self) -> Option<String> {
        self.value(RecordKind::DRIVER_VERSION).map(text)
    }

    /// Version of the video BIOS as NVIDIA's tools print it, `96.00.9f.00.01`.
    #[must_use]
    pub fn vbios_version(&self) -> Option<String> {
        self.value(RecordKind::VBIOS_VERSION).and_then(vbios)
    }

    /// Firmware identity.
    #[must_use]
    pub fn fwid(&self) -> Option<&[u8; FWID_LEN]> {
        self.value(RecordKind::FWID)?.try_into().ok()
    }

    /// The records as bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] when a value is longer than its length field can say.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        for OpaqueRecord { number, value } in &self.records {
            let limit = usize::from(u16::MAX);
            let len = u16::try_from(value.len()).map_err(|_| Error::TooLarge {
                what: "an opaque record",
                size: value.len(),
                limit,
            })?;
            out.extend(number.to_le_bytes());
            out.extend(len.to_le_bytes());
            out.extend(value);
        }
        Ok(out)
    }
}

impl OpaqueRecord {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> RecordKind {
        RecordKind(self.number)
    }

    /// The value for people: text where it is text, a version where it is one, else hexadecimal.
    #[must_use]
    pub fn display(&self) -> String {
        match self.kind() {
            RecordKind::VBIOS_VERSION => vbios(&self.value).unwrap_or_else(|| hex::encode(&self.value)),
            kind if kind.is_text() => text(&self.value),
            _ => hex::encode(&self.value),
        }
    }
}

/// Text up to the NUL bytes at its end; what is no printable ASCII is replaced, so that a device cannot write into
/// somebody's terminal or log.
fn text(value: &[u8]) -> String {
    let end = value.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let printable =
        |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
    value.get(..end).unwrap_or_default().iter().map(printable).collect()
}

/// The first half reversed, then the first byte of the second half. Switches have text instead.
fn vbios(value: &[u8]) -> Option<String> {
    if value.len() != 8 {
        return (!value.is_empty()).then(|| text(value));
    }
    let (low, high) = value.split_at(4);
    let parts: Vec<String> = low.iter().rev().chain(high.first()).map(|byte| format!("{byte:02x}")).collect();
    Some(parts.join("."))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        pub(crate) fn opaque()(
            values in prop::collection::btree_map(
                (0u16..400).prop_filter("255 is invalid", |n| *n != 255),
                prop::collection::vec(any::<u8>(), 0..40),
                0..20,
            )
        ) -> Opaque {
            Opaque::new(values.into_iter().map(|(number, value)| OpaqueRecord { number, value }).collect())
        }
    }

    #[test]
    fn known_records_have_their_form() {
        let bytes = [
            &[6, 0, 8, 0, 0, 0x9F, 0, 0x96, 1, 0, 0, 0][..],
            &[3, 0, 10, 0],
            b"550.90.07\0",
            &[20, 0, 48, 0],
            &[0xF5; 48],
            &[26, 0, 1, 0, 7],
        ]
        .concat();
        let opaque = Opaque::parse(&bytes).unwrap();
        assert_eq!(opaque.vbios_version().unwrap(), "96.00.9f.00.01");
        assert_eq!(opaque.driver_version().unwrap(), "550.90.07");
        assert_eq!(opaque.fwid(), Some(&[0xF5; 48]));
        let shown: Vec<_> = opaque.records().iter().map(|r| (r.kind().name(), r.display())).collect();
        assert_eq!(shown[0], (Some("vbios_version"), "96.00.9f.00.01".to_owned()));
        assert_eq!(shown[3], (None, "07".to_owned()));
        assert_eq!(opaque.value(RecordKind::FEATURE_FLAG), None);
    }

    #[test]
    fn text_cannot_steer_a_terminal() {
        assert_eq!(text(b"\x1b[2J5\n\0\0"), "?[2J5?");
        assert_eq!(text(b"\0\0"), "");
        assert_eq!(vbios(b"96.10\0").unwrap(), "96.10");
        assert_eq!(vbios(b""), None);
    }

    #[test]
    fn ambiguous_records_are_refused() {
        let refused = |bytes: &[u8]| Opaque::parse(bytes).unwrap_err().code();
        assert_eq!(refused(&[3, 0, 0, 0, 3, 0, 0, 0]), "EVIDENCE_FIELD_INVALID");
        assert_eq!(refused(&[255, 0, 0, 0]), "EVIDENCE_FIELD_INVALID");
        for cut in [&[3][..], &[3, 0, 1], &[3, 0, 1, 0], &[3, 0, 0, 0, 4]] {
            assert_eq!(refused(cut), "EVIDENCE_TRUNCATED");
        }
        let many: Vec<u8> = (300u16..600).flat_map(|n| [n.to_le_bytes(), [0, 0]].concat()).collect();
        assert_eq!(refused(&many), "EVIDENCE_TOO_LARGE");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(opaque in opaque()) {
            prop_assert_eq!(Opaque::parse(&opaque.encode().unwrap()), Ok(opaque));
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(opaque) = Opaque::parse(&bytes) {
                prop_assert_eq!(opaque.encode().unwrap(), bytes);
                for record in opaque.records() {
                    prop_assert!(record.display().is_ascii());
                }
            }
        }
    }
}
