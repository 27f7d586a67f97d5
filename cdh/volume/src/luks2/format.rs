//! Constants and types of the LUKS2 on-disk format 1.1, as far as a header of a plain encrypted volume uses them.
//!
//! Only shapes, no judgement. Objects of a type that is not known here (another kind of keyslot, segment or digest) keep their
//! type's name and no more, so that a reader can be told of them.

use std::collections::BTreeMap;

use super::Tag;

/// Bytes of a binary header; the JSON area follows it.
pub const BINARY_LEN: usize = 4096;

/// What one copy of the header may take, binary header and JSON area together, in bytes.
pub const HEADER_SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];

/// The most that both copies and the keyslots area may take here, in bytes. The format allows more.
pub const MAX_AREA_LEN: usize = 16 << 20;

/// The longest JSON text read here, in bytes: many times what 32 keyslots and 32 tokens take.
pub const MAX_JSON_LEN: usize = 128 << 10;

/// The deepest nesting of the JSON text.
pub const MAX_JSON_DEPTH: usize = 16;

/// Keyslots, tokens, segments and digests are numbered below this.
pub const MAX_OBJECTS: u32 = 32;

/// Stripes of the anti-forensic splitter: a keyslot's area holds that many times its key.
pub const AF_STRIPES: u32 = 4000;

/// The type of token that carries the tag of a header.
pub const TAG_TOKEN: &str = "cc-header-hmac-sha256";

/// The fields of a binary header that both copies share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Bytes of one copy; the second copy begins there.
    pub size: u64,
    /// Counts the writes of the header.
    pub seqid: u64,
    /// The volume's label, may be empty.
    pub label: String,
    /// A second label, may be empty.
    pub subsystem: String,
    /// The volume's UUID, as text.
    pub uuid: String,
}

/// The JSON text of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// By number.
    pub keyslots: BTreeMap<u32, Keyslot>,
    /// By number.
    pub tokens: BTreeMap<u32, Token>,
    /// By number.
    pub segments: BTreeMap<u32, Segment>,
    /// By number.
    pub digests: BTreeMap<u32, Digest>,
    /// The rest.
    pub config: Config,
    /// Places of the members that this reader does not know, in the order in which they were met.
    pub unknown: Vec<String>,
}

/// A place for the volume key, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyslot {
    /// `luks2`; `reencrypt` marks a volume that is being encrypted anew.
    pub kind: String,
    /// What it says, if its kind is `luks2`.
    pub slot: Option<Luks2Slot>,
}

/// A keyslot of type `luks2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks2Slot {
    /// Bytes of the volume key.
    pub key_size: u32,
    /// When it is tried: 0 only if named, 2 first.
    pub priority: Option<u32>,
    /// Where the encrypted key is.
    pub area: Area,
    /// How it was spread over that place.
    pub af: Af,
    /// How the key that decrypts it comes from a secret.
    pub kdf: Kdf,
}

/// Where an encrypted volume key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Area {
    /// `raw`.
    pub kind: String,
    /// First byte, from the start of the header.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Cipher and mode that encrypt it.
    pub encryption: String,
    /// Bytes of the key of that cipher.
    pub key_size: u32,
}

/// The anti-forensic splitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Af {
    /// `luks1`.
    pub kind: String,
    /// Parts.
    pub stripes: u32,
    /// Hash that mixes them.
    pub hash: String,
}

/// A derivation of a key from a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kdf {
    /// PBKDF2 (RFC 8018).
    Pbkdf2 {
        /// Its hash.
        hash: String,
        /// Rounds.
        iterations: u32,
        /// Salt, bytes.
        salt: Vec<u8>,
    },
    /// Argon2 (RFC 9106).
    Argon2 {
        /// `argon2i` or `argon2id`.
        kind: String,
        /// Passes.
        time: u32,
        /// KiB.
        memory: u32,
        /// Threads.
        cpus: u32,
        /// Salt, bytes.
        salt: Vec<u8>,
    },
    /// Something else.
    Other {
        /// Its name.
        kind: String,
    },
}

/// A part of the data device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// `crypt`.
    pub kind: String,
    /// Marks of a volume in transition, `backup-…` and `in-reencryption` among them.
    pub flags: Vec<String>,
    /// What it says, if its kind is `crypt`.
    pub crypt: Option<CryptSegment>,
}

/// A segment of type `crypt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CryptSegment {
    /// First byte on the data device.
    pub offset: u64,
    /// Bytes; `None` for `dynamic`, to the end of the device.
    pub size: Option<u64>,
    /// Added to the sector's number.
    pub iv_tweak: u64,
    /// Cipher and mode that encrypt the data.
    pub encryption: String,
    /// Bytes of an encryption sector.
    pub sector_size: u32,
    /// Authentication of the sectors.
    pub integrity: Option<Integrity>,
}

/// Authentication of sectors (dm-integrity below dm-crypt).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Integrity {
    /// `hmac(sha256)`, `aead`, …
    pub kind: String,
    /// Cipher of the journal.
    pub journal_encryption: String,
    /// Authentication of the journal.
    pub journal_integrity: String,
    /// Bytes of its key, where the header says so.
    pub key_size: Option<u32>,
}

/// The check that a volume key is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// `pbkdf2`.
    pub kind: String,
    /// Keyslots that hold that key.
    pub keyslots: Vec<u32>,
    /// Segments that are encrypted with it.
    pub segments: Vec<u32>,
    /// What it says, if its kind is `pbkdf2`.
    pub pbkdf2: Option<Pbkdf2Digest>,
}

/// A digest of type `pbkdf2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pbkdf2Digest {
    /// Its hash.
    pub hash: String,
    /// Rounds.
    pub iterations: u32,
    /// Salt, bytes.
    pub salt: Vec<u8>,
    /// The digest, bytes.
    pub digest: Vec<u8>,
}

/// A note of another program about how to get the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub kind: String,
    /// Keyslots that it is for.
    pub keyslots: Vec<u32>,
    /// The tag, if it is of type [`TAG_TOKEN`].
    pub tag: Option<Tag>,
}

/// Settings of the whole header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of the JSON area.
    pub json_size: u64,
    /// Bytes of the keyslots area.
    pub keyslots_size: u64,
    /// How the kernel is to treat the device.
    pub flags: Vec<String>,
    /// What a program must understand to use the volume.
    pub requirements: Vec<String>,
}
