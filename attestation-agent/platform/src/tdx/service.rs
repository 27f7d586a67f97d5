//! Quotes without configfs: a TDREPORT of the driver's device goes to the quote generation service of the host, as
//! Intel's `libtdx_attest` does it. For Linux 6.2 to 6.6, and for containers that are given the device but no configfs.
//!
//! Messages: [`cc_evidence::tdx::qgs`]. The service is reached over vsock at port 4050 of the host, or the one that
//! `/etc/tdx-attest.conf` names (`port = 4050`), the file of Intel's library; below another root than `/` it is looked for
//! at the Unix socket `run/tdx-qgs/qgs.socket`. Nothing that comes from there is trusted: the quote must hold the report
//! data, and say of this trust domain what the TDX module said without the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cc_evidence::tdx::{Quote, TdReport, qgs};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{DEVICE, answer, module};
use crate::gate::Gate;
use crate::{Error, SysRoot};

mod sys;

use sys::VsockAddress;

/// The configuration file of Intel's library.
const CONFIG: &str = "etc/tdx-attest.conf";
/// Longest accepted configuration file, bytes.
const CONFIG_LIMIT: u64 = 64 * 1024;
/// The service's port where nothing names another.
const PORT: u32 = 4050;
/// The host's number among the machines on a vsock.
const HOST: u32 = 2;
/// Stands for the vsock below another root.
const STAND_IN: &str = "run/tdx-qgs/qgs.socket";

/// The way to the service.
#[derive(Debug)]
pub(crate) struct Service {
    root: SysRoot,
    gate: Gate,
}

impl Service {
    /// The service of the machine whose root is `root`; `limit` is the time that one quote may take, waiting for its turn
    /// included.
    pub(crate) fn new(root: SysRoot, limit: Duration) -> Self {
        Self { root, gate: Gate::new(limit) }
    }

    /// Finds out whether the driver's device gives reports. The host is not asked.
    pub(crate) fn probe(&self) -> Result<(), Error> {
        module::report(&self.root)?.map(|_| ()).ok_or_else(|| missing(&self.root))
    }

    /// A quote over `data`, its bytes and what they say.
    pub(super) fn quote(&self, data: &[u8; 64]) -> Result<(Vec<u8>, Quote), Error> {
        let (root, data, limit) = (self.root.clone(), *data, self.gate.limit());
        self.gate.run("waiting for a quote of the quote generation service", move |deadline| {
            let (request, report) = module::report_over(&root, &data)?.ok_or_else(|| missing(&root))?;
            let place = Place::of(&root)?;
            let response = exchange(&place, &qgs::request(&request), limit, deadline)?;
            let bytes = match qgs::parse_response(&response).map_err(malformed)? {
                qgs::Response::Quote(quote) => quote.to_vec(),
                qgs::Response::Refused(code) => {
                    return Err(Error::QuoteRefused { address: place.to_string(), code });
                }
            };
            let quote = answer(&bytes, &data)?;
            if is_about(&quote, &report) {
                Ok((bytes, quote))
            } else {
                Err(Error::EvidenceMismatch { what: "TDX quote" })
            }
        })
    }
}

/// Whether a quote says of the domain what the TDX module says.
fn is_about(quote: &Quote, report: &TdReport) -> bool {
    let (body, info) = (&quote.body, &report.td_info);
    body.td_attributes == info.attributes
        && body.xfam == info.xfam
        && body.mr_td == info.mr_td
        && body.mr_config_id == info.mr_config_id
        && body.mr_owner == info.mr_owner
        && body.mr_owner_config == info.mr_owner_config
        && body.rtmr == info.rtmr
}

/// Where the service is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Vsock(VsockAddress),
    Unix(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Vsock(address) => write!(f, "vsock:{}:{}", address.context, address.port),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Place {
    fn of(root: &SysRoot) -> Result<Self, Error> {
        if !root.is_real() {
            return Ok(Self::Unix(root.path(STAND_IN)));
        }
        Ok(Self::Vsock(VsockAddress { context: HOST, port: configured_port(&root.path(CONFIG))? }))
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        let stream = |family| socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        match self {
            Self::Vsock(address) => {
                let socket = stream(AddressFamily::VSOCK)?;
                connect(&socket, address)?;
                Ok(socket)
            }
            Self::Unix(path) => {
                let socket = stream(AddressFamily::UNIX)?;
                connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok(socket)
            }
        }
    }

    fn failed(&self, step: &'static str, source: io::Error) -> Error {
        Error::QuoteService { address: self.to_string(), step, source }
    }
}

/// The port in the file at `path`, the usual one if there is no file or it names none.
fn configured_port(path: &Path) -> Result<u32, Error> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(CONFIG_LIMIT).read_to_string(&mut text));
    match read {
        Ok(_) => {
            port(&text).map_err(|why| module::failed(path, io::Error::new(io::ErrorKind::InvalidData, why)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(PORT),
        Err(source) => Err(module::failed(path, source)),
    }
}

/// The first `port = N` of a configuration; lines that begin with `#` are comments, other keys are somebody else's.
fn port(text: &str) -> Result<u32, String> {
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once('=') else { continue };
        if key.trim() == "port" {
            let port = value.trim().parse().ok().filter(|port| *port != 0);
            return port.ok_or_else(|| "port is not a number from 1 to 4294967295".to_owned());
        }
    }
    Ok(PORT)
}

/// Sends `request` and receives an answer without its prefix.
fn exchange(place: &Place, request: &[u8], limit: Duration, deadline: Instant) -> Result<Vec<u8>, Error> {
    let socket = place.connect().map_err(|source| place.failed("connecting to", source))?;
    let mut stream = Stream { file: File::from(socket), deadline };
    let failed = |step, source: io::Error| match Errno::from_io_error(&source) {
        // Both are how a socket tells that its time is up.
        Some(Errno::AGAIN | Errno::TIMEDOUT) => {
            Error::TsmTimeout { step: format!("{step} the quote generation service at {place}"), limit }
        }
        _ => place.failed(step, source),
    };
    stream.write_all(request).map_err(|source| failed("sending to", source))?;
    let mut receive =
        |buffer: &mut [u8]| stream.read_exact(buffer).map_err(|source| failed("receiving from", source));
    let mut prefix = [0; qgs::PREFIX_LEN];
    receive(&mut prefix)?;
    let mut response = vec![0; qgs::response_len(prefix).map_err(malformed)?];
    receive(&mut response)?;
    Ok(response)
}

/// A socket of which every call ends with the deadline.
struct Stream {
    file: File,
    deadline: Instant,
}

impl Stream {
    fn arm(&self, direction: Timeout) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT.into());
        }
        Ok(set_socket_timeout(&self.file, direction, Some(left))?)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.arm(Timeout::Recv)?;
        self.file.read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.arm(Timeout::Send)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn malformed(source: cc_evidence::Error) -> Error {
    Error::BadEvidence { what: "answer of the quote generation service", source }
}

fn missing(root: &SysRoot) -> Error {
    module::failed(&root.path(DEVICE), Errno::NOENT.into())
}

#[cfg(test)]
mod tests;
