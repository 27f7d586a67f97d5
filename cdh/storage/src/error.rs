//! What can go wrong in `cdh-storage`, by blame.

use std::io;

use cc_evidence::blame::Blame;
use cc_storage::{Fault, StorageError};

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// There is no socket to serve.
    #[error("standard input is no Unix socket of sequenced packets")]
    StandardInput,
    /// The socket failed, or what came over it breaks the protocol.
    #[error(transparent)]
    Protocol(#[from] StorageError),
    /// A layer could not be unpacked into the store.
    #[error(transparent)]
    Image(#[from] image_rs::Error),
    /// The image names a user that its own files do not have.
    #[error(transparent)]
    User(#[from] image_rs::UserUnknown),
    /// The header of a volume is not what it has to be.
    #[error(transparent)]
    Header(#[from] cc_volume::Error),
    /// libcryptsetup did not do it.
    #[error("cannot {doing}: {why}")]
    Cryptsetup {
        /// What was being done.
        doing: &'static str,
        /// What the library says.
        why: String,
    },
    /// A mapping is not what it has to be, or is in use.
    #[cfg(feature = "luks")]
    #[error(transparent)]
    Mapping(#[from] cc_mapping::MappingError),
    /// A block device that cannot be used.
    #[error("the device {path} is refused: {why}")]
    Device {
        /// Its path, or its number.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A block device that is mounted, or used otherwise.
    #[error("the device {path} is in use")]
    DeviceInUse {
        /// Its path.
        path: String,
    },
    /// A mapping of that name is there already.
    #[error("there is a mapping called {name} already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A place where nothing is let appear.
    #[error("the mount point {path} is refused: {why}")]
    MountPoint {
        /// The place.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing was opened there.
    #[error("no volume is open at {path}")]
    NotOpen {
        /// The place.
        path: String,
    },
    /// No file system was made, or it cannot be mounted.
    #[error("cannot {doing}: {why}")]
    FileSystem {
        /// What was being done.
        doing: String,
        /// What mkfs.ext4 or the kernel says.
        why: String,
    },
    /// A request that this mode does not know, or one without what belongs to it.
    #[error("cdh-storage cannot do this: {why}")]
    Request {
        /// What is wrong with it.
        why: String,
    },
    /// A bundle's path that cannot be one.
    #[error("the bundle path {path:?} is refused: {why}")]
    BundlePath {
        /// The path.
        path: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// There is a bundle already.
    #[error("{path} exists already")]
    BundleExists {
        /// What exists.
        path: String,
    },
    /// Nothing is known of such a bundle.
    #[error("{path} is no bundle that was made from this store")]
    BundleUnknown {
        /// The bundle's path.
        path: String,
    },
    /// A layer that is not in the store.
    #[error("the store has no layer {name}")]
    LayerAbsent {
        /// The layer's name in the store.
        name: String,
    },
    /// The kernel does not mount the overlay.
    #[error("cannot mount {layers} layers on {path}: {source}")]
    Mount {
        /// How many.
        layers: usize,
        /// Where.
        path: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The file system said no.
    #[error("cannot {doing}: {source}")]
    Storage {
        /// What was being done.
        doing: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Failure {
    /// For `map_err`: the file system said no when `doing`.
    pub(crate) fn storage<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |error| Self::Storage { doing: doing.into(), source: error.into() }
    }

    /// Who has to act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            #[cfg(feature = "luks")]
            Self::Mapping(error) => error.blame(),
            Self::NotOpen { .. } => Blame::Absent,
            Self::FileSystem { .. } => Blame::Platform,
            Self::StandardInput
            | Self::Device { .. }
            | Self::DeviceInUse { .. }
            | Self::NameTaken { .. }
            | Self::MountPoint { .. }
            | Self::Request { .. }
            | Self::BundlePath { .. }
            | Self::BundleExists { .. } => Blame::Misused,
            Self::Protocol(error) => error.blame(),
            Self::Image(error) => error.blame(),
            Self::Header(error) => error.blame(),
            Self::User(_) => Blame::Misbehaved,
            Self::Cryptsetup { .. } => Blame::Platform,
            Self::BundleUnknown { .. } | Self::LayerAbsent { .. } => Blame::Absent,
            Self::Mount { .. } | Self::Storage { .. } => Blame::Platform,
        }
    }

    /// Stable code, in capitals.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::StandardInput => "STORAGE_STANDARD_INPUT",
            Self::Protocol(error) => error.code(),
            Self::Image(error) => error.code(),
            Self::Header(error) => error.code(),
            Self::User(_) => "IMAGE_USER_UNKNOWN",
            Self::Cryptsetup { .. } => "CRYPTSETUP_FAILED",
            #[cfg(feature = "luks")]
            Self::Mapping(error) => error.code(),
            Self::Device { .. } => "DEVICE_REFUSED",
            Self::DeviceInUse { .. } => "DEVICE_IN_USE",
            Self::NameTaken { .. } => "VOLUME_MAPPED_ALREADY",
            Self::MountPoint { .. } => "MOUNT_POINT_REFUSED",
            Self::NotOpen { .. } => "VOLUME_NOT_OPEN",
            Self::FileSystem { .. } => "FILE_SYSTEM_FAILED",
            Self::Request { .. } => "STORAGE_REQUEST_REFUSED",
            Self::BundlePath { .. } => "BUNDLE_PATH_REFUSED",
            Self::BundleExists { .. } => "BUNDLE_EXISTS",
            Self::BundleUnknown { .. } => "BUNDLE_UNKNOWN",
            Self::LayerAbsent { .. } => "STORE_LAYER_ABSENT",
            Self::Mount { .. } => "STORAGE_MOUNT",
            Self::Storage { .. } => "STORAGE_FAILED",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::StandardInput => "let the data hub start it, or a unit with StandardInput=socket",
            Self::Protocol(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Header(error) => error.hint(),
            Self::User(_) => {
                "build the image with that name in its etc/passwd and etc/group, or with numbers as its user"
            }
            Self::Cryptsetup { .. } => {
                "if a key was refused, give the one that opens the volume; else see the kernel's log"
            }
            #[cfg(feature = "luks")]
            Self::Mapping(error) => error.hint(),
            Self::Device { .. } => "name a block device of this machine; lsblk shows them",
            Self::DeviceInUse { .. } => "unmount it, or close what is mapped over it; lsblk shows that",
            Self::NameTaken { .. } => "choose another mapperName, or close that one",
            Self::MountPoint { .. } => {
                "name an empty folder that exists, or for targetType=device a path that does not"
            }
            Self::NotOpen { .. } => "check the path; `guestctl disk status` shows what is open",
            Self::FileSystem { .. } => "install e2fsprogs; the kernel's log says more",
            Self::Request { .. } => "install the data hub and cdh-storage of one version",
            Self::BundlePath { .. } => "give an absolute path without . and ..",
            Self::BundleExists { .. } => {
                "name a folder without rootfs and config.json; existing ones are never replaced"
            }
            Self::BundleUnknown { .. } => "check the path",
            Self::LayerAbsent { .. } => "pull the image again",
            Self::Mount { .. } => "run as root on a kernel with overlayfs; the kernel's log says more",
            Self::Storage { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => "run as root",
                io::ErrorKind::StorageFull => "free some space, or give image.work_dir a larger file system",
                _ => "check the folder's file system and the kernel's log",
            },
        }
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Fault::new(failure.blame(), failure.code(), &failure, failure.hint())
    }
}
