//! The tool's one error type, by blame. What hardware, key broker and headers say is carried through with code and hint.

use std::{io, path::PathBuf};

use cc_daemon::telemetry::TelemetryError;
use cc_evidence::blame::Blame;

/// Why a volume is not open. No variant holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Failure {
    /// The key broker, the way to it, or the machine's evidence on the way there.
    #[error(transparent)]
    Kbs(#[from] cc_kbs::Error),
    /// The hardware, its driver or its answer.
    #[error(transparent)]
    Platform(#[from] cc_platform::Error),
    /// The header is not to be opened with.
    #[error("{}: {error}", path.display())]
    Header {
        /// The disk.
        path: PathBuf,
        /// What is wrong.
        error: cc_volume::Error,
    },
    /// What the kernel has mapped.
    #[error(transparent)]
    Mapping(#[from] cc_mapping::MappingError),
    /// The kernel's command line.
    #[error("the kernel's command line {what}")]
    CommandLine {
        /// What it has or lacks, and what that does.
        what: String,
    },
    /// The firmware has options for systemd.
    #[error("the firmware has the variable {}, which systemd reads as a command line of the host's", path.display())]
    FirmwareVariable {
        /// Where the variable is.
        path: PathBuf,
    },
    /// A mapping of the volume's name is there before it was opened.
    #[error("a mapping of that name is there already")]
    MappedAlready,
    /// No disk has that UUID.
    #[error("no disk has a LUKS2 header with the UUID {uuid} after {seconds} s; looked at: {seen}")]
    DiskMissing {
        /// The UUID of the volume.
        uuid: String,
        /// How long it was waited for.
        seconds: u64,
        /// What was there.
        seen: String,
    },
    /// The key cannot be one.
    #[error("the key broker's key has {length} bytes")]
    KeyLength {
        /// In bytes.
        length: usize,
    },
    /// cryptsetup did not open the volume.
    #[error("cryptsetup did not open it: {why}")]
    Cryptsetup {
        /// What it said, or why it did not run.
        why: String,
    },
    /// A disk does not answer.
    #[error("reading {}: it did not answer in {seconds} s", path.display())]
    DiskHangs {
        /// The disk.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// There is no such volume.
    #[error("the configuration has no volume called {name:?}")]
    UnknownVolume {
        /// The name that was given.
        name: String,
    },
    /// The configuration is none.
    #[error("{}: {why}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file cannot be read.
    #[error("reading {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The log cannot be set up.
    #[error(transparent)]
    Log(#[from] TelemetryError),
    /// The process could not be set up.
    #[error("{step}: {source}")]
    Start {
        /// What was being set up.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("writing to standard output: {0}")]
    Output(io::Error),
}

impl Failure {
    /// Stable code, in capitals.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Kbs(e) => e.code(),
            Self::Platform(e) => e.code(),
            Self::Header { error, .. } => error.code(),
            Self::Mapping(e) => e.code(),
            Self::CommandLine { .. } => "KERNEL_COMMAND_LINE_REFUSED",
            Self::FirmwareVariable { .. } => "FIRMWARE_VARIABLE_REFUSED",
            Self::MappedAlready => "VOLUME_MAPPED_ALREADY",
            Self::DiskMissing { .. } => "VOLUME_DISK_MISSING",
            Self::KeyLength { .. } => "VOLUME_KEY_LENGTH",
            Self::Cryptsetup { .. } => "CRYPTSETUP_FAILED",
            Self::DiskHangs { .. } => "VOLUME_DISK_HANGS",
            Self::UnknownVolume { .. } => "VOLUME_UNKNOWN",
            Self::Config { .. } => "UNLOCK_CONFIG_INVALID",
            Self::Unreadable { .. } => "INPUT_UNREADABLE",
            Self::Log(e) => e.code(),
            Self::Start { .. } => "START_FAILED",
            Self::Output(_) => "OUTPUT_CLOSED",
        }
    }

    /// The next step for the operator.
    pub(crate) fn hint(&self) -> String {
        let hint = match self {
            Self::Kbs(cc_kbs::Error::UntrustedTls { .. }) => {
                "the certificate in the configuration has to be the key broker's own or its authority's, for the name or address in \
                 the URL; if it is expired or not valid yet, check the clock of this machine too"
            }
            Self::Kbs(e) => return e.hint(),
            Self::Platform(e) => return e.hint(),
            Self::Header { error, .. } => error.hint(),
            Self::Mapping(e) => e.hint(),
            Self::CommandLine { .. } => {
                "correct the command line, and have the key broker's policy compare the measurement that covers it"
            }
            Self::FirmwareVariable { .. } => {
                "remove the variable (bootctl systemd-efi-options \"\" on the machine, or a new store of variables), or boot with Secure Boot"
            }
            Self::MappedAlready => {
                "find out what else in the initramfs opens volumes: this program has to be the only one"
            }
            Self::DiskMissing { .. } => {
                "attach the disk; if it is there, its driver is not in the initramfs, or its header has another UUID or is damaged"
            }
            Self::KeyLength { .. } => "store a random key of 32 to 64 bytes at the key broker",
            Self::Cryptsetup { .. } => {
                "the initramfs needs cryptsetup and the modules dm_crypt, xts and algif_skcipher; if both are there, look at the \
                 header with `guestctl disk inspect` and restore it from a backup"
            }
            Self::DiskHangs { .. } => {
                "remove the disk from the machine, or mend it: all disks are looked at, and the host has this one wait"
            }
            Self::UnknownVolume { .. } => "name one of [[volumes]], or none for all of them",
            Self::Config { .. } => {
                "correct it in the image, and make the initramfs anew; `initrd-unlock --help` shows an example"
            }
            Self::Unreadable { .. } => {
                "check the path; in an initramfs the hook or dracut module copies the file"
            }
            Self::Log(e) => return e.hint(),
            Self::Start { .. } => "look at the limits of this machine and of this process",
            Self::Output(_) => "read standard output to its end",
        };
        hint.to_owned()
    }

    /// Who is to blame; `None` for files of this machine.
    fn blame(&self) -> Option<Blame> {
        Some(match self {
            Self::Kbs(e) => e.blame(),
            Self::Platform(e) => e.blame(),
            Self::Header { error, .. } => error.blame(),
            Self::Mapping(e) => e.blame(),
            Self::CommandLine { .. } | Self::FirmwareVariable { .. } | Self::MappedAlready => Blame::Denied,
            Self::DiskMissing { .. } | Self::DiskHangs { .. } => Blame::Unavailable,
            Self::KeyLength { .. } | Self::UnknownVolume { .. } | Self::Config { .. } | Self::Log(_) => {
                Blame::Misused
            }
            Self::Cryptsetup { .. } | Self::Start { .. } => Blame::Platform,
            Self::Unreadable { .. } | Self::Output(_) => return None,
        })
    }

    /// Whether the key broker did not answer: how the network is tells why.
    pub(crate) fn is_silence(&self) -> bool {
        matches!(self, Self::Kbs(error) if error.blame() == Blame::Unavailable)
    }

    /// The status that the process ends with.
    pub(crate) fn status(&self) -> u8 {
        match self.blame() {
            None => 1,
            Some(Blame::Misused) => 2,
            Some(Blame::Denied) => 3,
            Some(Blame::Absent) => 4,
            Some(Blame::Unavailable) => 5,
            Some(Blame::Misbehaved) => 6,
            Some(Blame::Platform) => 7,
        }
    }
}

/// A failure, and the volume that it was about.
#[derive(Debug)]
pub(crate) struct Stopped {
    /// Its name; none if it was about all of them.
    pub(crate) volume: Option<String>,
    /// What happened.
    pub(crate) failure: Box<Failure>,
}

impl Stopped {
    /// `failure` about the volume `name`.
    pub(crate) fn at(name: &str, failure: impl Into<Failure>) -> Self {
        Self { volume: Some(name.to_owned()), failure: Box::new(failure.into()) }
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self { volume: None, failure: Box::new(failure) }
    }
}
