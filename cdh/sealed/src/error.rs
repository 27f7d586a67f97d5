//! What can be wrong with a sealed secret or a wrapped key, by blame. No variant quotes more than a name out of a document.

use cc_evidence::blame::Blame;

/// Failure of reading, checking or writing one of the formats of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// Longer than this crate reads. Lengths in bytes.
    #[error("the {what} is {found} bytes long, the limit is {limit}")]
    TooLarge {
        /// The document.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The greatest length accepted.
        limit: usize,
    },
    /// A document without the shape of its format.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The document or member.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A well-formed document that asks for something outside the allow list.
    #[error("unsupported {what} {found}, expected {expected}")]
    Unsupported {
        /// The member.
        what: &'static str,
        /// What it says, quoted and cut.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// The signature does not fit the key that was given.
    #[error(
        "the sealed secret's signature does not verify with the key {kid}: it was signed by another key or altered"
    )]
    Signature {
        /// The key's name in the secret, quoted and cut.
        kid: String,
    },
    /// The key, or the bytes under it, are not what they should be.
    #[error("{doing}: {source}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: cc_crypto::Error,
    },
}

impl SealedError {
    /// Who is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Signature { .. } | Self::Crypto { source: cc_crypto::Error::Unauthentic { .. }, .. } => {
                Blame::Denied
            }
            Self::Crypto { source: cc_crypto::Error::Library { .. }, .. } => Blame::Platform,
            Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Unsupported { .. }
            | Self::Crypto { .. } => Blame::Misused,
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "SEALED_TOO_LARGE",
            Self::Malformed { .. } => "SEALED_MALFORMED",
            Self::Unsupported { .. } => "SEALED_UNSUPPORTED",
            Self::Signature { .. } => "SEALED_SIGNATURE",
            Self::Crypto { .. } => "SEALED_KEY",
        }
    }

    /// The next step for whoever made the document.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::TooLarge { .. } => {
                "keep the content in the key broker and seal a reference to it (type vault)"
            }
            Self::Malformed { .. } | Self::Unsupported { .. } => {
                "make the document again with `guestctl seal` or `secret seal`"
            }
            Self::Signature { .. } => {
                "sign with the key of that name, or store its public half under that name"
            }
            Self::Crypto { .. } => "check that the key is the one the document was made with",
        }
        .to_owned()
    }

    /// A [`SealedError::Malformed`] about `what`.
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }

    /// A [`SealedError::Crypto`] that happened while `doing`.
    pub(crate) fn crypto(doing: &'static str) -> impl FnOnce(cc_crypto::Error) -> Self {
        move |source| Self::Crypto { doing, source }
    }
}

/// Quotes a name out of an untrusted document: at most 100 characters, escaped.
pub(crate) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(100).collect();
    format!("{cut:?}")
}
