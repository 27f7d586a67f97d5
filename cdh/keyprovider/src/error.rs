//! What can go wrong while an image's key is wrapped, by blame. No variant holds a key.

use cc_daemon::fault::Fault;
use cc_evidence::blame::Blame;
use cc_sealed::SealedError;

/// Why a key was not wrapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProviderError {
    /// The request, or its parameters.
    #[error(transparent)]
    Sealed(#[from] SealedError),
    /// The key broker, or the way to it.
    #[error("registering the key {kid}: {source}")]
    Registration {
        /// Name of the key.
        kid: String,
        /// What happened.
        source: cc_kbs::Error,
    },
    /// The name of a key is none.
    #[error("the key id {kid:?} is none: {why}")]
    KeyId {
        /// The name as given, cut.
        kid: String,
        /// The rule it breaks.
        why: String,
    },
    /// A key file may not or cannot be used.
    #[error("the key file {path:?} cannot be used: {why}")]
    KeyFile {
        /// The path as given, cut.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody would ever have the key.
    #[error("no keypath is given and keys are not registered: the image could never be decrypted")]
    KeyLost,
    /// The sample key was asked for.
    #[error("sample=true is not allowed: everybody knows that key")]
    Sample,
    /// Another key has the name, and images were encrypted with it.
    #[error(
        "the key {0} was registered by this process with other content: images encrypted before would be lost"
    )]
    OtherKey(String),
    /// Another process may have registered a key under the name, and images may need it.
    #[error("no keypath is given, and a new key would replace what the key broker may have as {0}")]
    MaybeTaken(String),
    /// A process remembers a bounded number of keys that it made.
    #[error("this process has made {0} keys with a given keyid, and remembers no more")]
    TooManyKeys(usize),
    /// A key or a name could not be made.
    #[error("making a key: {0}")]
    Random(String),
}

impl KeyProviderError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Sealed(e) => e.blame(),
            Self::Registration { source, .. } => source.blame(),
            Self::KeyId { .. }
            | Self::KeyFile { .. }
            | Self::KeyLost
            | Self::OtherKey(_)
            | Self::MaybeTaken(_) => Blame::Misused,
            Self::Sample => Blame::Denied,
            Self::TooManyKeys(_) | Self::Random(_) => Blame::Platform,
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Sealed(e) => e.code(),
            Self::Registration { source, .. } => source.code(),
            Self::KeyId { .. } => "KEY_ID_INVALID",
            Self::KeyFile { .. } => "KEY_FILE_UNUSABLE",
            Self::KeyLost => "KEY_WOULD_BE_LOST",
            Self::Sample => "SAMPLE_KEY_REFUSED",
            Self::OtherKey(_) => "KEY_ID_TAKEN",
            Self::MaybeTaken(_) => "KEY_ID_MAYBE_TAKEN",
            Self::TooManyKeys(_) => "KEY_IDS_EXHAUSTED",
            Self::Random(_) => "SYSTEM_RESOURCE",
        }
    }

    /// What the operator does next.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Sealed(SealedError::Malformed { .. } | SealedError::Unsupported { .. }) => {
                "write keyid=…::keypath=…::algorithm=A256GCM after provider:attestation-agent:"
            }
            Self::Sealed(e) => return e.hint(),
            Self::Registration { source: cc_kbs::Error::UntrustedTls { .. }, .. } => {
                "give the certificate of the key broker or of its CA with --cert-file, for the name that is in --kbs"
            }
            Self::Registration { source: cc_kbs::Error::PlainHttp { .. }, .. } => {
                "use an https URL, or allow plain http with --allow-plain-http"
            }
            Self::Registration { source, .. } => return source.hint(),
            Self::KeyId { .. } => {
                "write kbs:///default/image-kek/TAG, or name another folder with --register-below"
            }
            Self::MaybeTaken(_) => {
                "give keypath=… with the key, leave keyid away for a new name, or write overwrite=true if no image needs a key of that name"
            }
            Self::OtherKey(_) => "choose another keyid for the other key",
            Self::KeyFile { .. } => {
                "name a file of exactly 32 bytes below the folder that --key-dir names"
            }
            Self::KeyLost => {
                "give keypath=…, or start the key provider with --kbs and --auth-private-key"
            }
            Self::Sample => "leave sample away; for development start the key provider with --allow-sample",
            Self::TooManyKeys(_) => "start the key provider anew, or give keypath=…",
            Self::Random(_) => "try again",
        }
        .to_owned()
    }
}

impl From<KeyProviderError> for tonic::Status {
    fn from(e: KeyProviderError) -> Self {
        Fault::new(e.blame(), e.code(), e.to_string(), e.hint()).into_status("")
    }
}
