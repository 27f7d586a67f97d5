//! `/dev/sev-guest`: reports without configfs, from Linux 5.19 to 6.6, and in containers that are given the device but no
//! configfs.
//!
//! Implements the driver's interface as `Documentation/virt/coco/sev-guest.rst` of Linux and AMD publications 56860 (report
//! request) and 56421 (extended guest request) describe it. Only the way to the report is here; what is in it is checked
//! by the same code for both ways.
//!
//! Requests go through the driver's one message channel to the firmware. What the driver names as passing (EBUSY, EAGAIN,
//! a busy hypervisor) is tried again within the time limit, everything else is told at once: after most failures the
//! driver has given up its message key, and hammering it makes nothing better.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_evidence::read::Reader;
use cc_evidence::snp::REPORT_LEN;
use rustix::io::Errno;

use super::PROVIDER;
use crate::gate::{Gate, Pauses, is_passing};
use crate::tsm::Blobs;
use crate::{Error, SysRoot};

mod sys;

/// The device, below the root of the machine.
pub(crate) const DEVICE: &str = "dev/sev-guest";

/// Longest certificate table that the driver passes on, bytes.
const CERTIFICATES_LEN: u32 = 16 * 1024;

/// The largest privilege level.
const LAST_VMPL: u32 = 3;

/// The hypervisor's errors, high half of the exit information (GHCB specification, SNP guest requests).
const VMM_INVALID_LEN: u32 = 1;
const VMM_BUSY: u32 = 2;

/// Status of a report message: a parameter is invalid, of which the privilege level is the only one that we choose.
const STATUS_INVALID_PARAMETER: u32 = 0x16;

/// The driver's device.
#[derive(Debug)]
pub(crate) struct Device {
    path: PathBuf,
    gate: Gate,
}

impl Device {
    /// The device below `root`; `limit` is the time that one request may take, waiting for its turn included.
    pub(crate) fn new(root: &SysRoot, limit: Duration) -> Self {
        Self { path: root.path(DEVICE), gate: Gate::new(limit) }
    }

    /// Finds out whether the driver answers, without asking for a report.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        sys::is_driver(&open(&self.path)?).map_err(|source| failed(&self.path, source))
    }

    /// A report over `data` at the lowest-numbered privilege level that the firmware allows, and the host's certificates.
    pub(super) fn report(&self, data: &[u8; 64]) -> Result<Blobs, Error> {
        let job = Job { path: self.path.clone(), data: *data, limit: self.gate.limit() };
        self.gate.run("waiting for a report of /dev/sev-guest", move |deadline| job.run(deadline))
    }
}

/// One request, as it runs on the thread that may get stuck.
struct Job {
    path: PathBuf,
    data: [u8; 64],
    limit: Duration,
}

impl Job {
    fn run(&self, deadline: Instant) -> Result<Blobs, Error> {
        let device = open(&self.path)?;
        let mut vmpl = 0;
        loop {
            let reply = self.ask(&device, vmpl, deadline)?;
            match message(&reply.response)? {
                // The driver of these kernels does not tell which levels there are; the firmware answers nothing but
                // this to one that is too low.
                Message::Status(STATUS_INVALID_PARAMETER) if vmpl < LAST_VMPL => vmpl += 1,
                Message::Status(status) => return Err(Error::SnpReportRefused { status, vmpl }),
                Message::Report(report) => {
                    return Ok(Blobs {
                        outblob: report.to_vec(),
                        auxblob: reply.certificates,
                        provider: PROVIDER.to_owned(),
                    });
                }
            }
        }
    }

    /// One message to the firmware, again while driver or hypervisor are busy.
    fn ask(&self, device: &File, vmpl: u32, deadline: Instant) -> Result<sys::Reply, Error> {
        let mut pauses = Pauses::until(deadline);
        let mut certificates = Some(CERTIFICATES_LEN);
        loop {
            let failure = match sys::report(device, &self.data, vmpl, certificates) {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let (vmm, firmware) = halves(failure.exit_info);
            let errno = Errno::from_io_error(&failure.source);
            if vmm == VMM_INVALID_LEN && certificates.take().is_some() {
                // The buffer was as large as the driver allows.
                tracing::warn!(
                    needed = failure.certificates_len,
                    limit = CERTIFICATES_LEN,
                    "the host's certificate table does not fit the driver's buffer: evidence goes without certificates, \
                     the relying party has to know them"
                );
                continue;
            }
            let source = failure.source;
            return Err(match errno {
                Some(Errno::TIMEDOUT) => Error::TsmHostTimeout { step: self.step() },
                Some(Errno::NOTTY) => Error::SnpKeyLost { path: self.path.clone() },
                Some(_) if is_passing(&source) || vmm == VMM_BUSY => {
                    if pauses.wait() {
                        continue;
                    }
                    Error::TsmTimeout {
                        step: format!("{} (last answer: {source})", self.step()),
                        limit: self.limit,
                    }
                }
                _ => Error::SnpRequest { path: self.path.clone(), firmware, vmm, source },
            });
        }
    }

    fn step(&self) -> String {
        format!("asking {} for a report", self.path.display())
    }
}

/// The hypervisor's error and the firmware's.
fn halves(exit_info: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = exit_info.to_le_bytes();
    (u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d]))
}

/// The firmware's answer.
#[derive(Debug, PartialEq, Eq)]
enum Message<'a> {
    Report(&'a [u8]),
    /// Not zero.
    Status(u32),
}

/// Reads MSG_REPORT_RSP of publication 56860: status u32, size of the report u32, 24 reserved bytes, the report.
fn message(response: &[u8]) -> Result<Message<'_>, Error> {
    let malformed = |source| Error::BadEvidence { what: "answer of /dev/sev-guest", source };
    let mut r = Reader::new(response);
    let status = r.u32_le("snp_response.status").map_err(malformed)?;
    if status != 0 {
        return Ok(Message::Status(status));
    }
    let size = r.u32_le("snp_response.report_size").map_err(malformed)?;
    if usize::try_from(size).ok() != Some(REPORT_LEN) {
        let why = format!("{size} was found, an SNP report has {REPORT_LEN} bytes");
        return Err(malformed(cc_evidence::Error::Invalid { field: "snp_response.report_size", why }));
    }
    r.take(24, "snp_response.reserved").map_err(malformed)?;
    r.take(REPORT_LEN, "snp_response.report").map(Message::Report).map_err(malformed)
}

/// Opens the device; a file that somebody else put there is not asked.
fn open(path: &Path) -> Result<File, Error> {
    let opened = File::options().read(true).write(true).open(path);
    let device = opened.map_err(|source| failed(path, source))?;
    match device.metadata() {
        Ok(metadata) if metadata.file_type().is_char_device() => Ok(device),
        Ok(_) => Err(failed(path, Errno::NOTTY.into())),
        Err(source) => Err(failed(path, source)),
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::Device { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(status: u32, size: u32) -> Vec<u8> {
        let mut response = vec![0; sys::RESPONSE_LEN];
        response[..4].copy_from_slice(&status.to_le_bytes());
        response[4..8].copy_from_slice(&size.to_le_bytes());
        response[32] = 3;
        response[32 + REPORT_LEN - 1] = 7;
        response
    }

    #[test]
    fn a_message_is_a_report_of_the_one_size_or_a_status() {
        let good = response(0, 1184);
        let Ok(Message::Report(report)) = message(&good) else { panic!("no report") };
        assert_eq!((report.len(), report[0], report[REPORT_LEN - 1]), (REPORT_LEN, 3, 7));
        assert_eq!(message(&response(0x16, 0)).unwrap(), Message::Status(0x16));
        for size in [0, 1183, 1185, u32::MAX] {
            assert_eq!(message(&response(0, size)).unwrap_err().code(), "EVIDENCE_MALFORMED", "{size}");
        }
        for length in 0..32 + REPORT_LEN {
            assert_eq!(message(&good[..length]).unwrap_err().code(), "EVIDENCE_MALFORMED", "{length}");
        }
    }

    #[test]
    fn exit_information_has_two_halves() {
        assert_eq!(halves(0x1_0000_0000), (VMM_INVALID_LEN, 0));
        assert_eq!(halves(0x2_0000_0016), (VMM_BUSY, 0x16));
    }

    #[test]
    fn what_is_no_device_of_the_driver_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = SysRoot::new(folder.path().to_owned());
        let device = Device::new(&root, Duration::from_secs(5));
        let error = device.probe().unwrap_err();
        assert!(error.to_string().contains("dev/sev-guest"), "{error}");
        std::fs::create_dir(root.path("dev")).unwrap();
        std::fs::write(root.path(DEVICE), "").unwrap();
        assert_eq!(device.probe().unwrap_err().code(), "TEE_DEVICE");
        assert_eq!(device.report(&[0; 64]).unwrap_err().code(), "TEE_DEVICE");
        std::fs::remove_file(root.path(DEVICE)).unwrap();
        std::os::unix::fs::symlink("/dev/null", root.path(DEVICE)).unwrap();
        assert_eq!(device.probe().unwrap_err().code(), "TEE_DEVICE");
        // Another driver's answer to the number is that of one without a key.
        assert_eq!(device.report(&[0; 64]).unwrap_err().code(), "SNP_KEY_LOST");
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = message(&bytes);
        }
    }
}
