//! The device of the SEV-SNP guest driver: `SNP_GET_REPORT` and `SNP_GET_EXT_REPORT` of Linux's
//! `include/uapi/linux/sev-guest.h`, as the driver of Linux 6.1 to 6.6 answers them.

use rustix::io::Errno;

use super::memory::Memory;
use crate::device::Device;
use crate::entry::Request;
use crate::machine::Fault;

/// `_IOWR('S', 0, struct snp_guest_request_ioctl)`.
pub(super) const REPORT: u32 = 0xC020_5300;
/// `_IOWR('S', 2, struct snp_guest_request_ioctl)`.
pub(super) const EXTENDED_REPORT: u32 = 0xC020_5302;

/// Length of the response, with header and report in it.
const RESPONSE_LEN: usize = 4000;
/// Largest privilege level.
const LAST_VMPL: u32 = 3;
/// Status of a report message: invalid parameter.
const INVALID_PARAMETER: u32 = 0x16;
/// Exit information: the certificates need more room; the hypervisor is busy; the firmware cannot.
const NEEDS_ROOM: u64 = 1 << 32;
const BUSY: u64 = 2 << 32;
const FIRMWARE: u64 = 0x1D;
/// Largest buffer for certificates that the driver takes, and its page.
const CERTIFICATES_LIMIT: u32 = 0x4000;
const PAGE: u32 = 0x1000;
/// What a table needs that the driver cannot pass on.
const LARGE_TABLE: u32 = 0x8000;

/// The caller's structures, read once.
struct Call {
    argument: u64,
    request: u64,
    response: u64,
    report_data: [u8; 64],
    vmpl: u32,
    /// Address and length of the buffer, of an extended request.
    certificates: Option<(u64, u32)>,
}

/// Answers one request.
pub(super) fn answer(device: &Device, memory: &Memory, number: u32, argument: u64) -> Result<(), Errno> {
    let call = Call::read(memory, number, argument)?;
    let machine = device.machine().map_err(|error| Errno::from_raw_os_error(error.code()))?;
    match machine.fault {
        Fault::KeyLost => return Err(Errno::NOTTY),
        Fault::Busy => return call.fail(memory, BUSY, Errno::AGAIN),
        Fault::FirmwareError => return call.fail(memory, FIRMWARE, Errno::IO),
        _ => {}
    }
    if let (Some(_), Fault::LargeTable) = (call.certificates, machine.fault) {
        return call.need(memory, LARGE_TABLE);
    }
    if !(machine.vmpl..=LAST_VMPL).contains(&call.vmpl) {
        return memory.write(call.response, &response(INVALID_PARAMETER, &[]));
    }
    let blobs = match device.generate(&Request::direct(call.report_data, call.vmpl)) {
        Ok(blobs) => blobs,
        Err(error) => return call.fail(memory, 0, Errno::from_raw_os_error(error.code())),
    };
    if let Some((address, length)) = call.certificates {
        let table = &blobs.auxblob;
        match u32::try_from(table.len()) {
            Ok(needed) if needed <= length => memory.write(address, table)?,
            needed => return call.need(memory, needed.unwrap_or(u32::MAX).next_multiple_of(PAGE)),
        }
    }
    memory.write(call.response, &response(0, &blobs.outblob))
}

impl Call {
    fn read(memory: &Memory, number: u32, argument: u64) -> Result<Self, Errno> {
        let field = |offset: u64| memory.read(argument.wrapping_add(offset)).map(u64::from_le_bytes);
        let [version] = memory.read(argument)?;
        if version == 0 {
            return Err(Errno::INVAL);
        }
        let (request, response) = (field(8)?, field(16)?);
        let part = |offset: u64| memory.read(request.wrapping_add(offset)).map(u32::from_le_bytes);
        let certificates = if number == EXTENDED_REPORT {
            let address = u64::from_le_bytes(memory.read(request.wrapping_add(96))?);
            let length = part(104)?;
            if length > CERTIFICATES_LIMIT || length % PAGE != 0 {
                return Err(Errno::INVAL);
            }
            Some((address, length))
        } else {
            None
        };
        Ok(Self {
            argument,
            request,
            response,
            report_data: memory.read(request)?,
            vmpl: part(64)?,
            certificates,
        })
    }

    /// Ends with an error, and says what firmware or hypervisor say.
    fn fail(&self, memory: &Memory, exit_information: u64, error: Errno) -> Result<(), Errno> {
        memory.write(self.argument.wrapping_add(24), &exit_information.to_le_bytes())?;
        Err(error)
    }

    /// Ends with the room that the certificates need.
    fn need(&self, memory: &Memory, length: u32) -> Result<(), Errno> {
        memory.write(self.request.wrapping_add(104), &length.to_le_bytes())?;
        self.fail(memory, NEEDS_ROOM, Errno::IO)
    }
}

/// Status, size, 24 reserved bytes, the report as far as there is room.
fn response(status: u32, report: &[u8]) -> Vec<u8> {
    let size = u32::try_from(report.len()).unwrap_or(u32::MAX);
    let mut response = [&status.to_le_bytes()[..], &size.to_le_bytes(), &[0; 24], report].concat();
    response.resize(RESPONSE_LEN, 0);
    response
}
