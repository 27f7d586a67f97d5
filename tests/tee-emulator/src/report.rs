//! Writes SEV-SNP attestation reports, AMD publication 56860, table "ATTESTATION_REPORT structure".
//!
//! Written from the table, byte by byte, and not with the parser of `cc-evidence`, so that writer and reader
//! check each other.

use crate::machine::{Fault, Machine, Product, Tcb};
use crate::{Error, TestChain};

/// Length of a report, bytes.
pub const REPORT_LEN: usize = 0x4A0;
/// The signed part begins at 0 and ends before the signature.
const SIGNED_LEN: usize = 0x2A0;
/// The firmware that the reports name: build, minor, major.
const FIRMWARE: [u8; 3] = [40, 55, 1];
/// A place in the measurement, for the fault [`Fault::FlipBit`].
const FLIPPED: usize = 0x90;

/// A report of `machine` over `report_data` at privilege level `vmpl`, signed by the chip key of `chain`, with the
/// faults that concern its content. `report_id` identifies the guest for the life of the machine.
///
/// # Errors
/// [`Error::Crypto`].
pub fn build(
    chain: &TestChain,
    machine: &Machine,
    report_data: &[u8; 64],
    vmpl: u32,
    report_id: &[u8; 32],
) -> Result<[u8; REPORT_LEN], Error> {
    let mut report = [0u8; REPORT_LEN];
    let mut data = *report_data;
    if machine.fault == Fault::WrongReportData {
        data.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    }
    fill(&mut report, machine, &data, vmpl, report_id);
    sign(&mut report, chain)?;
    if machine.fault == Fault::FlipBit {
        report.iter_mut().skip(FLIPPED).take(1).for_each(|byte| *byte ^= 1);
    }
    Ok(report)
}

fn fill(report: &mut [u8; REPORT_LEN], machine: &Machine, data: &[u8; 64], vmpl: u32, report_id: &[u8; 32]) {
    let tcb = tcb_bytes(machine.product, &machine.tcb);
    put(report, 0x000, &machine.report_version.to_le_bytes());
    put(report, 0x004, &machine.guest_svn.to_le_bytes());
    put(report, 0x008, &machine.policy.to_le_bytes());
    put(report, 0x030, &vmpl.to_le_bytes());
    put(report, 0x034, &1u32.to_le_bytes()); // ECDSA P-384 with SHA-384
    put(report, 0x038, &tcb);
    put(report, 0x040, &machine.plat_info.to_le_bytes());
    // 0x048: key information. No author key, chip id not masked, signed by the VCEK: all zero.
    put(report, 0x050, data);
    put(report, 0x090, &machine.measurement.0);
    put(report, 0x0C0, &machine.host_data.0);
    put(report, 0x140, report_id);
    put(report, 0x160, &[0xFF; 32]); // no migration agent
    put(report, 0x180, &tcb);
    if machine.report_version >= 3 {
        put(report, 0x188, &cpuid(machine.product));
    }
    put(report, 0x1A0, machine.hardware_id());
    put(report, 0x1E0, &tcb);
    put(report, 0x1E8, &FIRMWARE);
    put(report, 0x1EC, &FIRMWARE);
    put(report, 0x1F0, &tcb);
    // 0x1F8: mitigation vectors of version 5, none.
}

/// Signs the first part and writes r and s little endian, 72 bytes each, of which 48 are used.
fn sign(report: &mut [u8; REPORT_LEN], chain: &TestChain) -> Result<(), Error> {
    let signature = chain.sign(report.get(..SIGNED_LEN).unwrap_or_default())?;
    let (r, s) = signature.split_at(48);
    put(report, 0x2A0, &reversed(r));
    put(report, 0x2E8, &reversed(s));
    Ok(())
}

/// TCB_VERSION of the product.
fn tcb_bytes(product: Product, tcb: &Tcb) -> [u8; 8] {
    match product {
        Product::Milan | Product::Genoa => [tcb.bootloader, tcb.tee, 0, 0, 0, 0, tcb.snp, tcb.microcode],
        Product::Turin => [tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, 0, 0, 0, tcb.microcode],
    }
}

/// Family, model and stepping.
fn cpuid(product: Product) -> [u8; 3] {
    match product {
        Product::Milan => [0x19, 0x01, 0x01],
        Product::Genoa => [0x19, 0x11, 0x01],
        Product::Turin => [0x1A, 0x02, 0x01],
    }
}

fn put(report: &mut [u8; REPORT_LEN], offset: usize, bytes: &[u8]) {
    report.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}
