//! The host's quote generation service at a Unix socket, which stands for its vsock port.
//!
//! Messages of Intel's `qgs_msg_lib.h`, written from that file: each after its length in four bytes big endian, itself
//! little endian. It takes no TDREPORT but the emulated machine's.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::report::{self, LEN as REPORT_LEN};
use crate::device::Device;
use crate::entry::Request;

/// Version 1.1 of the messages.
const VERSION: [u8; 4] = [1, 0, 1, 0];
const HEADER_LEN: usize = 16;
/// Header, two lengths, the report.
const REQUEST_LEN: usize = HEADER_LEN + 8 + REPORT_LEN;
/// Error codes of the file.
const UNEXPECTED: u32 = 0x12001;
const INVALID_PARAMETER: u32 = 0x12003;

/// Serves at `path` on threads of its own, until the program ends.
pub(crate) fn serve(path: &Path, device: Arc<Device>) -> io::Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::Builder::new().name("qgs".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            let device = Arc::clone(&device);
            let answer = move |stream: io::Result<UnixStream>| {
                if let Err(error) = stream.and_then(|stream| answer(stream, &device)) {
                    tracing::warn!(%error, "no quote");
                }
            };
            if let Err(error) = thread::Builder::new().name("quote".to_owned()).spawn(move || answer(stream))
            {
                tracing::error!(%error, "cannot start a thread for a quote");
            }
        }
    })?;
    Ok(())
}

fn answer(mut stream: UnixStream, device: &Device) -> io::Result<()> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    if usize::try_from(u32::from_be_bytes(prefix)).ok() != Some(REQUEST_LEN) {
        return Err(io::Error::other("a request of another length"));
    }
    let mut request = [0; REQUEST_LEN];
    stream.read_exact(&mut request)?;
    let (code, quote) = match asked(&request, device) {
        None => (INVALID_PARAMETER, Vec::new()),
        Some(data) => match device.generate(&Request::direct(data, 0)) {
            Ok(blobs) => (0, blobs.outblob.to_vec()),
            Err(_) => (UNEXPECTED, Vec::new()),
        },
    };
    let too_long = |_| io::Error::other("a quote that no message holds");
    let size = |length: usize| u32::try_from(length).map_err(too_long);
    let body = if code == 0 {
        // No identifier of a key: there is one key.
        [&size(0)?.to_le_bytes(), &size(quote.len())?.to_le_bytes(), quote.as_slice()].concat()
    } else {
        Vec::new()
    };
    let length = size(HEADER_LEN + body.len())?;
    let header = [&VERSION[..], &[1, 0, 0, 0], &length.to_le_bytes(), &code.to_le_bytes()].concat();
    stream.write_all(&[&length.to_be_bytes(), header.as_slice(), &body].concat())
}

/// The report data of a well-formed request with a report of this machine.
fn asked(request: &[u8; REQUEST_LEN], device: &Device) -> Option<[u8; 64]> {
    let (head, report) = request.split_first_chunk::<{ HEADER_LEN + 8 }>()?;
    // Version, type 0, length 1048, no error; a report of 1024 bytes, no list of keys.
    let expected = [1, 0, 1, 0, 0, 0, 0, 0, 0x18, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    if *head != expected {
        return None;
    }
    report::check(report, device.mac_key())
}
