//! What can go wrong with a key or a JWE.
//!
//! No variant holds a byte of key material, plaintext, or text quoted from a document that may be one: a
//! broker that answers with a bare secret instead of a JWE must not see it again in a log line.

use thiserror::Error;

/// Failure of a key operation or of reading a JWE.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// Something is longer than this crate reads. Lengths in bytes.
    #[error("{what} is {found} bytes long, the limit is {limit}")]
    TooLarge {
        /// The thing that was being read.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The greatest length accepted.
        limit: usize,
    },
    /// A document does not have the shape its format asks for.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// The document or member that was being read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A well-formed document asks for an algorithm, curve or extension outside the allow list.
    #[error("unsupported {what} {found}, expected {expected}")]
    Unsupported {
        /// The member that names the algorithm.
        what: &'static str,
        /// The name found there, cut to a few characters and quoted.
        found: String,
        /// The names accepted.
        expected: &'static str,
    },
    /// The JWE is addressed to a key of another kind than ours.
    #[error("the JWE is encrypted to a {found} key, ours is {ours}")]
    OtherKey {
        /// Kind of key the JWE is addressed to.
        found: &'static str,
        /// Kind of our key.
        ours: &'static str,
    },
    /// The JWE is well formed, but this key does not open it: another recipient, or altered on the way.
    #[error("the JWE does not open with this key: it was made for another key or was altered")]
    CannotOpen,
    /// A signature or tag does not fit: made with another key, or altered on the way.
    #[error("the {what} does not verify with this key: it was made with another key or was altered")]
    Unauthentic {
        /// What carries the signature or tag.
        what: &'static str,
    },
    /// A key given to us is not acceptable.
    #[error("unacceptable key: {why}")]
    InvalidKey {
        /// Why.
        why: &'static str,
    },
    /// The cryptographic library refused an operation that has no reason to fail.
    #[error("the cryptographic library failed while {doing}")]
    Library {
        /// The operation.
        doing: &'static str,
    },
}

impl CryptoError {
    /// Stable name of the failure, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "CRYPTO_TOO_LARGE",
            Self::Malformed { .. } => "CRYPTO_MALFORMED",
            Self::Unsupported { .. } => "CRYPTO_UNSUPPORTED",
            Self::OtherKey { .. } => "CRYPTO_OTHER_KEY",
            Self::CannotOpen => "CRYPTO_CANNOT_OPEN",
            Self::Unauthentic { .. } => "CRYPTO_UNAUTHENTIC",
            Self::InvalidKey { .. } => "CRYPTO_INVALID_KEY",
            Self::Library { .. } => "CRYPTO_LIBRARY",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::TooLarge { .. } => "store a smaller resource in the KBS",
            Self::Malformed { .. } | Self::Unsupported { .. } => {
                "check that the address is that of a KBS and that both sides speak the same protocol version"
            }
            Self::OtherKey { .. } | Self::CannotOpen => {
                "check that nothing between guest and KBS caches or rewrites answers"
            }
            Self::Unauthentic { .. } => {
                "check that key and document belong together, and where the document was changed"
            }
            Self::InvalidKey { .. } => "generate a new key of a supported kind",
            Self::Library { .. } => "check that the machine's random number source works",
        }
        .to_owned()
    }

    /// A [`CryptoError::Malformed`] about `what`.
    pub(crate) fn malformed(what: &'static str, why: impl Into<String>) -> Self {
        Self::Malformed { what, why: why.into() }
    }

    /// A [`CryptoError::Malformed`] for JSON that did not parse: the place only, never the text found there.
    pub(crate) fn json(what: &'static str, e: &serde_json::Error) -> Self {
        let why = match e.classify() {
            serde_json::error::Category::Eof => "the JSON text ends too early",
            serde_json::error::Category::Data => "a member has the wrong type or appears twice",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "not JSON",
        };
        Self::Malformed { what, why: format!("{why} (line {}, column {})", e.line(), e.column()) }
    }
}

/// Quotes an algorithm name from an untrusted document for an error message: at most 40 characters, escaped.
pub(crate) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(40).collect();
    format!("{cut:?}")
}
