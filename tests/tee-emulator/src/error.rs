//! The error type of the emulator.

use std::io;
use std::path::PathBuf;

use crate::machine::{Product, Tee};

/// Why the emulator cannot do something. A client of the file system sees it as EIO; the log says which.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmulatorError {
    /// A key could not be made or used.
    #[error("{step} failed")]
    Crypto {
        /// What was being done.
        step: &'static str,
    },
    /// A certificate could not be encoded.
    #[error("encoding {what} failed: {source}")]
    Encoding {
        /// Which part.
        what: &'static str,
        /// The encoder's reason.
        source: der::Error,
    },
    /// The certificate table could not be encoded.
    #[error("encoding the certificate table failed: {0}")]
    Table(#[from] cc_evidence::Error),
    /// A file could not be read or written.
    #[error("{step} {} failed: {source}", .path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The machine file is not valid.
    #[error("machine file {} is invalid: {reason}", .path.display())]
    Machine {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the line.
        reason: String,
    },
    /// The machine file changed its product: the roots were made for another one.
    #[error("the machine is now a {now:?}, its roots were made for a {made:?}")]
    ProductChanged {
        /// The product of the roots.
        made: Product,
        /// The product of the machine file.
        now: Product,
    },
    /// The machine file changed its kind of TEE: the keys were made for another one.
    #[error("the machine is now a {now:?} machine, its keys were made for {made:?}")]
    TeeChanged {
        /// The TEE of the keys.
        made: Tee,
        /// The TEE of the machine file.
        now: Tee,
    },
    /// The report was asked for at a privilege level that the guest does not have.
    #[error("privilege level {asked} is below the floor {floor}")]
    PrivilegeLevel {
        /// The level asked for.
        asked: u32,
        /// The smallest level.
        floor: u32,
    },
    /// The virtual TPM cannot be started or asked.
    #[error("{step} failed: {why}")]
    Tpm {
        /// What was being done.
        step: &'static str,
        /// How it failed.
        why: String,
    },
    /// The emulator stops while a request hangs.
    #[error("stopped")]
    Stopped,
    /// The driver's device cannot be made or served.
    #[error("making devices below {} failed: {source}; it needs root", .root.display())]
    Devices {
        /// The root.
        root: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file system cannot be mounted.
    #[error("mounting on {} failed: {source}; it needs root and /dev/fuse", .path.display())]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}
