//! Everything that can go wrong with an image, split by who has to act.
//!
//! Two enums: [`ImageError`] for the image as a whole, [`LayerFault`] for what happens inside the pipe of one layer,
//! which does not know which layer it is. Names found in archives are quoted with escapes, so that no message can steer
//! a terminal; contents never enter.

use std::{fmt, io};

use cc_evidence::blame::Blame;
use rustix::io::Errno;

use crate::{
    Digest, KeyFault,
    layer::tar::{Refusal, Rule},
    limits,
    policy::Refused,
};

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The text is no image reference.
    #[error("{text:?} is not an image reference: {why}")]
    Reference {
        /// What was given, cut.
        text: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The source does not have it.
    #[error("there is no {what}")]
    NotFound {
        /// What was looked for, and where.
        what: String,
    },
    /// More than one thing could be meant.
    #[error("{what}: {why}")]
    Ambiguous {
        /// What was to be chosen from.
        what: String,
        /// Why no choice was made.
        why: String,
    },
    /// The image exists, but not for this machine.
    #[error("the image is not made for {wanted}, only for {offered}")]
    NoPlatform {
        /// Operating system and architecture of this machine.
        wanted: String,
        /// Those in the index.
        offered: String,
    },
    /// A manifest, index, configuration or layout file breaks its format.
    #[error("the {what} is malformed: {why}")]
    Document {
        /// Which document.
        what: String,
        /// Which rule it breaks.
        why: String,
    },
    /// A media type that this version cannot use.
    #[error("the {what} has media type {media_type:?}, which cannot be used")]
    MediaType {
        /// Which part of the image.
        what: String,
        /// The type, cut.
        media_type: String,
    },
    /// What was to be pulled as an artifact is none.
    #[error("this is no artifact that can be pulled: {why}")]
    Artifact {
        /// What it is, or lacks.
        why: String,
    },
    /// A layer of an artifact has a name that no file must get.
    #[error("the title {title:?} is refused: {why}")]
    Title {
        /// The name, cut.
        title: String,
        /// Which rule it breaks.
        why: String,
    },
    /// A blob is longer or shorter than its descriptor says.
    #[error("{what} has {actual} bytes, its descriptor says {expected}")]
    Length {
        /// Which blob.
        what: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes received, or "more".
        actual: String,
    },
    /// A blob is not the one that was named.
    #[error("{what} has the digest {digests}")]
    DigestMismatch {
        /// Which blob.
        what: String,
        /// The digest it has, and the one it is named by.
        digests: Box<Mismatch>,
    },
    /// A document or blob could not be read from where it is.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was read.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A source of another crate failed in a way of its own.
    #[error("{0}")]
    Source(Box<dyn SourceFault>),
    /// The policy for images, or a file that belongs to it, breaks its format.
    #[error("{place}: {why}")]
    Policy {
        /// Where.
        place: String,
        /// Which rule it breaks.
        why: String,
    },
    /// The policy does not admit the image.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// A layer was refused or could not be stored.
    #[error("layer {layer}: {fault}")]
    Layer {
        /// Digest of the layer as the manifest names it.
        layer: Digest,
        /// What is wrong.
        #[source]
        fault: Box<LayerFault>,
    },
    /// The file system said no, outside a layer.
    #[error("cannot {doing}: {source}")]
    Storage {
        /// What was being done.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// There is something under the name that the result would get.
    #[error("{path} exists already")]
    TargetExists {
        /// The name.
        path: String,
    },
    /// Another pull works on the same target.
    #[error("another pull into {path} is running")]
    TargetBusy {
        /// The name.
        path: String,
    },
    /// The store's limit does not leave room for a layer.
    #[error(
        "layer {layer} needs {needed} bytes when uncompressed; the store may have {limit}, and {used} of them are used"
    )]
    StoreFull {
        /// The limit in bytes.
        limit: u64,
        /// Bytes of the layers that are there.
        used: u64,
        /// The layer that does not fit.
        layer: Box<Digest>,
        /// Bytes that it needs, or how many are too few.
        needed: String,
    },
    /// Somebody else is at work in the store.
    #[error("the store {path} is in use")]
    StoreBusy {
        /// The store's folder.
        path: String,
    },
    /// Whoever asked for the image does not want it any more.
    #[error("the pull was interrupted")]
    Interrupted,
}

/// What a source of another crate tells about its failures, such as a registry client.
pub trait SourceFault: std::error::Error + Send + Sync + 'static {
    /// Stable code, in capitals.
    fn code(&self) -> &'static str;

    /// Who has to act.
    fn blame(&self) -> Blame;

    /// The next step for the operator.
    fn hint(&self) -> &str;

    /// Whether what came until now is worth keeping, since the rest may come later.
    fn may_go_on(&self) -> bool {
        self.blame() == Blame::Unavailable
    }
}

/// Two digests that should be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The digest that the bytes are named by.
    pub expected: Digest,
    /// The digest that they have.
    pub actual: Digest,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} instead of {}", self.actual, self.expected)
    }
}

/// Why one layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerFault {
    /// The blob could not be read.
    #[error("cannot read it: {0}")]
    Read(#[source] io::Error),
    /// The blob is longer or shorter than its descriptor says.
    #[error("it has {actual} bytes, its descriptor says {expected}")]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes received, or "more".
        actual: String,
    },
    /// The blob is not the one that was named.
    #[error("its {of} has the digest {digests}")]
    DigestMismatch {
        /// "blob" or "uncompressed archive".
        of: &'static str,
        /// The digest it has, and the one it is named by.
        digests: Box<Mismatch>,
    },
    /// There is no key for it, or none that can be used.
    #[error("its key: {0}")]
    Key(#[source] Box<KeyFault>),
    /// The cipher text is not what was encrypted with the key.
    #[error("its cipher text does not have the authentication code in its annotations")]
    Mac,
    /// What was decrypted is not the layer that was encrypted, as the wrapped options name it.
    #[error("what was decrypted has the digest {digests}, which its private options name")]
    PlainDigest {
        /// The digest it has, and the one in the private options.
        digests: Box<Mismatch>,
    },
    /// The compressed stream is damaged.
    #[error("it cannot be decompressed: {0}")]
    Compression(#[source] io::Error),
    /// The tar archive breaks a rule of the reader.
    #[error("its archive is refused: {0}")]
    Archive(#[source] Refusal),
    /// An entry is well-formed but must not be unpacked.
    #[error("entry {name} is refused: {why}")]
    Entry {
        /// Name in the archive, escaped and cut.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// A bound was reached.
    #[error("more than {limit} {what}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The file system said no.
    #[error("cannot {doing} {name}{}: {source}", within(.folder.as_deref()))]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// To which entry, escaped and cut.
        name: String,
        /// The folder that the layer was for, as an operator knows it.
        folder: Option<String>,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Other layers have all the memory that there is for decompression.
    #[error("other layers have the memory for decompression, and none of them comes to its end")]
    Busy,
    /// Whoever asked for the image does not want it any more.
    #[error("the pull was interrupted")]
    Interrupted,
}

fn within(folder: Option<&str>) -> String {
    folder.map_or_else(String::new, |folder| format!(" in {folder}"))
}

impl From<KeyFault> for LayerFault {
    fn from(fault: KeyFault) -> Self {
        Self::Key(Box::new(fault))
    }
}

impl From<Refusal> for LayerFault {
    fn from(refusal: Refusal) -> Self {
        match refusal.rule {
            Rule::Limit { what, limit } => Self::Limit { what, limit },
            _ => Self::Archive(refusal),
        }
    }
}

impl ImageError {
    /// Stable code, in capitals.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Reference { .. } => "IMAGE_REFERENCE_INVALID",
            Self::NotFound { .. } => "IMAGE_NOT_FOUND",
            Self::Ambiguous { .. } => "IMAGE_AMBIGUOUS",
            Self::NoPlatform { .. } => "IMAGE_PLATFORM_MISSING",
            Self::Document { .. } => "IMAGE_DOCUMENT_INVALID",
            Self::MediaType { .. } => "IMAGE_MEDIA_TYPE",
            Self::Artifact { .. } => "ARTIFACT_INVALID",
            Self::Title { .. } => "ARTIFACT_TITLE_REFUSED",
            Self::Length { .. } => "IMAGE_LENGTH",
            Self::DigestMismatch { .. } => "IMAGE_DIGEST_MISMATCH",
            Self::Read { .. } => "IMAGE_READ",
            Self::Source(fault) => fault.code(),
            Self::Policy { .. } => "IMAGE_POLICY_INVALID",
            Self::Refused(refused) => refused.code(),
            Self::Layer { fault, .. } => fault.code(),
            Self::Storage { .. } => "IMAGE_STORAGE",
            Self::TargetExists { .. } => "IMAGE_TARGET_EXISTS",
            Self::TargetBusy { .. } => "IMAGE_TARGET_BUSY",
            Self::StoreFull { .. } => "IMAGE_STORE_FULL",
            Self::StoreBusy { .. } => "IMAGE_STORE_BUSY",
            Self::Interrupted => "IMAGE_INTERRUPTED",
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Reference { .. }
            | Self::Ambiguous { .. }
            | Self::TargetExists { .. }
            | Self::Policy { .. } => Blame::Misused,
            Self::NotFound { .. } | Self::NoPlatform { .. } => Blame::Absent,
            Self::Document { .. }
            | Self::MediaType { .. }
            | Self::Artifact { .. }
            | Self::Title { .. }
            | Self::Length { .. }
            | Self::DigestMismatch { .. } => Blame::Misbehaved,
            Self::Read { .. } | Self::TargetBusy { .. } | Self::StoreBusy { .. } | Self::Interrupted => {
                Blame::Unavailable
            }
            Self::Source(fault) => fault.blame(),
            Self::Refused(refused) => refused.blame(),
            Self::Layer { fault, .. } => fault.blame(),
            Self::Storage { .. } | Self::StoreFull { .. } => Blame::Platform,
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Reference { .. } => "write [registry[:port]/]name[:tag][@sha256:digest], in lower case",
            Self::NotFound { .. } => "check name, tag and digest against what was pushed",
            Self::Ambiguous { .. } => "name one of them",
            Self::NoPlatform { .. } => "build and push the image for this machine's architecture too",
            Self::Document { .. } => "push the image anew with a current tool",
            Self::MediaType { .. } => "push the image with layers in tar, tar+gzip or tar+zstd",
            Self::Artifact { .. } => {
                "unpack an image with --rootfs; push files with a tool that names them, such as oras"
            }
            Self::Title { .. } => {
                "push it anew with relative names, each once, none of which lies in another"
            }
            Self::Length { .. } | Self::DigestMismatch { .. } => DIGEST_HINT,
            Self::Read { .. } => "check the path, the network and the permissions",
            Self::Source(fault) => fault.hint(),
            Self::Policy { .. } => "correct the policy; docs/image-policy.md has examples",
            Self::Refused(refused) => refused.hint(),
            Self::Layer { fault, .. } => fault.hint(),
            Self::Storage { source, .. } => storage_hint(source),
            Self::TargetExists { .. } => {
                "name a folder that does not exist yet; existing ones are never replaced"
            }
            Self::TargetBusy { .. } => "wait for it, or name another folder",
            Self::StoreFull { .. } => {
                "remove images that are not needed (guestctl images), or raise image.max_store_bytes"
            }
            Self::StoreBusy { .. } => "try again when no pull is running",
            Self::Interrupted => "",
        }
    }

    /// Whether the same pull may go on where it ended: it was stopped, or somebody did not answer, or not as a registry does. What
    /// was wrong stays wrong, and what is refused is not wanted.
    #[must_use]
    pub fn may_go_on(&self) -> bool {
        match self {
            Self::Source(fault) => fault.may_go_on(),
            other => other.blame() == Blame::Unavailable,
        }
    }

    /// The error that a source has put into a failed read, else `Read` of `what`.
    pub(crate) fn from_read(what: impl FnOnce() -> String, source: io::Error) -> Self {
        match source.downcast::<Self>() {
            Ok(told) => told,
            Err(source) => Self::Read { what: what(), source },
        }
    }

    /// A fault of the layer called `layer`. What the source itself told stays as it was told.
    pub(crate) fn in_layer(layer: Digest, fault: LayerFault) -> Self {
        match fault {
            LayerFault::Interrupted => Self::Interrupted,
            LayerFault::Read(source) => match source.downcast::<Self>() {
                Ok(told) => told,
                Err(source) => Self::Layer { layer, fault: Box::new(LayerFault::Read(source)) },
            },
            fault => Self::Layer { layer, fault: Box::new(fault) },
        }
    }
}

impl LayerFault {
    /// Names the folder that the layer was for: inside the pipe it is a descriptor only.
    pub(crate) fn for_folder(mut self, path: &str) -> Self {
        if let Self::Storage { folder, .. } = &mut self {
            *folder = Some(path.to_owned());
        }
        self
    }

    /// Stable code, in capitals.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read(_) => "LAYER_READ",
            Self::Length { .. } => "LAYER_LENGTH",
            Self::DigestMismatch { .. } => "LAYER_DIGEST_MISMATCH",
            Self::Key(fault) => fault.code(),
            Self::Mac => "LAYER_MAC",
            Self::PlainDigest { .. } => "LAYER_PLAIN_DIGEST",
            Self::Compression(_) => "LAYER_COMPRESSION",
            Self::Archive(_) => "LAYER_ARCHIVE_REFUSED",
            Self::Entry { .. } => "LAYER_ENTRY_REFUSED",
            Self::Limit { .. } => "LAYER_LIMIT",
            Self::Storage { .. } => "LAYER_STORAGE",
            Self::Busy => "LAYER_MEMORY_BUSY",
            Self::Interrupted => "IMAGE_INTERRUPTED",
        }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Read(_) | Self::Busy | Self::Interrupted => Blame::Unavailable,
            Self::Storage { .. } => Blame::Platform,
            Self::Key(fault) => fault.blame(),
            Self::Length { .. }
            | Self::DigestMismatch { .. }
            | Self::Mac
            | Self::PlainDigest { .. }
            | Self::Compression(_)
            | Self::Archive(_)
            | Self::Entry { .. }
            | Self::Limit { .. } => Blame::Misbehaved,
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Read(_) => "check the path, the network and the permissions",
            Self::Length { .. } | Self::DigestMismatch { .. } => DIGEST_HINT,
            Self::Key(fault) => fault.hint(),
            Self::Mac => {
                "whoever pushed it has altered the layer or its annotations, or its key is another one; encrypt it anew"
            }
            Self::PlainDigest { .. } => {
                "compress the image in one copy and encrypt it in a second one: tools that do both at once record the digest \
                 of what they read"
            }
            Self::Compression(_) => "push the image anew; its own digest covers this damage",
            Self::Archive(_) | Self::Entry { .. } => {
                "build the layer anew with a current tool; what two readers could read differently is refused"
            }
            Self::Limit { what, .. } => limits::hint(what),
            Self::Busy => "try again when other pulls have ended; a slow registry may hold them up",
            Self::Storage { source, .. } => storage_hint(source),
            Self::Interrupted => "",
        }
    }
}

const DIGEST_HINT: &str = "try again; if it stays, whoever stores or forwards the image has altered it";

fn storage_hint(source: &io::Error) -> &'static str {
    if matches!(Errno::from_io_error(source), Some(Errno::MFILE | Errno::NFILE)) {
        return "raise the limit of open files (ulimit -Hn, LimitNOFILE= of the unit)";
    }
    match source.kind() {
        io::ErrorKind::PermissionDenied => "run as root: owners, devices and attributes of an image need it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there (df and df -i tell what is used up), or name a folder on a larger file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => "name a folder on a file system that can be written",
        io::ErrorKind::ResourceBusy => "name a new folder below the mount point",
        io::ErrorKind::Unsupported => "name a folder on a file system with extended attributes",
        _ => "check the folder's file system and the kernel's log",
    }
}
