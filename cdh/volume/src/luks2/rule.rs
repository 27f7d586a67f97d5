//! The rules that a header must keep, by name, each with the reason for it.
//!
//! Names are stable: programs, tests and documents use them. The first group is of the format, as strictly as it is read
//! here; the second of the policy.

use std::fmt;

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The bytes begin with a LUKS2 header.
    Magic,
    /// All of the header is there.
    Length,
    /// The size of a copy is one that the format knows.
    HeaderSize,
    /// A copy says where it is.
    HeaderOffset,
    /// The checksum is SHA-256.
    ChecksumAlgorithm,
    /// The checksum fits.
    Checksum,
    /// Reserved bytes, and those behind texts, are zero.
    Padding,
    /// The JSON text is not too long.
    JsonSize,
    /// Behind the JSON text there are zeros alone.
    JsonPadding,
    /// The text is JSON whose objects name each member once.
    Json,
    /// The JSON text is not nested too deeply.
    JsonDepth,
    /// Members have the form that the format gives them.
    Metadata,

    /// Both copies agree, or the second was left behind by an interrupted write.
    Copies,
    /// The header says its own sizes right, and is not too large.
    HeaderArea,
    /// There are no members that are not known here.
    UnknownMember,
    /// Nothing is encrypted by the null cipher, or block by block.
    NullCipher,
    /// Nobody was encrypting the volume anew.
    Reencryption,
    /// There are as many keyslots as expected.
    KeyslotCount,
    /// Keyslots are of type `luks2`.
    KeyslotType,
    /// The volume key has the length that its cipher takes.
    KeySize,
    /// The volume key is encrypted by a cipher of the list.
    KeyslotCipher,
    /// Keyslots lie in the keyslots area, whole, each by itself.
    KeyslotArea,
    /// The splitter is that of LUKS1 with SHA-256 and 4000 stripes.
    AntiForensic,
    /// No keyslot has a priority.
    KeyslotPriority,
    /// The secret goes through PBKDF2 with SHA-256 or Argon2id.
    Kdf,
    /// That derivation, and the digest's, costs no more than allowed.
    KdfCost,
    /// There is one segment, number 0.
    SegmentCount,
    /// It is of type `crypt`.
    SegmentType,
    /// It has no flags.
    SegmentFlags,
    /// It begins where the data is expected.
    SegmentOffset,
    /// It goes to the end of the device.
    SegmentSize,
    /// Its sectors are numbered from 0.
    SegmentIv,
    /// It is encrypted by a cipher of the list.
    SegmentCipher,
    /// Its sectors have 512 or 4096 bytes.
    SectorSize,
    /// Its sectors are authenticated by a key, where that is demanded or said.
    Integrity,
    /// There is one digest, by PBKDF2 with SHA-256.
    Digest,
    /// The digest is for all keyslots and the segment.
    DigestBinding,
    /// There are no flags but those of the list.
    ConfigFlags,
    /// The header demands nothing.
    Requirements,
    /// There are no tokens but the tag of the header.
    Tokens,
}

impl Rule {
    /// Its name, in lower case with hyphens.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// What happens where it is broken.
    #[must_use]
    pub fn why(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Magic => ("magic", "LUKS1, plain volumes and other data are not opened"),
            Self::Length => ("length", "what is missing would be read from the disk later, unchecked"),
            Self::HeaderSize => {
                ("header-size", "programs would look for the second copy in different places")
            }
            Self::HeaderOffset => ("header-offset", "a copy in another place may be one of another time"),
            Self::ChecksumAlgorithm => {
                ("checksum-algorithm", "programs that lack the hash take the other copy")
            }
            Self::Checksum => ("checksum", "the header is damaged; cryptsetup would take the other copy"),
            Self::Padding => ("padding", "bytes that one program passes over may steer another"),
            Self::JsonSize => ("json-size", "memory is spent before anything is known about the text"),
            Self::JsonPadding => {
                ("json-padding", "a second text behind the first may be read by another program")
            }
            Self::Json => ("json", "two programs would read different values"),
            Self::JsonDepth => ("json-depth", "deep nesting exhausts the stack of parsers"),
            Self::Metadata => ("metadata", "programs would guess different values"),
            Self::Copies => ("copies", "cryptsetup would use the copy that was not checked"),
            Self::HeaderArea => ("header-area", "keyslots would be read from outside of what was checked"),
            Self::UnknownMember => {
                ("unknown-member", "another program may act on what is not understood here")
            }
            Self::NullCipher => (
                "null-cipher",
                "nothing is encrypted: any secret opens the volume, or data is written in clear (CVE-2025-59054)",
            ),
            Self::Reencryption => (
                "reencryption",
                "resuming it would encrypt with a key of the host's choice, or decrypt the volume (CVE-2021-4122)",
            ),
            Self::KeyslotCount => ("keyslot-count", "somebody else's secret may open the volume"),
            Self::KeyslotType => ("keyslot-type", "it holds something else than a volume key"),
            Self::KeySize => {
                ("key-size", "the data would be encrypted with another strength or cipher than it says")
            }
            Self::KeyslotCipher => ("keyslot-cipher", "the volume key is not protected as it should be"),
            Self::KeyslotArea => {
                ("keyslot-area", "the volume key would be read from where data or another key is")
            }
            Self::AntiForensic => {
                ("anti-forensic", "the volume key is put together in another way than it was made")
            }
            Self::KeyslotPriority => ("keyslot-priority", "it steers which keyslot is tried"),
            Self::Kdf => ("kdf", "the volume key is protected by another derivation than it was made with"),
            Self::KdfCost => ("kdf-cost", "opening would take all memory or forever"),
            Self::SegmentCount => {
                ("segment-count", "parts of the volume would be encrypted in other ways or not at all")
            }
            Self::SegmentType => {
                ("segment-type", "data would be written in clear, or left to the disk to encrypt")
            }
            Self::SegmentFlags => ("segment-flags", "they mark a volume in transition"),
            Self::SegmentOffset => ("segment-offset", "data would be read from where somebody else put it"),
            Self::SegmentSize => ("segment-size", "a part of the volume would be missing"),
            Self::SegmentIv => {
                ("segment-iv", "sectors would be encrypted like others, which can then be exchanged")
            }
            Self::SegmentCipher => {
                ("segment-cipher", "data would be encrypted in another way than agreed, or not at all")
            }
            Self::SectorSize => {
                ("sector-size", "sectors would be cut in another way than they were encrypted")
            }
            Self::Integrity => ("integrity", "changes by the host would not be noticed"),
            Self::Digest => ("digest", "a wrong volume key might be taken for the right one"),
            Self::DigestBinding => {
                ("digest-binding", "the key of a keyslot would not be checked against the segment")
            }
            Self::ConfigFlags => (
                "config-flags",
                "allow-discards tells the host which blocks are unused; others are not known",
            ),
            Self::Requirements => ("requirements", "the volume needs what is not understood here"),
            Self::Tokens => ("tokens", "programs would fetch a secret from where the token says"),
        }
    }

    /// Every rule of the policy, in the order of declaration.
    pub const POLICY: [Self; 28] = [
        Self::Copies,
        Self::HeaderArea,
        Self::UnknownMember,
        Self::NullCipher,
        Self::Reencryption,
        Self::KeyslotCount,
        Self::KeyslotType,
        Self::KeySize,
        Self::KeyslotCipher,
        Self::KeyslotArea,
        Self::AntiForensic,
        Self::KeyslotPriority,
        Self::Kdf,
        Self::KdfCost,
        Self::SegmentCount,
        Self::SegmentType,
        Self::SegmentFlags,
        Self::SegmentOffset,
        Self::SegmentSize,
        Self::SegmentIv,
        Self::SegmentCipher,
        Self::SectorSize,
        Self::Integrity,
        Self::Digest,
        Self::DigestBinding,
        Self::ConfigFlags,
        Self::Requirements,
        Self::Tokens,
    ];
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
