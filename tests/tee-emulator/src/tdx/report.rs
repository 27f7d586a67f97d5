//! Writes TDREPORTs: what the TDX module says of a domain to software on the same machine.

use aws_lc_rs::digest::{SHA384, digest};
use aws_lc_rs::hmac;

use crate::machine::Machine;

/// Length of a report.
pub(crate) const LEN: usize = 1024;
/// Where the report data is.
const REPORT_DATA: usize = 0x80;
/// The code and what it covers.
const MAC: usize = 0xE0;

/// A report of `machine` over `report_data`, with a code by `key`, which only the same machine can check.
pub(crate) fn build(machine: &Machine, report_data: &[u8; 64], key: &hmac::Key) -> Vec<u8> {
    let td = &machine.td;
    let mut module = vec![0; 239];
    put(&mut module, 0, &[0xFF, 0x01, 0x03]); // which fields are valid
    put(&mut module, 8, &td.tee_tcb_svn.0);
    put(&mut module, 24, &[0x5E; 48]); // mrseam, as in quotes
    let mut domain = vec![0; 512];
    put(&mut domain, 0, &td.attributes.0);
    put(&mut domain, 8, &td.xfam.0);
    put(&mut domain, 0x10, &td.mrtd.0);
    put(&mut domain, 0x40, &td.mrconfigid.0);
    for (number, register) in [&td.rtmr0, &td.rtmr1, &td.rtmr2, &td.rtmr3].into_iter().enumerate() {
        put(&mut domain, 0xD0 + 48 * number, &register.0);
    }
    let mut report = vec![0; LEN];
    put(&mut report, 0, &[0x81]);
    put(&mut report, 0x20, digest(&SHA384, &module).as_ref());
    put(&mut report, 0x50, digest(&SHA384, &domain).as_ref());
    put(&mut report, REPORT_DATA, report_data);
    let code = hmac::sign(key, report.get(..MAC).unwrap_or_default());
    put(&mut report, MAC, code.as_ref());
    put(&mut report, 0x100, &module);
    put(&mut report, 0x200, &domain);
    report
}

/// The report data of `report` if it was made with `key`.
pub(crate) fn check(report: &[u8], key: &hmac::Key) -> Option<[u8; 64]> {
    let (covered, rest) = report.split_at_checked(MAC)?;
    hmac::verify(key, covered, rest.get(..32)?).ok()?;
    if report.len() != LEN {
        return None;
    }
    covered.get(REPORT_DATA..)?.first_chunk().copied()
}

fn put(to: &mut [u8], offset: usize, bytes: &[u8]) {
    to.iter_mut().skip(offset).zip(bytes).for_each(|(to, from)| *to = *from);
}
