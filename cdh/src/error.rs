//! What can go wrong in the data hub, by blame, and how it looks on the wire.
//!
//! Not here: the errors of the key broker client ([`cc_kbs::Error`]), which are carried through with their own
//! code and hint.

use cc_evidence::blame::Blame;
use cc_storage::{Fault, StorageError};

/// Every message of this service begins with these bytes, as callers of the existing stack expect.
pub const MESSAGE_PREFIX: &str = "[CDH] [ERROR]: ";

/// An error of the data hub.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The key broker, the way to it, or the reference.
    #[error(transparent)]
    Kbs(#[from] cc_kbs::Error),
    /// The configuration does not give this to this caller.
    #[error("no rule of [access] gives {reference} to the caller ({caller})")]
    AccessDenied {
        /// The caller, as the kernel describes it.
        caller: String,
        /// What was asked for.
        reference: String,
    },
    /// A sealed secret or a wrapped key.
    #[error(transparent)]
    Sealed(#[from] cc_sealed::SealedError),
    /// The key that is said to have signed a sealed secret is not one that may.
    #[error("the sealed secret is signed by {kid:?}, which is not among sealed_secrets.signing_keys")]
    SigningKeyRefused {
        /// The key's name in the secret.
        kid: String,
    },
    /// The key that is said to have signed a sealed secret cannot be used.
    #[error("reading the key {kid:?} that is said to have signed a sealed secret: {why}")]
    SigningKey {
        /// The key's name in the secret.
        kid: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key management service, or its configuration.
    #[error(transparent)]
    Kms(#[from] cc_kms::KmsError),
    /// No key broker is configured under a name this program knows.
    #[error("kbc.name is {0:?}; known are \"cc_kbc\" and \"offline_fs_kbc\"")]
    UnknownKbc(String),
    /// A peer that does not say which unit wants which credential.
    #[error(
        "whoever connected for a credential has not bound the name of a unit, as the service manager does"
    )]
    UnitNameAbsent,
    /// A peer that says it starts a unit, and the kernel does not confirm it.
    #[error("a caller asked for a credential of {unit}, which he does not start: {why}")]
    UnitUnproven {
        /// The unit that he named.
        unit: String,
        /// What the kernel says instead.
        why: String,
    },
    /// A unit asks for a credential that the configuration does not give it.
    #[error(
        "{unit} asked for the credential {credential:?}, which no entry of [[unit_credentials]] gives it"
    )]
    UnitCredentialUnknown {
        /// The unit.
        unit: String,
        /// The credential's name.
        credential: String,
    },
    /// A secret that cannot be a credential of a unit.
    #[error(
        "the secret has {length} bytes; a credential of a unit has 1 to {}",
        crate::unit_credential::MAX_CREDENTIAL_LEN
    )]
    CredentialLength {
        /// Its length.
        length: usize,
    },
    /// A peer that does not say which volume's key it wants.
    #[error("whoever connected for the key of a volume has not bound its name, as systemd-cryptsetup does")]
    VolumeNameAbsent,
    /// A peer that says it opens a volume, and the kernel does not confirm it.
    #[error("a caller asked for the key of the volume {name}, which he does not open: {why}")]
    VolumeUnproven {
        /// The volume that he named.
        name: String,
        /// What the kernel says instead.
        why: String,
    },
    /// No volume of that name is configured.
    #[error("no entry of [[volumes]] is called {name:?}")]
    VolumeUnknown {
        /// The name.
        name: String,
    },
    /// The key is asked for before the header was checked.
    #[error("the header of the volume {name} was not checked since its key was given last")]
    VolumeUnprepared {
        /// The volume.
        name: String,
    },
    /// The header is that of another volume.
    #[error("the volume {name} has the UUID {expected}; the header that was read has {found:?}")]
    VolumeUuid {
        /// The volume.
        name: String,
        /// The configured one.
        expected: String,
        /// The one in the header.
        found: String,
    },
    /// The header of a volume is not good.
    #[error("the volume {name} stays closed: {error}")]
    VolumeHeader {
        /// The volume.
        name: String,
        /// The volume library's account of it.
        error: cc_volume::Error,
    },
    /// A secret that cannot be the key of a volume.
    #[error("the key of the volume {name} has {length} bytes; a key has 1 to {}", crate::volume::MAX_KEY_LEN)]
    VolumeKeyLength {
        /// The volume.
        name: String,
        /// The secret's length.
        length: usize,
    },
    /// A request to mount something that cannot be done as it stands.
    #[error(transparent)]
    MountRequest(#[from] cc_volume::mount_request::MountRequestError),
    /// A key in a file of this machine that cannot be used.
    #[error("reading the key {path}: {why}")]
    MountKey {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A key that does not go over to the privileged half.
    #[error("the key has {length} bytes; a key has 1 to {}", crate::secure_mount::MAX_KEY_LEN)]
    MountKeyLength {
        /// Its length.
        length: usize,
    },
    /// Only the superuser may do that.
    #[error(
        "volumes are the business of root of the machine, outside of containers, and the caller is another one ({caller})"
    )]
    VolumeCaller {
        /// The caller, as the kernel describes it.
        caller: String,
    },
    /// A folder that a file of the configuration must not lie in.
    #[error("the file {path} is not written: {why}")]
    FileFolder {
        /// The file.
        path: String,
        /// What is wrong with its folder.
        why: String,
    },
    /// An owner that this machine does not know.
    #[error("the file {path} is to belong to {name:?}, whom this machine does not know")]
    FileOwner {
        /// The file.
        path: String,
        /// The user or group.
        name: String,
    },
    /// A file could not be written.
    #[error("writing the file {path}: {cause}")]
    FileWrite {
        /// The file.
        path: String,
        /// What the system said.
        cause: String,
    },
    /// An image, the way to it, or what is done with it.
    #[error("{0}")]
    Image(Fault),
    /// A method that acts on this machine as root.
    #[error("only root may {what}, not the caller ({caller})")]
    RootOnly {
        /// The caller, as the kernel describes it.
        caller: String,
        /// What he asked for.
        what: &'static str,
    },
    /// The hub stops and answers nobody any more.
    #[error("the data hub is stopping")]
    Stopping,
    /// A credential entry that may not be written where it says.
    #[error("the credential path {path:?} is refused: {why}")]
    CredentialPath {
        /// The path as configured.
        path: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A credential could not be written.
    #[error("writing the credential {path}: {cause}")]
    CredentialWrite {
        /// The path as configured.
        path: String,
        /// What the system said.
        cause: String,
    },
}

impl HubError {
    /// Who is to blame; decides what a caller may do next.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Kbs(e) => e.blame(),
            Self::Sealed(e) => e.blame(),
            Self::AccessDenied { .. }
            | Self::SigningKeyRefused { .. }
            | Self::UnitUnproven { .. }
            | Self::UnitCredentialUnknown { .. }
            | Self::RootOnly { .. }
            | Self::VolumeUnproven { .. }
            | Self::VolumeUnprepared { .. }
            | Self::VolumeUuid { .. }
            | Self::VolumeCaller { .. } => Blame::Denied,
            Self::VolumeHeader { error, .. } => error.blame(),
            Self::MountRequest(error) => error.blame(),
            Self::MountKey { .. } | Self::MountKeyLength { .. } => Blame::Misused,
            Self::VolumeUnknown { .. } => Blame::Absent,
            Self::Image(fault) => fault.blame(),
            Self::Stopping => Blame::Unavailable,
            Self::Kms(e) => e.blame(),
            Self::SigningKey { .. }
            | Self::UnitNameAbsent
            | Self::CredentialLength { .. }
            | Self::VolumeNameAbsent
            | Self::VolumeKeyLength { .. }
            | Self::FileFolder { .. }
            | Self::FileOwner { .. }
            | Self::UnknownKbc(_)
            | Self::CredentialPath { .. } => Blame::Misused,
            Self::CredentialWrite { .. } | Self::FileWrite { .. } => Blame::Platform,
        }
    }

    /// The stable code, for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::Kbs(e) => e.code(),
            Self::AccessDenied { .. } => "ACCESS_DENIED",
            Self::Image(fault) => &fault.code,
            Self::RootOnly { .. } => "CALLER_NOT_ROOT",
            Self::Sealed(e) => e.code(),
            Self::SigningKeyRefused { .. } => "SIGNING_KEY_REFUSED",
            Self::SigningKey { .. } => "SIGNING_KEY_UNUSABLE",
            Self::Kms(e) => e.code(),
            Self::UnknownKbc(_) => "KBC_UNKNOWN",
            Self::UnitNameAbsent => "UNIT_NAME_ABSENT",
            Self::UnitUnproven { .. } => "UNIT_UNPROVEN",
            Self::UnitCredentialUnknown { .. } => "UNIT_CREDENTIAL_UNKNOWN",
            Self::CredentialLength { .. } => "UNIT_CREDENTIAL_LENGTH",
            Self::VolumeNameAbsent => "VOLUME_NAME_ABSENT",
            Self::VolumeUnproven { .. } => "VOLUME_UNPROVEN",
            Self::VolumeUnknown { .. } => "VOLUME_UNKNOWN",
            Self::VolumeUnprepared { .. } => "VOLUME_UNPREPARED",
            Self::VolumeUuid { .. } => "VOLUME_UUID_DIFFERS",
            Self::VolumeHeader { error, .. } => error.code(),
            Self::VolumeKeyLength { .. } => "VOLUME_KEY_LENGTH",
            Self::VolumeCaller { .. } => "VOLUME_CALLER_REFUSED",
            Self::MountRequest(error) => error.code(),
            Self::MountKey { .. } => "SECURE_MOUNT_KEY",
            Self::MountKeyLength { .. } => "SECURE_MOUNT_KEY_LENGTH",
            Self::FileFolder { .. } => "FILE_FOLDER_REFUSED",
            Self::FileOwner { .. } => "FILE_OWNER_UNKNOWN",
            Self::FileWrite { .. } => "FILE_WRITE_FAILED",
            Self::Stopping => "HUB_STOPPING",
            Self::CredentialPath { .. } => "CREDENTIAL_PATH_REFUSED",
            Self::CredentialWrite { .. } => "CREDENTIAL_WRITE_FAILED",
        }
    }

    /// What the operator or caller does next.
    pub fn hint(&self) -> String {
        match self {
            Self::Kbs(e) => e.hint(),
            Self::AccessDenied { .. } => {
                "if this caller may have it, add a rule to [access] in the data hub's configuration".to_owned()
            }
            Self::Image(fault) => fault.hint.clone(),
            Self::RootOnly { .. } => "let kata-agent or root ask".to_owned(),
            Self::Sealed(e) => e.hint(),
            Self::SigningKeyRefused { .. } => {
                "if that key may sign, add its name to sealed_secrets.signing_keys in the data hub's configuration".to_owned()
            }
            Self::SigningKey { .. } => format!(
                "store the public key as a JWK under that name: a resource of the key broker, or a file in {}",
                crate::credential::SEALED_SECRET_DIR
            ),
            Self::Kms(e) => e.hint(),
            Self::UnknownKbc(_) => "correct kbc.name in the data hub's configuration".to_owned(),
            Self::UnitNameAbsent => "let systemd ask: LoadCredential=name:/run/confidential-containers/credentials.sock in the unit".to_owned(),
            Self::UnitUnproven { .. } => {
                "only the service manager gets a unit's credentials; the data hub has to see the machine's control groups".to_owned()
            }
            Self::UnitCredentialUnknown { .. } => {
                "if the unit may have it, add an entry to [[unit_credentials]] in the data hub's configuration".to_owned()
            }
            Self::CredentialLength { .. } => "store another secret, or take it by [[files]]".to_owned(),
            Self::VolumeNameAbsent => "let systemd-cryptsetup ask; `guestctl disk enable NAME` writes its line of /etc/crypttab".to_owned(),
            Self::VolumeUnproven { .. } => {
                "only systemd-cryptsetup@NAME.service gets the key of NAME; the data hub has to see the machine's control groups".to_owned()
            }
            Self::VolumeUnknown { .. } => {
                "correct the name, or add an entry to [[volumes]] in the data hub's configuration".to_owned()
            }
            Self::VolumeUnprepared { .. } => {
                "let `guestctl disk prepare NAME` run first; `guestctl disk enable NAME` writes a drop-in that does it".to_owned()
            }
            Self::VolumeUuid { .. } => "do not open it; if the volume was made anew, write its UUID into [[volumes]]".to_owned(),
            Self::VolumeHeader { error, .. } => error.hint().to_owned(),
            Self::VolumeKeyLength { .. } => "store a random key of 32 to 64 bytes at the key broker".to_owned(),
            Self::MountRequest(error) => error.hint().to_owned(),
            Self::MountKey { .. } => "name a file that the data hub may read, or a kbs:// URI".to_owned(),
            Self::MountKeyLength { .. } => "store a random key of 32 to 64 bytes".to_owned(),
            Self::VolumeCaller { .. } => "run it as root, in no container; the data hub has to see the machine's control groups".to_owned(),
            Self::FileFolder { .. } => {
                "name a folder in memory that only root or the owner may write to; where there is swap, one of a tmpfs with noswap or of a ramfs; allow_disk = true lifts the rules about disk and swap".to_owned()
            }
            Self::FileOwner { .. } => "add the account to /etc/passwd or /etc/group, or give its number".to_owned(),
            Self::FileWrite { .. } => "check that the folder is writable and has space left".to_owned(),
            Self::Stopping => "start the unit again when the data hub runs".to_owned(),
            Self::CredentialPath { .. } => format!(
                "credentials go below {} or {}",
                crate::credential::KBS_DIR,
                crate::credential::SEALED_SECRET_DIR
            ),
            Self::CredentialWrite { .. } => {
                "check that the directory is writable and has space left".to_owned()
            }
        }
    }
}

impl HubError {
    /// The same, said of the layer with this digest.
    #[must_use]
    pub fn in_layer(self, layer: &str) -> Self {
        match self {
            Self::Image(fault) if !fault.message.starts_with("layer ") => {
                let message = format!("layer {layer}: {}", fault.message);
                Fault::new(fault.blame(), fault.code, message, fault.hint).into()
            }
            other => other,
        }
    }
}

impl From<Fault> for HubError {
    fn from(fault: Fault) -> Self {
        Self::Image(fault)
    }
}

impl From<StorageError> for HubError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Fault(fault) => Self::Image(fault),
            other => Fault::new(other.blame(), other.code(), &other, other.hint()).into(),
        }
    }
}

impl From<image_rs::Error> for HubError {
    fn from(error: image_rs::Error) -> Self {
        Fault::new(error.blame(), error.code(), &error, error.hint()).into()
    }
}

impl From<HubError> for cc_daemon::fault::Fault {
    fn from(e: HubError) -> Self {
        Self::new(e.blame(), e.code(), e.to_string(), e.hint())
    }
}

impl From<HubError> for tonic::Status {
    fn from(e: HubError) -> Self {
        cc_daemon::fault::Fault::from(e).into_status(MESSAGE_PREFIX)
    }
}
