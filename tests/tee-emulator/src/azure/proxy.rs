//! The guest's way to its TPM: every command passes here, and those about the paravisor's indices are answered here.
//!
//! TPM 2.0 Library, part 3: TPM2_NV_ReadPublic, TPM2_NV_Read, TPM2_NV_Write, TPM2_Quote.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use aws_lc_rs::digest::{SHA256, digest};

use super::paravisor::Paravisor;
use super::tpm::{Tpm, frame_size, u16_at, u32_at};
use super::{HCL_INDEX, REPORT_DATA_INDEX};
use crate::Error;
use crate::machine::AzureFault;

/// Longest command of a guest.
const MAX_COMMAND: usize = 4096;

const NV_WRITE: u32 = 0x137;
const NV_READ: u32 = 0x14E;
const QUOTE: u32 = 0x158;
const NV_READ_PUBLIC: u32 = 0x169;

/// TPM_RC_HANDLE about the first handle: there is no such index.
const NO_SUCH_INDEX: u32 = 0x18B;
/// TPM_RC_NV_RANGE.
const OUT_OF_RANGE: u32 = 0x146;

/// Read by the owner and with the index's empty password, written, written by the platform.
const ATTRIBUTES: u32 = 1 << 0 | 1 << 17 | 1 << 18 | 1 << 25 | 1 << 29 | 1 << 30;

/// Serves the guest at the Unix socket `path`, a thread for each connection.
pub(super) fn serve(path: &Path, paravisor: Arc<Paravisor>, tpm: Arc<Tpm>) -> Result<(), Error> {
    let failed = |source| Error::File { step: "making the socket", path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut connection =
                Connection { paravisor: Arc::clone(&paravisor), tpm: Arc::clone(&tpm), report: Vec::new() };
            thread::spawn(move || {
                if let Err(error) = connection.serve(stream) {
                    tracing::error!(%error, "a connection to the TPM ends");
                }
            });
        }
    });
    Ok(())
}

/// One connection of the guest.
struct Connection {
    paravisor: Arc<Paravisor>,
    tpm: Arc<Tpm>,
    /// The HCL report that is being read, in parts.
    report: Vec<u8>,
}

impl Connection {
    fn serve(&mut self, mut stream: UnixStream) -> Result<(), Error> {
        while let Some(command) = next(&mut stream) {
            let response = self.respond(&command)?;
            if stream.write_all(&response).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn respond(&mut self, command: &[u8]) -> Result<Vec<u8>, Error> {
        // The index is the first handle where no session is needed, else the second.
        match u32_at(command, 6) {
            Some(NV_READ_PUBLIC) if u32_at(command, 10) == Some(HCL_INDEX) => self.public(),
            Some(NV_READ) if u32_at(command, 14) == Some(HCL_INDEX) => self.read(command),
            Some(NV_WRITE) if u32_at(command, 14) == Some(REPORT_DATA_INDEX) => self.write(command),
            Some(QUOTE) => {
                self.paravisor.count_quote();
                self.tpm.transmit(command)
            }
            _ => self.tpm.transmit(command),
        }
    }

    /// TPM2B_NV_PUBLIC and the name of the index.
    fn public(&mut self) -> Result<Vec<u8>, Error> {
        let fault = self.paravisor.fault()?;
        if fault == AzureFault::IndexMissing {
            return Ok(refusal(NO_SUCH_INDEX));
        }
        self.report = self.paravisor.report()?;
        let size = match fault {
            AzureFault::IndexHuge => u16::MAX,
            _ => u16::try_from(self.report.len()).unwrap_or(u16::MAX),
        };
        let mut public = HCL_INDEX.to_be_bytes().to_vec();
        public.extend(0x000Bu16.to_be_bytes());
        public.extend(ATTRIBUTES.to_be_bytes());
        public.extend([0, 0]); // no policy
        public.extend(size.to_be_bytes());
        let name = [&[0, 0x0B], digest(&SHA256, &public).as_ref()].concat();
        Ok(response(false, &[sized(&public), sized(&name)].concat()))
    }

    /// A part of the HCL report. Reading from the start gives the report of that moment, and the parts after it are of
    /// the same.
    fn read(&mut self, command: &[u8]) -> Result<Vec<u8>, Error> {
        if self.paravisor.fault()? == AzureFault::AnswerHuge {
            return Ok(response(true, &vec![0xA5; 1 << 20]));
        }
        let Some((size, offset)) =
            parameters(command).and_then(|at| Some((u16_at(command, at)?, u16_at(command, at + 2)?)))
        else {
            return Ok(refusal(OUT_OF_RANGE));
        };
        if offset == 0 {
            self.report = self.paravisor.report()?;
        }
        let part = self.report.get(usize::from(offset)..usize::from(offset) + usize::from(size));
        Ok(part.map_or_else(|| refusal(OUT_OF_RANGE), |part| response(true, &sized(part))))
    }

    /// The TPM keeps what is written; the paravisor looks on.
    fn write(&mut self, command: &[u8]) -> Result<Vec<u8>, Error> {
        let answer = self.tpm.transmit(command)?;
        if u32_at(&answer, 6) != Some(0) {
            return Ok(answer);
        }
        let written = parameters(command).and_then(|at| {
            let length = usize::from(u16_at(command, at)?);
            let data = command.get(at + 2..at + 2 + length)?;
            // Agents write the whole index at once.
            (u16_at(command, at + 2 + length)? == 0).then_some(<[u8; 64]>::try_from(data).ok()?)
        });
        if let Some(report_data) = written {
            self.paravisor.take(report_data)?;
        }
        Ok(answer)
    }
}

/// The next command, none at the end of the connection or of what can be understood.
fn next(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut command = vec![0; 10];
    stream.read_exact(&mut command).ok()?;
    let size = frame_size(&command).filter(|size| (10..=MAX_COMMAND).contains(size))?;
    command.resize(size, 0);
    stream.read_exact(command.get_mut(10..)?).ok()?;
    Some(command)
}

/// Where the parameters of a command with two handles and sessions begin.
fn parameters(command: &[u8]) -> Option<usize> {
    Some(18 + 4 + usize::try_from(u32_at(command, 18)?).ok()?)
}

fn response(with_session: bool, parameters: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    let mut body = Vec::new();
    if with_session {
        body.extend(length(parameters.len()));
    }
    body.extend(parameters);
    if with_session {
        // No nonce, session continued, no code: the answer to the empty password.
        body.extend([0, 0, 1, 0, 0]);
    }
    let tag: [u8; 2] = if with_session { [0x80, 0x02] } else { [0x80, 0x01] };
    [&tag[..], &length(10 + body.len()), &[0; 4], &body].concat()
}

fn refusal(code: u32) -> Vec<u8> {
    [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat()
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()[..], bytes].concat()
}
