//! Which TPM of this machine can be used.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Device, Tpm, TpmOptions};
use crate::{Error, SysRoot};

/// How many TPMs are looked for.
const MOST: u32 = 3;

/// What was found.
#[derive(Debug)]
pub(crate) struct Search {
    /// The first TPM with an attestation key.
    pub(crate) found: Option<Tpm>,
    /// What was looked at, and what was found there.
    pub(crate) looked_at: Vec<(String, String)>,
}

/// Looks for a TPM with an attestation key. Of one TPM the node that programs share (`tpmrm`) comes first. A socket is
/// used only if the configuration names it: behind one is a program, whatever its path says.
pub(crate) fn search(options: &TpmOptions, root: &SysRoot, limit: Duration) -> Search {
    let mut search = Search { found: None, looked_at: Vec::new() };
    for path in candidates(options, root) {
        search.try_one(&path, options.ak_handle, limit);
        if search.found.is_some() {
            if !is_device(&path) {
                tracing::warn!(
                    path = %path.display(),
                    "TPM commands go to a socket: a program answers them, which proves nothing unless you trust it"
                );
            }
            return search;
        }
    }
    if search.looked_at.is_empty() {
        let what = root.path("dev/tpmrm0").display().to_string();
        search.looked_at.push((what, "absent, as are tpmrm1, tpmrm2 and tpm0 to tpm2".to_owned()));
    }
    search
}

/// The TPMs to look at: the configured one alone, or else the kernel's device nodes that there are, one for each TPM.
pub(crate) fn candidates(options: &TpmOptions, root: &SysRoot) -> Vec<PathBuf> {
    if let Some(path) = &options.device {
        return vec![path.clone()];
    }
    let shared = |number: u32| root.path(&format!("dev/tpmrm{number}"));
    let direct = |number: u32| root.path(&format!("dev/tpm{number}"));
    let shared_ones = (0..MOST).map(shared).filter(|path| is_device(path));
    let only_direct = (0..MOST).filter(|number| !is_device(&shared(*number))).map(direct);
    shared_ones.chain(only_direct.filter(|path| is_device(path))).collect()
}

impl Search {
    fn try_one(&mut self, path: &Path, ak: u32, limit: Duration) {
        let outcome = match Device::open(path, limit).and_then(|device| Tpm::new(device, ak)) {
            Ok(tpm) => {
                self.found = Some(tpm);
                format!("has an attestation key at {ak:#010x}")
            }
            Err(error) => explain(&error),
        };
        self.looked_at.push((path.display().to_string(), outcome));
    }
}

fn explain(error: &Error) -> String {
    format!("{error} [{}]; {}", error.code(), error.hint())
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_char_device())
}
