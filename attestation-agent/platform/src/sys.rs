//! The one system call of this crate that no library wraps: the TDX guest driver's request for a report of the trust
//! domain.
//!
//! Implements `TDX_CMD_GET_REPORT0` of Linux's `include/uapi/linux/tdx-guest.h` (kernel 6.2 and later). The TDX module
//! makes the report inside the guest's processor; neither host nor hypervisor take part.
#![allow(unsafe_code, reason = "an ioctl is a promise about the kernel's view of our memory")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;

use rustix::ioctl::{Updater, ioctl, opcode};

/// `struct tdx_report_req`: bytes only, so there is no padding and every value is valid.
#[repr(C)]
struct ReportRequest {
    report_data: [u8; 64],
    report: [u8; 1024],
}

/// `_IOWR('T', 1, struct tdx_report_req)`.
const GET_REPORT0: rustix::ioctl::Opcode = opcode::read_write::<ReportRequest>(b'T', 1);

/// Asks the driver behind `device` for a report over `report_data`.
///
/// # Errors
/// What the kernel answers; ENOTTY if `device` is no character device, without asking.
pub(crate) fn td_report(device: &File, report_data: &[u8; 64]) -> io::Result<[u8; 1024]> {
    // The number means something to this driver alone; a file somebody else put there is not asked.
    if !device.metadata()?.file_type().is_char_device() {
        return Err(rustix::io::Errno::NOTTY.into());
    }
    let mut request = ReportRequest { report_data: *report_data, report: [0; 1024] };
    // SAFETY: the opcode is the driver's, and encodes the size of `ReportRequest`, which has the layout of the
    // structure that the driver reads and writes; `request` is borrowed mutably for the whole call.
    unsafe { ioctl(device, Updater::<GET_REPORT0, ReportRequest>::new(&mut request))? };
    Ok(request.report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_one_of_the_header() {
        assert_eq!(size_of::<ReportRequest>(), 1088);
        // Read and write, 1088 bytes, group T, number 1.
        assert_eq!(GET_REPORT0, (3 << 30) | (1088 << 16) | (u32::from(b'T') << 8) | 1);
    }

    #[test]
    fn other_files_and_devices_are_refused() {
        let errno = |path: &str| {
            rustix::io::Errno::from_io_error(&td_report(&File::open(path).unwrap(), &[0; 64]).unwrap_err())
        };
        assert_eq!(errno("/proc/self/exe"), Some(rustix::io::Errno::NOTTY));
        assert_eq!(errno("/dev/null"), Some(rustix::io::Errno::NOTTY));
    }
}
