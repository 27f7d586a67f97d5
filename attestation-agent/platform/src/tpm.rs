//! A TPM 2.0: PCRs, quotes, keys and NV indices over one file descriptor, and the platform `tpm`.
//!
//! Commands and responses are those of the TCG's "TPM 2.0 Library", part 3, written and read here: a dozen commands
//! that need no session and make no object, so that nothing is ever left in the TPM. No C library, no resource
//! manager; the structures are those of [`cc_evidence::tpm`]. What a TPM says of itself proves nothing to us: quotes are
//! only checked to answer what was asked.
//!
//! A TPM is a character device of the kernel (`/dev/tpmrm0`, `/dev/tpm0`) or a Unix socket that carries the same raw
//! commands, as `swtpm socket --server` offers it. It is opened for one operation and closed after it: other programs
//! of this machine use it too.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cc_evidence::HashAlgorithm;
pub use cc_evidence::tpm::Public;

use crate::Error;

mod attester;
mod bank;
mod command;
mod error;
mod find;
mod key;
mod link;
mod nv;
mod pcr;
mod response_code;

pub(crate) use attester::Tpm;
pub(crate) use bank::{BANK, Bank};
pub use error::TpmError;
pub(crate) use find::{candidates, search};
pub use key::Quote;
use link::{Deadline, Link};

/// Where an attestation key is kept if nothing else is configured.
pub const DEFAULT_AK_HANDLE: u32 = 0x8101_0002;

/// Persistent handles (TPM 2.0 Library, part 2, section 7.4): nothing else outlives the program that loaded it.
const PERSISTENT: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x81FF_FFFF;

/// The persistent handle that `text` names in hexadecimal; `0x` may stand before it.
///
/// # Errors
/// Half a sentence: it is no number of 32 bits, or a handle of another kind.
pub fn read_handle(text: &str) -> Result<u32, &'static str> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    match u32::from_str_radix(digits, 16) {
        Ok(handle) if PERSISTENT.contains(&handle) => Ok(handle),
        Ok(_) => Err("persistent handles are 0x81000000 to 0x81ffffff"),
        Err(_) => Err("it is not a hexadecimal number of 32 bits"),
    }
}

/// What the configuration says about the TPM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmOptions {
    /// The TPM to use: a character device or a Unix socket. Without it the device nodes of the kernel are looked
    /// for, and nothing but device nodes.
    pub device: Option<PathBuf>,
    /// Persistent handle of the attestation key.
    pub ak_handle: u32,
}

impl Default for TpmOptions {
    fn default() -> Self {
        Self { device: None, ak_handle: DEFAULT_AK_HANDLE }
    }
}

/// A TPM at a path. Operations on it take turns; each has the time limit as a whole.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    limit: Duration,
    /// A descriptor that a command did not come back from, while the kernel closes it.
    left_behind: Mutex<Option<LeftBehind>>,
}

#[derive(Debug)]
struct LeftBehind {
    since: Instant,
    closing: JoinHandle<()>,
}

impl Device {
    /// The TPM at `path`; one operation takes `limit` at most, the wait for a TPM in use included.
    ///
    /// # Errors
    /// When `path` is neither a character device nor a Unix socket, cannot be opened, or stays in use.
    pub fn open(path: &Path, limit: Duration) -> Result<Self, Error> {
        let device = Self { path: path.to_owned(), limit, left_behind: Mutex::new(None) };
        device.run(|_| Ok(()))?;
        Ok(device)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The values of `pcrs` (0 to 23) in the bank of `hash`, in the order asked, all of one moment as far as the TPM's
    /// update counter tells.
    ///
    /// # Errors
    /// Those of the device; when the bank is not allocated, and when the PCRs do not stop to change.
    pub fn pcr_values(&self, hash: HashAlgorithm, pcrs: &[u32]) -> Result<Vec<Vec<u8>>, Error> {
        self.run(|link| pcr::values(link, hash, pcrs))
    }

    /// Extends `pcr` with `digest`, of the length of `hash`: new value = hash of old value and digest.
    ///
    /// # Errors
    /// Those of the device; for a PCR above 23 or a digest of another length.
    pub fn pcr_extend(&self, pcr: u32, hash: HashAlgorithm, digest: &[u8]) -> Result<(), Error> {
        self.run(|link| pcr::extend(link, pcr, hash, digest))
    }

    /// A quote over `pcrs` by the key at the persistent handle `ak` (RSASSA with SHA-256), with `qualifying` (the TPM's
    /// largest digest at most, 64 bytes mostly) as its nonce. It is checked to hold the nonce, the selection, and the digest
    /// of the values beside it; when a PCR changed in between it is asked for again.
    ///
    /// # Errors
    /// Those of the device and of the key, and when the PCRs do not stop to change.
    pub fn quote(
        &self,
        ak: u32,
        qualifying: &[u8],
        hash: HashAlgorithm,
        pcrs: &[u32],
    ) -> Result<Quote, Error> {
        self.run(|link| key::quote(link, ak, qualifying, hash, pcrs))
    }

    /// The public area of the key at `handle`.
    ///
    /// # Errors
    /// Those of the device; [`TpmError::HandleAbsent`].
    pub fn public(&self, handle: u32) -> Result<Public, Error> {
        self.run(|link| key::public(link, handle)).map(|named| named.public)
    }

    /// The whole content of an NV index, up to `limit` bytes, with the empty authorization of the owner or of the index,
    /// as the index allows it.
    ///
    /// # Errors
    /// Those of the device; [`TpmError::NvAbsent`], and [`TpmError::NvTooLarge`] above `limit`.
    pub fn nv_read(&self, index: u32, limit: usize) -> Result<Vec<u8>, Error> {
        self.run(|link| nv::read(link, index, limit))
    }

    /// Writes `data` as the whole content of an NV index; defines the index with that size when it is absent.
    ///
    /// # Errors
    /// Those of the device, and when the index is there with another size.
    pub fn nv_define_write(&self, index: u32, data: &[u8]) -> Result<(), Error> {
        self.run(|link| nv::define_write(link, index, data))
    }

    /// Opens the TPM for one operation.
    fn run<T>(&self, operation: impl FnOnce(&mut Link) -> Result<T, TpmError>) -> Result<T, Error> {
        let mut left_behind = self.turn();
        if let Some(left) = left_behind.take_if(|left| !left.closing.is_finished()) {
            let since = left.since.elapsed();
            *left_behind = Some(left);
            return Err(TpmError::Stuck { path: self.path.clone(), since }.into());
        }
        *left_behind = None;
        let mut link = Link::open(&self.path, Deadline::after(self.limit))?;
        let result = operation(&mut link);
        if matches!(result, Err(TpmError::Timeout { .. })) {
            // The kernel closes a device only when the TPM has answered: nobody waits for that.
            let closing = thread::Builder::new()
                .name("tpm-close".to_owned())
                .spawn(move || drop(link))
                .map_err(|source| Error::System { step: "starting a thread to close the TPM", source })?;
            *left_behind = Some(LeftBehind { since: Instant::now(), closing });
        }
        Ok(result?)
    }

    fn turn(&self) -> MutexGuard<'_, Option<LeftBehind>> {
        self.left_behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
