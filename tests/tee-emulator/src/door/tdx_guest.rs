//! The device of the TDX guest driver: `TDX_CMD_GET_REPORT0` of Linux's `include/uapi/linux/tdx-guest.h`.

use rustix::io::Errno;

use super::memory::Memory;
use crate::device::Device;
use crate::tdx::report;

/// `_IOWR('T', 1, struct tdx_report_req)`: 64 bytes in, 1024 out.
pub(super) const REPORT: u32 = 0xC440_5401;

/// Answers with a TDREPORT. The TDX module makes it, so no fault of the host touches it.
pub(super) fn answer(device: &Device, memory: &Memory, argument: u64) -> Result<(), Errno> {
    let data: [u8; 64] = memory.read(argument)?;
    let machine = device.machine().map_err(|error| Errno::from_raw_os_error(error.code()))?;
    memory.write(argument.wrapping_add(64), &report::build(&machine, &data, device.mac_key()))
}
