//! The tool's one error type, by blame.
//!
//! What a daemon or the key broker said is carried as they said it ([`Failure::Reply`]); everything else went wrong on
//! this side. No variant holds a secret.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use cc_daemon::fault::Fault;
use cc_evidence::blame::Blame;
use cc_sealed::SealedError;
use image_rs::policy::Rejection;

use crate::exit::Exit;

/// Why a sub-command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Failure {
    /// A daemon answered that it failed, or did not answer.
    #[error("{doing}: {}", fault.message)]
    Reply {
        /// What was being done.
        doing: String,
        /// The daemon's own account of it.
        fault: Fault,
    },
    /// A library of the guest components refused or failed; its own account of it.
    #[error("{}", .0.message)]
    Fault(Fault),
    /// A daemon's answer cannot be what it should be.
    #[error("{doing}: the answer {why}")]
    Garbled {
        /// What was being done.
        doing: String,
        /// What is wrong with the answer, never its content.
        why: String,
    },
    /// An argument or a combination of arguments makes no sense.
    #[error("{argument}: {why}")]
    Argument {
        /// Name of the argument.
        argument: String,
        /// What is wrong with it.
        why: String,
        /// How to write it.
        hint: String,
    },
    /// The bytes would garble or steer the terminal.
    #[error("{what} ({length} bytes) is not plain text and standard output is a terminal")]
    Terminal {
        /// What would have been shown.
        what: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is none of the things that the tool knows.
    #[error("{}: {why}", path.display())]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// What it seems to be.
        why: String,
    },
    /// A file is of a known kind but breaks the rules of that kind.
    #[error("{}: not a valid {kind}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it was taken for.
        kind: &'static str,
        /// Which rule it breaks.
        why: String,
    },
    /// A result could not be written to its file.
    #[error("cannot write {}: {source}", path.display())]
    OutputFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Standard output could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
    /// The process could not be set up.
    #[error("cannot {step}: {source}")]
    Start {
        /// What was being set up.
        step: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An image could not be pulled.
    #[error("pulling {image}: {error}")]
    Image {
        /// What the operator named.
        image: String,
        /// The image library's account of it.
        error: Box<image_rs::Error>,
    },
    /// Podman was given something else than a reference to a secret.
    #[error("standard input ({length} bytes) is no reference to a secret: {why}")]
    ReferenceRefused {
        /// Length of what was given.
        length: usize,
        /// What is wrong with it, never its content unless it is a URI.
        why: String,
    },
    /// Podman asks for a secret that has no reference.
    #[error("{} has no reference for Podman secret {id}", state.display())]
    SecretUnknown {
        /// Podman's identifier.
        id: String,
        /// The folder of references.
        state: PathBuf,
    },
    /// Others can write into the folder of references.
    #[error("{} is not for its user alone: owner {owner}, mode {mode:04o}", path.display())]
    StateFolderOpen {
        /// The folder.
        path: PathBuf,
        /// User who owns it.
        owner: u32,
        /// Its permissions.
        mode: u32,
    },
    /// A bundle does not verify.
    #[error("{} is not verified: {why}", bundle.display())]
    BundleRefused {
        /// The bundle.
        bundle: PathBuf,
        /// What is missing.
        why: Rejection,
    },
    /// The header of a volume cannot be read, or is refused.
    #[error("{}: {error}", path.display())]
    Volume {
        /// The device or file.
        path: PathBuf,
        /// The volume library's account of it.
        error: cc_volume::Error,
    },
    /// The checks were made and some failed.
    #[error("{failed} of {all} checks failed")]
    Checks {
        /// Number of failed checks.
        failed: usize,
        /// Number of checks made.
        all: usize,
    },
}

impl Failure {
    /// Stable code, in capitals.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Reply { fault, .. } | Self::Fault(fault) => &fault.code,
            Self::Garbled { .. } => "PEER_ANSWER_GARBLED",
            Self::Argument { .. } => "ARGUMENT_REFUSED",
            Self::Terminal { .. } => "OUTPUT_IS_TERMINAL",
            Self::Unreadable { .. } => "INPUT_UNREADABLE",
            Self::Unrecognised { .. } => "INPUT_UNRECOGNISED",
            Self::Malformed { .. } => "INPUT_MALFORMED",
            Self::OutputFile { .. } => "OUTPUT_FILE",
            Self::Output(_) => "OUTPUT_CLOSED",
            Self::Start { .. } => "START_FAILED",
            Self::Image { error, .. } => error.code(),
            Self::ReferenceRefused { .. } => "PODMAN_REFERENCE_REFUSED",
            Self::SecretUnknown { .. } => "PODMAN_SECRET_UNKNOWN",
            Self::StateFolderOpen { .. } => "PODMAN_STATE_OPEN",
            Self::BundleRefused { .. } => "BUNDLE_REFUSED",
            Self::Volume { error, .. } => error.code(),
            Self::Checks { .. } => "CHECKS_FAILED",
        }
    }

    /// The next step for the operator; may be empty.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Reply { fault, .. } | Self::Fault(fault) => fault.hint.clone(),
            Self::Garbled { .. } => "check that the address is that of the daemon meant and that both are of one release".into(),
            Self::Argument { hint, .. } => hint.clone(),
            Self::Terminal { .. } => "redirect the output, use --output FILE, or --force".into(),
            Self::Unreadable { path, source } if is_missing_disk(path, source) => {
                "no disk with this UUID is attached: `lsblk -o NAME,SIZE,UUID` shows which are; if it is there under another name, name it with \
                 --device, and if it shows no UUID, the first sector of its header is damaged"
                    .into()
            }
            Self::Unreadable { source, .. } | Self::Start { source, .. } => system_hint(source),
            Self::Unrecognised { .. } => {
                "known are: SNP report (1184 bytes), SNP evidence JSON, SNP certificate table, certificate (DER, PEM), \
                 attestation token, init-data TOML"
                    .into()
            }
            Self::Malformed { .. } => "take the file anew from its source; it may have been cut or edited".into(),
            Self::OutputFile { source, .. } => system_hint(source),
            Self::Output(_) => String::new(),
            Self::Image { error, .. } => error.hint().to_owned(),
            Self::ReferenceRefused { .. } => {
                "give a kbs:// URI or the text of a sealed secret; podman secret create --driver=file keeps content"
                    .into()
            }
            Self::SecretUnknown { .. } => {
                "make the secret anew: podman secret create --replace NAME FILE; guestctl podman-secret list shows what is there"
                    .into()
            }
            Self::StateFolderOpen { path, .. } => {
                format!("look at what is in it, then chown it to the user who runs podman, and chmod 0700 {}", path.display())
            }
            Self::BundleRefused { why, .. } => why.cause.hint().into(),
            Self::Volume { error, .. } => error.hint().to_owned(),
            Self::Checks { .. } => "each line marked FAIL says what to do next".into(),
        }
    }

    /// The status the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Reply { fault, .. } | Self::Fault(fault) => fault.blame.into(),
            Self::Garbled { .. } => Exit::Misbehaved,
            Self::Argument { .. } | Self::Terminal { .. } | Self::ReferenceRefused { .. } => Exit::Usage,
            Self::SecretUnknown { .. } => Exit::Absent,
            Self::Start { .. } => Exit::Platform,
            Self::Image { error, .. } => error.blame().into(),
            Self::Unreadable { .. }
            | Self::Unrecognised { .. }
            | Self::Malformed { .. }
            | Self::OutputFile { .. }
            | Self::Output(_)
            | Self::StateFolderOpen { .. }
            | Self::BundleRefused { .. }
            | Self::Volume { .. }
            | Self::Checks { .. } => Exit::Failed,
        }
    }

    /// Whether it may pass by itself: a daemon or key broker that does not answer yet.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Reply { fault, .. } | Self::Fault(fault) if fault.blame == Blame::Unavailable)
    }

    /// Whether the reader of a pipe went away, which is his right and needs no message.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// A failure with blame, code and next step of its own.
pub(crate) fn of(
    blame: Blame,
    code: &str,
    message: &(impl fmt::Display + ?Sized),
    hint: impl Into<String>,
) -> Failure {
    Failure::Fault(Fault::new(blame, code, message.to_string(), hint))
}

/// A failure of the key broker client.
pub(crate) fn kbs(e: &cc_kbs::Error) -> Failure {
    of(e.blame(), e.code(), e, e.hint())
}

/// A failure of a key management service.
pub(crate) fn kms(e: &cc_kms::KmsError) -> Failure {
    of(e.blame(), e.code(), e, e.hint())
}

/// A failure of cryptography while `doing`.
pub(crate) fn crypto(doing: &str, e: &cc_crypto::Error) -> Failure {
    of(Blame::Platform, e.code(), &format!("{doing}: {e}"), e.hint())
}

impl From<cc_mapping::MappingError> for Failure {
    fn from(e: cc_mapping::MappingError) -> Self {
        of(e.blame(), e.code(), &e, e.hint())
    }
}

impl From<SealedError> for Failure {
    fn from(e: SealedError) -> Self {
        of(e.blame(), e.code(), &e, e.hint())
    }
}

fn is_missing_disk(path: &Path, source: &io::Error) -> bool {
    source.kind() == io::ErrorKind::NotFound && path.starts_with("/dev/disk/by-uuid")
}

fn system_hint(source: &io::Error) -> String {
    if source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) {
        return "the disk below has a fault, or the host withholds it: the kernel's log (`journalctl -k`) says more".to_owned();
    }
    match source.kind() {
        io::ErrorKind::AlreadyExists => {
            "name a file that does not exist yet; existing files are never replaced"
        }
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "run as a user with access to it",
        io::ErrorKind::StorageFull => "free some space and try again",
        _ => "",
    }
    .to_owned()
}
