//! An emulated confidential machine of Azure: hardware whose reports are signed under test roots, a virtual TPM
//! (swtpm) with an attestation key, a paravisor between the two, and a metadata service on the loopback.
//!
//! The paravisor stands in the guest's way to the TPM and owns two of its indices: what the guest writes into
//! 0x01400002 shows, with some delay, in the runtime data of the HCL report at 0x01400001, for whose hash the hardware
//! makes a new report. Everything else the TPM answers itself. Layouts: Microsoft's "Guest attestation for Confidential
//! VMs", TCG "TPM 2.0 Library", Intel TDX module ABI (TDREPORT).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::machine::MachineSource;
use crate::{Error, Manufacturer};

mod hcl;
mod metadata;
mod paravisor;
mod proxy;
mod tpm;

use paravisor::Paravisor;

/// Index of the HCL report.
const HCL_INDEX: u32 = 0x0140_0001;
/// Index that takes report data, 64 bytes.
const REPORT_DATA_INDEX: u32 = 0x0140_0002;
/// Where the attestation key is.
const AK_HANDLE: u32 = 0x8100_0003;

/// How to run the machine.
#[derive(Debug)]
pub struct AzureSetup {
    /// Unix socket that the guest sees as its TPM.
    pub tpm: PathBuf,
    /// Folder for the TPM's state, made if it does not exist. Nothing in it outlives the machine's use.
    pub state: PathBuf,
    /// The machine, read anew for every report.
    pub machine: MachineSource,
    /// Where to keep the counters.
    pub stats: Option<PathBuf>,
}

/// A running machine. Dropping it ends the TPM and removes the socket.
#[derive(Debug)]
pub struct AzureMachine {
    socket: PathBuf,
    metadata: String,
    tpm: Arc<tpm::Tpm>,
}

impl AzureMachine {
    /// Starts it with the keys of `maker`.
    ///
    /// # Errors
    /// [`Error::Tpm`] when swtpm is not installed or fails, [`Error::File`] for sockets and folders, and those of keys.
    pub fn start(setup: AzureSetup, maker: Arc<Manufacturer>) -> Result<Self, Error> {
        let tpm = Arc::new(tpm::Tpm::start(&setup.state)?);
        let modulus = tpm.make_attestation_key()?;
        let paravisor = Arc::new(Paravisor::new(maker, setup.machine, modulus, setup.stats)?);
        let metadata = metadata::serve(Arc::clone(&paravisor))?;
        proxy::serve(&setup.tpm, paravisor, Arc::clone(&tpm))?;
        Ok(Self { socket: setup.tpm, metadata, tpm })
    }

    /// Base URL of the metadata service.
    #[must_use]
    pub fn metadata_url(&self) -> &str {
        &self.metadata
    }

    /// The guest's TPM.
    #[must_use]
    pub fn tpm_socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the TPM has ended by itself.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.tpm.is_finished()
    }
}

impl Drop for AzureMachine {
    fn drop(&mut self) {
        self.tpm.stop();
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.socket);
    }
}
