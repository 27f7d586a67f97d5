//! The TPM client and the platform `tpm` against a real TPM 2.0 in software (swtpm), beside the tools that administrators
//! use (tpm2-tools), and against a program that only claims to be a TPM.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests fail loudly"
)]

mod client;
mod liar;
mod lying;
mod platform;
mod tools;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cc_platform::tpm::{Device, TpmOptions};
use cc_platform::{Detected, Error, Options, SysRoot, detect};
use cc_tests::soft_tpm::{SoftTpm, runs_here};
use tempfile::TempDir;

/// How long one operation may take, unless a test is about that.
const LIMIT: Duration = Duration::from_secs(20);

/// The key that docs/tpm.md has an administrator make.
const GOOD_KEY: &str = "-G rsa -s rsassa";

/// A TPM of one test.
struct Room {
    tpm: SoftTpm,
    // Dropped after the TPM.
    _folder: TempDir,
}

impl Room {
    /// A fresh TPM; none where it cannot run.
    fn without_key() -> Option<Self> {
        if !runs_here() {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        Some(Self { tpm: SoftTpm::start(folder.path()).unwrap(), _folder: folder })
    }

    /// With an attestation key.
    fn with_key() -> Option<Self> {
        let room = Self::without_key()?;
        room.tpm.make_key(GOOD_KEY).unwrap();
        Some(room)
    }

    fn device(&self) -> Device {
        Device::open(&self.tpm.socket(), LIMIT).unwrap()
    }

    fn folder(&self) -> &Path {
        self.tpm.folder()
    }

    fn tool(&self, line: &str) -> String {
        self.tpm.tool(line).unwrap()
    }

    fn loaded(&self) -> usize {
        self.tpm.loaded().unwrap()
    }

    /// The platform of a machine with this TPM and nothing else.
    fn detect(&self) -> Result<Detected, Error> {
        detect(&options(self.tpm.socket(), self.folder()))
    }
}

/// A machine whose one interface is the TPM at `device`.
fn options(device: PathBuf, root: &Path) -> Options {
    Options {
        sys_root: SysRoot::new(root.join("root")),
        quote_time_limit: LIMIT,
        tpm: TpmOptions { device: Some(device), ..TpmOptions::default() },
        ..Options::default()
    }
}
