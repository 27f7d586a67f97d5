//! The TPM behind the paravisor: a swtpm of this machine's own, and the attestation key in it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::AK_HANDLE;
use crate::Error;

/// How long swtpm may take to listen.
const START: Duration = Duration::from_secs(10);
/// Pause between two looks.
const GLANCE: Duration = Duration::from_millis(10);
/// Longest response of a TPM: swtpm's buffer.
const MAX_RESPONSE: usize = 4096;

/// TPM2_CreatePrimary in the owner's hierarchy: a restricted RSA key of 2048 bits that signs by RSASSA with SHA-256.
const CREATE_PRIMARY: [u8; 65] = [
    0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x31, // sessions, size, command
    0x40, 0, 0, 0x01, // owner
    0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 1, 0, 0, // the empty password
    0, 4, 0, 0, 0, 0, // no password of its own, no data
    0, 24, 0, 0x01, 0, 0x0B, 0, 0x05, 0x04,
    0x72, // RSA, SHA-256, restricted signing key made in this TPM
    0, 0, // no policy
    0, 0x10, 0, 0x14, 0, 0x0B, 8, 0, 0, 0, 0,
    0, // no symmetric part, RSASSA with SHA-256, 2048 bits, exponent 65537
    0, 0, // modulus: to be made
    0, 0, // outside info
    0, 0, 0, 0, // creation PCRs
];

/// A running swtpm with one connection, ours.
#[derive(Debug)]
pub(super) struct Tpm {
    child: Mutex<Child>,
    stream: Mutex<UnixStream>,
}

impl Tpm {
    /// Starts swtpm with its state and socket in `folder`. It ends with the connection, so it cannot be left behind.
    #[allow(clippy::disallowed_methods, reason = "the emulator's TPM is a program of its own")]
    pub(super) fn start(folder: &Path) -> Result<Self, Error> {
        let failed = |why: String| Error::Tpm { step: "starting swtpm", why };
        std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
        let socket = folder.join("swtpm.sock");
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--terminate", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", folder.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| failed(format!("{error} (is the package swtpm installed?)")))?;
        let mut child = Reaped(Some(child));
        let start = Instant::now();
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() > START => return Err(failed(error.to_string())),
                Err(_) => thread::sleep(GLANCE),
            }
        };
        let child = child.0.take().ok_or_else(|| failed("it is gone".to_owned()))?;
        Ok(Self { child: Mutex::new(child), stream: Mutex::new(stream) })
    }

    /// Passes a whole command on and gives the whole response.
    pub(super) fn transmit(&self, command: &[u8]) -> Result<Vec<u8>, Error> {
        let failed = |why: String| Error::Tpm { step: "asking swtpm", why };
        let mut stream = lock(&self.stream);
        stream.write_all(command).map_err(|error| failed(error.to_string()))?;
        let mut response = vec![0; 10];
        stream.read_exact(&mut response).map_err(|error| failed(error.to_string()))?;
        let size = frame_size(&response).filter(|size| (10..=MAX_RESPONSE).contains(size));
        response.resize(size.ok_or_else(|| failed("a response of an impossible size".to_owned()))?, 0);
        stream
            .read_exact(response.get_mut(10..).unwrap_or_default())
            .map_err(|error| failed(error.to_string()))?;
        Ok(response)
    }

    /// Makes the attestation key, puts it at its handle and gives its modulus.
    pub(super) fn make_attestation_key(&self) -> Result<Vec<u8>, Error> {
        let failed = |why: String| Error::Tpm { step: "making the attestation key", why };
        let created = self.good(&CREATE_PRIMARY)?;
        // Handle, size of the parameters, TPM2B_PUBLIC, whose last part is the modulus.
        let handle = created.get(10..14).unwrap_or_default();
        let public_len = usize::from(u16_at(&created, 18).unwrap_or_default());
        let public = created.get(20..20 + public_len).unwrap_or_default();
        let modulus = public.len().checked_sub(256).and_then(|at| public.get(at..));
        let modulus = modulus.ok_or_else(|| failed("swtpm answers without a key".to_owned()))?.to_vec();
        let mut evict = vec![0x80, 0x02, 0, 0, 0, 35, 0, 0, 0x01, 0x20, 0x40, 0, 0, 0x01];
        evict.extend(handle);
        evict.extend([0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 1, 0, 0]);
        evict.extend(AK_HANDLE.to_be_bytes());
        self.good(&evict)?;
        let mut flush = vec![0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x65];
        flush.extend(handle);
        self.good(&flush)?;
        Ok(modulus)
    }

    /// Whether swtpm has ended.
    pub(super) fn is_finished(&self) -> bool {
        lock(&self.child).try_wait().is_ok_and(|status| status.is_some())
    }

    /// Ends swtpm.
    pub(super) fn stop(&self) {
        let mut child = lock(&self.child);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }

    fn good(&self, command: &[u8]) -> Result<Vec<u8>, Error> {
        let response = self.transmit(command)?;
        match response.get(6..10) {
            Some([0, 0, 0, 0]) => Ok(response),
            code => Err(Error::Tpm { step: "preparing the TPM", why: format!("response code {code:02x?}") }),
        }
    }
}

/// Ends a child that nobody has taken over.
struct Reaped(Option<Child>);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The size that a command or a response names, bytes 2 to 5.
pub(super) fn frame_size(frame: &[u8]) -> Option<usize> {
    let size = frame.get(2..6)?.first_chunk()?;
    usize::try_from(u32::from_be_bytes(*size)).ok()
}

pub(super) fn u16_at(frame: &[u8], offset: usize) -> Option<u16> {
    frame.get(offset..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(super) fn u32_at(frame: &[u8], offset: usize) -> Option<u32> {
    frame.get(offset..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
