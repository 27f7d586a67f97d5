//! Writes TDREPORTs, Intel TDX module ABI specification, structure TDREPORT_STRUCT.
//!
//! The code that authenticates a real one cannot be checked outside of its machine; here it is the hash of everything
//! else, so that the emulated quote service takes no report but the emulator's own.

use aws_lc_rs::digest::{SHA384, digest};

use crate::machine::Machine;

/// Length, bytes.
pub(crate) const REPORT_LEN: usize = 1024;
/// Where the code is, and its length.
const MAC: (usize, usize) = (0xE0, 32);

/// A report of `machine` over `report_data`.
pub(crate) fn build(machine: &Machine, report_data: &[u8; 64]) -> [u8; REPORT_LEN] {
    let td = &machine.td;
    let none = [0; 48];
    let info = [
        &td.attributes.0[..],
        &td.xfam.0,
        &td.mrtd.0,
        &td.mrconfigid.0,
        &none, // mrowner
        &none, // mrownerconfig
        &td.rtmr0.0,
        &td.rtmr1.0,
        &td.rtmr2.0,
        &td.rtmr3.0,
        &[0; 112],
    ]
    .concat();
    let mut module = [0; 239];
    let fields = [&[0xFF, 1, 3, 0, 0, 0, 0, 0][..], &td.tee_tcb_svn.0, &[0x5E; 48]].concat();
    module.iter_mut().zip(fields).for_each(|(to, from)| *to = from);

    let mut report = [0; REPORT_LEN];
    let mut put = |offset, bytes: &[u8]| {
        report.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0x000, &[0x81, 0, 1, 0]); // a trust domain's, version 1
    put(0x020, digest(&SHA384, &module).as_ref());
    put(0x050, digest(&SHA384, &info).as_ref());
    put(0x080, report_data);
    put(0x100, &module);
    put(0x200, &info);
    let code = code(&report);
    report.iter_mut().skip(MAC.0).zip(code).for_each(|(to, from)| *to = from);
    report
}

/// The report data in a report of this machine; none if it was made elsewhere or changed.
pub(crate) fn report_data(report: &[u8; REPORT_LEN]) -> Option<[u8; 64]> {
    let found = report.iter().skip(MAC.0).take(MAC.1).copied();
    let data = report.get(0x80..0xC0).and_then(|data| data.try_into().ok());
    data.filter(|_| found.eq(code(report)))
}

fn code(report: &[u8; REPORT_LEN]) -> Vec<u8> {
    let mut bare = *report;
    bare.iter_mut().skip(MAC.0).take(MAC.1).for_each(|byte| *byte = 0);
    digest(&SHA384, &bare).as_ref().iter().take(MAC.1).copied().collect()
}
