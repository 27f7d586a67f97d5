//! The binary headers: both copies from one slice, checked by their checksums and compared.
//!
//! A header is read once. Whoever hands the bytes in must not go back to the disk for it afterwards: a host can answer the
//! second time with something else. The first copy counts; the second is only compared with it. cryptsetup takes the second where the
//! first is damaged; here a damaged first copy is an error, unless whoever reads verifies a tag ([`Copies::Either`]).

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Rule, Tag,
    format::{BINARY_LEN, Binary, HEADER_SIZES, Metadata},
    metadata,
};
use crate::{Error, error::quoted};

pub(super) const FIRST_MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
pub(super) const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";
const VERSION: u16 = 2;
/// Where the size of a copy is.
const SIZE_FIELD: std::ops::Range<usize> = 8..16;
/// Where the checksum is, with the zeros behind it.
pub(super) const CHECKSUM_FIELD: std::ops::Range<usize> = 448..512;
const CHECKSUM_LEN: usize = 32;

/// A header, as one of its copies tells it: the first, unless the second was asked for too.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    binary: Binary,
    metadata: Metadata,
    json: Value,
    secondary: Secondary,
    damage: Option<Damage>,
    given: usize,
}

/// Which copies a header may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// From the first one.
    First,
    /// From the second one where the first was left half written: its first sector is there, and the rest does not fit. It is for
    /// whoever goes on only if the header fits its tag under the volume's key, for the host chooses which copy is damaged.
    Either,
}

/// What is wrong with a copy that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The rule that it breaks.
    pub rule: Rule,
    /// In which way.
    pub why: String,
}

/// What the second copy is to the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secondary {
    /// It says the same.
    Same,
    /// It was written before the first.
    Older {
        /// Its count of writes.
        seqid: u64,
    },
    /// It was written after the first.
    Newer {
        /// Its count of writes.
        seqid: u64,
    },
    /// It was written at the same time and says something else.
    Different,
    /// It cannot be read.
    Damaged {
        /// The rule that it breaks.
        rule: Rule,
        /// In which way.
        why: String,
    },
}

impl Header {
    /// Reads the header at the start of `bytes`: at least both copies, better the whole header area with its keyslots,
    /// because keyslots behind the end of `bytes` are refused by the policy. More bytes do not matter.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the rule that the first copy breaks, or if there is no room for the second.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        Self::read_copies(bytes, bytes.len())
    }

    /// As [`Header::read`], where `bytes` are no more than both copies, and whoever read them has read `given` bytes of the
    /// header area.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read_copies(bytes: &[u8], given: usize) -> Result<Self, Error> {
        Self::read_by(bytes, given, Copies::First)
    }

    /// As [`Header::read_copies`], from one of the `copies`.
    ///
    /// # Errors
    /// As [`Header::read`]; what is wrong with the second copy is not told.
    pub fn read_by(bytes: &[u8], given: usize, copies: Copies) -> Result<Self, Error> {
        match Self::read_first(bytes, given) {
            Err(Error::Malformed { rule, place, why }) if copies == Copies::Either && leaves_size(rule) => {
                let damage = Damage { rule, why: why.clone() };
                Self::read_second(bytes, given, damage).ok_or(Error::Malformed { rule, place, why })
            }
            other => other,
        }
    }

    fn read_first(bytes: &[u8], given: usize) -> Result<Self, Error> {
        let first = Copy::read(bytes, Which::First)?;
        let (metadata, json) = metadata::read(first.json)?;
        let size = usize::try_from(first.binary.size).unwrap_or(usize::MAX);
        let second = bytes.get(size..).unwrap_or_default();
        if second.len() < size {
            let why = format!("{} bytes were given, both copies take {}", bytes.len(), 2 * first.binary.size);
            return Err(Which::Second.malformed(Rule::Length, "", why));
        }
        let secondary = match Copy::read(second, Which::Second) {
            Ok(second) => compare(&first, &second),
            Err(Error::Malformed { rule, why, .. }) => Secondary::Damaged { rule, why },
            Err(other) => return Err(other),
        };
        Ok(Self { binary: first.binary, metadata, json, secondary, damage: None, given })
    }

    fn read_second(bytes: &[u8], given: usize, damage: Damage) -> Option<Self> {
        let size = size_of(bytes)?;
        let second = Copy::read(bytes.get(size..)?, Which::Second).ok()?;
        let (metadata, json) = metadata::read(second.json).ok()?;
        let binary = Some(second.binary).filter(|binary| binary.size == size as u64)?;
        Some(Self { binary, metadata, json, secondary: Secondary::Same, damage: Some(damage), given })
    }

    /// As [`Header::read_by`], where each copy is without the zeros at its end ([`super::DetachedHeader::trimmed`]).
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn read_trimmed(first: &[u8], second: &[u8], given: usize, copies: Copies) -> Result<Self, Error> {
        // Whatever else it says is told by the reader.
        let size = size_of(first)
            .filter(|size| first.len() <= *size && second.len() <= *size)
            .unwrap_or(first.len());
        let mut bytes = first.to_vec();
        bytes.resize(size, 0);
        bytes.extend_from_slice(second);
        bytes.resize(2 * size.max(second.len()), 0);
        Self::read_by(&bytes, given, copies)
    }

    /// The fields of the binary header.
    #[must_use]
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// What its JSON text says.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What the second copy is to the first.
    #[must_use]
    pub fn secondary(&self) -> &Secondary {
        &self.secondary
    }

    /// Why the first copy is not the one that this is from; none where it is.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// The tag that the header carries in a token, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        self.metadata.tokens.values().find_map(|token| token.tag.as_ref())
    }

    /// The JSON text, as it was understood.
    pub(super) fn json(&self) -> &Value {
        &self.json
    }

    /// How many bytes the header was read from.
    pub(super) fn given(&self) -> usize {
        self.given
    }
}

/// How many bytes the copy that `bytes` begin with says it has, if that is a size of the format.
pub(super) fn size_of(bytes: &[u8]) -> Option<usize> {
    let size = u64::from_be_bytes(*bytes.get(SIZE_FIELD)?.first_chunk()?);
    usize::try_from(size).ok().filter(|_| HEADER_SIZES.contains(&size))
}

/// Whether a first copy that breaks `rule` still is one, and says where the second is.
fn leaves_size(rule: Rule) -> bool {
    !matches!(rule, Rule::Magic | Rule::HeaderSize | Rule::Length)
}

fn compare(first: &Copy<'_>, second: &Copy<'_>) -> Secondary {
    let seqid = second.binary.seqid;
    if seqid > first.binary.seqid {
        Secondary::Newer { seqid }
    } else if seqid < first.binary.seqid {
        Secondary::Older { seqid }
    } else if (&first.binary, first.json) == (&second.binary, second.json) {
        Secondary::Same
    } else {
        Secondary::Different
    }
}

#[derive(Clone, Copy)]
enum Which {
    First,
    Second,
}

impl Which {
    fn malformed(self, rule: Rule, field: &str, why: impl Into<String>) -> Error {
        let copy = match self {
            Self::First => "first copy",
            Self::Second => "second copy",
        };
        let place = if field.is_empty() { copy.to_owned() } else { format!("{copy}, {field}") };
        Error::Malformed { rule, place, why: why.into() }
    }
}

/// One copy, its checksum verified.
struct Copy<'a> {
    binary: Binary,
    /// The text alone, without the zeros behind it.
    json: &'a [u8],
}

impl<'a> Copy<'a> {
    /// Reads the copy that `bytes` begin with.
    fn read(bytes: &'a [u8], which: Which) -> Result<Self, Error> {
        let mut fields = Fields { which, rest: bytes };
        let (magic, version) = (*fields.array::<6>()?, u16::from_be_bytes(*fields.array()?));
        let expected = match which {
            Which::First => FIRST_MAGIC,
            Which::Second => SECOND_MAGIC,
        };
        if &magic != expected {
            return Err(which.malformed(Rule::Magic, "", "does not begin like a LUKS header"));
        }
        if version != VERSION {
            return Err(which.malformed(Rule::Magic, "version", format!("is {version}, read is version 2")));
        }
        let size = u64::from_be_bytes(*fields.array()?);
        if !HEADER_SIZES.contains(&size) {
            return Err(which.malformed(
                Rule::HeaderSize,
                "size",
                format!("{size} bytes, unknown to the format"),
            ));
        }
        let copy = usize::try_from(size).ok().and_then(|size| bytes.get(..size)).ok_or_else(|| {
            which.malformed(Rule::Length, "", format!("{} bytes were given, it takes {size}", bytes.len()))
        })?;
        let seqid = u64::from_be_bytes(*fields.array()?);
        let label = fields.text::<48>("label")?;
        let algorithm = fields.text::<32>("checksum algorithm")?;
        // The salt makes the checksums of two copies differ, and is good for nothing else.
        fields.array::<64>()?;
        let uuid = fields.text::<40>("UUID")?;
        let subsystem = fields.text::<48>("subsystem")?;
        let offset = u64::from_be_bytes(*fields.array()?);
        fields.zeros::<184>("reserved bytes")?;
        let (checksum, behind) = (*fields.array::<CHECKSUM_LEN>()?, *fields.array::<32>()?);
        if algorithm != "sha256" {
            let why = format!("is {}, read is sha256", quoted(&algorithm));
            return Err(which.malformed(Rule::ChecksumAlgorithm, "checksum algorithm", why));
        }
        if checksum != checksum_of(copy) {
            return Err(which.malformed(Rule::Checksum, "checksum", "does not fit the header"));
        }
        let at = match which {
            Which::First => 0,
            Which::Second => size,
        };
        if offset != at {
            return Err(which.malformed(
                Rule::HeaderOffset,
                "offset",
                format!("is {offset}, the copy is at {at}"),
            ));
        }
        let reserved = copy.get(CHECKSUM_FIELD.end..BINARY_LEN).unwrap_or_default();
        if behind.iter().chain(reserved).any(|byte| *byte != 0) {
            return Err(which.malformed(Rule::Padding, "reserved bytes", "are not zero"));
        }
        let json = text_of(copy.get(BINARY_LEN..).unwrap_or_default(), which)?;
        Ok(Self { binary: Binary { size, seqid, label, subsystem, uuid }, json })
    }
}

/// The JSON text in its area: up to the first zero, behind which there is nothing.
fn text_of(area: &[u8], which: Which) -> Result<&[u8], Error> {
    let end = area.iter().position(|byte| *byte == 0);
    let (text, behind) = end.and_then(|end| area.split_at_checked(end)).ok_or_else(|| {
        which.malformed(Rule::JsonPadding, "metadata", "the text fills its area and has no end")
    })?;
    if behind.iter().any(|byte| *byte != 0) {
        return Err(which.malformed(
            Rule::JsonPadding,
            "metadata",
            "there is something behind the end of the text",
        ));
    }
    Ok(text)
}

/// SHA-256 over a whole copy, its checksum field taken as zeros.
pub(super) fn checksum_of(copy: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut hash = Sha256::new();
    hash.update(copy.get(..CHECKSUM_FIELD.start).unwrap_or_default());
    hash.update([0; CHECKSUM_FIELD.end - CHECKSUM_FIELD.start]);
    hash.update(copy.get(CHECKSUM_FIELD.end..).unwrap_or_default());
    hash.finalize().into()
}

/// The fields of a binary header, one after the other. Integers are big-endian.
struct Fields<'a> {
    which: Which,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.which.malformed(Rule::Length, "", "ends inside of the binary header"))?;
        self.rest = rest;
        Ok(head)
    }

    /// A text that ends with a zero, with zeros behind it.
    fn text<const N: usize>(&mut self, name: &str) -> Result<String, Error> {
        let field = self.array::<N>()?;
        let wrong = |why| self.which.malformed(Rule::Padding, name, why);
        let end = field.iter().position(|byte| *byte == 0).ok_or_else(|| wrong("has no end"))?;
        let (text, behind) = field.split_at_checked(end).unwrap_or_default();
        if behind.iter().any(|byte| *byte != 0) {
            return Err(wrong("has something behind its end"));
        }
        String::from_utf8(text.to_vec()).map_err(|_| wrong("is no UTF-8"))
    }

    fn zeros<const N: usize>(&mut self, name: &str) -> Result<(), Error> {
        if self.array::<N>()?.iter().any(|byte| *byte != 0) {
            return Err(self.which.malformed(Rule::Padding, name, "are not zero"));
        }
        Ok(())
    }
}
