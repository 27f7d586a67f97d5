//! The one error of this crate, split by what was malformed.
//!
//! Messages name fields, lengths and limits. They never quote the bytes that were read: a token or
//! an init-data document may hold credentials.

use crate::blame::Blame;

/// Why a piece of evidence, a document or a token could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The bytes end inside a field.
    #[error("field {field} needs {need} bytes, only {left} are left")]
    Truncated {
        /// The field that was being read, for example `snp.report_data`.
        field: &'static str,
        /// Length of the field in bytes.
        need: usize,
        /// Bytes that were left.
        left: usize,
    },
    /// Bytes follow where the format has none.
    #[error("{what} is followed by {extra} bytes that do not belong to it")]
    Trailing {
        /// What had been read completely.
        what: &'static str,
        /// Number of surplus bytes.
        extra: usize,
    },
    /// A field has a value that its format forbids.
    #[error("field {field} is invalid: {why}")]
    Invalid {
        /// The field in question.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// More than this crate is ready to read or write.
    #[error("{what} is too large: {size}, the limit is {limit}")]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// Its size: bytes, or entries where `what` says so.
        size: usize,
        /// The largest size that is accepted, in the same unit.
        limit: usize,
    },
    /// Evidence JSON that is not of the expected shape.
    #[error("{what} is not valid JSON of its format: {why}")]
    Json {
        /// Which document.
        what: &'static str,
        /// Position and kind of the mistake.
        why: String,
    },
    /// An init-data document that breaks its format.
    #[error("the init-data document is invalid: {why}")]
    InitData {
        /// What is wrong and where; never a quotation.
        why: String,
    },
    /// A digest that the place in the hardware which binds init-data cannot hold.
    #[error("{field} takes an init-data digest of {need} bytes, this one has {size}")]
    InitDataAlgorithm {
        /// Name of the place.
        field: &'static str,
        /// Length of the digest in bytes.
        size: usize,
        /// The length that it takes.
        need: usize,
        /// The algorithm whose digests have that length.
        algorithm: &'static str,
    },
    /// An attestation token that is not a readable JWS.
    #[error("the attestation token cannot be read: {why}")]
    Token {
        /// Which part is wrong; never a quotation.
        why: &'static str,
    },
    /// More report data than hardware can carry.
    #[error("report data of {size} bytes: at most 64 bytes fit into a report")]
    ReportDataTooLong {
        /// Length that was given, in bytes.
        size: usize,
    },
    /// A TEE name that is not on the wire contract's list.
    #[error("unknown TEE name {name:?}")]
    UnknownTee {
        /// The name, cut to 64 characters.
        name: String,
    },
    /// A hash algorithm name that is not supported.
    #[error("unknown hash algorithm {name:?}")]
    UnknownHash {
        /// The name, cut to 64 characters.
        name: String,
    },
    /// The JSON that is to be hashed has no canonical form.
    #[error("the binding input has no canonical JSON form: {why}")]
    Canonical {
        /// The canonicalizer's reason.
        why: String,
    },
}

impl EvidenceError {
    /// Stable name for logs and error details.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            EvidenceError::Truncated { .. } => "EVIDENCE_TRUNCATED",
            EvidenceError::Trailing { .. } => "EVIDENCE_TRAILING_BYTES",
            EvidenceError::Invalid { .. } => "EVIDENCE_FIELD_INVALID",
            EvidenceError::TooLarge { .. } => "EVIDENCE_TOO_LARGE",
            EvidenceError::Json { .. } => "EVIDENCE_JSON_INVALID",
            EvidenceError::InitData { .. } => "INIT_DATA_INVALID",
            EvidenceError::InitDataAlgorithm { .. } => "INIT_DATA_ALGORITHM",
            EvidenceError::Token { .. } => "TOKEN_MALFORMED",
            EvidenceError::ReportDataTooLong { .. } => "REPORT_DATA_TOO_LONG",
            EvidenceError::UnknownTee { .. } => "TEE_UNKNOWN",
            EvidenceError::UnknownHash { .. } => "HASH_UNKNOWN",
            EvidenceError::Canonical { .. } => "BINDING_NOT_CANONICAL",
        }
    }

    /// Who has to act. A parser cannot know who sent its input, so malformed evidence counts as
    /// the platform's fault; a verifier that reads a client's evidence maps it to its client.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            EvidenceError::Truncated { .. }
            | EvidenceError::Trailing { .. }
            | EvidenceError::Invalid { .. }
            | EvidenceError::TooLarge { .. }
            | EvidenceError::Json { .. } => Blame::Platform,
            EvidenceError::Token { .. } | EvidenceError::UnknownHash { .. } => Blame::Misbehaved,
            EvidenceError::InitData { .. }
            | EvidenceError::InitDataAlgorithm { .. }
            | EvidenceError::ReportDataTooLong { .. }
            | EvidenceError::UnknownTee { .. }
            | EvidenceError::Canonical { .. } => Blame::Misused,
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            EvidenceError::Truncated { .. }
            | EvidenceError::Trailing { .. }
            | EvidenceError::Invalid { .. }
            | EvidenceError::TooLarge { .. }
            | EvidenceError::Json { .. } => {
                "save the evidence and look at it with `guestctl inspect`; if it comes straight from the \
                 hardware, check the firmware and kernel versions of host and guest"
            }
            EvidenceError::InitData { .. } => {
                "correct the init-data document (version, algorithm and a [data] table of texts); its digest \
                 changes, so the machine must be launched again with the new digest"
            }
            EvidenceError::InitDataAlgorithm { algorithm, .. } => {
                return format!(
                    "write algorithm = \"{algorithm}\" into the init-data document and launch the machine with its new digest"
                );
            }
            EvidenceError::Token { .. } => {
                "the service that issued the token does not speak the expected protocol; check the \
                 configured URL and the version of that service"
            }
            EvidenceError::ReportDataTooLong { .. } => "hash the data first and pass the digest",
            EvidenceError::UnknownTee { .. } => "use one of the TEE names that `guestctl doctor` lists",
            EvidenceError::UnknownHash { .. } => "use sha256, sha384, sha512 or sm3",
            EvidenceError::Canonical { .. } => "use integers and texts only in the TEE public key",
        }
        .to_owned()
    }
}

/// Cuts a foreign name so that an error message stays short.
pub(crate) fn shorten(name: &str) -> String {
    name.chars().take(64).collect()
}
