//! The system calls of the SEV-SNP guest driver's device.
//!
//! Implements `SNP_GET_REPORT` and `SNP_GET_EXT_REPORT` of Linux's `include/uapi/linux/sev-guest.h` (kernel 5.19 and later).
#![allow(unsafe_code, reason = "an ioctl is a promise about the kernel's view of our memory")]

use std::fs::File;
use std::io;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// Bytes of the buffer that the driver fills: a header and the report.
pub(super) const RESPONSE_LEN: usize = 4000;

/// The one version of the message format.
const MESSAGE_VERSION: u8 = 1;

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
struct GuestRequest {
    message_version: u8,
    padding: [u8; 7],
    request: u64,
    response: u64,
    exit_info: u64,
}

/// `struct snp_report_req`.
#[repr(C)]
struct ReportRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
}

/// `struct snp_ext_report_req`.
#[repr(C)]
struct ExtendedRequest {
    report: ReportRequest,
    certificates: u64,
    certificates_len: u32,
    padding: [u8; 4],
}

/// `_IOWR('S', 0, struct snp_guest_request_ioctl)`.
const GET_REPORT: Opcode = opcode::read_write::<GuestRequest>(b'S', 0);
/// `_IOWR('S', 2, struct snp_guest_request_ioctl)`.
const GET_EXTENDED_REPORT: Opcode = opcode::read_write::<GuestRequest>(b'S', 2);

/// What the driver filled.
#[derive(Debug)]
pub(super) struct Reply {
    /// Header and report.
    pub(super) response: Vec<u8>,
    /// The certificate table in a buffer of the length that was given.
    pub(super) certificates: Vec<u8>,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The driver's answer.
    pub(super) source: io::Error,
    /// The firmware's error (low 32 bits) and the hypervisor's (high 32 bits).
    pub(super) exit_info: u64,
    /// The length that the certificate table needs, where the hypervisor said that the buffer is too small.
    pub(super) certificates_len: u32,
}

/// Asks the driver behind `device` for a report over `user_data` at privilege level `vmpl`, with a certificate table of
/// at most `certificates` bytes (a multiple of 4096), or without one if that is none.
pub(super) fn report(
    device: &File,
    user_data: &[u8; 64],
    vmpl: u32,
    certificates: Option<u32>,
) -> Result<Reply, Failure> {
    let mut response = vec![0u8; RESPONSE_LEN];
    let mut table = vec![0u8; certificates.and_then(|length| usize::try_from(length).ok()).unwrap_or(0)];
    let mut request = ExtendedRequest {
        report: ReportRequest { user_data: *user_data, vmpl, reserved: [0; 28] },
        certificates: address(table.as_mut_ptr()),
        certificates_len: certificates.unwrap_or(0),
        padding: [0; 4],
    };
    let mut argument = GuestRequest {
        message_version: MESSAGE_VERSION,
        padding: [0; 7],
        // The plain request is the first part of the extended one.
        request: address(std::ptr::from_mut(&mut request)),
        response: address(response.as_mut_ptr()),
        exit_info: 0,
    };
    // SAFETY: opcodes and structures are the driver's. The addresses in `argument` are those of `request`, `response` and
    // `table`, which live until the call returns, are borrowed by nobody else, and are as long as the driver takes them to
    // be: it writes RESPONSE_LEN bytes to the response and `certificates_len` bytes to the table.
    let done = unsafe {
        match certificates {
            Some(_) => ioctl(device, Updater::<GET_EXTENDED_REPORT, GuestRequest>::new(&mut argument)),
            None => ioctl(device, Updater::<GET_REPORT, GuestRequest>::new(&mut argument)),
        }
    };
    // The kernel wrote behind the compiler's back, through the addresses: read what is there now.
    let certificates_len = std::hint::black_box(&request).certificates_len;
    match done {
        Ok(()) => Ok(Reply { response, certificates: table }),
        Err(errno) => Err(Failure { source: errno.into(), exit_info: argument.exit_info, certificates_len }),
    }
}

/// Whether the SEV-SNP guest driver serves `device`: it refuses a message of version 0 as invalid before it looks at
/// anything else or talks to the firmware, and other drivers do not know the number.
pub(super) fn is_driver(device: &File) -> io::Result<()> {
    let mut argument =
        GuestRequest { message_version: 0, padding: [0; 7], request: 0, response: 0, exit_info: 0 };
    // SAFETY: as in `report`; there are no addresses in the structure, and the driver follows none of a version 0.
    match unsafe { ioctl(device, Updater::<GET_REPORT, GuestRequest>::new(&mut argument)) } {
        Err(rustix::io::Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno.into()),
        Ok(()) => Err(io::Error::other("it takes messages that the driver refuses")),
    }
}

/// A pointer as the kernel takes it in a structure.
fn address<T>(pointer: *mut T) -> u64 {
    u64::try_from(pointer.expose_provenance()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_are_those_of_the_header() {
        assert_eq!(size_of::<GuestRequest>(), 32);
        assert_eq!(size_of::<ReportRequest>(), 96);
        assert_eq!(size_of::<ExtendedRequest>(), 112);
        // Read and write, 32 bytes, group S.
        let group = (3 << 30) | (32 << 16) | (u32::from(b'S') << 8);
        assert_eq!((GET_REPORT, GET_EXTENDED_REPORT), (group, group | 2));
    }

    #[test]
    fn other_devices_are_not_the_driver() {
        let null = File::open("/dev/null").unwrap();
        let errno = |error: &io::Error| rustix::io::Errno::from_io_error(error);
        assert_eq!(errno(&is_driver(&null).unwrap_err()), Some(rustix::io::Errno::NOTTY));
        for certificates in [None, Some(4096)] {
            let failure = report(&null, &[0; 64], 0, certificates).unwrap_err();
            assert_eq!(errno(&failure.source), Some(rustix::io::Errno::NOTTY));
            assert_eq!((failure.exit_info, failure.certificates_len), (0, certificates.unwrap_or(0)));
        }
    }
}
