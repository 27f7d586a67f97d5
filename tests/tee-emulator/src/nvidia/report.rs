//! A report as an H100 makes it, with the faults that concern its content.

use aws_lc_rs::digest::{SHA384, digest};
use cc_evidence::nvidia::{Measurement, Opaque, OpaqueRecord, Unsigned};

use super::chain::{GpuKey, fwid};
use crate::Error;
use crate::machine::{Gpu, GpuFault};

/// The report of `gpu` over `nonce`, signed by `key`.
///
/// # Errors
/// [`Error::Crypto`], and [`Error::Table`] when a field of the machine file does not fit.
pub fn build(gpu: &Gpu, key: &GpuKey, nonce: &[u8; 32]) -> Result<Vec<u8>, Error> {
    let mut fields = fields(gpu, nonce);
    if gpu.fault == GpuFault::WrongNonce {
        fields.nonce = nonce.map(|byte| !byte);
    }
    let signed = fields.encode()?;
    let signature = key.sign(&signed)?;
    let mut report = [signed, signature].concat();
    match gpu.fault {
        // In the value of the first measurement.
        GpuFault::FlipByte => report.iter_mut().skip(60).take(1).for_each(|byte| *byte ^= 1),
        GpuFault::Truncated => report.truncate(report.len().saturating_sub(50)),
        _ => {}
    }
    Ok(report)
}

/// What the report says.
pub fn fields(gpu: &Gpu, nonce: &[u8; 32]) -> Unsigned {
    // Every other measurement is of something, as on an H100.
    let value = |index: u8| {
        if index % 2 == 1 { vec![0; 48] } else { digest(&SHA384, &[index]).as_ref().to_vec() }
    };
    let mut firmware = fwid(gpu);
    if gpu.fault == GpuFault::WrongFwid {
        firmware.reverse();
    }
    let records = [
        (6, vbios(&gpu.vbios_version)),
        (14, vec![0xB1, 3, 0, 0]),
        (3, [gpu.driver_version.as_bytes(), &[0]].concat()),
        (11, vec![0x55]),
        (20, firmware),
        (21, vec![0x55]),
        (34, vec![1, 0]),
        (36, vec![0, 0]),
    ];
    Unsigned {
        nonce: *nonce,
        slot: 0,
        param1: 0,
        param2: 0,
        measurements: (1..=64).map(|index| Measurement { index, kind: 1, value: value(index) }).collect(),
        responder_nonce: [0x5A; 32],
        opaque: Opaque::new(
            records.map(|(number, value)| OpaqueRecord { number, value }).into_iter().collect(),
        ),
    }
}

/// `96.00.9f.00.01` as the report has it: four bytes reversed, then the fifth.
fn vbios(version: &str) -> Vec<u8> {
    let parts: Vec<u8> = version.split('.').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let mut bytes: Vec<u8> = parts.iter().take(4).rev().copied().collect();
    bytes.extend(parts.iter().skip(4));
    bytes.resize(8, 0);
    bytes
}
