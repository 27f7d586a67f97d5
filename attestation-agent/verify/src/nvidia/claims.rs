//! What verified GPU evidence says, under the claim names that attestation policies use.
//!
//! Names are those of Trustee's local NVIDIA verifier. It says nothing about whether a claim is good: that is the
//! appraisal's work.

use std::collections::BTreeMap;

use cc_evidence::nvidia::{Architecture, Device, OpaqueRecord, RecordKind, Report};
use serde::Serialize;
use serde_json::{Map, Value};

/// The claims of one device.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct NvidiaClaims {
    /// Generation of the device: `Hopper`.
    pub arch: &'static str,
    /// The driver's name for the device; nothing vouches for it.
    pub uuid: String,
    /// Measurements, hexadecimal, by number.
    pub measurements: BTreeMap<String, String>,
    /// NVIDIA's records by name: versions as text, the rest as numbers, lists or hexadecimal. Records without a name are
    /// left out.
    pub config: Map<String, Value>,
}

impl NvidiaClaims {
    pub(super) fn new(device: &Device, report: &Report) -> Self {
        let measurements = report.measurements.iter().map(|m| (m.index.to_string(), hex::encode(&m.value)));
        let records = report.opaque.records().iter();
        let config = records.filter_map(|record| Some((record.kind().name()?.to_owned(), value(record))));
        Self {
            arch: match device.architecture {
                Architecture::Hopper => "Hopper",
                Architecture::Blackwell => "Blackwell",
                Architecture::Ls10 => "LS10",
            },
            uuid: device.uuid.clone(),
            measurements: measurements.collect(),
            config: config.collect(),
        }
    }
}

/// The value of a record; in its hexadecimal form where it has not the length or the content that its kind has.
fn value(record: &OpaqueRecord) -> Value {
    let bytes = record.value.as_slice();
    match (record.kind(), bytes) {
        (RecordKind::NVDEC0_STATUS, [0xAA]) => "enabled".into(),
        (RecordKind::NVDEC0_STATUS, [0x55]) => "disabled".into(),
        (RecordKind::MEASUREMENT_COUNT, _) if bytes.len().is_multiple_of(4) => {
            let counts = (1u32..).zip(bytes.as_chunks().0);
            counts
                .map(|(number, count)| (number.to_string(), Value::from(u32::from_le_bytes(*count))))
                .collect()
        }
        (RecordKind::SWITCH_PDI, _) if bytes.len().is_multiple_of(8) => {
            bytes.chunks(8).map(hex::encode).collect()
        }
        (RecordKind::OPAQUE_DATA_VERSION, [low, high]) => u16::from_le_bytes([*low, *high]).into(),
        (RecordKind::FEATURE_FLAG, [0, 0]) => "SPT".into(),
        (RecordKind::FEATURE_FLAG, [1, 0]) => "MPT".into(),
        (RecordKind::FEATURE_FLAG, [2, 0]) => "PPCIE".into(),
        (RecordKind::FEATURE_FLAG, _) => "unknown".into(),
        _ => record.display().into(),
    }
}
