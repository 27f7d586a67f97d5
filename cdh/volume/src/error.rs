//! What can be wrong with a volume's header, by blame. No variant quotes more than a short, escaped value out of it.

use cc_evidence::blame::Blame;

use crate::luks2::Rule;

/// Failure of reading, judging or authenticating the header of a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The bytes are not a LUKS2 header that can be read in one way only.
    #[error("{place}: {why} (rule {rule})")]
    Malformed {
        /// The rule of the format that is broken.
        rule: Rule,
        /// Which copy, field or JSON member.
        place: String,
        /// What is wrong with it.
        why: String,
    },
    /// The header is well formed and the policy refuses it.
    #[error("the policy refuses the header: {rules}")]
    Refused {
        /// The names of the broken rules, each once, separated by commas.
        rules: String,
    },
    /// The header has no tag, and none was given.
    #[error("the header has no tag")]
    TagMissing,
    /// The text is not a tag.
    #[error("a tag is {} bytes in base64, this is none", cc_crypto::mac::TAG_LEN)]
    TagMalformed,
    /// The tag is that of another header or was made with another secret.
    #[error("the header does not fit its tag: it was changed, or the secret is another one")]
    TagMismatch,
    /// The secret is too short to authenticate anything.
    #[error("the secret has {found} bytes, a tag needs one of at least {least}")]
    WeakSecret {
        /// Its length in bytes.
        found: usize,
        /// The least length in bytes.
        least: usize,
    },
    /// The header says something that has no canonical form.
    #[error("the header cannot be authenticated: {why}")]
    NotCanonical {
        /// What has none.
        why: String,
    },
    /// The kernel has mapped something else than the header says.
    #[error("the opened volume is not what its header says: {why}")]
    Mapping {
        /// The difference.
        why: String,
    },
    /// The cryptographic library failed.
    #[error("{doing}: {source}")]
    Crypto {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: cc_crypto::Error,
    },
}

impl VolumeError {
    /// Who is to blame. What is wrong with a header is a denial: the volume is not to be opened.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Malformed { .. }
            | Self::Refused { .. }
            | Self::TagMissing
            | Self::TagMismatch
            | Self::NotCanonical { .. }
            | Self::Mapping { .. } => Blame::Denied,
            Self::TagMalformed | Self::WeakSecret { .. } => Blame::Misused,
            Self::Crypto { .. } => Blame::Platform,
        }
    }

    /// The stable code, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "LUKS_HEADER_MALFORMED",
            Self::Refused { .. } => "LUKS_HEADER_REFUSED",
            Self::TagMissing => "LUKS_TAG_MISSING",
            Self::TagMalformed => "LUKS_TAG_MALFORMED",
            Self::TagMismatch => "LUKS_TAG_MISMATCH",
            Self::WeakSecret { .. } => "LUKS_SECRET_WEAK",
            Self::NotCanonical { .. } => "LUKS_HEADER_NOT_CANONICAL",
            Self::Mapping { .. } => "LUKS_MAPPING_DIFFERS",
            Self::Crypto { .. } => "LUKS_CRYPTO",
        }
    }

    /// The next step for the operator.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Malformed { rule: Rule::Magic, .. } => {
                "name the device or file that holds the LUKS2 header"
            }
            Self::Malformed { rule: Rule::Length, .. } => {
                "name the whole disk or header file; if it is that, it was cut: restore it from a backup"
            }
            Self::Malformed { rule: Rule::HeaderSize, .. } => {
                "the header's first sector is damaged: restore the header from a backup that you trust"
            }
            Self::Malformed { .. } => {
                "nothing is lost yet: `guestctl disk inspect` shows whether the second copy is whole. A volume of [[volumes]] with a \
                 signed header opens by that one if its tag fits, and `guestctl disk repair NAME` writes the damaged one anew; else restore the \
                 header from a backup that you trust"
            }
            Self::Refused { rules } if rules == Rule::Copies.name() => {
                "no interrupted write leaves two copies like these: somebody changed one. Let no cryptsetup open the disk, it may take the \
                 other copy; compare both with a backup that you trust (`guestctl disk inspect`), and restore that"
            }
            Self::Refused { .. } => {
                "do not open the volume: `guestctl disk inspect` shows what the header says and why that is refused; restore it from a \
                 backup that you trust, or format it anew with values that the rules allow"
            }
            Self::TagMissing => {
                "make one with `guestctl disk sign`, where header and secret are trusted; SecureMount admits volumes without one \
                 where [secure_mount] has header = \"allow-list\""
            }
            Self::TagMalformed => "give the tag as `guestctl disk sign` printed it",
            Self::TagMismatch => {
                "do not open the volume: compare the header with a backup (`guestctl disk inspect`). After a change of your own sign it again; \
                 if its key was rotated, [[volumes]] has to name the new key, and the tag that is kept at the key broker has to be the one \
                 that `guestctl disk rotate` printed"
            }
            Self::WeakSecret { .. } => "use a random secret; `head -c 64 /dev/urandom` makes one",
            Self::Mapping { .. } => {
                "do not use what is in it: close the volume, and look for a program that opened it in another way"
            }
            Self::NotCanonical { .. } => "remove foreign tokens from the header",
            Self::Crypto { .. } => "check that the machine's cryptographic library works",
        }
    }
}

/// Quotes a value out of an untrusted header: at most 60 characters, escaped.
pub(crate) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}
